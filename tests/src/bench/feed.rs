//! The revocation feed under size and load: loading a long log, absorbing a flood, bytes of an entry in Redis.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

use super::row::{Goal, Row, quantile};
use crate::redis::Redis;
use crate::stack::{EMAIL, Stack, Store};

/// Appends ARGV[1] session entries to the log as the issuer's script would: KEYS meta, log; ARGV[2] channel or empty.
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

async fn fill(connection: &mut MultiplexedConnection, count: u64, publish: bool) {
    let keys = sidegate_common::wire::Keys::new("sidegate", 0);
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

/// Another client's PING round trips in microseconds, for as long as `until` takes.
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

/// Reads the whole log page by page and does nothing with it: the limit of loading.
async fn bare_read(redis: &Redis) -> f64 {
    let mut connection = redis.connection().await;
    let log = sidegate_common::wire::Keys::new("sidegate", 0).log();
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

/// How many entries the rows use: 1,000,000, or `BENCH_ENTRIES`.
fn entries() -> u64 {
    std::env::var("BENCH_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000)
}

pub async fn rows() -> Vec<Row> {
    let count = entries();
    let mut stack = Stack::with(Store::Redis, 0, &[("RUST_LOG", "warn")], &[]).await;
    let redis = stack.redis.take().expect("on Redis");
    let mut connection = redis.connection().await;
    let before = used_memory(&mut connection).await;
    fill(&mut connection, count, false).await;
    let bytes = (used_memory(&mut connection).await - before) / count as f64;
    let row = |name: String, unit, peer, goal| Row { name, unit, peer, ours: Vec::new(), theirs: Vec::new(), goal };
    let mut size = row("bytes of an entry in Redis' log".into(), "B", "goal of 40 B", Goal::AtMost(1.0));
    size.ours.push(bytes);
    size.theirs.push(40.0);

    let limit = 5.0 * count as f64 / 1e6;
    let mut load = row(format!("load {count} entries"), "s", "bare XRANGE of the log", Goal::None);
    let mut goal = row(format!("load {count} entries, goal"), "s", "goal of 5 s a million", Goal::AtMost(1.0));
    let mut p99 = row("PING p99 meanwhile".into(), "us", "goal of 10 ms", Goal::AtMost(1.0));
    stack.redis = Some(redis);
    for _ in 0..3 {
        let redis = stack.redis.as_ref().expect("put back");
        let url = redis.url();
        let started = Instant::now();
        let settings = [("REDIS_URL", url.as_str()), ("RUST_LOG", "warn")];
        let starting = crate::stack::Verifier::start(&stack.folder, "loader", &settings);
        let (verifier, mut pings) = pings_during(redis, starting).await;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "  (a verifier that holds {count} entries: {:.0} MB resident)",
            super::memory::rss_mb(verifier.program.pid())
        );
        drop(verifier);
        load.ours.push(seconds);
        load.theirs.push(bare_read(redis).await);
        goal.ours.push(seconds);
        goal.theirs.push(limit);
        p99.ours.push(quantile(&mut pings, 0.99));
        p99.theirs.push(10_000.0);
    }

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
    vec![size, load, goal, p99, absorb]
}
