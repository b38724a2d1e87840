//! How long a connection may keep its place: one that has begun a request's head must finish it soon, one that asks nothing may
//! stay a while, and one whose request is being answered is left alone.
//!
//! hyper's own timer counts idle time as reading a head, and makes and unmakes a timer for every request. Here one timer
//! belongs to each connection and goes off now and then; nobody looks at the clock for a request. This also covers what
//! hyper-util reads before hyper runs: a client that sends nothing, or half of h2's preface.

use std::future::poll_fn;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

/// What every h2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From the first byte of a head (or of h2's preface) to its end.
    pub head: Duration,
    /// Without any request.
    pub idle: Duration,
}

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
#[derive(Debug, Default)]
pub(crate) struct Stage {
    /// In the lower half how many requests are being answered; in the upper half how often that has changed.
    requests: AtomicU64,
    /// Bytes have come since the last answer.
    heard: AtomicBool,
    /// It speaks h2, where bytes of a head cannot be told from others here; hyper's pings find out who is gone.
    h2: AtomicBool,
}

const TURN: u64 = 1 << 32;

impl Stage {
    /// A request has come, and is being answered until what is returned is dropped.
    pub(crate) fn request(self: &Arc<Self>) -> Open {
        self.requests.fetch_add(TURN + 1, Ordering::AcqRel);
        Open(Arc::clone(self))
    }

    fn look(&self) -> (Phase, u64) {
        let requests = self.requests.load(Ordering::Acquire);
        let phase = match requests % TURN {
            0 if self.heard.load(Ordering::Acquire) && !self.h2.load(Ordering::Acquire) => Phase::Head,
            0 => Phase::Idle,
            _ => Phase::Serving,
        };
        (phase, requests)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Open(Arc<Stage>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.heard.store(false, Ordering::Release);
        self.0.requests.fetch_add(TURN - 1, Ordering::AcqRel);
    }
}

/// The body of an answer, with which the request ends.
#[derive(Debug)]
pub(crate) struct Answering<B> {
    body: B,
    _open: Open,
}

impl<B> Answering<B> {
    pub(crate) const fn new(body: B, open: Open) -> Self {
        Self { body, _open: open }
    }
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection's bytes, telling [`Stage`] of them.
#[derive(Debug)]
pub(crate) struct Heard<I> {
    io: I,
    stage: Arc<Stage>,
    /// How much of the preface has come; none once it is known what the client speaks.
    preface: Option<usize>,
}

impl<I> Heard<I> {
    pub(crate) const fn new(io: I, stage: Arc<Stage>) -> Self {
        Self { io, stage, preface: Some(0) }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.stage.heard.store(true, Ordering::Release);
        let Some(known) = self.preface else { return };
        let awaited = &PREFACE[known..];
        let common = bytes.iter().zip(awaited).take_while(|(byte, awaited)| byte == awaited).count();
        if known + common == PREFACE.len() {
            self.stage.h2.store(true, Ordering::Release);
            self.preface = None;
        } else {
            self.preface = Some(known + common).filter(|_| common == bytes.len());
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        self.hear(&buffer.filled()[before..]);
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heard<I> {
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

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Runs a connection to its end: its own, or the one of our patience, or the drain that `stop` asks for. Must run as a task of its
/// own: what wakes it is set up once.
pub(crate) async fn attend<C>(
    connection: C,
    stage: Arc<Stage>,
    patience: Patience,
    mut stop: watch::Receiver<()>,
) -> std::result::Result<(), AnyError>
where
    C: GracefulConnection,
    C::Error: Into<AnyError>,
{
    let told = stop.clone();
    let (mut connection, mut stop) = (pin!(connection), pin!(stop.changed()));
    let every = patience.idle / 4;
    let mut alarm = Alarm { sleep: pin!(sleep(every)), every, armed: false };
    // No deadline: it will be set when the alarm goes off next, and so an idle connection may stay up to a quarter longer.
    let (mut seen, mut deadline) = (stage.look(), Some(Instant::now() + patience.idle));
    let (mut listening, mut leaving) = (false, false);
    poll_fn(move |context| {
        // The first poll sees to it that a stop wakes this task; from then on a look at the version is cheaper.
        let stopped =
            if listening { told.has_changed().unwrap_or(true) } else { stop.as_mut().poll(context).is_ready() };
        listening = true;
        if stopped && !leaving {
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended.map_err(Into::into));
            }
            let now_seen = stage.look();
            if now_seen != seen {
                seen = now_seen;
                deadline = (seen.0 == Phase::Head).then(|| Instant::now() + patience.head);
            }
            if !alarm.passed(deadline, context) {
                return Poll::Pending;
            }
            match seen.0 {
                Phase::Serving => deadline = Some(Instant::now() + patience.idle),
                Phase::Idle if deadline.is_none() => deadline = Some(Instant::now() + patience.idle),
                Phase::Idle if !leaving => {
                    // h2 says goodbye, and what the client has just begun is finished.
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                    deadline = Some(Instant::now() + patience.head);
                }
                Phase::Idle | Phase::Head => return Poll::Ready(Err(Error::from(ErrorKind::TimedOut).into())),
            }
        }
    })
    .await
}

/// A timer that is set as seldom as can be: it may go off before the deadline, and is then set to it.
struct Alarm<'a> {
    sleep: Pin<&'a mut Sleep>,
    /// It goes off at least this often.
    every: Duration,
    /// The timer will wake the task.
    armed: bool,
}

impl Alarm<'_> {
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

    use bytes::Bytes;
    use http_body_util::Empty;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(600);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const SHORT_HEAD: Patience = Patience { head: SHORT, idle: LONG };
    const SHORT_IDLE: Patience = Patience { head: LONG, idle: SHORT };

    /// What the server answers and whether it ends the connection if the client sends `said` piece by piece and then falls silent
    /// with its end held open. Each answer takes `work`.
    async fn after(said: &[&[u8]], patience: Patience, work: Duration) -> (Vec<u8>, bool) {
        let (mut client, server) = duplex(4096);
        let stage = Arc::new(Stage::default());
        let (_going_on, stop) = watch::channel(());
        let heard = Heard::new(server, Arc::clone(&stage));
        tokio::spawn(async move {
            let told = Arc::clone(&stage);
            let service = service_fn(move |_| {
                let open = told.request();
                async move {
                    tokio::time::sleep(work).await;
                    Ok::<_, Infallible>(http::Response::new(Answering::new(Empty::<Bytes>::new(), open)))
                }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(heard), service).into_owned();
            attend(connection, stage, patience, stop).await
        });
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
        let both = Patience { head: SHORT, idle: SHORT };
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
        let both = Patience { head: SHORT, idle: SHORT };
        assert!(after(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]], both, Duration::ZERO).await.1);
    }
}
