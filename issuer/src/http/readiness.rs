//! Whether users could log in, refresh and log out now: looked at in the background, so that probes and scrapes ask no store.

use std::sync::{PoisonError, RwLock};

/// How old the last look may be; the background looks every five seconds, and may take five.
const AGE_MAX_MS: u64 = 15_000;

/// What the last look found.
#[derive(Debug, Default)]
pub struct Readiness(RwLock<Option<Look>>);

/// One look: what is wrong with the users' database and with the store, if anything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Why users cannot be read.
    pub users: Option<String>,
    /// Why sessions cannot be created and ended.
    pub store: Option<String>,
    /// When this was found, in monotonic milliseconds.
    pub at_ms: u64,
}

impl Readiness {
    /// Takes note of a look.
    pub fn set(&self, look: Look) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(look);
    }

    /// What is wrong with the users' database and the store, as of the last look; both if that is too long ago.
    pub fn errors(&self, now_ms: u64) -> [(&'static str, Option<String>); 2] {
        let last = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (users, store) = match last {
            None => (Some("not checked yet".to_owned()), Some("not checked yet".to_owned())),
            Some(look) if now_ms.saturating_sub(look.at_ms) > AGE_MAX_MS => {
                let late = format!("last checked {} s ago", now_ms.saturating_sub(look.at_ms) / 1000);
                (Some(late.clone()), Some(late))
            }
            Some(look) => (look.users, look.store),
        };
        [("users", users), ("store", store)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_is_missing_or_old_is_not_ready() {
        let readiness = Readiness::default();
        assert!(readiness.errors(0).iter().all(|(_, error)| error.is_some()));
        readiness.set(Look { users: None, store: Some("down".into()), at_ms: 1000 });
        assert_eq!(readiness.errors(1500), [("users", None), ("store", Some("down".into()))]);
        assert!(readiness.errors(17_000).iter().all(|(_, error)| error.as_deref() == Some("last checked 16 s ago")));
    }
}
