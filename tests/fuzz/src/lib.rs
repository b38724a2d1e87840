//! What the fuzz targets do; tests/tests/scenarios/fuzz_seeds.rs runs the same code over the seeds with the stable compiler.
#![forbid(unsafe_code)]

pub mod bodies;
#[cfg(feature = "programs")]
pub mod login;
#[cfg(feature = "programs")]
pub mod request;
