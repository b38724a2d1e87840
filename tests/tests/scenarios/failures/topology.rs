//! Replica pairs, a Sentinel, a Cluster: F8, F9, F21.

use std::process::Command;

use redis::aio::MultiplexedConnection;
use sidegate_common::log_protocol::RedisKeys;
use sidegate_tests::daemon::Launched;
use sidegate_tests::fault_proxy::FaultProxy;
use sidegate_tests::program::{Program, free_port};
use sidegate_tests::redis::Redis;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::wait::eventually;

use super::desk::{AOF, Seen as _, a_while, issuer, names, revoke, say, through, token, until_feed, verifier};

/// A master, and a replica that follows it through a fault proxy.
struct Pair {
    master: Redis,
    link: FaultProxy,
    replica: Redis,
}

impl Pair {
    async fn start(options: &[&str]) -> Self {
        let options = [AOF, &["--repl-diskless-sync-delay", "0"], options].concat();
        let master = Redis::with(&options).await;
        let link = FaultProxy::to(master.port()).await;
        let port = link.port().to_string();
        let replica = Redis::with(&[&options[..], &["--replicaof", "127.0.0.1", &port]].concat()).await;
        let pair = Self { master, link, replica };
        pair.until_followed().await;
        pair
    }

    async fn until_followed(&self) {
        eventually("the replica to follow", || async {
            let status = self.replica.info("replication", "master_link_status").await;
            (status.as_deref() == Some("up")).then_some(())
        })
        .await;
    }

    /// Waits until the replica has all entries.
    async fn until_in_both(&self) {
        let written = self.master.info("replication", "master_repl_offset").await.expect("an offset");
        let written: u64 = written.parse().expect("a number");
        eventually("the replica to have everything", || async {
            let has = self.replica.info("replication", "slave_repl_offset").await?;
            (has.parse::<u64>().ok()? >= written).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_failover_that_loses_entries_unrevokes_nothing() {
    let mut pair = Pair::start(&[]).await;
    let fault_proxy = FaultProxy::to(pair.master.port()).await;
    let store = issuer(&through(&fault_proxy)).await;
    let verifier = verifier(&through(&fault_proxy));
    verifier.proven().await;
    revoke(&store, "in-both").await;
    pair.until_in_both().await;
    pair.link.swallow();
    for name in ["lost-1", "lost-2", "lost-3"] {
        revoke(&store, name).await;
    }
    verifier.proven().await;
    let full_reads = verifier.metric("sidegate_feed_full_reads_total{partition=\"0\"}").await;
    pair.master.kill();
    let replica = &pair.replica;
    say(&mut replica.connection().await, &["REPLICAOF", "NO", "ONE"]).await;
    let length = |log: redis::Value| if let redis::Value::Int(length) = log { length } else { -1 };
    let log = RedisKeys::new("sidegate", 0).log();
    assert_eq!(
        length(say(&mut replica.connection().await, &["XLEN", &log]).await),
        1,
        "three were acknowledged and lost"
    );
    fault_proxy.lead_to(replica.port());
    // Another issuer, which never received them, continues to write.
    let other = issuer(&replica.url()).await;
    for name in ["new-1", "new-2", "new-3"] {
        revoke(&other, name).await;
    }
    verifier.proven().await;
    for name in ["in-both", "lost-1", "lost-2", "lost-3", "new-1", "new-2", "new-3"] {
        verifier.denies(name).await;
    }
    assert!(verifier.metric("sidegate_feed_full_reads_total{partition=\"0\"}").await > full_reads);
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_a_sentinel_names_the_new_master() {
    let Pair { mut master, link: _link, replica } = Pair::start(&[]).await;
    let folder = Scratch::new();
    let (port, file) = (free_port(), folder.file("sentinel.conf"));
    let text = format!(
        "port {port}\nbind 127.0.0.1\nprotected-mode no\ndir {}\nsentinel monitor main 127.0.0.1 {} 1\n\
         sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n",
        folder.path().display(),
        master.port()
    );
    std::fs::write(&file, text).expect("written");
    let mut command = Command::new("redis-server");
    command.arg(&file).arg("--sentinel");
    let _sentinel = Program::start("sentinel", command, &folder.file("sentinel.log"));
    let mut sentinel = eventually("the sentinel to answer", || async {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).ok()?;
        client.get_multiplexed_async_connection().await.ok()
    })
    .await;
    eventually("the sentinel to know the replica", || async {
        let mut sentinel = sentinel.clone();
        let ask =
            redis::cmd("SENTINEL").arg("REPLICAS").arg("main").query_async::<Vec<redis::Value>>(&mut sentinel).await;
        (ask.ok()?.len() == 1).then_some(())
    })
    .await;
    let url = format!("redis+sentinel://127.0.0.1:{port}/main");
    let store = issuer(&url).await;
    let verifier = verifier(&url);
    verifier.proven().await;
    revoke(&store, "before").await;
    master.kill();
    eventually("the sentinel to promote the replica", || async {
        let role = replica.info("replication", "role").await;
        (role.as_deref() == Some("master")).then_some(())
    })
    .await;
    revoke(&store, "after").await;
    verifier.proven().await;
    verifier.denies("before").await;
    verifier.denies("after").await;
    let named: Vec<String> = redis::cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg("main")
        .query_async(&mut sentinel)
        .await
        .expect("an address");
    assert_eq!(named[1], replica.port().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_an_isolated_master_proves_nothing() {
    let pair = Pair::start(&["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"]).await;
    let store = issuer(&pair.master.url()).await;
    let verifier = verifier(&pair.master.url());
    verifier.proven().await;
    revoke(&store, "before").await;
    verifier.proven().await;
    pair.link.swallow();
    until_feed(&verifier, "alarm", |raised| names(raised, "isolated")).await;
    eventually("the verifier to report itself as stale", || async {
        (verifier.answer(&token("good")).await == (503, "stale".to_owned())).then_some(())
    })
    .await;
    verifier.denies("before").await;
    a_while().await;
    assert_eq!(verifier.answer(&token("good")).await.0, 503, "however long it answers");
    pair.link.carry();
    verifier.proven().await;
    revoke(&store, "after").await;
    verifier.proven().await;
    verifier.denies("after").await;
}

async fn number(connection: &mut MultiplexedConnection, words: &[&str]) -> String {
    match say(connection, words).await {
        redis::Value::Int(number) => number.to_string(),
        redis::Value::BulkString(text) => String::from_utf8_lossy(&text).into_owned(),
        other => panic!("{words:?}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_moved_cluster_slot_is_followed_to_its_new_owner() {
    let bus = [free_port().to_string(), free_port().to_string()];
    let node = async |bus: &str| {
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--cluster-port", bus];
        Redis::with(&options).await
    };
    let (from, to) = (node(&bus[0]).await, node(&bus[1]).await);
    let (mut at_from, mut at_to) = (from.connection().await, to.connection().await);
    say(&mut at_from, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    say(&mut at_to, &["CLUSTER", "MEET", "127.0.0.1", &from.port().to_string(), &bus[0]]).await;
    for node in [&from, &to] {
        eventually("the nodes to know each other", || async {
            let mut node = node.connection().await;
            let known: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut node).await.ok()?;
            (known.contains("cluster_state:ok") && known.contains("cluster_known_nodes:2")).then_some(())
        })
        .await;
    }
    let url = format!("redis+cluster://127.0.0.1:{}", from.port());
    let store = issuer(&url).await;
    let verifier: Launched = verifier(&url);
    verifier.proven().await;
    revoke(&store, "before").await;
    verifier.proven().await;

    let log = RedisKeys::new("sidegate", 0).log();
    let slot = number(&mut at_from, &["CLUSTER", "KEYSLOT", &log]).await;
    let (from_id, to_id) =
        (number(&mut at_from, &["CLUSTER", "MYID"]).await, number(&mut at_to, &["CLUSTER", "MYID"]).await);
    say(&mut at_to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
    say(&mut at_from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
    let keys: Vec<String> = redis::cmd("CLUSTER")
        .arg("GETKEYSINSLOT")
        .arg(&slot)
        .arg(1_000)
        .query_async(&mut at_from)
        .await
        .expect("the slot's keys");
    let mut migrate = redis::cmd("MIGRATE");
    migrate.arg("127.0.0.1").arg(to.port()).arg("").arg(0).arg(5_000).arg("KEYS").arg(&keys);
    migrate.exec_async(&mut at_from).await.expect("moved");
    for node in [&mut at_to, &mut at_from] {
        say(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
    }
    revoke(&store, "after").await;
    verifier.proven().await;
    verifier.denies("before").await;
    verifier.denies("after").await;
    assert!(verifier.feed("reconnects").await.as_u64() >= Some(1), "to the new owner");
    let listening: (String, u64) = redis::cmd("PUBSUB")
        .arg("SHARDNUMSUB")
        .arg(RedisKeys::new("sidegate", 0).channel())
        .query_async(&mut at_to)
        .await
        .expect("a count");
    assert_eq!(listening.1, 1);
}
