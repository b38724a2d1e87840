//! Per-connection head, idle and write timeouts. A started head must be complete within
//! [`ConnectionTimeouts::head`], a connection without requests is closed after a while, a client
//! that does not read is disconnected after [`ConnectionTimeouts::write`], and a connection whose
//! request is being processed has no deadline. Buffers are charged to the program's budget
//! (`connection_budget`), which may ask a connection to close.
//!
//! hyper's own timer counts idle time as reading a head, and creates a timer for every request.
//! Here each connection has one timer that fires rarely, and no request reads the clock. It also
//! covers what hyper-util reads before hyper runs: a client that sends nothing, or half of h2's
//! preface.

use std::future::poll_fn;
use std::io::{Error, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use crate::connection_budget::{CloseRequest, ConnectionActivity, InFlight, Phase};

/// The timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionTimeouts {
    /// From the first byte of a head (or of h2's preface) to its end.
    pub head: Duration,
    /// Without any request.
    pub idle: Duration,
    /// How long a client may read nothing of a response that is ready; detected within this time
    /// and a half.
    pub write: Duration,
}

/// How long an idle connection may take to close gracefully after it was asked to close.
const CLOSE_GRACE: Duration = Duration::from_millis(250);

/// A response body; the request ends with it.
#[derive(Debug)]
pub(crate) enum Answering<B> {
    /// The service's response.
    Served {
        body: B,
        open: InFlight,
        /// The client has not read what is ready.
        untaken: bool,
    },
    /// Our own response; the service did not see the request.
    Refused(Option<Bytes>),
}

impl<B: Body> Answering<B> {
    pub(crate) fn new(body: B, open: InFlight) -> Self {
        let mut answering = Self::Served { untaken: false, open, body };
        if let Self::Served { body, open, untaken } = &mut answering {
            let more = !body.is_end_stream();
            open.note_untaken(untaken, more);
        }
        answering
    }
}

impl<B> Drop for Answering<B> {
    fn drop(&mut self) {
        if let Self::Served { open, untaken, .. } = self {
            open.note_untaken(untaken, false);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut *self {
            Self::Served { body, open, untaken } => {
                let frame = Pin::new(body).poll_frame(context);
                // If the body is pending, the client waits for the service.
                open.note_untaken(untaken, matches!(frame, Poll::Ready(Some(_))));
                frame
            }
            Self::Refused(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Served { body, .. } => body.is_end_stream(),
            Self::Refused(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Served { body, .. } => body.size_hint(),
            Self::Refused(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}

/// The budget has no memory for the connection.
pub(crate) fn out_of_memory() -> Error {
    Error::new(ErrorKind::OutOfMemory, "no memory left for this connection (CONNECTION_MEMORY)")
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Runs a connection until it ends by itself, a timeout closes it, or `stop` drains it. Must run as
/// its own task: the waker is registered once.
pub(crate) async fn drive<C>(
    connection: C,
    activity: Arc<ConnectionActivity>,
    timeouts: ConnectionTimeouts,
    mut stop: watch::Receiver<()>,
) -> Result<(), AnyError>
where
    C: GracefulConnection,
    C::Error: Into<AnyError>,
{
    let stop_watch = stop.clone();
    let (mut connection, mut stop) = (pin!(connection), pin!(stop.changed()));
    let every = (timeouts.idle / 4).min(timeouts.write / 2);
    let mut timer = LazyTimer { sleep: pin!(sleep(every)), every, armed: false };
    // No deadline yet: the timer's next firing sets it, so an idle connection may stay up to a
    // quarter longer.
    let (mut seen, mut deadline) = (activity.snapshot(), Some(Instant::now() + timeouts.idle));
    let (mut listening, mut leaving, mut closing) = (false, false, false);
    let mut unread = None;
    poll_fn(move |context| {
        // The first poll registers the wake-up for a stop; later a cheaper check of the version
        // suffices.
        let stopped =
            if listening { stop_watch.has_changed().unwrap_or(true) } else { stop.as_mut().poll(context).is_ready() };
        if !listening {
            activity.register(context.waker());
        }
        listening = true;
        if stopped && !leaving {
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
        match activity.close_request() {
            CloseRequest::Now => return Poll::Ready(Err(out_of_memory().into())),
            CloseRequest::IfIdle if activity.snapshot().0 == Phase::Head => {
                return Poll::Ready(Err(out_of_memory().into()));
            }
            CloseRequest::IfIdle if !closing => {
                (closing, leaving) = (true, true);
                connection.as_mut().graceful_shutdown();
                deadline = Some(Instant::now() + CLOSE_GRACE);
            }
            CloseRequest::IfIdle | CloseRequest::None => {}
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended.map_err(Into::into));
            }
            let now_seen = activity.snapshot();
            if now_seen != seen {
                seen = now_seen;
                deadline = match seen.0 {
                    Phase::Head => Some(Instant::now() + timeouts.head),
                    _ if closing => Some(Instant::now() + CLOSE_GRACE),
                    _ => None,
                };
            }
            if !timer.passed(deadline, context) {
                return Poll::Pending;
            }
            let waits = activity.waits_for_reader();
            if waits.is_some() && waits == unread {
                return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client does not read").into()));
            }
            unread = waits;
            if waits.is_some() && seen.0 != Phase::Head {
                deadline = Some(Instant::now() + every);
                continue;
            }
            match seen.0 {
                Phase::Serving => deadline = Some(Instant::now() + every),
                Phase::Idle if deadline.is_none() => deadline = Some(Instant::now() + timeouts.idle),
                Phase::Idle if !leaving => {
                    // h2 sends GOAWAY, and requests that the client has just started are finished.
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                    deadline = Some(Instant::now() + timeouts.head);
                }
                Phase::Idle | Phase::Head => return Poll::Ready(Err(Error::from(ErrorKind::TimedOut).into())),
            }
        }
    })
    .await
}

/// A timer that is reset as rarely as possible: it may fire before the deadline, and is then reset
/// to it.
struct LazyTimer<'a> {
    sleep: Pin<&'a mut Sleep>,
    /// The longest interval between firings.
    every: Duration,
    /// The timer will wake the task.
    armed: bool,
}

impl LazyTimer<'_> {
    /// True once `deadline` has passed, or without a deadline the timer has fired; otherwise the
    /// task will be woken in time.
    fn passed(&mut self, deadline: Option<Instant>, context: &mut Context<'_>) -> bool {
        loop {
            if let Some(deadline) = deadline.filter(|deadline| *deadline < self.sleep.deadline()) {
                self.sleep.as_mut().reset(deadline);
                self.armed = false;
            }
            if self.armed && !self.sleep.is_elapsed() {
                return false;
            }
            self.armed = self.sleep.as_mut().poll(context).is_pending();
            if self.armed {
                return false;
            }
            let now = Instant::now();
            let Some(deadline) = deadline.filter(|deadline| now < *deadline) else { return true };
            self.sleep.as_mut().reset(deadline.min(now + self.every));
        }
    }
}

#[cfg(test)]
mod tests;
