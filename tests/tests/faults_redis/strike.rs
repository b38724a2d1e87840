//! The faults, and how each is healed.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use sidegate_runtime::clock::monotonic_ms;
use sidegate_tests::fault_proxy::FaultProxy;
use sidegate_tests::random::Random;
use sidegate_tests::redis::Redis;
use tokio::time::sleep;

use super::rig::{OPTIONS, Rig, until, url};
use super::truth::Lost;
use super::writer::Writer;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 and a restart with the append-only file.
    Kill,
    /// kill -9 and a restart with nothing, as without persistence.
    KillLosingAll,
    /// SIGSTOP for a while.
    Freeze,
    /// CLIENT KILL, several times.
    KillClients,
    /// FLUSHALL.
    Flush,
    /// Nothing is forwarded between Redis and the verifiers, and no connection is closed.
    BlackHole,
    /// A replica whose link was cut before takes over: acknowledged entries are lost.
    Failover,
    /// An issuer restarts, and a replica takes over that has neither its last entries nor its
    /// departure.
    RollingRestart,
    /// FAILOVER: a replica with all entries takes over.
    PlannedFailover,
    /// The clocks of an issuer and of a verifier are shifted, and set right again.
    ClockStep,
    /// The verifiers' user loses its rights.
    AclLoss,
    /// No memory for writes.
    OutOfMemory,
}

const ALL: [Fault; 12] = [
    Fault::Kill,
    Fault::KillLosingAll,
    Fault::Freeze,
    Fault::KillClients,
    Fault::Flush,
    Fault::BlackHole,
    Fault::Failover,
    Fault::RollingRestart,
    Fault::PlannedFailover,
    Fault::ClockStep,
    Fault::AclLoss,
    Fault::OutOfMemory,
];

const RIGHTS: [&str; 6] = ["on", "resetpass", ">secret", "~*", "&*", "+@all"];

impl Fault {
    /// All faults in turn, so that any twelve consecutive seeds include each.
    pub const fn of(seed: u64) -> Self {
        ALL[(seed % ALL.len() as u64) as usize]
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 with AOF",
            Self::KillLosingAll => "kill -9 without",
            Self::Freeze => "SIGSTOP",
            Self::KillClients => "CLIENT KILL",
            Self::Flush => "FLUSHALL",
            Self::BlackHole => "black hole",
            Self::Failover => "lossy failover",
            Self::RollingRestart => "rolling restart",
            Self::PlannedFailover => "planned failover",
            Self::ClockStep => "clock step",
            Self::AclLoss => "ACL loss",
            Self::OutOfMemory => "OOM",
        }
    }
}

async fn say(connection: &mut MultiplexedConnection, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.exec_async(connection).await.unwrap_or_else(|error| panic!("{words:?}: {error}"));
}

impl Rig {
    /// Causes a fault and heals it.
    pub async fn strike(&mut self, fault: Fault, random: &mut Random) {
        let lasts = Duration::from_millis(random.between(30, 700));
        let mut admin = self.redis.connection().await;
        match fault {
            Fault::Kill => {
                self.redis.kill();
                sleep(lasts / 2).await;
                self.redis.restart().await;
            }
            Fault::KillLosingAll => {
                self.truth.lose(Some(Lost { from_ms: 0, to_ms: u64::MAX }));
                self.redis.kill();
                self.truth.lose(Some(Lost { from_ms: 0, to_ms: self.acknowledged_by_the_dead().await }));
                self.redis.wipe();
                sleep(lasts / 2).await;
                self.redis.restart().await;
            }
            Fault::Freeze => {
                self.redis.freeze();
                // Long enough, half of the time, to lose two probes.
                sleep(lasts + Duration::from_millis(700 * random.between(0, 2))).await;
                self.redis.thaw();
            }
            Fault::KillClients => {
                for _ in 0..random.between(1, 4) {
                    let kind = if random.between(0, 2) == 0 { "pubsub" } else { "normal" };
                    say(&mut admin, &["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
                    sleep(lasts / 4).await;
                }
            }
            Fault::Flush => {
                let how = if random.between(0, 2) == 0 { "SYNC" } else { "ASYNC" };
                say(&mut admin, &["FLUSHALL", how]).await;
            }
            Fault::BlackHole => {
                self.verifiers.swallow();
                sleep(lasts + Duration::from_millis(600 * random.between(0, 2))).await;
                if random.between(0, 2) == 0 {
                    self.verifiers.cut();
                }
                self.verifiers.carry();
            }
            Fault::Failover | Fault::RollingRestart => {
                let replica = self.replica_behind(random).await;
                self.promote(replica).await;
            }
            Fault::PlannedFailover => self.fail_over_as_planned().await,
            Fault::ClockStep => {
                let step = ["-300s", "+300s", "-20s", "+20s"][random.between(0, 4) as usize];
                std::fs::write(&self.clocks, step).expect("our own folder");
                sleep(2 * lasts).await;
                std::fs::write(&self.clocks, "+0").expect("our own folder");
            }
            Fault::AclLoss => {
                let rules: &[&str] = match random.between(0, 4) {
                    0 => &["-@all"],
                    1 => &["resetchannels"],
                    2 => &["-hmget"],
                    _ => &["resetpass", ">another"],
                };
                say(&mut admin, &[&["ACL", "SETUSER", "verifier"], rules].concat()).await;
                if rules[0] == "resetpass" {
                    say(&mut admin, &["CLIENT", "KILL", "USER", "verifier"]).await;
                }
                sleep(lasts).await;
                say(&mut admin, &[&["ACL", "SETUSER", "verifier"], &RIGHTS[..]].concat()).await;
            }
            Fault::OutOfMemory => {
                say(&mut admin, &["CONFIG", "SET", "maxmemory", "1"]).await;
                sleep(lasts).await;
                say(&mut admin, &["CONFIG", "SET", "maxmemory", "0"]).await;
            }
        }
    }

    /// The time by which every acknowledgement of a server that died has been recorded.
    async fn acknowledged_by_the_dead(&self) -> u64 {
        self.issuers.cut();
        sleep(Duration::from_millis(30)).await;
        monotonic_ms()
    }

    /// A replica with all entries, and the fault proxy to it.
    async fn replica(&self) -> (Redis, FaultProxy) {
        let link = FaultProxy::to(self.redis.port()).await;
        let port = link.port().to_string();
        let replica = Redis::with(OPTIONS).await;
        // Not a start option, because a later fault restarts this server as a master.
        say(&mut replica.connection().await, &["REPLICAOF", "127.0.0.1", &port]).await;
        until("the replica follows", async || {
            replica.info("replication", "master_link_status").await.as_deref() == Some("up")
        })
        .await;
        (replica, link)
    }

    /// A replica whose link is cut silently, before further entries are acknowledged.
    async fn replica_behind(&self, random: &mut Random) -> (Redis, FaultProxy) {
        let (replica, link) = self.replica().await;
        // Entries acknowledged so far are in the replica.
        let in_both = monotonic_ms();
        let offset = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let written = offset(self.redis.info("replication", "master_repl_offset").await);
        until("the replica has it", async || offset(replica.info("replication", "slave_repl_offset").await) >= written)
            .await;
        link.swallow();
        self.truth.lose(Some(Lost { from_ms: in_both, to_ms: u64::MAX }));
        sleep(Duration::from_millis(random.between(20, 300))).await;
        (replica, link)
    }

    /// Kills the master and promotes the replica.
    async fn promote(&mut self, (replica, _link): (Redis, FaultProxy)) {
        let from_ms = self.truth.lost().map_or(0, |lost| lost.from_ms);
        self.redis.kill();
        self.truth.lose(Some(Lost { from_ms, to_ms: self.acknowledged_by_the_dead().await }));
        say(&mut replica.connection().await, &["REPLICAOF", "NO", "ONE"]).await;
        self.take_over(replica);
    }

    fn take_over(&mut self, replica: Redis) {
        self.verifiers.lead_to(replica.port());
        self.issuers.lead_to(replica.port());
        self.redis = replica;
    }

    /// Stops an issuer cleanly while another takes its place; its last entries and its departure
    /// are lost.
    pub async fn restart_an_issuer(&mut self, before: Writer, seed: u64, random: &mut Random) -> Writer {
        let behind = self.replica_behind(random).await;
        let next = Writer::start(&url(&self.issuers), !seed, &self.truth).await;
        before.stop().await;
        self.promote(behind).await;
        next
    }

    async fn fail_over_as_planned(&mut self) {
        let (replica, _link) = self.replica().await;
        // The master must know the replica by the address to which it hands over.
        let port = self.redis.port().to_string();
        say(&mut replica.connection().await, &["REPLICAOF", "127.0.0.1", &port]).await;
        until("the replica follows", async || {
            replica.info("replication", "master_link_status").await.as_deref() == Some("up")
        })
        .await;
        let to = replica.port().to_string();
        say(&mut self.redis.connection().await, &["FAILOVER", "TO", "127.0.0.1", &to]).await;
        until("the replica is the master", async || {
            replica.info("replication", "role").await.as_deref() == Some("master")
        })
        .await;
        self.take_over(replica);
    }
}
