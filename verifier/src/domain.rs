//! What the verifier decides, without sockets, HTTP, Redis or a clock: time is an argument.

pub mod check;
pub mod decide;
pub mod path;
pub mod refusals;
pub mod routes;
pub mod seen;
