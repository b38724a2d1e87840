//! Tokens of other issuers: the entries of `ISSUERS_FILE`, what their tokens look like, and the
//! identifiers by which they are revoked.
//!
//! - [`file`](mod@file): the file. [`preset`]: what the tokens of well-known identity providers look like.
//! - [`ids`]: identifiers that include their issuer, so that no issuer can name another's tokens.
//! - [`issuer`]: one issuer with its keys, and the check of its tokens. [`set`]: all of them.

pub mod file;
pub mod ids;
pub mod issuer;
pub mod preset;
pub mod set;
#[cfg(test)]
mod tests;
