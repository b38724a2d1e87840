//! A response body that goes on until the client is gone.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Interval, interval};

/// A tick every ten milliseconds.
#[derive(Debug)]
pub struct Ticks(Interval);

impl Ticks {
    /// The first tick comes at once.
    pub fn new() -> Self {
        Self(interval(Duration::from_millis(10)))
    }
}

impl Default for Ticks {
    fn default() -> Self {
        Self::new()
    }
}

impl Body for Ticks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.0.poll_tick(context));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: tick\n\n")))))
    }
}
