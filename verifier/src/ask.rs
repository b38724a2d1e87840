//! The client for the program's own commands: one HTTP/1.0 request to the running daemon, no async
//! runtime.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// A daemon that takes longer counts as down.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The limit of a response, in bytes.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// The daemon's address.
#[derive(Clone, Debug)]
pub enum At {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// The daemon's response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Sends one request and reads the response.
///
/// # Errors
/// The daemon cannot be reached, does not answer in time, or does not speak HTTP.
pub fn ask(at: &At, method: &str, path: &str, body: &[u8]) -> io::Result<ProgramAnswer> {
    match at {
        At::Unix(socket) => {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            exchange(stream, method, path, body)
        }
        At::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            exchange(stream, method, path, body)
        }
    }
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str, body: &[u8]) -> io::Result<ProgramAnswer> {
    let head = format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

fn parse(answer: &[u8]) -> Option<ProgramAnswer> {
    let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let line = std::str::from_utf8(answer.split(|byte| *byte == b'\r').next()?).ok()?;
    let status = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(ProgramAnswer { status, body: answer[head_end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_parses() {
        let answer = parse(b"HTTP/1.0 401 Unauthorized\r\na: b\r\n\r\n{}").unwrap();
        assert_eq!(answer, ProgramAnswer { status: 401, body: b"{}".to_vec() });
        for bad in [&b""[..], b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(parse(bad), None);
        }
    }
}
