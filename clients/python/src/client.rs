//! The client for Python: holds the GIL for checks in memory, releases it for requests to the
//! daemon.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyString;
use sidegate_client::{Denied, Sidegate, Verified};

use crate::headers;
use crate::token::Token;
use crate::watched::WatchedToken;

/// The daemon's detail for text that cannot be a token.
const NOT_COMPACT: &str = "not a compact JWS";

/// Whether shared memory is used, or the socket that hands it out.
#[derive(FromPyObject)]
enum AttachArgument {
    On(bool),
    At(PathBuf),
}

/// A connection to the daemon of this host. `sidegate.Verifier` is its subclass in Python.
#[pyclass(frozen, subclass, module = "sidegate._native")]
pub struct Client {
    sidegate: Sidegate,
    /// Creates the exception for a rejection: `(code, detail, required scope)`.
    refuse: Py<PyAny>,
    /// True after logging that the daemon cannot be reached.
    unreachable_logged: AtomicBool,
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (refuse, socket, attach, timeout, tokens, watch_grace))]
    fn new(
        py: Python<'_>,
        refuse: Py<PyAny>,
        socket: Option<PathBuf>,
        attach: Option<AttachArgument>,
        timeout: f64,
        tokens: usize,
        watch_grace: Option<f64>,
    ) -> PyResult<Self> {
        let timeout = Duration::try_from_secs_f64(timeout).ok().filter(|timeout| !timeout.is_zero());
        let timeout = timeout.ok_or_else(|| PyValueError::new_err("timeout must be a positive number of seconds"))?;
        let grace = watch_grace.map(Duration::try_from_secs_f64).transpose();
        let grace = grace.map_err(|_| PyValueError::new_err("watch_grace must be a number of seconds, or None"))?;
        let mut builder = Sidegate::builder().timeout(timeout).tokens(tokens).watch_grace(grace);
        if let Some(path) = socket {
            builder = builder.socket(path);
        }
        builder = match attach {
            None | Some(AttachArgument::On(true)) => builder,
            Some(AttachArgument::On(false)) => builder.socket_only(),
            Some(AttachArgument::At(path)) => builder.attach_socket(path),
        };
        // Connecting waits for the daemon to send its segment.
        let sidegate = py.detach(|| builder.connect());
        Ok(Self { sidegate, refuse, unreachable_logged: AtomicBool::new(false) })
    }

    /// Checks the token. Asks the daemon, if needed, with the GIL released.
    #[pyo3(signature = (token, /))]
    fn check(&self, py: Python<'_>, token: &Bound<'_, PyString>) -> PyResult<Token> {
        let Some(text) = text(token) else { return Err(self.refuse(py, "token_invalid", NOT_COMPACT, "")) };
        self.ask(py, &text)?.map(Token::checked).map_err(|denied| self.refusal(py, &denied))
    }

    /// As `check`, without asking the daemon: `None` if only the daemon can answer. Never blocks.
    #[pyo3(signature = (token, /))]
    fn try_cached(&self, py: Python<'_>, token: &Bound<'_, PyString>) -> PyResult<Option<Token>> {
        let Some(text) = text(token) else { return Err(self.refuse(py, "token_invalid", NOT_COMPACT, "")) };
        let answer = self.sidegate.try_cached(&text).transpose();
        answer.map(|good| good.map(Token::checked)).map_err(|denied| self.refusal(py, &denied))
    }

    /// The token in the headers of an ASGI request if it is good now and has these scopes; `None`
    /// if only the daemon can answer. Never blocks. One call per request is all that it costs.
    #[pyo3(signature = (headers, scopes = None, /))]
    fn try_headers(
        &self,
        py: Python<'_>,
        headers: &Bound<'_, PyAny>,
        scopes: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Token>> {
        let values = headers::authorization(headers)?;
        let token = sidegate_client::bearer(values.iter().map(|value| &**value));
        let answer = token.and_then(|token| self.sidegate.try_cached(token).transpose());
        match answer.map_err(|denied| self.refusal(py, &denied))? {
            Some(good) => self.with_scopes(py, good, scopes).map(Some),
            None => Ok(None),
        }
    }

    /// The token in a value of `Authorization` (or in all values that were sent) if it is good now
    /// and has these scopes. Asks the daemon if needed, with the GIL released.
    #[pyo3(signature = (authorization, scopes = None, /))]
    fn check_authorization(
        &self,
        py: Python<'_>,
        authorization: Option<&Bound<'_, PyAny>>,
        scopes: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Token> {
        let values = headers::values(authorization)?;
        let token = sidegate_client::bearer(values.iter().map(|value| value.as_bytes()));
        let token = token.map_err(|denied| self.refusal(py, &denied))?;
        let good = self.ask(py, token)?.map_err(|denied| self.refusal(py, &denied))?;
        self.with_scopes(py, good, scopes)
    }

    /// Calls `on_end` with the exception once this token has ended, on a thread of the client: revoked, expired, or not
    /// checkable for longer than the grace. Returns what stops the watch.
    #[pyo3(signature = (token, on_end, /))]
    fn watch_token(&self, py: Python<'_>, token: &Token, on_end: Py<PyAny>) -> PyResult<WatchedToken> {
        let verified = token.verified().ok_or_else(|| PyTypeError::new_err("the token was not checked"))?;
        let refuse = self.refuse.clone_ref(py);
        let notify = move |denied: Denied| {
            // Without an interpreter there is no one to notify.
            let _ending = Python::try_attach(|py| {
                let exception = refusal(py, &refuse, &denied).into_value(py);
                if let Err(error) = on_end.call1(py, (exception,)) {
                    error.write_unraisable(py, None);
                }
            });
        };
        Ok(WatchedToken::new(self.sidegate.watch_with(verified, notify)))
    }

    /// Whether known tokens are checked in this process.
    #[getter]
    fn attached(&self) -> bool {
        self.sidegate.segment().is_some()
    }
}

impl Client {
    fn ask(&self, py: Python<'_>, token: &str) -> PyResult<Result<Verified, Denied>> {
        if let Some(answer) = self.sidegate.try_cached(token) {
            return Ok(answer);
        }
        let asked = py.detach(|| self.sidegate.check(token));
        self.log_reachability(py)?;
        Ok(asked)
    }

    fn with_scopes(&self, py: Python<'_>, good: Verified, scopes: Option<&Bound<'_, PyAny>>) -> PyResult<Token> {
        if let Some(scopes) = scopes {
            let scopes = scopes.try_iter()?.map(|scope| scope?.extract()).collect::<PyResult<Vec<PyBackedStr>>>()?;
            good.require_scopes(&scopes).map_err(|denied| self.refusal(py, &denied))?;
        }
        Ok(Token::checked(good))
    }

    /// Logs to Python's `logging` (logger `sidegate`) when the daemon becomes unreachable, and when
    /// it is back.
    fn log_reachability(&self, py: Python<'_>) -> PyResult<()> {
        let error = self.sidegate.daemon_error();
        if self.unreachable_logged.swap(error.is_some(), Ordering::Relaxed) == error.is_some() {
            return Ok(());
        }
        let logger = py.import("logging")?.call_method1("getLogger", ("sidegate",))?;
        match error {
            Some(error) => logger.call_method1("warning", ("the verifier cannot be reached: %s", error))?,
            None => logger.call_method1("info", ("the verifier answers again",))?,
        };
        Ok(())
    }

    fn refusal(&self, py: Python<'_>, denied: &Denied) -> PyErr {
        refusal(py, &self.refuse, denied)
    }

    fn refuse(&self, py: Python<'_>, code: &str, detail: &str, required: &str) -> PyErr {
        exception(py, &self.refuse, (code, detail, required))
    }
}

/// The exception for a rejection, made by `refuse`.
fn refusal(py: Python<'_>, refuse: &Py<PyAny>, denied: &Denied) -> PyErr {
    let text = denied.to_string();
    exception(
        py,
        refuse,
        match denied {
            Denied::InsufficientScope { required } => (denied.code(), "", required),
            Denied::Invalid { why } => (denied.code(), why, ""),
            Denied::Stale | Denied::Unavailable(_) => (denied.code(), &text, ""),
            _ => (denied.code(), "", ""),
        },
    )
}

fn exception(py: Python<'_>, refuse: &Py<PyAny>, arguments: (&str, &str, &str)) -> PyErr {
    match refuse.bind(py).call1(arguments) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// The token's text; `None` for a `str` without a UTF-8 form (lone surrogates), which is not a
/// token either.
fn text(token: &Bound<'_, PyString>) -> Option<PyBackedStr> {
    PyBackedStr::try_from(token.clone()).ok()
}
