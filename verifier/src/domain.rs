//! The verifier's decisions, without sockets, HTTP, Redis or a clock: time is an argument.

pub mod path;
pub mod refusals;
pub mod request;
pub mod routes;
