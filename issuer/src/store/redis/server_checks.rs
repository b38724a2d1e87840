//! Whether a Redis server may be trusted with revocations: old, evicting or forgetful ones are refused at start.

use redis::Value;

/// What is demanded of a server beside its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisRequirements {
    /// It keeps its data on disk (`REDIS_REQUIRE_PERSISTENCE`).
    pub persistence: bool,
    /// It never drops a key for want of memory (`REDIS_REQUIRE_NOEVICTION`).
    pub noeviction: bool,
    /// It knows WAITAOF (`REDIS_WAIT_FSYNC`).
    pub waitaof: bool,
}

/// The reasons that are counted.
pub(super) const REASONS: [&str; 4] = ["version", "evicts", "forgets", "no_waitaof"];

/// Why a server is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    /// Before 7.0: no shard channels.
    #[error("Redis {0} is too old: 7.0 or later is needed")]
    Version(String),
    /// It would drop revocations when memory is short.
    #[error(
        "Redis' maxmemory-policy is {0}, so revoked tokens come back when memory is short: set maxmemory-policy \
         noeviction, or REDIS_REQUIRE_NOEVICTION=false to accept that"
    )]
    Evicts(String),
    /// It loses everything when it restarts.
    #[error(
        "Redis keeps nothing on disk, so a restart loses revocations and sessions: set appendonly yes, or \
         REDIS_REQUIRE_PERSISTENCE=false to accept that"
    )]
    NotPersistent,
    /// Before 7.2: no WAITAOF.
    #[error("REDIS_WAIT_FSYNC needs the command WAITAOF, which Redis has from 7.2 on; this one is {0}")]
    NoWaitAof(String),
}

impl RequirementError {
    /// Its stable name, for metrics.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Version(_) => "version",
            Self::Evicts(_) => "evicts",
            Self::NotPersistent => "forgets",
            Self::NoWaitAof(_) => "no_waitaof",
        }
    }
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

/// Judges INFO's text: everything that is wrong.
pub(super) fn faults(info: &str, requirements: RedisRequirements) -> Vec<RequirementError> {
    let fields = |name: &'static str| {
        info.lines().filter_map(move |line| line.trim().strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
    };
    let number = |version: &str| {
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    let mut faults = Vec::new();
    faults.extend(fields("redis_version").find(|version| number(version) < (7, 0)).map(RequirementError::Version));
    if requirements.waitaof {
        faults
            .extend(fields("redis_version").find(|version| number(version) < (7, 2)).map(RequirementError::NoWaitAof));
    }
    if requirements.noeviction {
        faults.extend(fields("maxmemory_policy").find(|policy| policy != "noeviction").map(RequirementError::Evicts));
    }
    if requirements.persistence && fields("aof_enabled").any(|enabled| enabled == "0") {
        faults.push(RequirementError::NotPersistent);
    }
    faults
}

/// True if a server still reads its data from disk, by INFO's text.
pub(super) fn is_loading(info: &str) -> bool {
    info.lines().any(|line| line.trim() == "loading:1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: &str, policy: &str, aof: &str) -> String {
        format!("# Server\r\nredis_version:{version}\r\nmaxmemory_policy:{policy}\r\naof_enabled:{aof}\r\n")
    }

    const ALL: RedisRequirements = RedisRequirements { persistence: true, noeviction: true, waitaof: false };

    #[test]
    fn forgetful_servers_are_refused() {
        assert_eq!(faults(&info("7.0.15", "noeviction", "1"), ALL), []);
        assert_eq!(faults(&info("6.2.7", "noeviction", "1"), ALL), [RequirementError::Version("6.2.7".into())]);
        let both = [RequirementError::Evicts("allkeys-lru".into()), RequirementError::NotPersistent];
        assert_eq!(faults(&info("7.0.15", "allkeys-lru", "0"), ALL), both);
        let waitaof = RedisRequirements { waitaof: true, ..ALL };
        assert_eq!(faults(&info("7.0.15", "noeviction", "1"), waitaof), [RequirementError::NoWaitAof("7.0.15".into())]);
        assert_eq!(faults(&info("7.2.0", "noeviction", "1"), waitaof), []);
        let none = RedisRequirements { persistence: false, noeviction: false, waitaof: false };
        assert_eq!(faults(&info("8.2.0", "allkeys-lru", "0"), none), []);
    }
}
