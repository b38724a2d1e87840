//! Whether a Redis server may be trusted with revocations: old, evicting or forgetful ones are refused at start.

use redis::Value;

/// Why a server is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Before 7.0: no shard channels.
    #[error("Redis {0} is too old: 7.0 or later is needed")]
    Version(String),
    /// It would drop revocations when memory is short.
    #[error("Redis' maxmemory-policy is {0}: set noeviction, or revoked tokens come back when memory is short")]
    Evicts(String),
    /// It forgets everything when it restarts.
    #[error(
        "Redis keeps nothing on disk, so a restart forgets revocations and sessions: set appendonly yes, or \
         REDIS_REQUIRE_PERSISTENCE=false to accept that"
    )]
    Forgets,
}

/// The text of an INFO answer, from one server or from all of a Cluster.
pub(super) fn info_text(answer: &Value) -> String {
    match answer {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        Value::Map(nodes) => nodes.iter().map(|(_, info)| info_text(info)).collect::<Vec<_>>().join("\n"),
        Value::Array(nodes) => nodes.iter().map(info_text).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

/// Judges INFO's text.
///
/// # Errors
/// See [`Unfit`].
pub(super) fn check(info: &str, persistence_required: bool) -> Result<(), Unfit> {
    let fields = |name: &'static str| {
        info.lines().filter_map(move |line| line.trim().strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
    };
    for version in fields("redis_version") {
        let major: u32 = version.split('.').next().and_then(|part| part.parse().ok()).unwrap_or(0);
        if major < 7 {
            return Err(Unfit::Version(version));
        }
    }
    if let Some(policy) = fields("maxmemory_policy").find(|policy| policy != "noeviction") {
        return Err(Unfit::Evicts(policy));
    }
    let forgets = fields("aof_enabled").any(|enabled| enabled == "0");
    if persistence_required && forgets { Err(Unfit::Forgets) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: &str, policy: &str, aof: &str) -> String {
        format!("# Server\r\nredis_version:{version}\r\nmaxmemory_policy:{policy}\r\naof_enabled:{aof}\r\n")
    }

    #[test]
    fn forgetful_servers_are_refused() {
        assert_eq!(check(&info("7.0.15", "noeviction", "1"), true), Ok(()));
        assert_eq!(check(&info("8.2.0", "noeviction", "0"), false), Ok(()));
        assert_eq!(check(&info("6.2.7", "noeviction", "1"), true), Err(Unfit::Version("6.2.7".into())));
        assert_eq!(check(&info("7.0.15", "allkeys-lru", "1"), true), Err(Unfit::Evicts("allkeys-lru".into())));
        assert_eq!(check(&info("7.0.15", "noeviction", "0"), true), Err(Unfit::Forgets));
    }
}
