//! The bodies of the fuzz targets; tests/tests/scenarios/fuzz_seeds.rs runs them on the seeds with
//! the stable compiler.
#![forbid(unsafe_code)]

pub mod bodies;
#[cfg(feature = "programs")]
pub mod login;
#[cfg(feature = "programs")]
pub mod request;
