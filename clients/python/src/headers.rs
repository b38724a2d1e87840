//! Where a request carries its access token: raw headers as ASGI has them, and values of `Authorization` as frameworks give
//! them.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyString, PyTuple};
use sidegate_client::Denied;

const AUTHORIZATION: &[u8] = b"authorization";

/// The values of all `Authorization` fields of an ASGI request, whose headers are pairs of `bytes`.
pub(crate) fn authorization(headers: &Bound<'_, PyAny>) -> PyResult<Vec<PyBackedBytes>> {
    let mut values = Vec::new();
    for header in headers.try_iter()? {
        let header = header?;
        let (name, value) = match header.cast::<PyTuple>() {
            Ok(pair) => (pair.get_item(0)?, pair.get_item(1)?),
            Err(_) => (header.get_item(0)?, header.get_item(1)?),
        };
        if name.extract::<&[u8]>()?.eq_ignore_ascii_case(AUTHORIZATION) {
            values.push(value.extract()?);
        }
    }
    Ok(values)
}

/// A value of `Authorization`, all of them, or none.
///
/// # Errors
/// Something else than texts. A text without UTF-8 form (lone surrogates) becomes one that is no token.
pub(crate) fn values(authorization: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<PyBackedStr>> {
    let text = |value: &Bound<'_, PyAny>| {
        let text = value.cast::<PyString>().map_err(|_| PyTypeError::new_err("Authorization is not a str"))?;
        let encodable = PyBackedStr::try_from(text.clone());
        encodable.or_else(|_| PyBackedStr::try_from(PyString::new(value.py(), "Bearer \u{fffd}")))
    };
    match authorization {
        None => Ok(Vec::new()),
        Some(one) if one.is_instance_of::<PyString>() => Ok(vec![text(one)?]),
        Some(all) => all.try_iter()?.map(|value| text(&value?)).collect(),
    }
}

/// The token in the values of `Authorization`: one value, or all that were sent where the framework tells them apart.
///
/// Raises `MissingTokenError` if no bearer token was sent, `InvalidTokenError` if it is not exactly one.
#[pyfunction]
#[pyo3(signature = (authorization, /))]
pub(crate) fn bearer_token(py: Python<'_>, authorization: Option<&Bound<'_, PyAny>>) -> PyResult<String> {
    let values = values(authorization)?;
    let token = sidegate_client::bearer(values.iter().map(|value| value.as_bytes()));
    token.map(str::to_owned).or_else(|denied| {
        let detail = if let Denied::Invalid { why } = &denied { why.as_ref() } else { "" };
        let refusal = py.import("sidegate.errors")?.getattr("refusal")?;
        Err(PyErr::from_value(refusal.call1((denied.code(), detail))?))
    })
}
