//! Whether users could log in, refresh and log out now. Probed in the background, so that `/readyz`
//! and scrapes query no store.

use std::sync::{PoisonError, RwLock};

/// Maximum age of the last probe: the background probes every five seconds, and may take five.
const AGE_MAX_MS: u64 = 15_000;

/// The result of the last probe.
#[derive(Debug, Default)]
pub struct Readiness(RwLock<Option<ProbeResult>>);

/// The result of one probe: the errors of the users' database and the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// Why users cannot be read.
    pub users: Option<String>,
    /// Why sessions cannot be created and ended.
    pub store: Option<String>,
    /// Time of the probe, in monotonic milliseconds.
    pub at_ms: u64,
}

impl Readiness {
    /// Stores the result of a probe.
    pub fn set(&self, result: ProbeResult) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }

    /// The errors of the users' database and the store at the last probe; both are errors if it is
    /// too long ago.
    pub fn errors(&self, now_ms: u64) -> [(&'static str, Option<String>); 2] {
        let last = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (users, store) = match last {
            None => (Some("not checked yet".to_owned()), Some("not checked yet".to_owned())),
            Some(last) if now_ms.saturating_sub(last.at_ms) > AGE_MAX_MS => {
                let late = format!("not checked for {} s", now_ms.saturating_sub(last.at_ms) / 1000);
                (Some(late.clone()), Some(late))
            }
            Some(last) => (last.users, last.store),
        };
        [("users", users), ("store", store)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_old_probe_is_not_ready() {
        let readiness = Readiness::default();
        assert!(readiness.errors(0).iter().all(|(_, error)| error.is_some()));
        readiness.set(ProbeResult { users: None, store: Some("down".into()), at_ms: 1000 });
        assert_eq!(readiness.errors(1500), [("users", None), ("store", Some("down".into()))]);
        assert!(readiness.errors(17_000).iter().all(|(_, error)| error.as_deref() == Some("not checked for 16 s")));
    }
}
