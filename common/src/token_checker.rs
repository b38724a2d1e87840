//! Decides whether a token is good now: signature, revocation and freshness, on every check.

use std::sync::Arc;

use crate::claims::Claims;
use crate::clock::CheckTime;
use crate::foreign::issuer::ForeignIssuer;
use crate::issuer::Issuer;
use crate::key::KeyRing;
use crate::revocation_state::{RevocationState, Unavailable};
use crate::token::{Policy, Rejection, VerifiedToken};

/// A token that is good now. Only [`TokenChecker`] makes these.
#[derive(Clone, Debug)]
pub struct GoodToken {
    token: Arc<VerifiedToken>,
    stale_seconds: Option<u64>,
}

impl GoodToken {
    /// The token's claims.
    pub fn claims(&self) -> &Claims {
        self.token.claims()
    }

    /// The issuer's name: `home`, or as in `ISSUERS_FILE`.
    pub fn issuer_name(&self) -> &str {
        self.token.issuer_name()
    }

    /// True if another issuer than the home issuer issued it.
    pub fn is_foreign(&self) -> bool {
        self.token.other_issuer().is_some()
    }

    /// The key that signed it.
    pub fn kid(&self) -> &str {
        self.token.kid()
    }

    /// The verified token, to be cached for [`TokenChecker::recheck`].
    pub const fn token(&self) -> &Arc<VerifiedToken> {
        &self.token
    }

    /// The list's age, if it is older than allowed and `ON_STALE=allow` let the token pass.
    pub const fn stale_seconds(&self) -> Option<u64> {
        self.stale_seconds
    }
}

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is rejected.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The token cannot be checked now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Checks tokens of the accepted issuers against the revocations.
#[derive(Debug)]
pub struct TokenChecker {
    issuer: Issuer,
    state: Arc<RevocationState>,
}

impl TokenChecker {
    /// A checker without keys.
    pub fn new(policy: Policy, state: Arc<RevocationState>) -> Self {
        Self { issuer: Issuer::new(policy), state }
    }

    /// The home issuer.
    pub const fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The revocations, and the proof that they are complete.
    pub const fn state(&self) -> &Arc<RevocationState> {
        &self.state
    }

    /// Replaces the keys. Tokens verified before must be verified again: see
    /// [`RevocationState::key_epoch`].
    pub fn set_keys(&self, ring: KeyRing) {
        self.state.change_keys(|| self.issuer.set_keys(ring));
    }

    /// Replaces the keys of another issuer, as [`TokenChecker::set_keys`] does.
    pub fn set_keys_of(&self, issuer: &ForeignIssuer, ring: KeyRing) {
        self.state.change_keys(|| issuer.set_keys(ring));
    }

    /// Checks a token that is not cached.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn check(&self, token: &str, at: CheckTime) -> Result<GoodToken, TokenError> {
        self.ensure_loaded(at)?;
        let verified = match self.state.foreign() {
            None => self.issuer.verify(at.now, token)?,
            Some(issuers) => issuers.verify(&self.issuer, at.now, token)?,
        };
        self.recheck(&Arc::new(verified), at)
    }

    /// Checks a token that was verified under the same key epoch: time, revocation and freshness
    /// only.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn recheck(&self, token: &Arc<VerifiedToken>, at: CheckTime) -> Result<GoodToken, TokenError> {
        self.issuer.still_valid(at.now, token)?;
        // Freshness is read before the index: a later proof could cover entries that this look-up
        // missed.
        let stale_seconds = self.state.stale_seconds(at);
        let index = self.state.index();
        let issued_at = token.claims().issued_at();
        let rejection = match token.other_issuer() {
            None => index.revokes(token.claims(), token.kid()).then_some(Rejection::Revoked),
            Some(foreign) if index.revokes_foreign(foreign, issued_at) => Some(Rejection::Revoked),
            Some(foreign) => index.may_lack_foreign(foreign, issued_at).then_some(Rejection::OlderThanLog),
        };
        if let Some(rejection) = rejection {
            return Err(rejection.into());
        }
        Ok(GoodToken { token: Arc::clone(token), stale_seconds: stale_seconds? })
    }

    /// Checks that tokens can be accepted at all: keys are loaded, the list is complete and fresh
    /// enough. Returns the list's age where it is stale and permitted.
    ///
    /// # Errors
    /// What is missing.
    pub fn ensure_ready(&self, at: CheckTime) -> Result<Option<u64>, Unavailable> {
        self.ensure_loaded(at)?;
        self.state.stale_seconds(at)
    }

    fn ensure_loaded(&self, at: CheckTime) -> Result<(), Unavailable> {
        match self.state.stale_seconds(at) {
            Err(error @ (Unavailable::NotLoaded | Unavailable::UnlistedClaim)) => Err(error),
            _ if !self.has_keys() => Err(Unavailable::NoKeys),
            _ => Ok(()),
        }
    }

    /// True if tokens of any issuer could be verified. A token of one whose keys are missing is
    /// looked for like any unknown key.
    fn has_keys(&self) -> bool {
        let any = |ring: &KeyRing| !ring.keys().is_empty();
        any(&self.issuer.keys())
            || self.state.foreign().is_some_and(|issuers| issuers.all().any(|issuer| any(&issuer.keys())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Audience;
    use crate::key::SigningKey;
    use crate::log_protocol::Position;
    use crate::revocation::{Revocation, Target};
    use crate::revocation_state::{OnStale, Staleness};
    use crate::secret::Secret;
    use crate::sync::Sink as _;
    use crate::time::{ClockReading, UnixTime};
    use crate::token;

    const AT: CheckTime = CheckTime { now: UnixTime(1_700_000_000), monotonic_ms: 50_000 };

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

    fn empty(policy: OnStale) -> TokenChecker {
        let claims = Policy {
            issuer: "sidegate".into(),
            audiences: vec!["sidegate".into()],
            leeway_seconds: 5,
            lifetime_max_seconds: 86_400,
        };
        let now = ClockReading { wall_ms: AT.now.0 * 1000, monotonic_ms: 1 };
        let state = RevocationState::new(Staleness { max_ms: 30_000, policy }, now, None);
        TokenChecker::new(claims, Arc::new(state))
    }

    /// A checker with the key and two partitions, neither proven.
    fn checker(policy: OnStale) -> TokenChecker {
        let checker = empty(policy);
        checker.state().begin(2);
        checker.set_keys(KeyRing::new(vec![key().verifying().clone()]).unwrap());
        checker
    }

    fn prove(checker: &TokenChecker, partition: u16, monotonic_ms: u64) {
        checker.state().fresh(partition, ClockReading { wall_ms: 0, monotonic_ms }, 0);
    }

    fn prove_all(checker: &TokenChecker, at_ms: u64) {
        (0..2).for_each(|partition| prove(checker, partition, at_ms));
    }

    fn revoke_all(checker: &TokenChecker) {
        let all = Revocation { target: Target::All { threshold: AT.now }, expires_at: AT.now };
        for partition in 0..2 {
            checker.state().apply(partition, &all);
        }
    }

    fn unavailable(checked: Result<GoodToken, TokenError>) -> Unavailable {
        match checked {
            Err(TokenError::Unavailable(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    fn rejected(checked: Result<GoodToken, TokenError>) -> Rejection {
        match checked {
            Err(TokenError::Rejected(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_token_is_good_before_keys_and_list_are_loaded() {
        let nothing = empty(OnStale::Allow);
        assert_eq!(
            unavailable(nothing.check(&good(), AT)),
            Unavailable::NotLoaded,
            "of list and keys the list is named"
        );
        let checker = checker(OnStale::Allow);
        assert_eq!(unavailable(checker.check(&good(), AT)), Unavailable::NotLoaded);
        prove(&checker, 0, 49_000);
        assert_eq!(unavailable(checker.check(&good(), AT)), Unavailable::NotLoaded, "one partition is missing");
        prove(&checker, 1, 49_000);
        let token = checker.check(&good(), AT).unwrap();
        checker.set_keys(KeyRing::default());
        assert_eq!(unavailable(checker.check(&good(), AT)), Unavailable::NoKeys);
        assert_eq!(unavailable(nothing.recheck(token.token(), AT)), Unavailable::NotLoaded);
    }

    #[test]
    fn revoked_token_is_rejected() {
        let checker = checker(OnStale::Deny);
        prove_all(&checker, 49_000);
        let token = checker.check(&good(), AT).unwrap();
        assert_eq!(token.kid(), key().kid());
        revoke_all(&checker);
        assert_eq!(rejected(checker.check(&good(), AT)), Rejection::Revoked);
        assert_eq!(rejected(checker.recheck(token.token(), AT)), Rejection::Revoked);
    }

    #[test]
    fn stale_list_denies_or_reports_its_age() {
        let late = CheckTime { monotonic_ms: 80_001, ..AT };
        let strict = checker(OnStale::Deny);
        prove_all(&strict, 50_000);
        assert!(strict.check(&good(), CheckTime { monotonic_ms: 80_000, ..AT }).is_ok());
        assert_eq!(unavailable(strict.check(&good(), late)), Unavailable::Stale(30));
        assert_eq!(rejected(strict.check("junk", late)), Rejection::NotCompact, "a malformed token needs no list");
        assert_eq!(strict.ensure_ready(late), Err(Unavailable::Stale(30)));
        let lenient = checker(OnStale::Allow);
        prove_all(&lenient, 50_000);
        assert_eq!(lenient.check(&good(), late).unwrap().stale_seconds(), Some(30));
        revoke_all(&lenient);
        assert_eq!(rejected(lenient.check(&good(), late)), Rejection::Revoked);
    }

    #[test]
    fn freshness_is_that_of_the_slowest_partition() {
        let checker = checker(OnStale::Deny);
        prove(&checker, 0, 80_000);
        prove(&checker, 1, 50_000);
        let late = CheckTime { monotonic_ms: 80_001, ..AT };
        assert!(matches!(unavailable(checker.check(&good(), late)), Unavailable::Stale(_)));
        prove(&checker, 1, 40_000);
        assert_eq!(checker.state().proven(), Some(50_000), "a proof never goes back");
        // Both clocks agree that the time was an hour ahead.
        let back = ClockReading { wall_ms: (AT.now.0 - 3_600) * 1000, monotonic_ms: 80_001 };
        assert_eq!(checker.state().time(UnixTime(AT.now.0 - 3_600), back), 1);
        assert_eq!(unavailable(checker.check(&good(), late)), Unavailable::NotLoaded);
        prove_all(&checker, 80_001);
        assert_eq!(checker.state().proven(), None, "read before the time went back");
    }

    #[test]
    fn cached_token_expires() {
        let checker = checker(OnStale::Deny);
        prove_all(&checker, 49_000);
        let token = checker.check(&good(), AT).unwrap();
        let later = CheckTime { now: AT.now.plus(105), ..AT };
        assert_eq!(rejected(checker.recheck(token.token(), later)), Rejection::Expired);
    }

    #[test]
    fn replaced_and_revoked_keys_change_the_epoch() {
        let checker = checker(OnStale::Deny);
        let epoch = || checker.state().key_epoch();
        let first = epoch();
        checker.set_keys(KeyRing::default());
        assert_eq!(epoch(), first + 2, "before and after the change");
        let key = Revocation { target: Target::Key { kid: "k".into() }, expires_at: AT.now };
        let push = (Position { ms: 1, sequence: 0 }, key.clone());
        assert!(checker.state().push(0, &push));
        assert_eq!(epoch(), first + 4);
        checker.state().confirm(0, std::slice::from_ref(&push));
        assert!(!checker.state().apply(0, &key));
        assert_eq!(epoch(), first + 4, "known already");
        let other = (push.0, Revocation { target: Target::Key { kid: "other".into() }, ..key });
        checker.state().push(0, &other);
        checker.state().drop_pushes(0, &[other]);
        assert_eq!(epoch(), first + 8);
    }
}
