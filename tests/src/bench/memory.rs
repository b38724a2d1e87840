//! Resident memory of both daemons, idle.

use super::row::{Goal, Row};
use crate::program::Program;
use crate::stack::{EMAIL, Stack, Store};

/// RSS after a login and a check, compared with a bare redis-server's.
pub async fn rows() -> Vec<Row> {
    let stack = Stack::start(Store::Redis, 1).await;
    let access = stack.issuer.login(EMAIL).await.access;
    assert_eq!(stack.verifiers[0].check(&access).await.status, 200);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let redis = rss_mb(stack.redis.as_ref().expect("on Redis").pid());
    let row = |name: &str, program: &Program| Row {
        name: name.to_owned(),
        unit: "MB",
        peer: "redis-server idle",
        ours: vec![rss_mb(program.pid())],
        theirs: vec![redis],
        goal: Goal::None,
    };
    vec![row("issuer RSS idle", &stack.issuer.program), row("verifier RSS idle", &stack.verifiers[0].program)]
}

/// Resident memory of a process, in MB (10^6 bytes).
pub fn rss_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib * 1024.0 / 1e6)
}
