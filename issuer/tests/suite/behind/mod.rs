//! Data lost although a revocation was acknowledged: an empty Redis whose clock is behind, and a
//! Redis with an older state of a session than the revocation that ended it.

use std::path::PathBuf;
use std::process::Command;

use sidegate_common::revocation::{SubjectTag, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};
use sidegate_issuer::domain::session::UserSessions;
use sidegate_issuer::domain::traits::Store as _;
use sidegate_issuer::store::redis::RedisStore;

use crate::support::forwarder::Forwarder;
use crate::support::redis::{PREFIX, RedisServer};
use crate::support::store::{STRICT, store_at};
use crate::support::{Scratch, eventually};

/// A library that sets a program's wall clock back; libfaketime does not work with Redis'
/// allocator.
const BEHIND: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
  int failed = syscall(SYS_clock_gettime, id, at);
  if (!failed && id == CLOCK_REALTIME) at->tv_sec -= BEHIND;
  return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
";

/// A redis-server with its clock set back. Built with the compiler that links these tests.
fn redis_behind(folder: &Scratch, seconds: u64) -> PathBuf {
    let (source, library) = (folder.file("behind.c"), folder.file("behind.so"));
    let program = folder.file("redis-behind");
    std::fs::write(&source, BEHIND).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", &format!("-DBEHIND={seconds}"), "-o"])
        .args([&library, &source])
        .status();
    assert!(built.unwrap().success());
    let script = format!("#!/bin/sh\nLD_PRELOAD={} exec redis-server \"$@\"\n", library.display());
    std::fs::write(&program, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    program
}

/// A store that has issued a token for user 1, connected to an empty Redis whose clock is this far
/// behind.
async fn emptied_and_behind(seconds: u64) -> (RedisStore, UnixTime, RedisServer, Forwarder) {
    let folder = Scratch::new("behind");
    let here = RedisServer::start(&[]).await;
    let there = RedisServer::start_as(redis_behind(&folder, seconds), &[]).await;
    let forwarder = Forwarder::to(here.port()).await;
    let store = store_at(&forwarder.url());
    store.initialise().await.unwrap();
    let issued = store.create(&crate::conformance::new_session("1")).await.unwrap().issued;
    forwarder.switch(there.port());
    eventually("the empty Redis answers", async || store.initialise().await.is_ok()).await;
    (store, issued, there, forwarder)
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_covers_tokens_issued_before_redis_lost_its_clock() {
    let (store, issued, server, _forwarder) = emptied_and_behind(20).await;
    let now: Vec<u64> = server.command(&["TIME"]).await;
    assert!(now[0] + 10 < issued.0, "its clock is behind");
    let kept = store.revoke_user("1", UserSessions::Keep).await.unwrap();
    assert!(kept.threshold >= issued, "{kept:?} {issued:?}");
    assert!(store.revoke_subject("1").await.unwrap() >= issued);
    // Another issuer without any memory covers the tokens nevertheless.
    let other = store_at(&server.url());
    other.initialise().await.unwrap();
    assert!(other.revoke_subject("2").await.unwrap() >= issued);
    assert!(store.revoke_all(0).await.unwrap() >= issued);
    let refused = store.create(&crate::conformance::new_session("1")).await.unwrap_err();
    assert!(refused.cause.contains("AHEAD"), "{refused}");
    assert!(store.counts().store_clock_behind.is_on());
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_is_refused_if_the_clock_is_too_far_behind() {
    let (store, _, server, _forwarder) = emptied_and_behind(1000).await;
    assert!(store.revoke_subject("1").await.is_err());
    assert!(store.revoke_all(0).await.is_err());
    assert_eq!(server.log(0).await, []);
    assert!(store.counts().store_clock_behind.is_on());
}

#[tokio::test(flavor = "multi_thread")]
async fn session_refreshed_before_the_replay_of_its_end_is_ended() {
    let (here, there) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let forwarder = Forwarder::to(here.port()).await;
    let store = store_at(&forwarder.url());
    store.initialise().await.unwrap();
    let (old, kept) = (crate::conformance::new_session("1"), crate::conformance::new_session("2"));
    store.create(&old).await.unwrap();
    store.create(&kept).await.unwrap();
    let lost = crate::conformance::new_session("3");
    store.create(&lost).await.unwrap();
    let before = here.contents().await;
    let threshold = store.revoke_subject("1").await.unwrap();
    store.revoke_user("2", UserSessions::Keep).await.unwrap();
    store.revoke_subject("3").await.unwrap();
    // The other server lacks the revocations. The sessions have been refreshed there, except the
    // third user's, whose rotation was lost.
    for (key, dump) in before {
        let mut restore = redis::cmd("RESTORE");
        restore.arg(&key).arg(0).arg(dump);
        let () = restore.query_async(&mut there.connect().await).await.unwrap();
        if key.contains(":session:") && !key.ends_with(&lost.sid.to_string()) {
            for field in ["issued", "exp_max"] {
                let _: i64 = there.command(&["HINCRBY", &key, field, "100"]).await;
            }
        }
    }
    forwarder.switch(there.port());
    tokio::spawn(store.clone().watch(STRICT, || None));
    eventually("the revocation is replayed", async || matches!(store.read(0, &old.sid).await, Ok(None))).await;
    eventually("the other revocation is replayed", async || there.log(0).await.len() >= 5).await;
    let log: Vec<_> = there.log(0).await.into_iter().map(|(_, revocation)| revocation).collect();
    let subject = Target::Subject { sub: "1".into(), threshold };
    assert!(log.iter().any(|entry| entry.target == subject), "with its own threshold: {log:?}");
    let session = Target::Session { sid: old.sid.clone(), subject: Some(SubjectTag::of("1")) };
    let entry = log.iter().find(|entry| entry.target == session).expect("the token issued since is dead");
    assert!(entry.expires_at > threshold.plus(100 + REVOCATION_MARGIN_SECONDS));
    let session = Target::Session { sid: lost.sid.clone(), subject: Some(SubjectTag::of("3")) };
    assert!(log.iter().any(|entry| entry.target == session), "the token of a rotation that was lost is dead: {log:?}");
    assert!(store.read(0, &kept.sid).await.unwrap().is_some(), "a revocation that keeps the sessions keeps them");
    let keys = sidegate_common::log_protocol::RedisKeys::new(PREFIX, 0);
    assert_eq!(there.command::<Option<u64>>(&["GET", &keys.watermark("2")]).await, None);
    assert!(there.command::<Option<u64>>(&["GET", &keys.token_watermark("2")]).await.is_some());
}
