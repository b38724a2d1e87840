//! The keys of access tokens: the HS256 secret, or a folder of private keys with their states.
//!
//! In `JWT_KEYS_DIR` each key is one PEM file, and `keys.toml` names the *signing* key and the
//! *retired* keys; the others are *published*: verifiers know them, but they do not sign. A key is
//! published before it signs, so that every verifier has fetched it. Retiring a key revokes its
//! tokens, through the log.
//!
//! - [`folder`]: the folder and its changes. [`generate`]: key generation. [`set`]: the keys in
//!   force.

pub mod folder;
pub mod generate;
pub mod set;
