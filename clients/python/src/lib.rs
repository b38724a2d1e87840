//! `sidegate._native`: the Rust part of the Python package, with the client and the token.
//!
//! Everything else is Python, in `python/sidegate`. The map: [`client`] checks, [`headers`] finds the
//! token of a request, [`token`] is the result, [`watched`] one that calls back when it ends.
#![forbid(unsafe_code)]

mod client;
mod headers;
mod token;
mod watched;

use pyo3::prelude::*;

#[pymodule(name = "_native")]
mod native {
    #[pymodule_export]
    use crate::client::Client;
    #[pymodule_export]
    use crate::headers::bearer_token;
    #[pymodule_export]
    use crate::token::Token;
    #[pymodule_export]
    use crate::watched::WatchedToken;
    use pyo3::prelude::*;
    use pyo3::types::PyMapping;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        PyMapping::register::<Token>(module.py())
    }
}
