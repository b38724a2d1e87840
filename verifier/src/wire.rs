//! The wire protocols: every interface of docs/proxies.md and docs/other-languages.md.

pub mod admin;
pub mod answer;
pub mod bearer;
pub mod body;
pub mod grpc;
pub mod http;
pub mod introspect;
pub mod proxy_protocol;
pub mod verify;
