//! The probe: reads the head of a partition's log atomically.
//!
//! It calls the function `sidegate1_probe` if the server has it, and otherwise uses plain commands
//! in a transaction. The transaction needs the right to `MULTI`, with which a verifier could block
//! the server for any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, ServerErrorKind, Value, cmd, pipe};
use sidegate_common::log_protocol::RedisKeys;

use super::{ask, reply};

/// The library that issuers load (`FUNCTION LOAD`).
pub const LIBRARY: &str = include_str!("functions.lua");
/// The function that answers a probe: keys `meta` and `log`.
pub const FUNCTION: &str = "sidegate1_probe";

/// After how many probes the missing function is tried again.
const TRY_AGAIN_AFTER: u32 = 20;

/// How many probes remain until the function is tried again; 0 while it exists. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Missing(Arc<AtomicU32>);

/// The command that calls the function.
pub fn call_function(keys: &RedisKeys) -> redis::Cmd {
    cmd("FCALL_RO").arg(FUNCTION).arg(2).arg(keys.meta()).arg(keys.log()).take()
}

/// True if an error means that the function does not exist, or that this user may not call it.
pub fn is_missing(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::NoPerm))
}

/// Sends a probe; the answer is a row for [`reply::head`].
pub(super) async fn probe(
    connection: &mut MultiplexedConnection,
    keys: &RedisKeys,
    missing: &Missing,
) -> Result<Value, RedisError> {
    let left = missing.0.load(Ordering::Relaxed);
    if left > 0 {
        missing.0.store(left - 1, Ordering::Relaxed);
        return transaction(connection, keys).await;
    }
    match ask(connection, &call_function(keys)).await {
        Err(error) if is_missing(&error) => {
            tracing::debug!(%error, "no function for probes; asking by plain commands");
            let answer = transaction(connection, keys).await?;
            missing.0.store(TRY_AGAIN_AFTER, Ordering::Relaxed);
            Ok(answer)
        }
        answer => answer,
    }
}

async fn transaction(connection: &mut MultiplexedConnection, keys: &RedisKeys) -> Result<Value, RedisError> {
    let mut commands = pipe();
    commands.atomic();
    commands.add_command(cmd("HMGET").arg(keys.meta()).arg(&reply::META_FIELDS).take());
    commands.add_command(cmd("XREVRANGE").arg(keys.log()).arg("+").arg("-").arg("COUNT").arg(1).take());
    commands.add_command(cmd("TIME"));
    commands.add_command(cmd("INFO").arg("replication").take());
    let count = commands.len();
    let answers = connection.send_packed_commands(&commands, count + 1, 1).await?;
    let answer = answers.into_iter().next().unwrap_or(Value::Nil).extract_error()?;
    Ok(reply::row_of_transaction(&answer).unwrap_or(Value::Nil))
}
