//! The revocation feed under size and load: loading a long log, absorbing a flood, bytes of an
//! entry in Redis.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

use super::row::{Goal, Row, quantile};
use crate::redis::Redis;
use crate::stack::{EMAIL, Stack, Store, Verifier};

/// Appends ARGV[1] session entries to the log like the issuer's script: KEYS meta, log; ARGV[2]
/// channel or empty.
const FILL: &str = r"
local meta, log, channel = KEYS[1], KEYS[2], ARGV[2]
local epoch, last = unpack(redis.call('HMGET', meta, 'epoch', 'last'))
local expires = struct.pack('>I4', tonumber(redis.call('TIME')[1]) + 80000)
for i = 1, tonumber(ARGV[1]) do
  local random = redis.sha1hex(last .. i)
  local entry = '\18' .. expires .. string.sub(random, 1, 6) .. string.sub(random, 7, 22)
  local id = redis.call('XADD', log, '*', 'r', entry)
  if channel ~= '' then redis.call('SPUBLISH', channel, '1 ' .. epoch .. ' ' .. last .. ' ' .. id .. ' ' .. entry) end
  last = id
end
redis.call('HSET', meta, 'last', last)
return last";

/// Limit for loading ten million entries on a slow machine.
const LOAD_LIMIT: Duration = Duration::from_secs(300);

async fn fill(connection: &mut MultiplexedConnection, count: u64, publish: bool) {
    let keys = sidegate_common::log_protocol::RedisKeys::new("sidegate", 0);
    let channel = if publish { keys.channel() } else { String::new() };
    let batch = 2_000;
    for _ in 0..count / batch {
        let mut command = redis::cmd("EVAL");
        command.arg(FILL).arg(2).arg(keys.meta()).arg(keys.log()).arg(batch).arg(&channel);
        command.query_async::<String>(connection).await.expect("filled");
    }
}

async fn used_memory(connection: &mut MultiplexedConnection) -> f64 {
    let info: String = redis::cmd("INFO").arg("memory").query_async(connection).await.expect("INFO");
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(f64::NAN)
}

/// Another client's PING round trips in microseconds, while `until` runs.
async fn pings_during<T>(redis: &Redis, until: impl Future<Output = T>) -> (T, Vec<f64>) {
    let mut connection = redis.connection().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let pinger = tokio::spawn(async move {
        let mut out = Vec::new();
        while stopped.try_recv().is_err() {
            let sent = Instant::now();
            redis::cmd("PING").query_async::<String>(&mut connection).await.expect("PONG");
            out.push(sent.elapsed().as_secs_f64() * 1e6);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        out
    });
    let value = until.await;
    let _already_gone = stop.send(());
    (value, pinger.await.expect("the pinger ends"))
}

/// Reads the whole log page by page and discards it: the limit of loading.
async fn bare_read(redis: &Redis) -> f64 {
    let mut connection = redis.connection().await;
    let log = sidegate_common::log_protocol::RedisKeys::new("sidegate", 0).log();
    let started = Instant::now();
    let mut from = "-".to_owned();
    loop {
        let mut command = redis::cmd("XRANGE");
        command.arg(&log).arg(&from).arg("+").arg("COUNT").arg(1000);
        let page: Vec<(String, Vec<Vec<u8>>)> = command.query_async(&mut connection).await.expect("a page");
        match page.last() {
            Some((id, _)) => from = format!("({id}"),
            None => return started.elapsed().as_secs_f64(),
        }
    }
}

/// The size of the log's nodes in memory, as in `deploy/redis/sidegate.conf`.
async fn configure(connection: &mut MultiplexedConnection) {
    let text = include_str!("../../../deploy/redis/sidegate.conf");
    for line in text.lines().filter(|line| line.starts_with("stream-node-")) {
        let (name, value) = line.split_once(' ').expect("a setting");
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg(name).arg(value.trim());
        set.query_async::<String>(connection).await.expect("set");
    }
}

fn row(name: String, unit: &'static str, peer: &'static str, goal: Goal) -> Row {
    Row { name, unit, peer, ours: Vec::new(), theirs: Vec::new(), goal }
}

/// An issuer, a Redis whose log has `count` entries, and the bytes of each entry.
async fn filled(count: u64) -> (Stack, Row) {
    let stack = Stack::with(Store::Redis, 0, &[("RUST_LOG", "warn")], &[]).await;
    let mut connection = stack.redis.as_ref().expect("on Redis").connection().await;
    configure(&mut connection).await;
    let before = used_memory(&mut connection).await;
    fill(&mut connection, count, false).await;
    let mut size = row("bytes of an entry in Redis' log".into(), "B", "goal of 40 B", Goal::AtMost(1.0));
    size.ours.push((used_memory(&mut connection).await - before) / count as f64);
    size.theirs.push(40.0);
    (stack, size)
}

/// Starts verifiers on a long log, and measures the latency of another Redis client meanwhile.
async fn loads(stack: &Stack, count: u64, times: usize, limit: f64) -> Vec<Row> {
    let redis = stack.redis.as_ref().expect("on Redis");
    let mut load = row(format!("load {count} entries"), "s", "bare XRANGE of the log", Goal::None);
    let mut goal = row(format!("load {count} entries, goal"), "s", "the goal", Goal::AtMost(1.0));
    let mut p99 = row("another client's PING p99 meanwhile".into(), "us", "goal of 10 ms", Goal::AtMost(1.0));
    for _ in 0..times {
        let url = redis.url();
        let settings = [("REDIS_URL", url.as_str()), ("RUST_LOG", "warn")];
        let started = Instant::now();
        let starting = async {
            let mut verifier = Verifier::start_unready(&stack.folder, "loader", &settings);
            // Longer than the usual wait of a test.
            while !verifier.admin.get("/readyz").try_send().await.is_ok_and(|reply| reply.status == 200) {
                assert!(verifier.program.running() && started.elapsed() < LOAD_LIMIT, "{}", verifier.program.output());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            verifier
        };
        let (verifier, mut pings) = pings_during(redis, starting).await;
        let seconds = started.elapsed().as_secs_f64();
        let resident = super::memory::rss_mb(verifier.program.pid());
        println!("  (a verifier that holds {count} entries: {resident:.0} MB resident)");
        drop(verifier);
        load.ours.push(seconds);
        load.theirs.push(bare_read(redis).await);
        goal.ours.push(seconds);
        goal.theirs.push(limit);
        p99.ours.push(quantile(&mut pings, 0.99));
        p99.theirs.push(10_000.0);
    }
    vec![load, goal, p99]
}

/// A million entries: their size, loading them, and absorbing a flood of more.
pub async fn rows() -> Vec<Row> {
    let (mut stack, size) = filled(1_000_000).await;
    let mut rows = vec![size];
    rows.extend(loads(&stack, 1_000_000, 3, 5.0).await);
    rows.push(absorbed(&mut stack).await);
    rows
}

/// Ten million: takes minutes and gigabytes, so only if requested by name.
pub async fn rows_of_ten_million() -> Vec<Row> {
    let (stack, size) = filled(10_000_000).await;
    let mut rows = vec![size];
    rows.extend(loads(&stack, 10_000_000, 1, 60.0).await);
    rows
}

/// A flood pushed to a verifier, from its first entry until a logout behind the flood takes effect.
async fn absorbed(stack: &mut Stack) -> Row {
    let mut connection = stack.redis.as_ref().expect("on Redis").connection().await;
    stack.add_verifier(&[("RUST_LOG", "warn")]).await;
    let mut absorb = row("revocations absorbed".into(), "/s", "goal of 30,000/s", Goal::AtLeast(1.0));
    for _ in 0..3 {
        let flood = 100_000;
        let access = stack.issuer.login(EMAIL).await.access;
        let started = Instant::now();
        fill(&mut connection, flood, true).await;
        assert_eq!(stack.issuer.logout(&access).await.status, 204);
        stack.verifiers[0].until_denied(&access).await;
        absorb.ours.push(flood as f64 / started.elapsed().as_secs_f64());
        absorb.theirs.push(30_000.0);
    }
    absorb
}
