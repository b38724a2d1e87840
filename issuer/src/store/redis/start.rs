//! The start over Redis: waits for a server that is away or still loads, checks it, makes the data set, and from then on
//! keeps every master equipped with what verifiers need there.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{FromRedisValue as _, RedisError, Value, cmd};
use sidegate_runtime::feed::redis::{LIBRARY, call_function, is_missing};
use sidegate_runtime::redis_url::RedisUrl;
use tokio::time::sleep;

use super::scripts::{Call, Script};
use super::server_checks::{self, RedisRequirements};
use super::{NAME, OpenError, RedisStore, ReplicaAckSettings, StoreLink, unavailable};
use crate::domain::traits::{DependencyUnavailable, Store as _};

/// The wait between two attempts to reach Redis at start.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked whether masters have the functions.
const EQUIP_EVERY: Duration = Duration::from_secs(1);

/// Whether the server has been found fit since the start. Until then nothing is read from it or written to it.
#[derive(Default)]
pub(super) struct Opening(Mutex<Option<String>>);

impl Opening {
    fn set(&self, waits_for: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = waits_for;
    }

    /// # Errors
    /// The server has not been found fit yet.
    pub(super) fn done(&self) -> Result<(), DependencyUnavailable> {
        let waits_for = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits_for.as_ref().map_or(Ok(()), |error| Err(DependencyUnavailable::new(NAME, error)))
    }
}

impl RedisStore {
    /// Another connection to the same Redis.
    pub fn sibling_link(&self) -> StoreLink {
        self.shared.link.sibling()
    }

    /// Connects with the credentials of `url` from now on, if they work.
    ///
    /// # Errors
    /// See [`StoreLink::renew`].
    pub async fn renew(&self, url: RedisUrl) -> Result<(), DependencyUnavailable> {
        self.shared.link.renew(url).await.map_err(unavailable)
    }

    /// How many replicas the server has now.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn replicas(&self) -> Result<u64, DependencyUnavailable> {
        let answer = self.shared.link.call(redis::cmd("INFO").arg("replication")).await.map_err(unavailable)?;
        let text = server_checks::info_text(&answer);
        let found = text.lines().find_map(|line| line.trim().strip_prefix("connected_slaves:")?.parse().ok());
        Ok(found.unwrap_or_default())
    }

    /// Refuses everything until [`RedisStore::open`] has succeeded.
    #[must_use]
    pub fn closed(self) -> Self {
        self.shared.opening.set(Some("not reached since the start".to_owned()));
        self
    }

    /// Waits for Redis for as long as it takes, checks the server, and makes the data set if it does not exist.
    ///
    /// # Errors
    /// The server is unfit, or its data set is laid out otherwise: that does not pass by waiting.
    pub async fn open(&self, requirements: RedisRequirements, wait: ReplicaAckSettings) -> Result<(), OpenError> {
        let mut logged = None;
        loop {
            match self.try_open(requirements, wait).await {
                Ok(()) => break,
                Err(OpenError::Unavailable(error)) => {
                    if logged.as_ref() != Some(&error) {
                        tracing::warn!(%error, "waiting for Redis");
                        self.shared.opening.set(Some(error.cause.clone()));
                        logged = Some(error);
                    }
                }
                Err(error) => return Err(error),
            }
            sleep(RETRY_EVERY).await;
        }
        if logged.is_some() {
            tracing::info!("connected to Redis");
        }
        self.shared.opening.set(None);
        Ok(())
    }

    async fn try_open(&self, requirements: RedisRequirements, wait: ReplicaAckSettings) -> Result<(), OpenError> {
        self.check_server(requirements).await?;
        self.initialise().await?;
        let (wanted, found) = (wait.replicas, self.replicas().await?);
        if found < wanted {
            tracing::warn!(
                setting = "REDIS_WAIT_REPLICAS",
                wanted,
                found,
                "Redis has fewer replicas than are waited for: every logout is answered 503 until they connect"
            );
        }
        Ok(())
    }

    /// Loads the functions of verifiers into every master that does not have them (new, emptied, failed over), and notes
    /// `min-replicas-to-write` for them. Runs until dropped.
    pub async fn equip_masters(self) {
        let mut replace = true;
        let mut logged = None;
        loop {
            let mut failed = None;
            for partition in 0..self.partitions() {
                failed = self.equip_master(partition, replace).await.err().map(|error| error.to_string()).or(failed);
            }
            if failed.is_none() {
                replace = false;
            }
            if failed != logged {
                match &failed {
                    Some(error) => {
                        tracing::warn!(error, "loading functions into Redis failed; verifiers probe with MULTI instead")
                    }
                    None => tracing::info!("functions of verifiers are loaded into Redis"),
                }
                logged = failed;
            }
            sleep(EQUIP_EVERY).await;
        }
    }

    async fn equip_master(&self, partition: u16, replace: bool) -> Result<(), RedisError> {
        let (keys, link) = (self.keys(partition), &self.shared.link);
        // Replaced once at each start: it may be of another version.
        if replace {
            load_library(link, &keys.meta()).await?;
        }
        match link.call(&call_function(keys)).await {
            Err(error) if is_missing(&error) => {
                load_library(link, &keys.meta()).await?;
                tracing::info!(partition, "loaded functions of verifiers into Redis");
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        self.note_min_replicas(partition).await
    }

    /// Notes `min-replicas-to-write` in `meta`, where this user may read it.
    async fn note_min_replicas(&self, partition: u16) -> Result<(), RedisError> {
        let (keys, link) = (self.keys(partition), &self.shared.link);
        let ask = cmd("CONFIG").arg("GET").arg("min-replicas-to-write").take();
        let Ok(answer) = link.call_master_of(&keys.meta(), &ask).await else { return Ok(()) };
        let Some(needed) = setting(&answer) else { return Ok(()) };
        let noted = link.call(cmd("HGET").arg(keys.meta()).arg("min_replicas")).await?;
        if Option::<String>::from_redis_value(noted)? != Some(needed.clone()) {
            let call: Call = self.call(Script::MinReplicas, keys).arg(needed);
            let _noted: u8 = call.run(link).await?;
        }
        Ok(())
    }
}

async fn load_library(link: &StoreLink, key: &str) -> Result<(), RedisError> {
    let load = cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(LIBRARY).take();
    link.call_master_of(key, &load).await.map(|_| ())
}

/// The value of the one setting asked for.
fn setting(answer: &Value) -> Option<String> {
    let value = match answer {
        Value::Map(pairs) => &pairs.first()?.1,
        Value::Array(items) => items.get(1)?,
        _ => return None,
    };
    String::from_redis_value_ref(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_read_in_either_protocol() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        assert_eq!(setting(&Value::Map(vec![(text("name"), text("2"))])).as_deref(), Some("2"));
        assert_eq!(setting(&Value::Array(vec![text("name"), text("2")])).as_deref(), Some("2"));
        assert_eq!(setting(&Value::Array(Vec::new())), None);
        assert_eq!(setting(&Value::Nil), None);
    }
}
