//! A verifier with a large list of revocations, and a client that knows many tokens.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sidegate_client::Sidegate;
use sidegate_common::claims::Claims;
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::sync::Sink as _;
use sidegate_common::time::UnixTime;
use sidegate_shm::Stats;

use super::limits::{BATCH, Order, Times, time};
use crate::daemon::{Daemon, claims, sign};

/// Threads that present the tokens to the client for the first time.
const INTRODUCERS: usize = 8;

/// A verifier in this process whose list has many entries: two sessions for each of half as many
/// users.
pub struct LoadedVerifier {
    pub daemon: Daemon,
    pub attach: PathBuf,
    revoked: u64,
}

/// An identifier as random as the issuer's.
fn identifier(n: u64) -> String {
    let mix = |n: u64| {
        let n = (n ^ n >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (n ^ n >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
    };
    let (high, low) = (mix(n).to_be_bytes(), mix(!n).to_be_bytes());
    URL_SAFE_NO_PAD.encode([high, low].concat())
}

fn revocation(n: u64) -> Revocation {
    let sid = Id::parse(&identifier(n)).expect("an identifier");
    let subject = Some(SubjectTag::of(&format!("revoked-{}", n / 2)));
    Revocation { target: Target::Session { sid, subject }, expires_at: UnixTime(u64::from(u32::MAX)) }
}

/// Token number `n`, valid for hours.
pub fn token(n: u64) -> (Claims, String) {
    let mine = claims(&format!("user-{n}"));
    let claims = Claims { jti: identifier(n | 1 << 62), sid: identifier(n | 1 << 63), exp: mine.iat + 36_000, ..mine };
    let token = sign(&claims);
    (claims, token)
}

impl LoadedVerifier {
    pub async fn start() -> Self {
        let (daemon, attach) = Daemon::start_shared(&[("RUST_LOG", "error"), ("WORKER_THREADS", "1")]).await;
        Self { daemon, attach, revoked: 0 }
    }

    /// Grows the list to this many entries, and waits until readers have a segment for them.
    pub async fn revoke(&mut self, revoked: u64) {
        let (state, from) = (Arc::clone(&self.daemon.state), self.revoked);
        let apply = move || {
            for n in from..revoked {
                state.apply(0, &revocation(n));
            }
        };
        tokio::task::spawn_blocking(apply).await.expect("applied");
        self.revoked = revoked;
        let grown = || async {
            let stats = self.stats();
            (stats.entries >= revoked && stats.used * 4 <= stats.slots * 3).then_some(())
        };
        crate::wait::within(Duration::from_secs(300), "the segment to have grown", grown).await;
    }

    pub fn stats(&self) -> Stats {
        self.daemon.core.segment().expect("a segment").stats().0
    }

    /// A client that has seen `count` tokens, and those that it keeps.
    pub async fn known(&self, count: u64) -> Known {
        let builder = Sidegate::builder().socket(&self.daemon.socket).attach_socket(&self.attach);
        let meet = move || {
            let sidegate = builder.tokens(count as usize).connect();
            let introduce = |first: u64| {
                let mine = (first..count).step_by(INTRODUCERS).map(|n| token(n).1);
                let kept = mine.filter(|token| sidegate.check(token).is_ok() && sidegate.try_cached(token).is_some());
                kept.collect::<Vec<String>>()
            };
            let tokens: Vec<String> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..INTRODUCERS as u64).map(|first| scope.spawn(move || introduce(first))).collect();
                threads.into_iter().flat_map(|thread| thread.join().expect("introduced")).collect()
            });
            // A full bucket evicts a token, and a full line is checked by the daemon: both are few.
            assert!(tokens.len() as u64 * 100 >= count * 90, "{} of {count} known", tokens.len());
            Known { sidegate, tokens, received: vec![String::new(); BATCH], order: Order::default() }
        };
        tokio::task::spawn_blocking(meet).await.expect("known")
    }

    /// Adds entries at this rate until the result is dropped.
    pub fn busy(&self, per_second: u32) -> Busy {
        let (state, stop) = (Arc::clone(&self.daemon.state), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let mut n = self.revoked | 1 << 40;
        let thread = std::thread::spawn(move || {
            let started = Instant::now();
            for turn in 1_u32.. {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                for _ in 0..per_second / 1000 {
                    state.apply(0, &revocation(n));
                    n += 1;
                }
                std::thread::sleep((Duration::from_millis(1) * turn).saturating_sub(started.elapsed()));
            }
        });
        Busy { stop, thread: Some(thread) }
    }
}

/// See [`LoadedVerifier::busy`].
pub struct Busy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _it_has_said_why = thread.join();
        }
    }
}

/// A client and the tokens that it knows.
pub struct Known {
    pub sidegate: Sidegate,
    pub tokens: Vec<String>,
    received: Vec<String>,
    order: Order,
}

impl Known {
    /// Checks known tokens in random order. Each token is copied first, like one that has just been
    /// received, so that it is in the caches before the clock starts.
    pub fn checks(&mut self, batches: usize) -> Times {
        let Self { sidegate, tokens, received, order } = self;
        let received = std::cell::RefCell::new(received);
        let mut missed = 0;
        let receive = || {
            for place in received.borrow_mut().iter_mut() {
                place.clone_from(&tokens[order.below(tokens.len())]);
            }
        };
        let times = time(batches, BATCH, receive, |at| {
            missed += usize::from(black_box(sidegate.try_cached(&received.borrow()[at])).is_none());
        });
        assert!(missed * 20 < batches * BATCH, "{missed} of {} were not answered in process", batches * BATCH);
        times
    }
}
