//! Sidegate inside Envoy: a dynamic module that checks access tokens over shared memory.
//!
//! Envoy loads `libsidegate_envoy.so` and calls the hooks in `abi`, the only file with `unsafe`. A
//! request whose token is known is decided on Envoy's worker, without a lock or a system call; for
//! any other token a thread of the module asks the daemon, and the request waits in Envoy. A panic
//! never reaches Envoy: every hook catches it (`hook`), and the request is answered with 500.
//!
//! The map: `abi` has Envoy's hooks and callbacks; inside it, `config` is the JSON configuration; `filter` one
//! request; `check_threads` asks the daemon; `answer` the responses to refused requests;
//! `log` writes to Envoy's log.
#![deny(unsafe_code)]

mod abi;
mod answer;
mod hook;
