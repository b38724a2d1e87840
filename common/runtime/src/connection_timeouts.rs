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
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};
use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use crate::connection_budget::{CONNECTION_BYTES, ConnectionBudget};

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

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Requests are being answered.
    Serving,
    /// Part of a head has come.
    Head,
    /// No request is in flight.
    Idle,
}

/// What is known of a connection. Its byte stream and its requests, which may run in other tasks,
/// report here.
#[derive(Debug)]
pub(crate) struct ConnectionActivity {
    /// From the lowest: 16 bits for the requests in flight, 16 for their responses that wait for
    /// the client to read, 32 for the number of changes of the first.
    requests: AtomicU64,
    /// Bytes have been received since the last response.
    received: AtomicBool,
    /// The connection speaks h2, where a head's bytes look like any others here; hyper's pings
    /// detect dead clients.
    h2: AtomicBool,
    /// Odd while the kernel accepts no more bytes for the client; counts the changes.
    blocked: AtomicU32,
    /// [`CLOSE_IF_IDLE`] or [`CLOSE`] once the budget has asked for it.
    close_request: AtomicU8,
    task: AtomicWaker,
    opened: Instant,
    budget: Arc<ConnectionBudget>,
    /// The current charge, in bytes.
    held: AtomicUsize,
}

const UNTAKEN: u64 = 1 << 16;
const TURN: u64 = 1 << 32;
const CLOSE_IF_IDLE: u8 = 1;
const CLOSE: u8 = 2;

impl ConnectionActivity {
    /// A connection that `budget` has already charged for.
    pub(crate) fn new(budget: Arc<ConnectionBudget>) -> Self {
        Self {
            requests: AtomicU64::new(0),
            received: AtomicBool::new(false),
            h2: AtomicBool::new(false),
            blocked: AtomicU32::new(0),
            close_request: AtomicU8::new(0),
            task: AtomicWaker::new(),
            opened: Instant::now(),
            budget,
            held: AtomicUsize::new(CONNECTION_BYTES),
        }
    }

    /// A request has started that uses `bytes` beside its connection's charge; it is in flight
    /// until the returned value is dropped. `None` if there is no memory for it.
    pub(crate) fn request(self: &Arc<Self>, bytes: usize) -> Option<InFlight> {
        if bytes > 0 && !self.charge(bytes) {
            return None;
        }
        self.requests.fetch_add(TURN + 1, Ordering::AcqRel);
        Some(InFlight { activity: Arc::clone(self), bytes })
    }

    /// Charges more; false if the budget does not have it.
    pub(crate) fn charge(&self, bytes: usize) -> bool {
        let charged = self.budget.charge(self, self.held(), bytes);
        if charged {
            self.held.fetch_add(bytes, Ordering::AcqRel);
        }
        charged
    }

    /// Records received bytes; true if others were received since the last response.
    pub(crate) fn bytes_came(&self) -> bool {
        let more = self.received.load(Ordering::Acquire);
        self.received.store(true, Ordering::Release);
        more
    }

    /// The client has sent h2's whole preface.
    pub(crate) fn speaks_h2(&self) {
        self.h2.store(true, Ordering::Release);
    }

    pub(crate) fn is_h2(&self) -> bool {
        self.h2.load(Ordering::Acquire)
    }

    /// The kernel stops accepting bytes for the client, or accepts them again.
    pub(crate) fn blocked_or_not(&self) {
        self.blocked.fetch_add(1, Ordering::AcqRel);
    }

    /// The charge, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// When the connection was accepted.
    pub(crate) const fn opened(&self) -> Instant {
        self.opened
    }

    /// True if no request is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.snapshot().0 != Phase::Serving
    }

    /// Asks the connection to close unless a request has just started, which is finished first.
    pub(crate) fn close_if_idle(&self) {
        self.close_request.fetch_max(CLOSE_IF_IDLE, Ordering::AcqRel);
        self.task.wake();
    }

    /// Asks the connection to close, whatever it is doing.
    pub(crate) fn close(&self) {
        self.close_request.fetch_max(CLOSE, Ordering::AcqRel);
        self.task.wake();
    }

    #[cfg(test)]
    pub(crate) fn is_closing(&self) -> bool {
        self.close_request.load(Ordering::Acquire) > 0
    }

    fn snapshot(&self) -> (Phase, u64) {
        let requests = self.requests.load(Ordering::Acquire);
        let phase = match requests % UNTAKEN {
            0 if self.received.load(Ordering::Acquire) && !self.h2.load(Ordering::Acquire) => Phase::Head,
            0 => Phase::Idle,
            _ => Phase::Serving,
        };
        (phase, requests)
    }

    /// The state of an unread response; `None` if the client has nothing to read.
    fn waits_for_reader(&self) -> Option<(u64, u32)> {
        let (requests, blocked) = (self.requests.load(Ordering::Acquire), self.blocked.load(Ordering::Acquire));
        (requests % TURN >= UNTAKEN || blocked % 2 == 1).then_some((requests, blocked))
    }
}

impl Drop for ConnectionActivity {
    fn drop(&mut self) {
        self.budget.leave(*self.held.get_mut());
    }
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    activity: Arc<ConnectionActivity>,
    bytes: usize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Self { activity, bytes } = self;
        if *bytes > 0 {
            activity.held.fetch_sub(*bytes, Ordering::AcqRel);
            activity.budget.release(*bytes);
        }
        activity.received.store(false, Ordering::Release);
        activity.requests.fetch_add(TURN - 1, Ordering::AcqRel);
    }
}

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
            note_untaken(&open.activity, untaken, more);
        }
        answering
    }
}

/// Records whether a response waits for its client.
fn note_untaken(activity: &ConnectionActivity, untaken: &mut bool, now: bool) {
    if *untaken != now {
        let difference = if now { UNTAKEN } else { UNTAKEN.wrapping_neg() };
        activity.requests.fetch_add(difference, Ordering::AcqRel);
        *untaken = now;
    }
}

impl<B> Drop for Answering<B> {
    fn drop(&mut self) {
        if let Self::Served { open, untaken, .. } = self {
            note_untaken(&open.activity, untaken, false);
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
                note_untaken(&open.activity, untaken, matches!(frame, Poll::Ready(Some(_))));
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
            activity.task.register(context.waker());
        }
        listening = true;
        if stopped && !leaving {
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
        let close_request = activity.close_request.load(Ordering::Acquire);
        if close_request == CLOSE || close_request == CLOSE_IF_IDLE && activity.snapshot().0 == Phase::Head {
            return Poll::Ready(Err(out_of_memory().into()));
        }
        if close_request == CLOSE_IF_IDLE && !closing {
            (closing, leaving) = (true, true);
            connection.as_mut().graceful_shutdown();
            deadline = Some(Instant::now() + CLOSE_GRACE);
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
