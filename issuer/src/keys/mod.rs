//! The keys of access tokens: the HS256 secret, or a folder of private keys with their states.
//!
//! In `JWT_KEYS_DIR` each key is one PEM file, and `keys.toml` says which one is *signing* and which are *retired*; the
//! others are *published*: verifiers know them, nothing is signed with them. A key is published for a while before it
//! signs, so that every verifier has heard of it. Retiring a key kills its tokens, through the log.
//!
//! - [`folder`]: reading and changing the folder. [`generate`]: making keys. [`set`]: what follows from both.

pub mod folder;
pub mod generate;
pub mod set;
