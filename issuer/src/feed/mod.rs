//! The issuer's own feed: [`server`] serves the embedded store's log to verifiers, [`local`] follows it in this process,
//! [`own`] keeps current what the issuer's protected routes go by.

pub mod local;
pub mod own;
pub mod server;
