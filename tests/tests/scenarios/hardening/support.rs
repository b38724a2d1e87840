//! A connection whose every byte the test controls, and the listeners under test.

use std::time::Duration;

use sidegate_tests::http::{At, Duplex};
use sidegate_tests::program::Program;
use sidegate_tests::stack::Stack;
use sidegate_tests::wait::WAIT_LIMIT;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// One connection.
pub struct Connection {
    stream: Box<dyn Duplex>,
    /// All bytes received.
    pub received: Vec<u8>,
}

impl Connection {
    pub async fn open(at: &At) -> Self {
        Self { stream: at.connect().await.expect("connects"), received: Vec::new() }
    }

    /// False if the server has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Sends what fits within `time`, without reading; false if the server has closed.
    pub async fn send_within(&mut self, bytes: &[u8], time: Duration) -> bool {
        tokio::time::timeout(time, self.stream.write_all(bytes)).await.is_ok_and(|sent| sent.is_ok())
    }

    /// Reads while data arrives within `time`; true if the server has closed.
    pub async fn read_for(&mut self, time: Duration) -> bool {
        let mut chunk = [0; 16 * 1024];
        loop {
            match tokio::time::timeout(time, self.stream.read(&mut chunk)).await {
                Err(_) => return false,
                Ok(Ok(0) | Err(_)) => return true,
                Ok(Ok(length)) => self.received.extend_from_slice(&chunk[..length]),
            }
        }
    }

    /// Reads until `there` is true, the server has closed, or the limit is reached.
    pub async fn read_until(&mut self, there: impl Fn(&[u8]) -> bool) {
        let started = std::time::Instant::now();
        while !there(&self.received) && started.elapsed() < WAIT_LIMIT {
            if self.read_for(Duration::from_millis(50)).await {
                return;
            }
        }
    }

    /// Reads until the server closes.
    ///
    /// # Panics
    /// The limit is reached.
    pub async fn until_closed(&mut self, what: &str) -> String {
        let closed = async { while !self.read_for(Duration::from_secs(1)).await {} };
        assert!(tokio::time::timeout(WAIT_LIMIT, closed).await.is_ok(), "{what}: the server never closed");
        self.text()
    }

    /// Sends a GET and waits for the response head.
    pub async fn get(&mut self, path: &str) -> String {
        self.received.clear();
        assert!(self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await, "{path}: closed");
        let mut chunk = [0; 16 * 1024];
        let whole = async {
            while !self.received.windows(4).any(|four| four == b"\r\n\r\n") {
                let length = self.stream.read(&mut chunk).await.expect("received");
                assert!(length > 0, "{path}: closed without an answer");
                self.received.extend_from_slice(&chunk[..length]);
            }
        };
        assert!(tokio::time::timeout(WAIT_LIMIT, whole).await.is_ok(), "{path}: no answer");
        self.text()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

/// The status of the first response.
pub fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no answer but {answer:?}"))
}

/// The number of responses.
pub fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

/// A listener of a running program.
pub struct Site<'a> {
    pub name: &'static str,
    pub at: &'a At,
    pub program: &'a Program,
    /// A path that is answered at once.
    pub path: &'static str,
}

/// Every listener that speaks HTTP.
pub fn sites(stack: &Stack) -> Vec<Site<'_>> {
    let (issuer, verifier) = (&stack.issuer, &stack.verifiers[0]);
    let of_issuer = |name, at, path| Site { name, at, path, program: &issuer.program };
    let of_verifier = |name, at, path| Site { name, at, path, program: &verifier.program };
    vec![
        of_issuer("the issuer", &issuer.at, "/.well-known/jwks.json"),
        of_issuer("the issuer's admin listener", &issuer.admin, "/livez"),
        of_verifier("the verifier's socket", &verifier.at, "/check"),
        of_verifier("the verifier over TCP", &verifier.tcp, "/check"),
        of_verifier("the verifier's admin listener", &verifier.admin, "/livez"),
    ]
}

impl Site<'_> {
    /// Checks that a legitimate client is served.
    pub async fn serves(&self) {
        let reply = self.at.get(self.path).send().await;
        let right = if self.path == "/check" { 401 } else { 200 };
        assert_eq!(reply.status, right, "{}", self.name);
    }
}
