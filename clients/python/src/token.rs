//! A good token in Python: claims as attributes and as a mapping.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple};
use sidegate_client::Verified;

/// A token that was good when it was checked. Gives access to its claims: `token.sub`,
/// `token["sub"]`, `dict(token)`.
#[pyclass(frozen, mapping, module = "sidegate")]
pub struct Token {
    /// The client's data; `None` for a token made from claims in an application's tests.
    verified: Option<Verified>,
    /// Parsed when first needed: most requests need only `sub`, which needs no parsing.
    claims: PyOnceLock<Py<PyDict>>,
}

impl Token {
    pub(crate) fn checked(verified: Verified) -> Self {
        Self { verified: Some(verified), claims: PyOnceLock::new() }
    }

    pub(crate) fn verified(&self) -> Option<&Verified> {
        self.verified.as_ref()
    }

    fn claims<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyDict>> {
        let claims = self.claims.get_or_try_init(py, || {
            let json = self.verified.as_ref().map_or("{}", Verified::claims_json);
            let claims = py.import("json")?.call_method1("loads", (json,))?;
            PyResult::Ok(claims.cast_into::<PyDict>()?.unbind())
        })?;
        Ok(claims.bind(py))
    }

    /// A text claim that every token has.
    fn text<'py>(&self, py: Python<'py>, name: &str, read: fn(&Verified) -> &str) -> PyResult<Bound<'py, PyAny>> {
        match &self.verified {
            Some(verified) => Ok(PyString::new(py, read(verified)).into_any()),
            None => self.claims(py)?.as_any().get_item(name),
        }
    }

    fn number<'py>(&self, py: Python<'py>, name: &str, read: fn(&Verified) -> u64) -> PyResult<Bound<'py, PyAny>> {
        match &self.verified {
            Some(verified) => Ok(read(verified).into_pyobject(py)?.into_any()),
            None => self.claims(py)?.as_any().get_item(name),
        }
    }

    fn scope_text(&self, py: Python<'_>) -> PyResult<String> {
        match &self.verified {
            Some(verified) => Ok(verified.scope().to_owned()),
            None => match self.claims(py)?.get_item("scope")? {
                Some(scope) => scope.extract(),
                None => Ok(String::new()),
            },
        }
    }
}

#[pymethods]
impl Token {
    /// An unchecked token with these claims, for tests of applications.
    #[staticmethod]
    fn from_claims(claims: &Bound<'_, PyDict>) -> PyResult<Self> {
        for name in ["iss", "aud", "sub", "client_id", "iat", "exp", "jti", "sid"] {
            if !claims.contains(name)? {
                return Err(PyTypeError::new_err(format!("claim {name} is missing")));
            }
        }
        let cell = PyOnceLock::new();
        let _first = cell.set(claims.py(), claims.copy()?.unbind());
        Ok(Self { verified: None, claims: cell })
    }

    #[getter]
    fn sub<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.text(py, "sub", Verified::subject)
    }

    #[getter]
    fn sid<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.text(py, "sid", Verified::session)
    }

    #[getter]
    fn jti<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.text(py, "jti", Verified::token_id)
    }

    #[getter]
    fn client_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.text(py, "client_id", Verified::client_id)
    }

    #[getter]
    fn iss<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.text(py, "iss", Verified::issuer)
    }

    /// The issuer's name: `home`, or as in the daemon's `ISSUERS_FILE`.
    #[getter]
    fn issuer<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        PyString::new(py, self.verified.as_ref().map_or("home", Verified::issuer_name))
    }

    #[getter]
    fn aud<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.claims(py)?.as_any().get_item("aud")
    }

    #[getter]
    fn iat<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.number(py, "iat", Verified::issued_at)
    }

    #[getter]
    fn exp<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.number(py, "exp", Verified::expires_at)
    }

    /// Whether shared memory calls the token good at this moment. No system call, never waits. `False` does not mean revoked:
    /// only the daemon can tell then, so check again. Always false without shared memory.
    fn still_good(&self) -> bool {
        self.verified.as_ref().is_some_and(Verified::still_good)
    }

    /// `scope` as in the token, empty if it has none.
    #[getter]
    fn scope(&self, py: Python<'_>) -> PyResult<String> {
        self.scope_text(py)
    }

    /// `scope`, word by word.
    #[getter]
    fn scopes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let scope = self.scope_text(py)?;
        PyTuple::new(py, scope.split_ascii_whitespace().collect::<Vec<_>>())
    }

    fn __getitem__<'py>(&self, py: Python<'py>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        // The claims that most requests read need no parsing.
        match name.cast::<PyString>().ok().and_then(|name| name.to_cow().ok()).as_deref() {
            Some("sub") => return self.sub(py),
            Some("sid") => return self.sid(py),
            Some("jti") => return self.jti(py),
            _ => {}
        }
        self.claims(py)?.as_any().get_item(name)
    }

    fn __contains__(&self, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.claims(py)?.contains(name)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.claims(py)?.len())
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.claims(py)?.call_method0("__iter__")
    }

    #[pyo3(signature = (name, default = None, /))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyAny>,
        default: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.claims(py)?.call_method1("get", (name, default))
    }

    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.claims(py)?.call_method0("keys")
    }

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.claims(py)?.call_method0("values")
    }

    fn items<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.claims(py)?.call_method0("items")
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        let claims = self.claims(py)?;
        match other.cast::<Self>() {
            Ok(other) => claims.eq(other.get().claims(py)?),
            Err(_) => claims.eq(other),
        }
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.jti(py)?.hash()
    }

    /// The claims, but never the token itself: the text may be logged.
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Token({})", self.claims(py)?.repr()?))
    }
}
