//! The verdict on a token: signature, revocation and freshness put together, in that order, on every check.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::claims::Claims;
use crate::index::Index;
use crate::key::KeyRing;
use crate::problem::Code;
use crate::time::UnixTime;
use crate::token::{self, Policy, Rejection, VerifiedToken};

/// What to do when the list of revocations may be out of date (`ON_STALE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStale {
    /// Judge nothing.
    Deny,
    /// Go on with the list held, and say so.
    Allow,
}

/// When the list was last proven complete, for each partition; monotonic milliseconds.
#[derive(Debug)]
pub struct Freshness {
    proven_ms: Vec<AtomicU64>,
}

impl Freshness {
    /// Nothing proven yet.
    pub fn new(partitions: u16) -> Self {
        Self { proven_ms: (0..partitions.max(1)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The list of `partition` was complete at `monotonic_ms`.
    pub fn proven(&self, partition: u16, monotonic_ms: u64) {
        if let Some(proven) = self.proven_ms.get(usize::from(partition)) {
            // Zero means "never": a machine that booted this very millisecond may wait for the next proof.
            proven.fetch_max(monotonic_ms, Ordering::AcqRel);
        }
    }

    /// Nothing is proven any more: the list has to be completed again.
    pub fn forget(&self) {
        self.proven_ms.iter().for_each(|proven| proven.store(0, Ordering::Release));
    }

    /// When the partition that lags most was proven complete; none until each has been.
    pub fn oldest(&self) -> Option<u64> {
        let oldest = self.proven_ms.iter().map(|proven| proven.load(Ordering::Acquire)).min();
        oldest.filter(|proven| *proven > 0)
    }
}

/// Why no verdict can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No complete list has come in yet.
    #[error("the list of revoked tokens has not been loaded yet")]
    NotLoaded,
    /// The list is older than `MAX_STALENESS`, by this many seconds since it was proven complete.
    #[error("the list of revoked tokens was last known complete {0} s ago")]
    Stale(u64),
    /// There are no keys to verify with yet.
    #[error("no verification keys have been loaded yet")]
    NoKeys,
    /// The token's key is unknown, and the JWK set could not be read to look for it.
    #[error("the token's key could not be looked up: the JWKS fetch failed")]
    KeyLookupFailed,
}

impl Unknown {
    /// The stable code that a client sees.
    pub const fn code(self) -> Code {
        match self {
            Self::NotLoaded | Self::NoKeys | Self::KeyLookupFailed => Code::TemporarilyUnavailable,
            Self::Stale(_) => Code::Stale,
        }
    }
}

/// A token that is good right now. Only [`Judge`] makes these.
#[derive(Clone, Debug)]
pub struct GoodToken {
    token: Arc<VerifiedToken>,
    stale_seconds: Option<u64>,
}

impl GoodToken {
    /// Its claims.
    pub fn claims(&self) -> &Claims {
        self.token.claims()
    }

    /// The key that signed it.
    pub fn kid(&self) -> &str {
        self.token.kid()
    }

    /// The verified token, to be kept for [`Judge::check_again`].
    pub const fn token(&self) -> &Arc<VerifiedToken> {
        &self.token
    }

    /// How old the list is, where it is older than allowed and `ON_STALE=allow` let it pass.
    pub const fn stale_seconds(&self) -> Option<u64> {
        self.stale_seconds
    }
}

/// The answer to "is this token good right now?".
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is.
    Good(GoodToken),
    /// It is not.
    Denied(Rejection),
    /// That cannot be said.
    CannotJudge(Unknown),
}

/// When a question is asked: by the time floor, and by the monotonic clock that freshness is measured with.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The verifier's time ([`crate::time::TimeFloor`]).
    pub now: UnixTime,
    /// CLOCK_MONOTONIC, in milliseconds.
    pub monotonic_ms: u64,
}

/// How long a list may go unproven, and what then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// `MAX_STALENESS`, in milliseconds.
    pub max_ms: u64,
    /// `ON_STALE`.
    pub policy: OnStale,
}

/// The keys in force and how often they have changed.
#[derive(Debug)]
struct Keys {
    ring: RwLock<Arc<KeyRing>>,
    epoch: AtomicU64,
}

/// Judges tokens: holds the keys, the revocations and the proof that they are complete.
#[derive(Debug)]
pub struct Judge {
    policy: Policy,
    staleness: Staleness,
    keys: Keys,
    index: Arc<Index>,
    freshness: Arc<Freshness>,
}

impl Judge {
    /// A judge without keys, who cannot judge yet.
    pub fn new(policy: Policy, staleness: Staleness, index: Arc<Index>, freshness: Arc<Freshness>) -> Self {
        let keys = Keys { ring: RwLock::new(Arc::new(KeyRing::default())), epoch: AtomicU64::new(0) };
        Self { policy, staleness, keys, index, freshness }
    }

    /// Puts other keys in force. Every verdict given before must be given anew: see [`Judge::key_epoch`].
    pub fn set_keys(&self, ring: KeyRing) {
        *self.keys.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
        self.keys.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// The keys in force.
    pub fn keys(&self) -> Arc<KeyRing> {
        Arc::clone(&self.keys.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes whenever a verified token must be verified again: other keys, or a key retired by the log.
    pub fn key_epoch(&self) -> u64 {
        self.keys.epoch.load(Ordering::Acquire)
    }

    /// A key was retired by the log: what was verified under it must be asked for again.
    pub fn bump_key_epoch(&self) {
        self.keys.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// The revocations held.
    pub const fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The proof that they are complete.
    pub const fn freshness(&self) -> &Arc<Freshness> {
        &self.freshness
    }

    /// What is demanded of claims.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What is demanded of freshness.
    pub const fn staleness(&self) -> Staleness {
        self.staleness
    }

    /// Judges a token seen for the first time.
    pub fn check(&self, token: &str, at: Moment) -> Verdict {
        if let Err(unknown) = self.able(at) {
            return Verdict::CannotJudge(unknown);
        }
        match token::verify(&self.keys(), &self.policy, at.now, token) {
            Ok(verified) => self.check_again(&Arc::new(verified), at),
            Err(rejection) => Verdict::Denied(rejection),
        }
    }

    /// Judges a token that was verified before under the same key epoch: time, revocation and freshness only.
    pub fn check_again(&self, token: &Arc<VerifiedToken>, at: Moment) -> Verdict {
        if let Err(rejection) = token::still_valid(token, &self.policy, at.now) {
            return Verdict::Denied(rejection);
        }
        // Freshness is read before the index: a proof read afterwards could speak of entries this look-up missed.
        let fresh = self.fresh(at);
        if self.index.revokes(token.claims(), token.kid()) {
            return Verdict::Denied(Rejection::Revoked);
        }
        match fresh {
            Ok(stale_seconds) => Verdict::Good(GoodToken { token: Arc::clone(token), stale_seconds }),
            Err(unknown) => Verdict::CannotJudge(unknown),
        }
    }

    /// Whether any token could be judged good at all: keys loaded, a complete list in, fresh enough.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn ready(&self, at: Moment) -> Result<Option<u64>, Unknown> {
        self.able(at)?;
        self.fresh(at)
    }

    fn able(&self, at: Moment) -> Result<(), Unknown> {
        // The list first: a gate that waits for it is given its keys only then, and would blame them.
        match self.fresh(at) {
            Err(Unknown::NotLoaded) => Err(Unknown::NotLoaded),
            _ if self.keys().keys().is_empty() => Err(Unknown::NoKeys),
            _ => Ok(()),
        }
    }

    /// Seconds of permitted staleness, or why the list does not serve.
    fn fresh(&self, at: Moment) -> Result<Option<u64>, Unknown> {
        let proven = self.freshness.oldest().ok_or(Unknown::NotLoaded)?;
        let age_ms = at.monotonic_ms.saturating_sub(proven);
        if age_ms <= self.staleness.max_ms {
            return Ok(None);
        }
        match self.staleness.policy {
            OnStale::Deny => Err(Unknown::Stale(age_ms / 1000)),
            OnStale::Allow => Ok(Some(age_ms / 1000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Audience;
    use crate::key::SigningKey;
    use crate::revocation::{Revocation, Target};
    use crate::secret::Secret;

    const AT: Moment = Moment { now: UnixTime(1_700_000_000), monotonic_ms: 50_000 };

    fn key() -> SigningKey {
        SigningKey::hs256(&Secret::new("a-test-secret-of-thirty-two-bytes-or-more")).unwrap()
    }

    fn good() -> String {
        let claims = Claims {
            iss: "sidegate".into(),
            aud: Audience::One("sidegate".into()),
            sub: "42".into(),
            client_id: "sidegate".into(),
            iat: AT.now.0 - 10,
            exp: AT.now.0 + 100,
            nbf: None,
            jti: "AAECAwQFBgcICQoLDA0ODw".into(),
            sid: "EBESExQVFhcYGRobHB0eHw".into(),
            scope: None,
        };
        token::sign(&key(), &claims).unwrap()
    }

    fn judge(policy: OnStale) -> Judge {
        let claims = Policy {
            issuer: "sidegate".into(),
            audiences: vec!["sidegate".into()],
            leeway_seconds: 5,
            lifetime_max_seconds: 86_400,
        };
        let staleness = Staleness { max_ms: 30_000, policy };
        let judge = Judge::new(claims, staleness, Arc::new(Index::new(2)), Arc::new(Freshness::new(2)));
        judge.set_keys(KeyRing::new(vec![key().verifying().clone()]).unwrap());
        judge
    }

    fn complete(judge: &Judge, at_ms: u64) {
        judge.freshness().proven(0, at_ms);
        judge.freshness().proven(1, at_ms);
    }

    fn revoke_all(judge: &Judge) {
        let all = Revocation { target: Target::All { threshold: AT.now }, expires_at: AT.now };
        for partition in 0..2 {
            judge.index().apply(partition, &all);
        }
    }

    #[test]
    fn nothing_is_judged_before_the_first_complete_list_and_keys() {
        let judge = judge(OnStale::Allow);
        assert!(matches!(judge.check(&good(), AT), Verdict::CannotJudge(Unknown::NotLoaded)));
        judge.freshness().proven(0, 49_000);
        assert!(
            matches!(judge.check(&good(), AT), Verdict::CannotJudge(Unknown::NotLoaded)),
            "one partition is missing"
        );
        judge.freshness().proven(1, 49_000);
        assert!(matches!(judge.check(&good(), AT), Verdict::Good(_)));
        judge.set_keys(KeyRing::default());
        assert!(matches!(judge.check(&good(), AT), Verdict::CannotJudge(Unknown::NoKeys)));
        let neither =
            Judge::new(judge.policy().clone(), judge.staleness(), Arc::new(Index::new(1)), Arc::new(Freshness::new(1)));
        assert!(
            matches!(neither.check(&good(), AT), Verdict::CannotJudge(Unknown::NotLoaded)),
            "the list is blamed first"
        );
    }

    #[test]
    fn a_revoked_token_is_denied() {
        let judge = judge(OnStale::Deny);
        complete(&judge, 49_000);
        let Verdict::Good(token) = judge.check(&good(), AT) else { panic!("good") };
        assert_eq!(token.kid(), key().kid());
        revoke_all(&judge);
        assert!(matches!(judge.check(&good(), AT), Verdict::Denied(Rejection::Revoked)));
        assert!(matches!(judge.check_again(token.token(), AT), Verdict::Denied(Rejection::Revoked)));
    }

    #[test]
    fn a_stale_list_denies_or_says_so() {
        let late = Moment { monotonic_ms: 80_001, ..AT };
        let strict = judge(OnStale::Deny);
        complete(&strict, 50_000);
        assert!(matches!(strict.check(&good(), Moment { monotonic_ms: 80_000, ..AT }), Verdict::Good(_)));
        assert!(matches!(strict.check(&good(), late), Verdict::CannotJudge(Unknown::Stale(30))));
        assert!(matches!(strict.check("junk", late), Verdict::Denied(Rejection::NotCompact)), "junk needs no list");
        assert_eq!(strict.ready(late), Err(Unknown::Stale(30)));
        let lenient = judge(OnStale::Allow);
        complete(&lenient, 50_000);
        let Verdict::Good(token) = lenient.check(&good(), late) else { panic!("good") };
        assert_eq!(token.stale_seconds(), Some(30));
        revoke_all(&lenient);
        assert!(matches!(lenient.check(&good(), late), Verdict::Denied(Rejection::Revoked)));
    }

    #[test]
    fn the_partition_that_lags_most_counts() {
        let judge = judge(OnStale::Deny);
        judge.freshness().proven(0, 80_000);
        judge.freshness().proven(1, 50_000);
        let late = Moment { monotonic_ms: 80_001, ..AT };
        assert!(matches!(judge.check(&good(), late), Verdict::CannotJudge(Unknown::Stale(_))));
        judge.freshness().proven(1, 40_000);
        assert_eq!(judge.freshness().oldest(), Some(50_000), "a proof never goes back");
        judge.freshness().forget();
        assert!(matches!(judge.check(&good(), late), Verdict::CannotJudge(Unknown::NotLoaded)));
    }

    #[test]
    fn a_kept_token_expires_all_the_same() {
        let judge = judge(OnStale::Deny);
        complete(&judge, 49_000);
        let Verdict::Good(token) = judge.check(&good(), AT) else { panic!("good") };
        let later = Moment { now: AT.now.plus(105), ..AT };
        assert!(matches!(judge.check_again(token.token(), later), Verdict::Denied(Rejection::Expired)));
    }

    #[test]
    fn other_keys_change_the_epoch() {
        let judge = judge(OnStale::Deny);
        let before = judge.key_epoch();
        judge.set_keys(KeyRing::default());
        judge.bump_key_epoch();
        assert_eq!(judge.key_epoch(), before + 2);
    }
}
