//! The issuer: login, refresh and logout for an application's own users, and the log of revocations.
//!
//! # Map
//! - [`domain`]: what each operation means; pure over ports.
//! - [`password`]: the pool of bcrypt threads.
//! - [`store`]: users in SQL; sessions and the revocation log in Redis or SQLite.
#![forbid(unsafe_code)]

pub mod domain;
pub mod password;
pub mod store;
