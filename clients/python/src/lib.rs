//! `sidegate._native`: what of the Python package is Rust. The client that checks, and the token that comes out of it.
//!
//! Everything else is Python, in `python/sidegate`. The map: [`client`] asks, [`token`] is the answer.
#![forbid(unsafe_code)]

mod client;
mod token;

use pyo3::prelude::*;

#[pymodule(name = "_native")]
mod native {
    #[pymodule_export]
    use crate::client::Client;
    #[pymodule_export]
    use crate::token::Token;
    use pyo3::prelude::*;
    use pyo3::types::PyMapping;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        PyMapping::register::<Token>(module.py())
    }
}
