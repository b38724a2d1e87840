//! The verifier's decisions, without sockets, HTTP, Redis or a clock: time is an argument.

pub mod refusals;
pub mod request;
