//! Waits until replicas, or disks, have what the log took (`REDIS_WAIT_…`): on a connection of its own, since `WAIT` holds
//! up everything behind it, and once for all who wait meanwhile.

use std::time::Duration;

use redis::{Pipeline, RedisError, Value, cmd, pipe};
use tokio::sync::{mpsc, oneshot};

use super::link::StoreLink;

/// How many may queue for the next round.
const QUEUE_MAX: usize = 100_000;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaAckSettings {
    /// How many replicas must have it (`REDIS_WAIT_REPLICAS`).
    pub replicas: u64,
    /// For how long (`REDIS_WAIT_TIMEOUT`).
    pub timeout: Duration,
    /// Whether it must be on the disks of the server and those replicas (`REDIS_WAIT_FSYNC`).
    pub fsync: bool,
}

impl ReplicaAckSettings {
    /// True if there is anything to wait for.
    pub const fn is_needed(self) -> bool {
        self.replicas > 0 || self.fsync
    }
}

/// Where an entry must stand.
struct Request {
    log: String,
    position: Option<String>,
    done: oneshot::Sender<Result<(), String>>,
}

/// A connection to wait on.
pub(super) struct ReplicaAck {
    requests: mpsc::Sender<Request>,
}

impl ReplicaAck {
    /// Starts waiting on `link`. `key` is one that is written to, so that there is something to wait for.
    pub(super) fn start(link: StoreLink, key: String, settings: ReplicaAckSettings) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(link, key, settings, queue));
        Self { requests }
    }

    /// Returns once the entry at `position` in `log` is where it must be.
    pub(super) async fn wait(&self, log: String, position: Option<String>) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        self.requests.try_send(Request { log, position, done }).map_err(|_| {
            "too many revocations wait for acknowledgements (REDIS_WAIT_REPLICAS, REDIS_WAIT_FSYNC)".to_owned()
        })?;
        answer.await.unwrap_or_else(|_| Err("the waiting task has stopped".to_owned()))
    }
}

async fn run(link: StoreLink, key: String, settings: ReplicaAckSettings, mut queue: mpsc::Receiver<Request>) {
    while let Some(first) = queue.recv().await {
        let mut round = vec![first];
        while let Ok(next) = queue.try_recv() {
            round.push(next);
        }
        match together(&link, &key, settings, &round).await {
            Ok(standing) => {
                for (request, stands) in round.into_iter().zip(standing) {
                    let lost = || "another server took over before it was confirmed".to_owned();
                    let _gone = request.done.send(if stands { Ok(()) } else { Err(lost()) });
                }
            }
            Err(why) => {
                for request in round {
                    let _gone = request.done.send(Err(why.clone()));
                }
            }
        }
    }
}

/// One connection, one order: a write, which comes after all that is waited for; the wait for it; and a look whether each
/// entry stands on this very server, since the connection may lead to another one than took it.
async fn together(
    link: &StoreLink,
    key: &str,
    settings: ReplicaAckSettings,
    round: &[Request],
) -> Result<Vec<bool>, String> {
    let millis = settings.timeout.as_millis() as u64;
    let mut pipeline: Pipeline = pipe();
    pipeline.add_command(cmd("SET").arg(key).arg("").take());
    pipeline.add_command(if settings.fsync {
        cmd("WAITAOF").arg(1).arg(settings.replicas).arg(millis).take()
    } else {
        cmd("WAIT").arg(settings.replicas).arg(millis).take()
    });
    let mut standing = vec![true; round.len()];
    let asked: Vec<_> = round.iter().enumerate().filter_map(|(at, one)| Some((at, one.position.as_ref()?))).collect();
    for (at, position) in &asked {
        pipeline.add_command(cmd("XRANGE").arg(&round[*at].log).arg(position).arg(position).take());
    }
    let answers = link.together(&pipeline, 2 + asked.len()).await.map_err(|error: RedisError| error.to_string())?;
    if !settings_met(answers.get(1), settings) {
        let replicas = settings.replicas;
        return Err(match (settings.fsync, replicas) {
            (true, 0) => format!("fsync not confirmed by Redis within {millis} ms (REDIS_WAIT_TIMEOUT)"),
            (true, _) => {
                format!("fsync not confirmed by Redis and {replicas} replicas within {millis} ms (REDIS_WAIT_TIMEOUT)")
            }
            (false, _) => format!("fewer than {replicas} replicas confirmed within {millis} ms (REDIS_WAIT_TIMEOUT)"),
        });
    }
    for ((at, _), answer) in asked.iter().zip(&answers[2..]) {
        standing[*at] = matches!(answer, Value::Array(rows) if !rows.is_empty());
    }
    Ok(standing)
}

fn settings_met(answer: Option<&Value>, settings: ReplicaAckSettings) -> bool {
    let enough = |count: &i64| u64::try_from(*count).is_ok_and(|count| count >= settings.replicas);
    match answer {
        Some(Value::Int(replicas)) if !settings.fsync => enough(replicas),
        Some(Value::Array(counts)) if settings.fsync => {
            matches!(&counts[..], [Value::Int(local), Value::Int(replicas)] if *local >= 1 && enough(replicas))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_enough_is_enough() {
        let mut settings = ReplicaAckSettings { replicas: 2, timeout: Duration::from_secs(1), fsync: false };
        let array = |local, replicas| Value::Array(vec![Value::Int(local), Value::Int(replicas)]);
        assert!(settings_met(Some(&Value::Int(2)), settings));
        assert!(!settings_met(Some(&Value::Int(1)), settings));
        assert!(!settings_met(Some(&array(1, 2)), settings), "an answer to another question");
        settings.fsync = true;
        assert!(settings_met(Some(&array(1, 2)), settings));
        assert!(!settings_met(Some(&array(0, 2)), settings), "not on the server's own disk");
        assert!(!settings_met(Some(&array(1, 1)), settings));
        assert!(!settings_met(None, settings));
    }
}
