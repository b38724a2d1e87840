//! The client against real sockets and a real segment: both levels, and every reason to ask again.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::fake_daemon::{Daemon, Scratch, claims, eventually};
use sidegate_client::{DaemonError, Denied, Sidegate};
use sidegate_shm::Geometry;

fn world() -> (Scratch, Daemon, Sidegate) {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.0);
    let sidegate = scratch.builder().connect();
    eventually("attached", || sidegate.segment().is_some());
    (scratch, daemon, sidegate)
}

#[test]
fn token_is_checked_by_the_daemon_once() {
    let (_scratch, daemon, sidegate) = world();
    let mine = claims(1);
    let token = mine.token();
    assert!(sidegate.try_cached(&token).is_none());
    let first = sidegate.check(&token).unwrap();
    for _ in 0..100 {
        let again = sidegate.try_cached(&token).expect("known").unwrap();
        assert_eq!(again.claims_json(), first.claims_json());
    }
    assert_eq!(daemon.asked(), 1);
    assert_eq!(first.subject(), mine.sub);
    assert_eq!(first.session(), mine.sid);
    assert_eq!(first.token_id(), mine.jti);
    assert_eq!((first.client_id(), first.issuer(), first.scope()), ("toy", "sidegate", "read write"));
    assert_eq!((first.issued_at(), first.expires_at()), (mine.iat, mine.exp));
    assert_eq!(first.require_scopes(&["read", "write"]), Ok(()));
    let denied = first.require_scopes(&["read", "admin"]).unwrap_err();
    assert_eq!((denied.status(), denied.code()), (403, "insufficient_scope"));
    assert_eq!(denied.challenge().unwrap().split("scope=").last(), Some("\"read admin\""));
    assert!(!format!("{first:?}").contains(&token));
}

#[test]
fn revocation_is_seen_by_the_next_check() {
    let (_scratch, daemon, sidegate) = world();
    for n in 0..50 {
        let mine = claims(n);
        let token = mine.token();
        sidegate.check(&token).unwrap();
        assert!(sidegate.try_cached(&token).is_some());
        daemon.revoke_session(&mine);
        assert!(sidegate.try_cached(&token).is_none(), "nothing caches 'not revoked'");
        assert_eq!(sidegate.check(&token), Err(Denied::Revoked));
    }
}

#[test]
fn bad_tokens_have_codes_and_malformed_ones_no_request() {
    let (_scratch, daemon, sidegate) = world();
    let good = claims(1).token();
    sidegate.check(&good).unwrap();
    let asked = daemon.asked();
    for impossible in
        ["short", &"x".repeat(8193), &format!("{good} "), &format!("{good},"), "tok\u{e9}n.aaaaaaaa.bbbbbbbbb"]
    {
        let why = "not a compact JWS".into();
        assert_eq!(sidegate.check(impossible), Err(Denied::Invalid { why }));
        assert_eq!(sidegate.try_cached(impossible), Some(sidegate.check(impossible)));
    }
    assert_eq!(sidegate.check(""), Err(Denied::Missing));
    assert_eq!(sidegate.try_cached(""), Some(Err(Denied::Missing)));
    assert_eq!(daemon.asked(), asked);
    let mut same_signature = good.clone().into_bytes();
    same_signature[40] = if same_signature[40] == b'A' { b'B' } else { b'A' };
    let same_signature = String::from_utf8(same_signature).unwrap();
    assert!(sidegate.try_cached(&same_signature).is_none(), "compared whole");
    assert_eq!(sidegate.check(&same_signature).unwrap_err().code(), "token_invalid");
    assert!(sidegate.try_cached(&good).is_some());
    let old = crate::fake_daemon::Claims { exp: 1000, iat: 1, ..claims(2) };
    assert_eq!(sidegate.check(&old.token()), Err(Denied::Expired));
}

/// The log of this thread while `work` runs.
fn logged(work: impl FnOnce()) -> String {
    let log = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(std::sync::Mutex::new(Shared(log.clone()))).finish();
    tracing::subscriber::with_default(subscriber, work);
    String::from_utf8(log.lock().unwrap().clone()).unwrap()
}

struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn unreachable_daemon_is_logged_once() {
    let scratch = Scratch::new();
    let sidegate = scratch.builder().connect();
    let token = claims(1).token();
    let lost = logged(|| {
        for _ in 0..5 {
            assert_eq!(sidegate.check(&token).unwrap_err().status(), 503);
        }
    });
    assert_eq!(lost.lines().count(), 1, "{lost}");
    for part in ["WARN", "the verifier cannot be reached", "VERIFIER_SOCKET", "os error 2"] {
        assert!(lost.contains(part), "{part}: {lost}");
    }
    assert!(lost.contains(scratch.0.to_str().unwrap()), "the path: {lost}");
    assert!(sidegate.daemon_error().is_some_and(|error| error.contains("os error 2")));
    let _daemon = Daemon::start(&scratch.0);
    let back = logged(|| {
        for n in 2..5 {
            sidegate.check(&claims(n).token()).unwrap();
        }
    });
    assert_eq!((back.lines().count(), sidegate.daemon_error()), (1, None), "{back}");
    assert!(back.contains("INFO") && back.contains("the verifier answers again"), "{back}");
}

#[test]
fn key_retired_before_caching_is_noticed() {
    let (_scratch, daemon, sidegate) = world();
    let token = claims(1).token();
    sidegate.check(&token).unwrap();
    daemon.bump_epoch();
    assert!(sidegate.try_cached(&token).is_none());
    let asked = daemon.asked();
    sidegate.check(&token).unwrap();
    assert_eq!(daemon.asked(), asked + 1);
    assert!(sidegate.try_cached(&token).is_some(), "checked again under the new epoch");
    // The daemon read the epoch and checked the token; then the key was retired before the client
    // cached the response: the response has the old epoch, whatever the live line says by then.
    daemon.state.epoch.store(9, Ordering::Relaxed);
    let late = claims(2).token();
    sidegate.check(&late).unwrap();
    daemon.state.epoch.store(10, Ordering::Relaxed);
    daemon.state.tick();
    assert!(sidegate.try_cached(&late).is_none());
}

#[test]
fn switch_to_a_new_segment_gives_no_wrong_answer() {
    let (_scratch, daemon, sidegate) = world();
    let all: Vec<crate::fake_daemon::Claims> = (0..40).map(claims).collect();
    for mine in &all {
        sidegate.check(&mine.token()).unwrap();
    }
    let (dead, alive) = all.split_at(20);
    dead.iter().for_each(|mine| daemon.revoke_session(mine));
    eventually("attached", || sidegate.segment().is_some());
    let before = sidegate.segment();
    daemon.grow(dead);
    eventually("the successor is in use", || sidegate.segment() != before);
    for mine in dead {
        assert_eq!(sidegate.check(&mine.token()), Err(Denied::Revoked));
    }
    for mine in alive {
        let token = mine.token();
        assert!(sidegate.check(&token).is_ok());
        assert!(sidegate.try_cached(&token).is_some(), "kept for the new segment");
    }
}

#[test]
fn f18_dead_daemons_segment_expires_and_a_new_one_is_found() {
    let (scratch, daemon, sidegate) = world();
    let token = claims(1).token();
    sidegate.check(&token).unwrap();
    drop(daemon);
    eventually("the promise lapses", || sidegate.try_cached(&token).is_none());
    assert!(matches!(sidegate.check(&token), Err(Denied::Unavailable(DaemonError::Connect(_)))));
    eventually("attached", || sidegate.segment().is_some());
    let first = sidegate.segment();
    let daemon = Daemon::start(&scratch.0);
    eventually("the new segment is in use", || sidegate.segment() != first);
    sidegate.check(&token).unwrap();
    assert!(sidegate.try_cached(&token).is_some());
    daemon.revoke_session(&claims(1));
    assert_eq!(sidegate.check(&token), Err(Denied::Revoked));
}

#[test]
fn stale_list_accepts_no_token() {
    let (_scratch, daemon, sidegate) = world();
    let token = claims(1).token();
    sidegate.check(&token).unwrap();
    daemon.state.stale.store(true, Ordering::Relaxed);
    daemon.state.tick();
    assert!(sidegate.try_cached(&token).is_none());
    let denied = sidegate.check(&token).unwrap_err();
    assert_eq!((&denied, denied.status(), denied.code()), (&Denied::Stale, 503, "stale"));
    daemon.state.stale.store(false, Ordering::Relaxed);
    daemon.state.tick();
    assert!(sidegate.try_cached(&token).is_some(), "the token was kept meanwhile");
}

#[test]
fn checks_work_over_the_socket_alone() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.0);
    let sidegate = scratch.builder().socket_only().connect();
    let mine = claims(1);
    for _ in 0..5 {
        assert_eq!(sidegate.check(&mine.token()).unwrap().subject(), mine.sub);
        assert!(sidegate.try_cached(&mine.token()).is_none());
    }
    assert_eq!((daemon.asked(), sidegate.segment()), (5, None));
    daemon.revoke_session(&mine);
    assert_eq!(sidegate.check(&mine.token()), Err(Denied::Revoked));
}

#[test]
fn client_may_start_before_the_daemon() {
    let scratch = Scratch::new();
    let sidegate = scratch.builder().connect();
    let token = claims(1).token();
    assert!(matches!(sidegate.check(&token), Err(Denied::Unavailable(DaemonError::Connect(_)))));
    let _daemon = Daemon::start(&scratch.0);
    eventually("attached", || sidegate.segment().is_some());
    sidegate.check(&token).unwrap();
    assert!(sidegate.try_cached(&token).is_some());
}

#[test]
fn cache_is_bounded_and_never_confuses_tokens() {
    let scratch = Scratch::new();
    let daemon = Daemon::with(&scratch.0, Geometry::for_entries(100));
    let sidegate = scratch.builder().tokens(32).connect();
    let tokens: Vec<(String, String)> = (0..400).map(|n| (claims(n).token(), claims(n).sub)).collect();
    for (token, sub) in &tokens {
        assert_eq!(sidegate.check(token).unwrap().subject(), sub);
    }
    let known = tokens.iter().filter(|(token, _)| sidegate.try_cached(token).is_some()).count();
    assert!((1..=160).contains(&known), "{known} of a cache for 32");
    for (token, sub) in tokens.iter().rev() {
        assert_eq!(sidegate.check(token).unwrap().subject(), sub);
    }
    assert!(daemon.asked() >= 400);
}

#[test]
fn threads_share_a_client_while_the_list_changes() {
    let (_scratch, daemon, sidegate) = world();
    let all: Vec<crate::fake_daemon::Claims> = (0..64).map(claims).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..30 {
                    for mine in &all {
                        match sidegate.check(&mine.token()) {
                            Ok(verified) => assert_eq!(verified.subject(), mine.sub),
                            Err(denied) => assert_eq!(denied, Denied::Revoked),
                        }
                    }
                }
            });
        }
        for mine in all.iter().step_by(2) {
            daemon.revoke_session(mine);
            assert_eq!(sidegate.check(&mine.token()), Err(Denied::Revoked));
        }
    });
    for (at, mine) in all.iter().enumerate() {
        assert_eq!(sidegate.check(&mine.token()).is_err(), at % 2 == 0);
    }
}

/// A server that sends these bytes for every request, and closes after `per_connection` of them.
fn answers(scratch: &Scratch, answer: &'static [u8], per_connection: usize) {
    let listener = UnixListener::bind(scratch.0.join("verifier.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            for _ in 0..per_connection {
                if stream.read(&mut [0; 16384]).unwrap_or(0) == 0 {
                    break;
                }
                let _ = stream.write_all(answer);
            }
        }
    });
}

#[test]
fn malformed_response_accepts_no_token() {
    let token = claims(1).token();
    let wrong_signature = br#"HTTP/1.1 401 X
content-length: 58

{"code":"token_invalid","detail":"the signature is wrong"}"#;
    let cases: [(&'static [u8], Denied); 10] = [
        (b"", Denied::Unavailable(DaemonError::Broken(std::io::ErrorKind::UnexpectedEof))),
        (b"garbage", Denied::Unavailable(DaemonError::Answer)),
        (b"HTTP/1.1 200 OK\r\n\r\n", Denied::Unavailable(DaemonError::Answer)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}", Denied::Unavailable(DaemonError::Answer)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Denied::Unavailable(DaemonError::Answer)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{}", Denied::Unavailable(DaemonError::Answer)),
        (b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n", Denied::Unavailable(DaemonError::Daemon(500))),
        (b"HTTP/1.1 401 X\r\ncontent-length: 2\r\n\r\n{}", Denied::Invalid { why: "".into() }),
        (wrong_signature, Denied::Invalid { why: "the signature is wrong".into() }),
        (b"HTTP/1.1 302 X\r\ncontent-length: 0\r\n\r\n", Denied::Unavailable(DaemonError::Daemon(302))),
    ];
    for (answer, denied) in cases {
        let scratch = Scratch::new();
        answers(&scratch, answer, 1);
        let sidegate = scratch.builder().socket_only().connect();
        assert_eq!(sidegate.check(&token), Err(denied), "{}", String::from_utf8_lossy(answer));
    }
}

#[test]
fn closed_connection_is_replaced_and_silent_daemon_times_out() {
    let scratch = Scratch::new();
    answers(&scratch, b"HTTP/1.1 401 X\r\ncontent-length: 24\r\n\r\n{\"code\":\"token_revoked\"}", 1);
    let sidegate = scratch.builder().socket_only().connect();
    for _ in 0..5 {
        assert_eq!(sidegate.check(&claims(1).token()), Err(Denied::Revoked));
    }
    let silent = Scratch::new();
    let _listener = UnixListener::bind(silent.0.join("verifier.sock")).unwrap();
    let sidegate = silent.builder().socket_only().timeout(Duration::from_millis(50)).connect();
    assert_eq!(sidegate.check(&claims(1).token()), Err(Denied::Unavailable(DaemonError::Timeout)));
}
