//! A connection's byte stream: reports received and blocked bytes to [`ConnectionActivity`], and
//! charges them to the budget.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection_budget::{ConnectionActivity, H2_BYTES, UNREAD_BYTES};
use crate::connection_timeouts::out_of_memory;
use crate::unix_authority::UnixAuthority;

/// The beginning of every h2 connection (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The part of a head or body that the charge of every connection covers, in bytes.
const FREE_BYTES: usize = 8 * 1024;
/// The most that is charged for a message being received over HTTP/1: hyper's largest buffer, and
/// the one before its last growth.
const RECEIVING_BYTES_MAX: usize = 128 * 1024;

/// A connection's byte stream that reports to [`ConnectionActivity`].
#[derive(Debug)]
pub(crate) struct TimedIo<I> {
    io: I,
    activity: Arc<ConnectionActivity>,
    /// How much of the preface has been received; `None` once the protocol is known.
    preface: Option<usize>,
    /// Bytes received since the last response.
    receiving: usize,
    /// The most charged for received bytes so far: buffers do not shrink.
    charged: usize,
    /// The kernel accepted no more bytes at the last write.
    blocked: bool,
    charged_unread: bool,
    /// For a Unix socket, while the connection is or may be h2.
    authority: Option<UnixAuthority>,
}

impl<I> TimedIo<I> {
    pub(crate) const fn new(io: I, activity: Arc<ConnectionActivity>) -> Self {
        let (preface, receiving, charged) = (Some(0), 0, 0);
        Self { io, activity, preface, receiving, charged, blocked: false, charged_unread: false, authority: None }
    }

    /// Accepts the `:authority` values that gRPC clients send over a Unix socket.
    pub(crate) fn over_unix(self) -> Self {
        Self { authority: Some(UnixAuthority::new()), ..self }
    }

    /// Handles received bytes; false if there is no memory for them.
    fn on_received(&mut self, length: usize, start: [u8; PREFACE.len()]) -> bool {
        if length == 0 {
            return true;
        }
        self.receiving = if self.activity.bytes_came() { self.receiving + length } else { length };
        if let Some(known) = self.preface {
            let (awaited, bytes) = (&PREFACE[known..], &start[..length.min(PREFACE.len())]);
            let common = bytes.iter().zip(awaited).take_while(|(byte, awaited)| byte == awaited).count();
            if known + common == PREFACE.len() {
                self.preface = None;
                self.activity.speaks_h2();
                return self.activity.charge(H2_BYTES);
            }
            self.preface = Some(known + common).filter(|_| common == bytes.len());
        }
        self.receiving <= FREE_BYTES || self.activity.is_h2() || self.charge_receiving()
    }

    /// Charges twice the length of a long head or body: growing a buffer copies it.
    fn charge_receiving(&mut self) -> bool {
        let due = (2 * self.receiving).next_multiple_of(FREE_BYTES).min(RECEIVING_BYTES_MAX);
        let more = due.saturating_sub(self.charged);
        let charged = more == 0 || self.activity.charge(more);
        if charged {
            self.charged += more;
        }
        charged
    }

    /// Notes whether the kernel accepts writes; an error if there is no memory for a client that
    /// does not read.
    fn wrote(&mut self, written: Poll<Result<usize>>) -> Poll<Result<usize>> {
        if written.is_pending() != self.blocked {
            self.blocked = !self.blocked;
            self.activity.blocked_or_not();
            if self.blocked && !self.charged_unread {
                if !self.activity.charge(UNREAD_BYTES) {
                    return Poll::Ready(Err(out_of_memory()));
                }
                self.charged_unread = true;
            }
        }
        written
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for TimedIo<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        let bytes = &buffer.filled()[before..];
        let mut start = [0; PREFACE.len()];
        if self.preface.is_some() {
            let length = bytes.len().min(start.len());
            start[..length].copy_from_slice(&bytes[..length]);
        }
        if !self.on_received(bytes.len(), start) {
            return Poll::Ready(Err(out_of_memory()));
        }
        if self.preface.is_none() && !self.activity.is_h2() {
            self.authority = None;
        }
        if let Some(authority) = &mut self.authority {
            authority.rewrite(&mut buffer.filled_mut()[before..]);
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for TimedIo<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.wrote(written)
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
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
