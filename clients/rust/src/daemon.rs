//! The daemon client: `POST /verify` over its Unix socket, with kept connections.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::denied::{DaemonError, Denied};

/// The most idle connections.
const IDLE_MAX: usize = 64;
/// The limit of a response, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 32;
/// The wait before a full backlog is tried again.
const BACKLOG_RETRY: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Daemon {
    path: PathBuf,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
    /// The error of the last request, until the daemon answers again.
    last_error: Mutex<Option<String>>,
}

/// An error with the operating system's message where there is one.
#[derive(Debug)]
struct DaemonFault {
    last_error: DaemonError,
    cause: Option<std::io::Error>,
}

impl std::fmt::Display for DaemonFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.cause {
            Some(error) => error.fmt(f),
            None => self.last_error.fmt(f),
        }
    }
}

impl DaemonFault {
    fn connect(error: std::io::Error) -> Self {
        Self { last_error: DaemonError::Connect(error.kind()), cause: Some(error) }
    }
}

impl From<DaemonError> for DaemonFault {
    fn from(last_error: DaemonError) -> Self {
        Self { last_error, cause: None }
    }
}

/// A connection belongs to the process that made it: after a fork, two processes would read each
/// other's responses.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    pid: u32,
    used: bool,
    buffer: Vec<u8>,
}

/// A response, still in the connection's buffer.
struct Head {
    status: u16,
    body: std::ops::Range<usize>,
    keep: bool,
}

#[derive(Default, Deserialize)]
struct Problem<'a> {
    #[serde(borrow, default)]
    code: std::borrow::Cow<'a, str>,
    #[serde(default)]
    detail: String,
}

impl Daemon {
    pub(crate) fn new(path: PathBuf, timeout: Duration) -> Self {
        Self { path, timeout, idle: Mutex::new(Vec::new()), last_error: Mutex::new(None) }
    }

    /// The error of the last request; `None` while the daemon answers.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs when the daemon becomes unreachable, and when it is back; nothing in between.
    fn observe(&self, asked: Result<(), &DaemonFault>) {
        // A thread that did not survive a fork may hold the lock for ever.
        let Ok(mut last) = self.last_error.try_lock() else { return };
        let path = self.path.display();
        match (asked, last.is_some()) {
            (Err(fault), false) => {
                let error = format!("{path} (VERIFIER_SOCKET): {fault}");
                tracing::warn!(socket = %path, setting = "VERIFIER_SOCKET", error = %fault, "the verifier cannot be reached");
                *last = Some(error);
            }
            (Ok(()), true) => {
                tracing::info!(socket = %path, "the verifier answers again");
                *last = None;
            }
            _ => {}
        }
    }

    /// Checks a token; `accept` parses the body of a 200.
    pub(crate) fn verify<T>(
        &self,
        token: &str,
        accept: impl FnOnce(&[u8]) -> Result<T, DaemonError>,
    ) -> Result<T, Denied> {
        let asked = self.exchange(token);
        self.observe(asked.as_ref().map(drop));
        let (connection, head) = asked.map_err(|fault| fault.last_error)?;
        let body = &connection.buffer[head.body];
        let answer = match head.status {
            200 => accept(body).map_err(Denied::from),
            status => {
                let problem: Problem<'_> = serde_json::from_slice(body).unwrap_or_default();
                Err(Denied::from_answer(status, &problem.code, problem.detail))
            }
        };
        if head.keep {
            self.give_back(connection);
        }
        answer
    }

    fn exchange(&self, token: &str) -> Result<(Connection, Head), DaemonFault> {
        let pid = std::process::id();
        let mut connection = match self.take(pid) {
            Some(idle) => idle,
            None => self.connect(pid)?,
        };
        let head = match connection.ask(token) {
            // The daemon may close an idle connection at any time; repeating the request is safe.
            Err(DaemonError::Broken(_)) if connection.used => {
                connection = self.connect(pid)?;
                connection.ask(token)?
            }
            asked => asked?,
        };
        Ok((connection, head))
    }

    fn take(&self, pid: u32) -> Option<Connection> {
        // A thread that did not survive a fork may hold the lock for ever.
        let mut idle = self.idle.try_lock().ok()?;
        loop {
            let connection = idle.pop()?;
            if connection.pid == pid {
                return Some(connection);
            }
        }
    }

    fn give_back(&self, mut connection: Connection) {
        connection.used = true;
        if let Ok(mut idle) = self.idle.try_lock()
            && idle.len() < IDLE_MAX
        {
            idle.push(connection);
        }
    }

    fn connect(&self, pid: u32) -> Result<Connection, DaemonFault> {
        let deadline = Instant::now() + self.timeout;
        let stream = loop {
            match dial(&self.path) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(BACKLOG_RETRY);
                }
                dialled => break dialled.map_err(DaemonFault::connect)?,
            }
        };
        let timeout = Some(self.timeout);
        stream
            .set_read_timeout(timeout)
            .and_then(|()| stream.set_write_timeout(timeout))
            .map_err(DaemonFault::connect)?;
        Ok(Connection { stream, pid, used: false, buffer: Vec::with_capacity(4096) })
    }
}

fn dial(path: &Path) -> std::io::Result<UnixStream> {
    sidegate_shm::attach::dial(path)
}

impl Connection {
    fn ask(&mut self, token: &str) -> Result<Head, DaemonError> {
        self.buffer.clear();
        let length = token.len();
        write!(self.buffer, "POST /verify HTTP/1.1\r\nHost: sidegate\r\nContent-Length: {length}\r\n\r\n{token}")
            .map_err(|error| last_error(&error))?;
        self.stream.write_all(&self.buffer).map_err(|error| last_error(&error))?;
        self.buffer.clear();
        loop {
            let had = self.buffer.len();
            self.buffer.resize(had + 4096, 0);
            let read = self.stream.read(&mut self.buffer[had..]);
            self.buffer.truncate(had + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) if had == 0 => return Err(DaemonError::Broken(ErrorKind::UnexpectedEof)),
                Ok(0) => return Err(DaemonError::Answer),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // A partial response must not be requested again on another connection.
                Err(error) if had == 0 => return Err(last_error(&error)),
                Err(error) if last_error(&error) == DaemonError::Timeout => return Err(DaemonError::Timeout),
                Err(_) => return Err(DaemonError::Answer),
            }
            if let Some(head) = parse(&self.buffer)? {
                return Ok(head);
            }
        }
    }
}

/// Parses a response; `None` if it is not complete yet.
fn parse(bytes: &[u8]) -> Result<Option<Head>, DaemonError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|_| DaemonError::Answer)?;
    let httparse::Status::Complete(start) = parsed else {
        return if bytes.len() > ANSWER_BYTES_MAX { Err(DaemonError::Answer) } else { Ok(None) };
    };
    let (mut length, mut keep) = (None, response.version == Some(1));
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(header.value).ok().and_then(|value| value.parse::<usize>().ok());
        } else if header.name.eq_ignore_ascii_case("connection") {
            keep &= !header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let end = length.filter(|length| *length <= ANSWER_BYTES_MAX).ok_or(DaemonError::Answer)? + start;
    let status = response.code.ok_or(DaemonError::Answer)?;
    match bytes.len() {
        read if read < end => Ok(None),
        // Extra bytes: never reuse that connection.
        read => Ok(Some(Head { status, body: start..end, keep: keep && read == end })),
    }
}

fn last_error(error: &std::io::Error) -> DaemonError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => DaemonError::Timeout,
        kind => DaemonError::Broken(kind),
    }
}
