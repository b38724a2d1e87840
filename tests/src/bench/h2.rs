//! A lean gRPC load generator: one call in flight per h2 connection, frames made by hand (RFC
//! 9113).

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::load::Asks;
use crate::http::{At, Duplex};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// One kept connection.
pub struct Grpc {
    duplex: Box<dyn Duplex>,
    buffer: Vec<u8>,
    filled: usize,
    next_stream: u32,
}

/// A call of `path`: the header block, then the message, each prefixed by its length.
pub fn call(path: &str, message: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // RFC 7541 §6.2.2: a literal without indexing, with a new name, both without Huffman
        // coding.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("below 127"));
            block.extend(text.as_bytes());
        }
    }
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_be_bytes();
    [&length(&block)[..], &block, &[0], &length(message), message].concat()
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&u32::try_from(payload.len()).expect("short").to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

impl Asks for Grpc {
    async fn connect(at: &At) -> Self {
        let mut duplex = at.connect().await.expect("connects");
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut hello, SETTINGS, 0, 0, &[]);
        // A window so large that it never needs an update.
        frame(&mut hello, WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
        duplex.write_all(&hello).await.expect("sent");
        Self { duplex, buffer: vec![0; 64 * 1024], filled: 0, next_stream: 1 }
    }

    async fn ask(&mut self, request: &[u8]) -> u16 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let block = u32::from_be_bytes(*request.first_chunk().expect("made by `call`")) as usize;
        let (block, message) = request[4..].split_at(block);
        let mut out = Vec::with_capacity(request.len() + 32);
        frame(&mut out, HEADERS, END_HEADERS, stream, block);
        frame(&mut out, DATA, END_STREAM, stream, message);
        self.duplex.write_all(&out).await.expect("sent");
        let mut answered = 0;
        loop {
            let (kind, flags, of, payload) = self.next_frame().await;
            match kind {
                DATA if of == stream => answered += payload,
                HEADERS if of == stream && flags & END_STREAM != 0 => {
                    // A response without a message is an error, whatever its trailers contain.
                    return if answered > 5 { 200 } else { 500 };
                }
                SETTINGS if flags & ACK == 0 => self.say(SETTINGS, ACK, &[]).await,
                PING if flags & ACK == 0 => self.say(PING, ACK, &[0; 8]).await,
                GOAWAY => panic!("the server sent GOAWAY"),
                _ => {}
            }
        }
    }
}

impl Grpc {
    async fn say(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        let mut out = Vec::new();
        frame(&mut out, kind, flags, 0, payload);
        self.duplex.write_all(&out).await.expect("sent");
    }

    /// Kind, flags, stream and length of the next complete frame, which is removed.
    async fn next_frame(&mut self) -> (u8, u8, u32, usize) {
        loop {
            if let [a, b, c, kind, flags, d, e, f, g, ..] = self.buffer[..self.filled] {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                let end = 9 + length;
                if self.filled >= end {
                    self.buffer.copy_within(end..self.filled, 0);
                    self.filled -= end;
                    return (kind, flags, u32::from_be_bytes([d, e, f, g]), length);
                }
            }
            let read = self.duplex.read(&mut self.buffer[self.filled..]).await.expect("received");
            assert!(read > 0, "the server closed the connection");
            self.filled += read;
        }
    }
}
