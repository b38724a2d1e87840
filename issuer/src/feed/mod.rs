//! The issuer's own feed: [`server`] serves the embedded store's log to verifiers, [`local`]
//! follows it in this process, [`own`] keeps the revocation list of the issuer's protected routes
//! current.

pub mod local;
pub mod own;
pub mod server;
