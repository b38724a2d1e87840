//! Connections of clients without credentials that cost memory: half a head, endless h2 streams,
//! unread responses.

use rustix::process::{Resource, getrlimit};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::http::At;

/// The start of every h2 connection.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// 30 bytes of a request.
const HALF_A_HEAD: &[u8] = b"POST /auth/login HTTP/1.1\r\nHos";

/// An attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Sends half a head and then nothing.
    HalfHead,
    /// Opens this many h2 streams, each a POST with 15 kB of headers and no body.
    Posts(u32),
    /// Opens this many h2 streams that watch the health service.
    Watches(u32),
    /// Grants no window, and requests a response on each of this many streams.
    NoWindow(u32),
    /// Sends this many HTTP/1.1 requests and never reads.
    NeverReads(usize),
}

/// The wanted number, or as many as this process can open with some descriptors left.
pub fn at_most(connections: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    connections.min(usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(500))
}

/// Opens a connection that runs `attack` on the HTTP server at `at` with `path`; the server may
/// close it at any time, even at once.
pub async fn start(at: &At, path: &str, attack: Attack) -> Option<TcpStream> {
    let At::Tcp(address) = at else { panic!("a TCP address") };
    let mut stream = TcpStream::connect(address).await.ok()?;
    let bytes = attack.bytes(path);
    // Stops when the server no longer reads, which is one possible defence.
    let sent = tokio::time::timeout(std::time::Duration::from_secs(5), stream.write_all(&bytes)).await;
    (!matches!(sent, Ok(Err(_)))).then_some(stream)
}

impl Attack {
    fn bytes(self, path: &str) -> Vec<u8> {
        match self {
            Self::HalfHead => HALF_A_HEAD.to_vec(),
            Self::NeverReads(times) => format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").repeat(times).into_bytes(),
            Self::Posts(streams) => {
                let block = [head(0x83, path), field(b"content-type", b"application/json"), long_fields()].concat();
                h2(&[], streams, |stream| headers(stream, false, &block))
            }
            Self::Watches(streams) => {
                let grpc = [field(b"content-type", b"application/grpc"), field(b"te", b"trailers")].concat();
                let block = [head(0x83, "/grpc.health.v1.Health/Watch"), grpc].concat();
                // An empty message in its frame of five bytes, and the end.
                let message = |stream| frame(0, 1, stream, &[0; 5]);
                h2(&[], streams, |stream| [headers(stream, false, &block), message(stream)].concat())
            }
            Self::NoWindow(streams) => {
                // SETTINGS_INITIAL_WINDOW_SIZE is 0.
                h2(&[0, 4, 0, 0, 0, 0], streams, |stream| headers(stream, true, &head(0x82, path)))
            }
        }
    }
}

fn h2(settings: &[u8], streams: u32, stream: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = [PREFACE, &frame(4, 0, 0, settings)].concat();
    (0..streams).for_each(|number| bytes.extend(stream(2 * number + 1)));
    bytes
}

/// One h2 frame (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&[length[1], length[2], length[3], kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

fn headers(stream: u32, ends: bool, block: &[u8]) -> Vec<u8> {
    frame(1, 4 | u8::from(ends), stream, block)
}

/// HPACK: method, scheme http, authority x, and the path (RFC 7541 §6.2.2, appendix A).
fn head(method: u8, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("a short path");
    [&[method, 0x86, 0x01, 1, b'x', 0x04, length], path.as_bytes()].concat()
}

/// A field without indexing.
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("a short text");
    [&[0x00, length(name)], name, &[length(value)], value].concat()
}

/// 15 kB.
fn long_fields() -> Vec<u8> {
    (0..100).flat_map(|number| field(format!("x-{number}").as_bytes(), &[b'a'; 110])).collect()
}
