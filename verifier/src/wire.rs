//! Bytes in, bytes out: every interface of DESIGN.md §8.

pub mod admin;
pub mod answer;
pub mod bearer;
pub mod dialect;
pub mod grpc;
pub mod http;
pub mod introspect;
pub mod verify;
