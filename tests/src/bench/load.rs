//! A lean HTTP/1.1 load generator over a Unix socket: closed loop, keep-alive, one request in flight per connection.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// What one run measured.
#[derive(Clone, Debug)]
pub struct Measured {
    pub per_second: f64,
    /// Microseconds, one per request.
    pub latencies_us: Vec<f64>,
}

/// The request that asks `/check` about a token.
pub fn check_request(token: &str) -> Vec<u8> {
    format!("GET /check HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes()
}

/// Sends `requests` (each connection its own, in turn) for `time` over as many connections.
///
/// # Panics
/// An answer is not 200, or the server is gone.
pub async fn run(socket: &Path, requests: &[Vec<u8>], connections: usize, time: Duration) -> Measured {
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(UnixStream::connect(socket).await.expect("connects"));
    }
    let started = Instant::now();
    let clients = streams.into_iter().enumerate().map(|(at, stream)| {
        let requests: Vec<_> = requests.iter().skip(at % requests.len()).cloned().collect();
        tokio::spawn(client(stream, requests, started + time))
    });
    let clients: Vec<_> = clients.collect();
    let mut latencies_us = Vec::new();
    for one in clients {
        latencies_us.extend(one.await.expect("a client ends well"));
    }
    Measured { per_second: latencies_us.len() as f64 / started.elapsed().as_secs_f64(), latencies_us }
}

async fn client(mut stream: UnixStream, requests: Vec<Vec<u8>>, until: Instant) -> Vec<f64> {
    let mut latencies = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    for request in requests.iter().cycle() {
        let sent = Instant::now();
        stream.write_all(request).await.expect("sent");
        let mut filled = 0;
        loop {
            filled += stream.read(&mut buffer[filled..]).await.expect("received");
            if let Some(end) = whole_answer(&buffer[..filled]) {
                assert_eq!(filled, end, "more than one answer");
                break;
            }
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..filled]));
        latencies.push(sent.elapsed().as_secs_f64() * 1e6);
        if Instant::now() >= until {
            break;
        }
    }
    latencies
}

/// The length of the first answer, once it is whole.
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
