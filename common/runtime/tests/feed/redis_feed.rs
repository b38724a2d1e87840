//! The Redis feed: the conformance suite, and failures that only Redis has.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use sidegate_common::log_protocol::RedisKeys;
use sidegate_common::sync::{Alarm, Phase};
use sidegate_runtime::feed::redis::{LIBRARY, RedisSource};

use super::follower::{Follower, entry};
use super::redis_server::{self, RedisServer};
use super::suite::Rig;

const PREFIX: &str = "sidegate";

pub struct RedisRig {
    server: RedisServer,
}

impl Rig for RedisRig {
    type Source = RedisSource;

    async fn start() -> Self {
        Self { server: RedisServer::start(&[]) }
    }

    fn source(&self) -> RedisSource {
        RedisSource::new(&self.server.url(), PREFIX).unwrap()
    }

    async fn create(&self, epoch: &str) {
        redis_server::create(&mut self.server.connection().await, PREFIX, epoch, 1).await;
    }

    async fn append(&self, entry: &[u8]) {
        let mut connection = self.server.connection().await;
        redis_server::append(&mut connection, PREFIX, 0, &[entry.to_vec()], true).await.unwrap();
    }

    async fn append_without_push(&self, entries: &[Vec<u8>]) {
        let mut connection = self.server.connection().await;
        for chunk in entries.chunks(1_000) {
            redis_server::append(&mut connection, PREFIX, 0, chunk, false).await.unwrap();
        }
    }

    async fn push_garbage(&self) {
        let channel = RedisKeys::new(PREFIX, 0).channel();
        let mut connection = self.server.connection().await;
        for garbage in ["", "hello", "1 e 0-0 1-1"] {
            redis::cmd("SPUBLISH").arg(&channel).arg(garbage).exec_async(&mut connection).await.unwrap();
        }
    }

    async fn cut(&self) {
        let mut connection = self.server.connection().await;
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").exec_async(&mut connection).await.unwrap();
    }

    async fn lose(&self) {
        redis::cmd("FLUSHALL").exec_async(&mut self.server.connection().await).await.unwrap();
    }

    async fn trim(&self, count: usize) {
        let log = RedisKeys::new(PREFIX, 0).log();
        let mut connection = self.server.connection().await;
        let length: usize = redis::cmd("XLEN").arg(&log).query_async(&mut connection).await.unwrap();
        let left = length.saturating_sub(count);
        redis::cmd("XTRIM").arg(&log).arg("MAXLEN").arg(left).exec_async(&mut connection).await.unwrap();
    }
}

mod conformance {
    crate::conformance!(super::RedisRig);
}

async fn followed(options: &[&str], partitions: u16) -> (RedisServer, Follower) {
    let server = RedisServer::start(options);
    redis_server::create(&mut server.connection().await, PREFIX, "first", partitions).await;
    let follower = Follower::start(RedisSource::new(&server.url(), PREFIX).unwrap());
    follower.proven_anew().await;
    (server, follower)
}

async fn revoke(server: &RedisServer, partition: u16, name: &str) {
    let mut connection = server.connection().await;
    redis_server::append(&mut connection, PREFIX, partition, &[entry(name)], true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_followed_in_parallel() {
    let (server, follower) = followed(&[], 5).await;
    for partition in 0..5 {
        revoke(&server, partition, &format!("of-{partition}")).await;
    }
    follower.proven_anew().await;
    assert!((0..5).all(|partition| follower.holds(partition, &format!("of-{partition}"))));
    assert!(!follower.holds(0, "of-1"), "each in its own");
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f3_follower_returns_to_a_frozen_server() {
    let (server, follower) = followed(&[], 1).await;
    kill_process(server.pid(), Signal::STOP).unwrap();
    follower.until("given up", |follower| follower.partition(0).phase == Phase::Disconnected).await;
    let proofs = follower.proofs();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(follower.proofs(), proofs);
    kill_process(server.pid(), Signal::CONT).unwrap();
    revoke(&server, 0, "thawed").await;
    follower.proven_anew().await;
    assert!(follower.holds(0, "thawed"));
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f4_refused_subscription_is_never_fresh() {
    let server = RedisServer::start(&[]);
    let mut admin = server.connection().await;
    redis_server::create(&mut admin, PREFIX, "first", 1).await;
    let mut rules = redis::cmd("ACL");
    rules.arg("SETUSER").arg("deaf").arg("on").arg(">secret").arg("~*").arg("resetchannels").arg("+@all");
    rules.exec_async(&mut admin).await.unwrap();
    let url = format!("redis://deaf:secret@127.0.0.1:{}", server.port());
    let follower = Follower::start(RedisSource::new(&url, PREFIX).unwrap());
    follower
        .until("reported why", |follower| {
            let partitions = follower.status.partitions();
            partitions
                .first()
                .and_then(|status| status.last_error.as_deref())
                .is_some_and(|why| why.contains("permissions"))
        })
        .await;
    assert_eq!(follower.proofs(), 0);
    let mut rules = redis::cmd("ACL");
    rules.arg("SETUSER").arg("deaf").arg("&*").exec_async(&mut admin).await.unwrap();
    follower.proven_anew().await;
    follower.stop().await;
}

/// The permissions of a verifier's user in the shipped ACL file.
fn verifier_rules() -> Vec<&'static str> {
    let users = include_str!("../../../../deploy/redis/users.conf");
    let line = users.lines().find(|line| line.starts_with("user sidegate-verifier ")).unwrap();
    line.split(' ').skip(4).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shipped_acl_suffices_without_writes() {
    let server = RedisServer::start(&[]);
    let mut admin = server.connection().await;
    redis_server::create(&mut admin, PREFIX, "first", 1).await;
    redis::cmd("FUNCTION").arg("LOAD").arg(LIBRARY).exec_async(&mut admin).await.unwrap();
    let mut rules = redis::cmd("ACL");
    rules.arg("SETUSER").arg("verifier").arg("on").arg(">secret").arg(verifier_rules());
    rules.exec_async(&mut admin).await.unwrap();
    let url = format!("redis://verifier:secret@127.0.0.1:{}", server.port());
    let follower = Follower::start(RedisSource::new(&url, PREFIX).unwrap());
    follower.proven_anew().await;
    revoke(&server, 0, "x").await;
    follower.until("pushed", |follower| follower.holds(0, "x")).await;

    redis::cmd("ACL").arg("SETUSER").arg("verifier").arg("-hmget").exec_async(&mut admin).await.unwrap();
    follower.until("refused", |follower| follower.partition(0).alarm == Some(Alarm::Refused)).await;
    redis::cmd("ACL").arg("SETUSER").arg("verifier").arg("+hmget").exec_async(&mut admin).await.unwrap();
    follower.proven_anew().await;

    redis::cmd("ACL").arg("SETUSER").arg("verifier").arg("resetchannels").exec_async(&mut admin).await.unwrap();
    follower.until("cut off", |follower| follower.partition(0).last_error.is_some()).await;
    redis::cmd("ACL").arg("SETUSER").arg("verifier").arg("&{sidegate:*}:feed").exec_async(&mut admin).await.unwrap();
    follower.proven_anew().await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_f6_killed_server_returns_with_or_without_data() {
    let (mut server, follower) = followed(&[], 1).await;
    revoke(&server, 0, "before").await;
    follower.proven_anew().await;
    let full_reads = follower.partition(0).counters.full_reads;
    server.kill();
    follower.until("noticed", |follower| follower.partition(0).phase == Phase::Disconnected).await;
    server.restart();
    revoke(&server, 0, "between").await;
    follower.proven_anew().await;
    assert!(follower.holds(0, "between"));
    assert!(follower.partition(0).counters.full_reads > full_reads, "a log with another replication id is read whole");

    server.kill();
    server.wipe();
    server.restart();
    follower.until("empty", |follower| follower.partition(0).alarm == Some(Alarm::NoEpoch)).await;
    redis_server::create(&mut server.connection().await, PREFIX, "second", 1).await;
    follower.proven_anew().await;
    assert!(follower.holds(0, "before") && follower.holds(0, "between"), "what was held stays held");
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_deleted_log_is_an_alarm_until_rebuilt() {
    let (server, follower) = followed(&[], 1).await;
    revoke(&server, 0, "before").await;
    follower.proven_anew().await;
    let mut admin = server.connection().await;
    redis::cmd("DEL").arg(RedisKeys::new(PREFIX, 0).log()).exec_async(&mut admin).await.unwrap();
    follower.until("damage", |follower| follower.partition(0).alarm == Some(Alarm::LogDamaged)).await;
    redis_server::create(&mut admin, PREFIX, "second", 1).await;
    follower.proven_anew().await;
    assert!(follower.holds(0, "before"));
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f9_isolated_master_proves_nothing() {
    let (server, follower) = followed(&[], 1).await;
    let mut admin = server.connection().await;
    redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg(1).exec_async(&mut admin).await.unwrap();
    follower.until("isolated", |follower| follower.partition(0).alarm == Some(Alarm::Isolated)).await;
    let proofs = follower.proofs();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(follower.proofs(), proofs);
    redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg(0).exec_async(&mut admin).await.unwrap();
    follower.proven_anew().await;
    follower.stop().await;
}
