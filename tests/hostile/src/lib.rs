//! The attack corpus: hostile tokens, `Authorization` headers and JWK sets, each with its expected
//! verdict.
//!
//! Keys and signatures are made here and not by sidegate-common, so that a mistake there shows
//! here. The same cases run through the library (common/tests) and through every socket
//! (tests/tests).
//!
//! # Map
//! - [`forge`]: keys that sign anything.
//! - [`case`]: a case, and how the cases of a category are collected.
//! - `controls`, `algorithm`, `header`, `structure`, `signature`, `json`, `claims`, `times`,
//!   `size`: the categories.
//! - [`authorization`]: header sets as raw bytes.
//! - [`jwks`]: JWK set documents.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failure to make test data fails the test

mod algorithm;
pub mod authorization;
pub mod case;
mod claims;
mod controls;
pub mod forge;
mod header;
mod json;
pub mod jwks;
mod signature;
mod size;
mod structure;
mod times;

pub use case::{Case, Expected, Setting};
pub use forge::{Forge, KeyKind};

use case::Corpus;

/// Every case for tokens signed by `forge`'s key, for a verifier with this key and no other.
pub fn corpus(forge: &Forge, setting: &Setting) -> Vec<Case> {
    let mut corpus = Corpus::new(forge, setting);
    controls::add(&mut corpus);
    algorithm::add(&mut corpus);
    header::add(&mut corpus);
    structure::add(&mut corpus);
    signature::add(&mut corpus);
    json::add(&mut corpus);
    claims::add(&mut corpus);
    times::add(&mut corpus);
    size::add(&mut corpus);
    corpus.finish()
}
