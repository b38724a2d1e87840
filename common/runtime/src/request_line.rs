//! Replaces number signs in HTTP/1 request lines, which `http::Uri` drops together with the rest of
//! the target.
//!
//! `GET /public/x#/../../admin` would be checked as `/public/x`, while proxy and application may
//! read it otherwise. A number sign in a request line therefore becomes a backslash before hyper
//! reads it: no legal target has either of them (RFC 3986 §3.3), and every rule treats a path with
//! a backslash as ambiguous.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The beginning of every HTTP/2 connection (RFC 9113 §3.4); such connections are not changed.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// A connection without number signs in its request lines.
#[derive(Debug)]
pub(crate) struct RequestLines<I> {
    io: I,
    start: Start,
    line: Line,
}

/// The client's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// So many bytes of the preface have been received, and nothing else.
    Preface(usize),
    Http1,
    Http2,
}

/// The position in a line. A request line is a method, a space, and `/` or a letter. Header lines
/// and JSON and form bodies have no such line, so the ends of messages need not be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Begin,
    Method,
    Space,
    Target,
    Other,
}

impl Line {
    const fn then(self, byte: u8) -> Self {
        match (self, byte) {
            (_, b'\n') => Self::Begin,
            (Self::Begin | Self::Method, byte) if is_token(byte) => Self::Method,
            (Self::Method, b' ') => Self::Space,
            (Self::Space, b'/' | b'a'..=b'z' | b'A'..=b'Z') | (Self::Target, _) => Self::Target,
            _ => Self::Other,
        }
    }
}

/// RFC 9110 §5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

impl<I> RequestLines<I> {
    pub(crate) const fn new(io: I) -> Self {
        Self { io, start: Start::Preface(0), line: Line::Begin }
    }

    fn rewrite(&mut self, bytes: &mut [u8]) {
        if let Start::Preface(known) = self.start {
            let common = bytes.iter().zip(&PREFACE[known..]).take_while(|(byte, awaited)| byte == awaited).count();
            self.start = match known + common {
                all if all == PREFACE.len() => Start::Http2,
                so_far if common == bytes.len() => Start::Preface(so_far),
                _ => Start::Http1,
            };
        }
        if self.start == Start::Http2 {
            return;
        }
        if bytes.contains(&b'#') {
            for byte in bytes {
                self.line = self.line.then(*byte);
                if self.line == Line::Target && *byte == b'#' {
                    *byte = b'\\';
                }
            }
            return;
        }
        // Nothing to replace: only the last line matters for the next read.
        let last = bytes.iter().rposition(|byte| *byte == b'\n');
        if last.is_some() {
            self.line = Line::Begin;
        }
        self.line = bytes[last.map_or(0, |at| at + 1)..].iter().fold(self.line, |line, byte| line.then(*byte));
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for RequestLines<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        self.rewrite(&mut buffer.filled_mut()[before..]);
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for RequestLines<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes read when `sent` arrives in pieces of `size` bytes.
    fn read(sent: &[u8], size: usize) -> Vec<u8> {
        let mut lines = RequestLines::new(());
        let mut bytes = sent.to_vec();
        bytes.chunks_mut(size).for_each(|piece| lines.rewrite(piece));
        bytes
    }

    #[test]
    fn number_signs_in_request_lines_become_backslashes() {
        let cases: &[(&str, &str)] = &[
            ("GET /a#b?c#d HTTP/1.1\r\nCookie: a=#\r\n\r\n", "GET /a\\b?c\\d HTTP/1.1\r\nCookie: a=#\r\n\r\n"),
            ("get http://h/a# HTTP/1.0\n\n", "get http://h/a\\ HTTP/1.0\n\n"),
            ("M#1 /a# HTTP/1.1\r\n", "M#1 /a\\ HTTP/1.1\r\n"),
            ("\r\nGET /a#b HTTP/1.1\r\n", "\r\nGET /a\\b HTTP/1.1\r\n"),
            (
                "POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\n#\n#GET /b#c HTTP/1.1\r\n",
                "POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\n#\n#GET /b\\c HTTP/1.1\r\n",
            ),
            (
                "{\"password\":\n  \"a#b\", \"c\":\ntrue , \"d\": \"#\"}",
                "{\"password\":\n  \"a#b\", \"c\":\ntrue , \"d\": \"#\"}",
            ),
            ("username=a b#c&password=#", "username=a b#c&password=#"),
        ];
        for (sent, expected) in cases {
            for size in 1..=sent.len() {
                let read = read(sent.as_bytes(), size);
                assert_eq!(String::from_utf8_lossy(&read), *expected, "in pieces of {size}");
            }
        }
    }

    #[test]
    fn http2_is_not_changed() {
        let sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET /a#b HTTP/1.1\r\n";
        for size in 1..=sent.len() {
            assert_eq!(read(sent, size), sent, "in pieces of {size}");
        }
    }
}
