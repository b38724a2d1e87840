//! The opening of a connection: a client must say in time which HTTP it speaks.
//!
//! hyper-util reads up to 24 bytes to tell HTTP/1 from h2 before hyper's own timers run, and waits for them for ever: silent
//! connections, and ones that stop in the middle of h2's preface, would hold their places until nobody else gets in.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What every h2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection that ends with an error if the client has neither sent h2's whole preface nor anything else in time.
pub(crate) struct Opening<I> {
    io: I,
    /// None once it is known what the client speaks.
    deadline: Option<Pin<Box<Sleep>>>,
    /// How much of the preface has come.
    heard: usize,
}

impl<I> Opening<I> {
    /// Gives the client `patience` from now on.
    pub(crate) fn new(io: I, patience: Duration) -> Self {
        Self { io, deadline: Some(Box::pin(tokio::time::sleep(patience))), heard: 0 }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if self.deadline.is_none() {
            return;
        }
        let awaited = &PREFACE[self.heard..];
        let common = bytes.iter().zip(awaited).take_while(|(byte, awaited)| byte == awaited).count();
        self.heard += common;
        if common < bytes.len() || self.heard == PREFACE.len() {
            self.deadline = None;
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Opening<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.io).poll_read(context, buffer) {
            Poll::Ready(result) => {
                self.hear(&buffer.filled()[before..]);
                Poll::Ready(result)
            }
            Poll::Pending => match &mut self.deadline {
                Some(deadline) => deadline.as_mut().poll(context).map(|()| Err(Error::from(ErrorKind::TimedOut))),
                None => Poll::Pending,
            },
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Opening<I> {
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    const SOON: Duration = Duration::from_millis(20);

    /// What reading to the end gives if the client sends `said` and then falls silent, with its end held open.
    async fn after(said: &[u8]) -> Option<ErrorKind> {
        let (mut client, server) = duplex(1024);
        client.write_all(said).await.unwrap();
        let mut opening = Opening::new(server, SOON);
        let mut out = Vec::new();
        tokio::select! {
            ended = opening.read_to_end(&mut out) => Some(ended.unwrap_err().kind()),
            () = tokio::time::sleep(SOON * 20) => None,
        }
    }

    #[tokio::test]
    async fn silence_and_half_a_preface_end() {
        for said in [&b""[..], b"P", b"PRI", b"PRI * HTTP/2.0\r\n", &PREFACE[..23]] {
            assert_eq!(after(said).await, Some(ErrorKind::TimedOut), "{said:?}");
        }
    }

    #[tokio::test]
    async fn whoever_has_said_what_it_speaks_is_left_to_hyper() {
        for said in [&b"G"[..], b"PRIVATE", b"POST / HTTP/1.1\r\n", &PREFACE[..], b"PRI * HTTP/2.0\r\n\r\nXX"] {
            assert_eq!(after(said).await, None, "{said:?}");
        }
    }
}
