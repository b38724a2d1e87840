//! Watched tokens: each end is notified, no other token's, and none for the daemon's silence within the grace.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fake_daemon::{Claims, Daemon, Scratch, claims, eventually};
use sidegate_client::{Denied, Sidegate, Verified, WatchGuard};

fn world(grace: Option<Duration>) -> (Scratch, Daemon, Sidegate) {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.0);
    let sidegate = scratch.builder().watch_grace(grace).connect();
    eventually("attached", || sidegate.segment().is_some());
    (scratch, daemon, sidegate)
}

/// A watched token, and its end.
struct Watched {
    claims: Claims,
    token: Verified,
    end: Arc<Mutex<Option<Denied>>>,
    guard: WatchGuard,
}

impl Watched {
    fn new(sidegate: &Sidegate, claims: Claims) -> Self {
        let token = sidegate.check(&claims.token()).unwrap();
        let end = Arc::<Mutex<Option<Denied>>>::default();
        let notified = Arc::clone(&end);
        let guard = sidegate.watch_with(&token, move |why| *notified.lock().unwrap() = Some(why));
        Self { claims, token, end, guard }
    }

    fn end(&self) -> Option<Denied> {
        self.end.lock().unwrap().clone()
    }

    fn has_ended(&self) -> bool {
        self.end().is_some()
    }
}

fn several(sidegate: &Sidegate, numbers: std::ops::Range<u64>) -> Vec<Watched> {
    numbers.map(|n| Watched::new(sidegate, claims(n))).collect()
}

#[test]
fn watch_ends_with_its_session_and_no_other_does() {
    let (_scratch, daemon, sidegate) = world(Some(Duration::from_secs(30)));
    let watched = several(&sidegate, 0..100);
    let asked = daemon.asked();
    assert!(watched.iter().all(|one| one.token.still_good()));
    daemon.revoke_session(&watched[7].claims);
    assert!(!watched[7].token.still_good(), "shared memory says so at once");
    eventually("the watch ends", || watched[7].has_ended());
    assert_eq!(watched[7].end(), Some(Denied::Revoked));
    assert_eq!(daemon.asked(), asked + 1, "about the revoked one only");
    let others = || watched.iter().enumerate().filter(|(n, _)| *n != 7);
    assert!(others().all(|(_, one)| one.token.still_good() && !one.has_ended()));
}

#[tokio::test]
async fn watch_is_a_future() {
    let (_scratch, daemon, sidegate) = world(None);
    let (mine, other) = (claims(1), claims(2));
    let token = sidegate.check(&mine.token()).unwrap();
    let mut watch = std::pin::pin!(sidegate.watch(&token));
    let untouched = sidegate.watch(&sidegate.check(&other.token()).unwrap());
    assert!(tokio::time::timeout(Duration::from_millis(100), watch.as_mut()).await.is_err(), "still good");
    daemon.revoke_session(&mine);
    assert_eq!(watch.await, Denied::Revoked);
    assert!(tokio::time::timeout(Duration::from_millis(100), untouched).await.is_err(), "another session");
}

#[test]
fn dropped_watch_tells_nothing() {
    let (_scratch, daemon, sidegate) = world(None);
    let Watched { claims, end, guard, .. } = Watched::new(&sidegate, claims(1));
    let later = Watched::new(&sidegate, crate::fake_daemon::claims(2));
    drop(guard);
    daemon.revoke_session(&claims);
    daemon.revoke_session(&later.claims);
    eventually("a later sweep", || later.has_ended());
    assert_eq!(*end.lock().unwrap(), None);
    assert_eq!(Arc::strong_count(&end), 1, "its callback is forgotten");
}

#[test]
fn watch_ends_when_its_token_expires() {
    let (_scratch, _daemon, sidegate) = world(None);
    let soon = Claims { exp: now_s() + 2, ..claims(1) };
    let (short, long) = (Watched::new(&sidegate, soon), Watched::new(&sidegate, claims(2)));
    eventually("it expires", || short.has_ended());
    assert_eq!(short.end(), Some(Denied::Expired));
    assert!(!long.has_ended());
}

fn now_s() -> u64 {
    use sidegate_shm::SegmentClock as _;
    sidegate_shm::CoarseClock.now().realtime_ns / sidegate_shm::clock::NANOS
}

#[test]
fn watch_survives_a_new_segment_and_new_keys() {
    let (_scratch, daemon, sidegate) = world(None);
    let watched = several(&sidegate, 0..20);
    let before = sidegate.segment();
    daemon.grow(&[]);
    eventually("the new segment", || sidegate.segment() != before);
    daemon.bump_epoch();
    let asked = daemon.asked();
    eventually("each is asked about", || daemon.asked() >= asked + 20);
    std::thread::sleep(Duration::from_millis(100));
    assert!(watched.iter().all(|one| !one.has_ended()));
    daemon.revoke_session(&watched[3].claims);
    eventually("the watch ends", || watched[3].has_ended());
    assert_eq!(watched.iter().filter(|one| one.has_ended()).count(), 1);
}

#[test]
fn silence_of_the_daemon_ends_watches_after_the_grace_only() {
    let (_scratch, daemon, sidegate) = world(Some(Duration::from_secs(3)));
    let watched = several(&sidegate, 0..20);
    let ended = || watched.iter().filter(|one| one.has_ended()).count();
    daemon.state.stale.store(true, Ordering::Relaxed);
    daemon.state.tick();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ended(), 0, "within the grace");
    daemon.state.stale.store(false, Ordering::Relaxed);
    daemon.state.tick();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(ended(), 0, "it answers again");
    daemon.state.stale.store(true, Ordering::Relaxed);
    daemon.state.tick();
    eventually("the first ends", || ended() > 0);
    eventually("all end", || ended() == 20);
    assert!(watched.iter().all(|one| one.end() == Some(Denied::Stale)));
}

#[test]
fn watch_without_grace_outlives_the_daemon() {
    let (scratch, daemon, sidegate) = world(None);
    let watched = Watched::new(&sidegate, claims(1));
    drop(daemon);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(watched.end(), None);
    assert!(!watched.token.still_good());
    let daemon = Daemon::start(&scratch.0);
    daemon.revoke_session(&watched.claims);
    eventually("the watch ends", || watched.has_ended());
    assert_eq!(watched.end(), Some(Denied::Revoked));
}

#[test]
fn without_shared_memory_the_daemon_is_asked() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.0);
    let sidegate = scratch.builder().socket_only().connect();
    let watched = several(&sidegate, 0..3);
    assert!(!watched[0].token.still_good(), "only the daemon knows");
    daemon.revoke_session(&watched[1].claims);
    eventually("the watch ends", || watched[1].has_ended());
    let ended: Vec<bool> = watched.iter().map(Watched::has_ended).collect();
    assert_eq!(ended, [false, true, false]);
}

#[test]
fn token_in_doubt_is_asked_about_once_a_change() {
    let (_scratch, daemon, sidegate) = world(None);
    let user = |n: u64| Claims { sub: "user-0".into(), ..claims(n) };
    let (first, second) = (Watched::new(&sidegate, user(1)), Watched::new(&sidegate, user(1)));
    let other = Watched::new(&sidegate, claims(2));
    // So many sessions of the user that shared memory only says "ask".
    (100..130).for_each(|n| daemon.revoke_session(&user(n)));
    eventually("in doubt", || !first.token.still_good());
    std::thread::sleep(Duration::from_millis(200));
    let asked = daemon.asked();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(daemon.asked(), asked, "nothing has changed");
    daemon.revoke_session(&claims(3));
    eventually("asked once for both", || daemon.asked() > asked);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(daemon.asked(), asked + 1);
    assert!(!first.has_ended() && !second.has_ended());
    daemon.revoke_session(&user(1));
    eventually("both end", || first.has_ended() && second.has_ended());
    assert!(!other.has_ended());
}

#[test]
fn all_end_at_once_and_one_is_added_later() {
    let (_scratch, daemon, sidegate) = world(None);
    let watched = several(&sidegate, 0..1_000);
    let asked = daemon.asked();
    watched[..999].iter().for_each(|one| daemon.revoke_session(&one.claims));
    eventually("all but one end", || watched[..999].iter().all(Watched::has_ended));
    assert!(daemon.asked() <= asked + 2 * 999, "by {} requests", daemon.asked() - asked);
    assert!(!watched[999].has_ended());
    let late = Watched::new(&sidegate, claims(5_000));
    daemon.revoke_session(&late.claims);
    eventually("the late one too", || late.has_ended());
    assert!(watched.iter().filter(|one| one.has_ended()).all(|one| one.end() == Some(Denied::Revoked)));
}

/// As in a proxy: most watches are removed before a sweep sees them, by several threads, while others end.
#[test]
fn short_watches_leave_nothing_behind() {
    let (_scratch, daemon, sidegate) = world(None);
    let lasting = several(&sidegate, 0..40);
    let called = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (sidegate, called) = (&sidegate, &called);
            scope.spawn(move || {
                let token = sidegate.check(&claims(1_000 + thread).token()).unwrap();
                for _ in 0..20_000 {
                    let called = Arc::clone(called);
                    drop(sidegate.watch_with(&token, move |_| {
                        called.fetch_add(1, Ordering::Relaxed);
                    }));
                }
            });
        }
        for one in lasting.iter().step_by(2) {
            daemon.revoke_session(&one.claims);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    eventually("every second ends", || lasting.iter().step_by(2).all(Watched::has_ended));
    assert!(lasting.iter().skip(1).step_by(2).all(|one| !one.has_ended()));
    assert_eq!(called.load(Ordering::Relaxed), 0, "their tokens were good");
    assert_eq!(Arc::strong_count(&called), 1, "nothing is held of what was removed");
}

#[test]
fn end_that_panics_does_not_stop_the_others() {
    let (_scratch, daemon, sidegate) = world(None);
    let panics = claims(1);
    let token = sidegate.check(&panics.token()).unwrap();
    let _guard = sidegate.watch_with(&token, |_| panic!("as an application may"));
    let other = Watched::new(&sidegate, claims(2));
    daemon.revoke_session(&panics);
    daemon.revoke_session(&other.claims);
    eventually("the other ends", || other.has_ended());
}
