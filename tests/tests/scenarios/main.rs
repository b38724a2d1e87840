//! Scenarios with the real programs: one module per subject, in one binary so that common code is
//! built once.
#![forbid(unsafe_code)]

mod attack_tokens;
mod clocks;
mod configuration_page;
mod daemon_kills;
mod drain;
mod errors;
mod failures;
mod fuzz_seeds;
mod hardening;
mod key_changes;
mod keys;
mod logout;
mod main_job;
mod monitoring;
mod naughty;
mod openapi;
mod operator_mistakes;
mod origins;
mod other_issuers;
mod passwords;
mod path_confusion;
mod proxies_recorded;
mod rate_limit;
mod redis_kinds;
mod refresh;
mod refused_logouts;
mod restarts;
mod routes;
mod secrets;
mod secrets_rotation;
mod settings;
mod shared_memory;
mod storm;
mod traces;
mod users_table;
mod verifier_commands;
mod verifier_grpc;
mod verifier_http;
