//! The issuer's own feed: [`server`] serves the embedded store's log to verifiers, [`local`] follows it in this process,
//! [`own`] keeps the list that the issuer's protected routes judge by.

pub mod local;
pub mod own;
pub mod server;
