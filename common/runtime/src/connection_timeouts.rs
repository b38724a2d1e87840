//! How long a connection may keep its place: one that has begun a request's head must finish it soon, one that asks nothing may
//! stay a while, one whose client does not read is closed after [`ConnectionTimeouts::write`], and one whose request is being answered is
//! left alone. What it holds is charged to the program's budget (`connection_budget`), which may tell it to close.
//!
//! hyper's own timer counts idle time as reading a head, and makes and unmakes a timer for every request. Here one timer
//! belongs to each connection and goes off now and then; nobody looks at the clock for a request. This also covers what
//! hyper-util reads before hyper runs: a client that sends nothing, or half of h2's preface.

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

/// How long a connection may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionTimeouts {
    /// From the first byte of a head (or of h2's preface) to its end.
    pub head: Duration,
    /// Without any request.
    pub idle: Duration,
    /// Without the client taking anything of an answer that is there; found out within this time and half of it again.
    pub write: Duration,
}

/// How long an idle connection that is told to close may take for its goodbye.
const GOODBYE: Duration = Duration::from_millis(250);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Requests are being answered.
    Serving,
    /// Part of a head has come.
    Head,
    /// Nothing is asked.
    Idle,
}

/// What is known of a connection, told by its bytes and by its requests, which may run in tasks of their own.
#[derive(Debug)]
pub(crate) struct ConnectionActivity {
    /// From the lowest: 16 bits for the requests being answered, 16 for the answers of them that wait for the client to take them,
    /// 32 for how often the first number has changed.
    requests: AtomicU64,
    /// Bytes have come since the last answer.
    heard: AtomicBool,
    /// It speaks h2, where bytes of a head cannot be told from others here; hyper's pings find out who is gone.
    h2: AtomicBool,
    /// Odd while the kernel takes no more bytes for the client; counts how often that has changed.
    blocked: AtomicU32,
    /// [`CLOSE_IF_IDLE`] or [`CLOSE`] once it is told to.
    told_to_close: AtomicU8,
    task: AtomicWaker,
    opened: Instant,
    budget: Arc<ConnectionBudget>,
    /// What it is charged now, in bytes.
    held: AtomicUsize,
}

const UNTAKEN: u64 = 1 << 16;
const TURN: u64 = 1 << 32;
const CLOSE_IF_IDLE: u8 = 1;
const CLOSE: u8 = 2;

impl ConnectionActivity {
    /// A connection that `budget` has charged for already.
    pub(crate) fn new(budget: Arc<ConnectionBudget>) -> Self {
        Self {
            requests: AtomicU64::new(0),
            heard: AtomicBool::new(false),
            h2: AtomicBool::new(false),
            blocked: AtomicU32::new(0),
            told_to_close: AtomicU8::new(0),
            task: AtomicWaker::new(),
            opened: Instant::now(),
            budget,
            held: AtomicUsize::new(CONNECTION_BYTES),
        }
    }

    /// A request has come that holds `bytes` beside what its connection holds; it is being answered until what is returned is
    /// dropped. None if there is no memory for it.
    pub(crate) fn request(self: &Arc<Self>, bytes: usize) -> Option<InFlight> {
        if bytes > 0 && !self.charge(bytes) {
            return None;
        }
        self.requests.fetch_add(TURN + 1, Ordering::AcqRel);
        Some(InFlight { stage: Arc::clone(self), bytes })
    }

    /// Charges more; false if it is not to be had.
    pub(crate) fn charge(&self, bytes: usize) -> bool {
        let charged = self.budget.charge(self, self.held(), bytes);
        if charged {
            self.held.fetch_add(bytes, Ordering::AcqRel);
        }
        charged
    }

    /// Bytes have come; true if others had since the last answer.
    pub(crate) fn bytes_came(&self) -> bool {
        let more = self.heard.load(Ordering::Acquire);
        self.heard.store(true, Ordering::Release);
        more
    }

    /// Its client has sent the whole preface of h2.
    pub(crate) fn speaks_h2(&self) {
        self.h2.store(true, Ordering::Release);
    }

    pub(crate) fn is_h2(&self) -> bool {
        self.h2.load(Ordering::Acquire)
    }

    /// The kernel no longer takes bytes for the client, or takes them again.
    pub(crate) fn blocked_or_not(&self) {
        self.blocked.fetch_add(1, Ordering::AcqRel);
    }

    /// What it is charged, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// When it was accepted.
    pub(crate) const fn opened(&self) -> Instant {
        self.opened
    }

    /// True if no request is being answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.look().0 != Phase::Serving
    }

    /// Tells it to close unless a request has just come, which is answered first.
    pub(crate) fn close_if_idle(&self) {
        self.told_to_close.fetch_max(CLOSE_IF_IDLE, Ordering::AcqRel);
        self.task.wake();
    }

    /// Tells it to close, whatever it is doing.
    pub(crate) fn close(&self) {
        self.told_to_close.fetch_max(CLOSE, Ordering::AcqRel);
        self.task.wake();
    }

    #[cfg(test)]
    pub(crate) fn is_told_to_close(&self) -> bool {
        self.told_to_close.load(Ordering::Acquire) > 0
    }

    fn look(&self) -> (Phase, u64) {
        let requests = self.requests.load(Ordering::Acquire);
        let phase = match requests % UNTAKEN {
            0 if self.heard.load(Ordering::Acquire) && !self.h2.load(Ordering::Acquire) => Phase::Head,
            0 => Phase::Idle,
            _ => Phase::Serving,
        };
        (phase, requests)
    }

    /// How things stand between us and a client that should be reading; none if it should not.
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

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct InFlight {
    stage: Arc<ConnectionActivity>,
    bytes: usize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Self { stage, bytes } = self;
        if *bytes > 0 {
            stage.held.fetch_sub(*bytes, Ordering::AcqRel);
            stage.budget.release(*bytes);
        }
        stage.heard.store(false, Ordering::Release);
        stage.requests.fetch_add(TURN - 1, Ordering::AcqRel);
    }
}

/// The body of an answer, with which the request ends.
#[derive(Debug)]
pub(crate) enum Answering<B> {
    /// From the service.
    Served {
        body: B,
        open: InFlight,
        /// The client has not taken what is there.
        untaken: bool,
    },
    /// Ours, where the service was not asked.
    Refused(Option<Bytes>),
}

impl<B: Body> Answering<B> {
    pub(crate) fn new(body: B, open: InFlight) -> Self {
        let mut answering = Self::Served { untaken: false, open, body };
        if let Self::Served { body, open, untaken } = &mut answering {
            let more = !body.is_end_stream();
            mark(&open.stage, untaken, more);
        }
        answering
    }
}

/// Notes whether an answer waits for its client.
fn mark(stage: &ConnectionActivity, untaken: &mut bool, now: bool) {
    if *untaken != now {
        let difference = if now { UNTAKEN } else { UNTAKEN.wrapping_neg() };
        stage.requests.fetch_add(difference, Ordering::AcqRel);
        *untaken = now;
    }
}

impl<B> Drop for Answering<B> {
    fn drop(&mut self) {
        if let Self::Served { open, untaken, .. } = self {
            mark(&open.stage, untaken, false);
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
                // Asked for more, it has none: now the client waits for us.
                mark(&open.stage, untaken, matches!(frame, Poll::Ready(Some(_))));
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

/// There is no memory for what a connection does.
pub(crate) fn out_of_memory() -> Error {
    Error::new(ErrorKind::OutOfMemory, "connections hold all the memory they may")
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Runs a connection to its end: its own, or the one of its timeouts, or the drain that `stop` asks for. Must run as a task of its
/// own: what wakes it is set up once.
pub(crate) async fn drive<C>(
    connection: C,
    stage: Arc<ConnectionActivity>,
    timeouts: ConnectionTimeouts,
    mut stop: watch::Receiver<()>,
) -> Result<(), AnyError>
where
    C: GracefulConnection,
    C::Error: Into<AnyError>,
{
    let told = stop.clone();
    let (mut connection, mut stop) = (pin!(connection), pin!(stop.changed()));
    let every = (timeouts.idle / 4).min(timeouts.write / 2);
    let mut timer = LazyTimer { sleep: pin!(sleep(every)), every, armed: false };
    // No deadline: it will be set when the alarm goes off next, and so an idle connection may stay up to a quarter longer.
    let (mut seen, mut deadline) = (stage.look(), Some(Instant::now() + timeouts.idle));
    let (mut listening, mut leaving, mut closing) = (false, false, false);
    let mut unread = None;
    poll_fn(move |context| {
        // The first poll sees to it that a stop wakes this task; from then on a look at the version is cheaper.
        let stopped =
            if listening { told.has_changed().unwrap_or(true) } else { stop.as_mut().poll(context).is_ready() };
        if !listening {
            stage.task.register(context.waker());
        }
        listening = true;
        if stopped && !leaving {
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
        let told_to_close = stage.told_to_close.load(Ordering::Acquire);
        if told_to_close == CLOSE || told_to_close == CLOSE_IF_IDLE && stage.look().0 == Phase::Head {
            return Poll::Ready(Err(out_of_memory().into()));
        }
        if told_to_close == CLOSE_IF_IDLE && !closing {
            (closing, leaving) = (true, true);
            connection.as_mut().graceful_shutdown();
            deadline = Some(Instant::now() + GOODBYE);
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended.map_err(Into::into));
            }
            let now_seen = stage.look();
            if now_seen != seen {
                seen = now_seen;
                deadline = match seen.0 {
                    Phase::Head => Some(Instant::now() + timeouts.head),
                    _ if closing => Some(Instant::now() + GOODBYE),
                    _ => None,
                };
            }
            if !timer.passed(deadline, context) {
                return Poll::Pending;
            }
            let waits = stage.waits_for_reader();
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
                    // h2 says goodbye, and what the client has just begun is finished.
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

/// A timer that is set as seldom as can be: it may go off before the deadline, and is then set to it.
struct LazyTimer<'a> {
    sleep: Pin<&'a mut Sleep>,
    /// It goes off at least this often.
    every: Duration,
    /// The timer will wake the task.
    armed: bool,
}

impl LazyTimer<'_> {
    /// True once `deadline` has passed, or, if there is none, the alarm has gone off; until then the task is woken in time.
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
mod tests {
    use std::convert::Infallible;
    use std::sync::Weak;

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::connection_io::{PREFACE, TimedIo};

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(600);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const SHORT_HEAD: ConnectionTimeouts = ConnectionTimeouts { head: SHORT, idle: LONG, write: LONG };
    const SHORT_IDLE: ConnectionTimeouts = ConnectionTimeouts { head: LONG, idle: SHORT, write: LONG };
    const SHORT_WRITE: ConnectionTimeouts = ConnectionTimeouts { head: LONG, idle: LONG, write: SHORT };

    /// A client's end of a connection that is served, each request after `work` with so many bytes; its stage; and what stops it
    /// when dropped.
    async fn serve(
        timeouts: ConnectionTimeouts,
        work: Duration,
        bytes: usize,
    ) -> (DuplexStream, Weak<ConnectionActivity>, watch::Sender<()>) {
        let (client, server) = duplex(4096);
        let stage = ConnectionBudget::admin().admit().await;
        let known = Arc::downgrade(&stage);
        let (going_on, stop) = watch::channel(());
        let heard = TimedIo::new(server, Arc::clone(&stage));
        tokio::spawn(async move {
            let told = Arc::clone(&stage);
            let service = service_fn(move |_| {
                let open = told.request(0).expect("no memory is asked for");
                async move {
                    tokio::time::sleep(work).await;
                    let body = Full::new(Bytes::from(vec![b'x'; bytes]));
                    Ok::<_, Infallible>(http::Response::new(Answering::new(body, open)))
                }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(heard), service).into_owned();
            drive(connection, stage, timeouts, stop).await
        });
        (client, known, going_on)
    }

    /// The connection ends, and with it what was charged for it, though its client neither reads nor closes.
    async fn ends(client: DuplexStream, stage: &Weak<ConnectionActivity>) {
        let gone = async {
            while stage.strong_count() > 0 {
                tokio::time::sleep(SHORT / 10).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it ends");
        drop(client);
    }

    #[tokio::test]
    async fn client_that_never_reads_is_closed() {
        let (mut client, stage, _going_on) = serve(SHORT_WRITE, Duration::ZERO, 64 * 1024).await;
        client.write_all(REQUEST).await.unwrap();
        ends(client, &stage).await;
    }

    #[tokio::test]
    async fn h2_client_that_opens_no_window_is_closed() {
        let (mut client, stage, _going_on) = serve(SHORT_WRITE, Duration::ZERO, 1024).await;
        // SETTINGS_INITIAL_WINDOW_SIZE 0, and GET / on stream 1. Frames are read, so that only the window holds the answer back.
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
        let request = [0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x84, 0x86];
        client.write_all(&[&PREFACE[..], &settings, &request].concat()).await.unwrap();
        let mut out = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), client.read_to_end(&mut out)).await.expect("it ends").unwrap();
        ends(client, &stage).await;
    }

    #[tokio::test]
    async fn slow_reader_is_kept() {
        let (mut client, _stage, _going_on) = serve(SHORT_WRITE, Duration::ZERO, 64 * 1024).await;
        client.write_all(REQUEST).await.unwrap();
        let mut part = [0; 4096];
        let mut received = 0;
        while received < 64 * 1024 {
            tokio::time::sleep(SHORT / 10).await;
            received += client.read(&mut part).await.unwrap();
        }
    }

    #[tokio::test]
    async fn connection_that_is_told_to_close_does() {
        for (said, busy) in [(&b""[..], false), (b"GET /", false), (REQUEST, false), (PREFACE, false), (REQUEST, true)]
        {
            let work = if busy { LONG } else { Duration::ZERO };
            let (mut client, stage, _going_on) =
                serve(ConnectionTimeouts { head: LONG, idle: LONG, write: LONG }, work, 0).await;
            client.write_all(said).await.unwrap();
            tokio::time::sleep(SHORT).await;
            let told = stage.upgrade().expect("it is served");
            assert_eq!(told.is_idle(), !busy, "{said:?}");
            if busy {
                told.close()
            } else {
                told.close_if_idle()
            }
            drop(told);
            ends(client, &stage).await;
        }
    }

    /// What the server answers and whether it ends the connection if the client sends `said` piece by piece and then falls silent
    /// with its end held open. Each answer takes `work`.
    async fn after(said: &[&[u8]], timeouts: ConnectionTimeouts, work: Duration) -> (Vec<u8>, bool) {
        let (mut client, _, _going_on) = serve(timeouts, work, 0).await;
        let mut out = Vec::new();
        for piece in said {
            client.write_all(piece).await.unwrap();
            tokio::time::sleep(SHORT / 10).await;
        }
        let ended = tokio::time::timeout(SHORT * 20, client.read_to_end(&mut out)).await.is_ok();
        (out, ended)
    }

    #[tokio::test]
    async fn half_a_head_ends_soon_and_silence_does_not() {
        for said in [&b"P"[..], b"PRI * HTTP/2.0\r\n", &PREFACE[..23], b"G", b"GET / HTTP/1.1\r\nhost: x\r\nx: y"] {
            assert!(after(&[said], SHORT_HEAD, Duration::ZERO).await.1, "{said:?}");
        }
        let (out, ended) = after(&[REQUEST, b"GET /"], SHORT_HEAD, Duration::ZERO).await;
        assert!(out.starts_with(b"HTTP/1.1 200") && ended, "the second head counts too");
        assert!(!after(&[], SHORT_HEAD, Duration::ZERO).await.1);
        let (out, ended) = after(&[b"GET /", b" HTTP/1.1\r\n", b"host: x\r\n\r\n"], SHORT_HEAD, Duration::ZERO).await;
        assert!(out.starts_with(b"HTTP/1.1 200") && !ended, "in time: the connection is kept");
    }

    #[tokio::test]
    async fn whoever_asks_nothing_goes_after_a_while() {
        for said in [&[][..], &[REQUEST], &[REQUEST, REQUEST]] {
            assert!(after(said, SHORT_IDLE, Duration::ZERO).await.1, "{said:?}");
        }
        assert!(!after(&[b"GET /"], SHORT_IDLE, Duration::ZERO).await.1, "a head has its own time");
    }

    #[tokio::test]
    async fn an_answer_may_take_longer_than_either() {
        let both = ConnectionTimeouts { head: SHORT, idle: SHORT, write: LONG };
        let (out, ended) = after(&[REQUEST, REQUEST], both, SHORT * 4).await;
        assert_eq!(out.windows(15).filter(|window| window == b"HTTP/1.1 200 OK").count(), 2);
        assert!(ended);
    }

    #[tokio::test]
    async fn h2_is_told_before_it_ends() {
        // The client's settings; then the server's, a GOAWAY (frame type 7) and the end.
        let (out, ended) = after(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]], SHORT_IDLE, Duration::ZERO).await;
        let mut rest = out.as_slice();
        let mut kinds = Vec::new();
        while let [a, b, c, kind, ..] = *rest {
            kinds.push(kind);
            rest = rest.get(9 + usize::from(c) + (usize::from(b) << 8) + (usize::from(a) << 16)..).unwrap_or_default();
        }
        assert!(kinds.contains(&7), "{kinds:?}");
        assert!(!ended, "it may still finish what it began");
    }

    #[tokio::test]
    async fn h2_whose_client_does_not_answer_the_goodbye_ends_too() {
        let both = ConnectionTimeouts { head: SHORT, idle: SHORT, write: LONG };
        assert!(after(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]], both, Duration::ZERO).await.1);
    }
}
