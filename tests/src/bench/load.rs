//! A lean load generator: closed loop, kept connections, one request in flight per connection;
//! HTTP/1.1 here, gRPC in [`super::h2`].

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::http::{At, Duplex};

/// Measurements of one run.
#[derive(Clone, Debug)]
pub struct Measured {
    pub per_second: f64,
    /// Microseconds, one per request.
    pub latencies_us: Vec<f64>,
}

/// A `/check` request with a token.
pub fn check_request(token: &str) -> Vec<u8> {
    format!("GET /check HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes()
}

/// A kept connection of some protocol.
pub trait Asks: Send + Sized + 'static {
    fn connect(at: &At) -> impl Future<Output = Self> + Send;

    /// Sends a complete request, reads the complete response, and returns its status.
    fn ask(&mut self, request: &[u8]) -> impl Future<Output = u16> + Send;
}

/// Sends `requests` (each connection its own, in turn) for `time` over this many connections.
///
/// # Panics
/// A response is not 2xx, or the server is gone.
pub async fn run(at: &At, requests: &[Vec<u8>], connections: usize, time: Duration) -> Measured {
    run_as::<Stream>(at, requests, connections, time).await
}

/// As [`run`], over connections of another kind.
///
/// # Panics
/// A response is not 2xx, or the server is gone.
pub async fn run_as<A: Asks>(at: &At, requests: &[Vec<u8>], connections: usize, time: Duration) -> Measured {
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(A::connect(at).await);
    }
    let started = Instant::now();
    let clients = streams.into_iter().enumerate().map(|(index, stream)| {
        let mut requests = requests.to_vec();
        let first = index % requests.len();
        requests.rotate_left(first);
        tokio::spawn(client(stream, requests, started + time))
    });
    let clients: Vec<_> = clients.collect();
    let mut latencies_us = Vec::new();
    for one in clients {
        latencies_us.extend(one.await.expect("a client succeeds"));
    }
    Measured { per_second: latencies_us.len() as f64 / started.elapsed().as_secs_f64(), latencies_us }
}

async fn client<A: Asks>(mut stream: A, requests: Vec<Vec<u8>>, until: Instant) -> Vec<f64> {
    let mut latencies = Vec::new();
    for request in requests.iter().cycle() {
        let sent = Instant::now();
        let status = stream.ask(request).await;
        latencies.push(sent.elapsed().as_secs_f64() * 1e6);
        assert!((200..300).contains(&status), "answered {status}");
        if Instant::now() >= until {
            break;
        }
    }
    latencies
}

/// One kept connection.
pub struct Stream {
    duplex: Box<dyn Duplex>,
    buffer: Vec<u8>,
    /// The length of the previous response, which had no body: a response of the same length and
    /// end is not parsed, so that a longer response does not slow the load generator.
    expected: usize,
}

impl Asks for Stream {
    async fn connect(at: &At) -> Self {
        Self::connect(at).await
    }

    async fn ask(&mut self, request: &[u8]) -> u16 {
        self.ask(request).await
    }
}

impl Stream {
    pub async fn connect(at: &At) -> Self {
        Self { duplex: at.connect().await.expect("connects"), buffer: vec![0; 32 * 1024], expected: 0 }
    }

    /// Sends a complete request, reads the complete response, and returns its status.
    ///
    /// # Panics
    /// The server closed the connection.
    pub async fn ask(&mut self, request: &[u8]) -> u16 {
        self.try_ask(request).await.expect("an answer")
    }

    /// Sends a complete request, reads the complete response, and returns its status.
    ///
    /// # Errors
    /// The server closed the connection.
    pub async fn try_ask(&mut self, request: &[u8]) -> std::io::Result<u16> {
        self.duplex.write_all(request).await?;
        let mut filled = 0;
        loop {
            let length = self.duplex.read(&mut self.buffer[filled..]).await?;
            if length == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            filled += length;
            if filled == self.expected && self.buffer[..filled].ends_with(b"\r\n\r\n") {
                break;
            }
            if let Some(end) = whole_answer(&self.buffer[..filled]) {
                assert_eq!(filled, end, "more than one answer");
                self.expected = if self.buffer[..end].ends_with(b"\r\n\r\n") { end } else { 0 };
                break;
            }
        }
        let digits = std::str::from_utf8(&self.buffer[9..12]).expect("a status line");
        Ok(digits.parse().expect("a status"))
    }

    /// The body of the last response.
    pub fn body(&self) -> &[u8] {
        let head = self.buffer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
        let end = whole_answer(&self.buffer).unwrap_or(head);
        &self.buffer[head..end]
    }
}

/// The length of the first response, once it is complete.
fn whole_answer(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let end = head + length.unwrap_or(0);
    (bytes.len() >= end).then_some(end)
}
