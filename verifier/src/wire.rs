//! Bytes in, bytes out: every interface of docs/proxies.md and docs/other-languages.md.

pub mod admin;
pub mod answer;
pub mod bearer;
pub mod dialect;
pub mod grpc;
pub mod http;
pub mod introspect;
pub mod verify;
