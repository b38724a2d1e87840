//! Tokens, keys and checkers for the tests of this crate.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot be set up must fail

use std::collections::BTreeMap;
use std::sync::Arc;

use sidegate_common::claims::{Audience, Claims};
use sidegate_common::clock::CheckTime;
use sidegate_common::key::{KeyRing, SigningKey};
use sidegate_common::revocation::{Id, Revocation, Target};
use sidegate_common::revocation_state::{OnStale, RevocationState, Staleness};
use sidegate_common::secret::Secret;
use sidegate_common::sync::Sink as _;
use sidegate_common::time::{ClockReading, UnixTime};
use sidegate_common::token::{self, Policy, VerifiedToken};
use sidegate_common::token_checker::TokenChecker;
use sidegate_runtime::settings::Settings;

use crate::config::{Config, SETTINGS};
use crate::metrics::Metrics;
use crate::verifier::Verifier;
use sidegate_common::routes::Routes;

/// The time of the domain's tests.
pub const AT: CheckTime = CheckTime { now: UnixTime(1_700_000_000), monotonic_ms: 50_000 };

const SECRET: &str = "a-test-secret-of-thirty-two-bytes-or-more";

pub fn key() -> SigningKey {
    SigningKey::hs256(&Secret::new(SECRET)).unwrap()
}

pub fn policy() -> Policy {
    Policy {
        issuer: "sidegate".into(),
        audiences: vec!["sidegate".into()],
        leeway_seconds: 5,
        lifetime_max_seconds: 86_400,
    }
}

/// Good claims at [`AT`].
pub fn claims(jti: &str) -> Claims {
    Claims {
        iss: "sidegate".into(),
        aud: Audience::One("sidegate".into()),
        sub: "42".into(),
        client_id: "sidegate".into(),
        iat: AT.now.0 - 10,
        exp: AT.now.0 + 100,
        nbf: None,
        jti: jti.into(),
        sid: "EBESExQVFhcYGRobHB0eHw".into(),
        scope: Some("read write".into()),
    }
}

/// A good token at [`AT`], and its verified form.
pub fn verified(jti: &str) -> (String, Arc<VerifiedToken>) {
    let token = token::sign(&key(), &claims(jti)).unwrap();
    let ring = KeyRing::new(vec![key().verifying().clone()]).unwrap();
    let verified = token::verify(&ring, &policy(), AT.now, &token).unwrap();
    (token, Arc::new(verified))
}

/// A checker with the key, and one unproven partition.
pub fn unproven(on_stale: OnStale) -> Arc<TokenChecker> {
    let staleness = Staleness { max_ms: 30_000, policy: on_stale };
    let now = ClockReading { wall_ms: AT.now.0 * 1000, monotonic_ms: 1 };
    let state = RevocationState::new(staleness, now, None);
    state.begin(1);
    let tokens = TokenChecker::new(policy(), Arc::new(state));
    tokens.set_keys(KeyRing::new(vec![key().verifying().clone()]).unwrap());
    Arc::new(tokens)
}

/// A verifier with the key, and one partition proven complete at [`AT`]; `routes` is a routes file.
pub fn verifier(on_stale: &str, routes: Option<&str>) -> Verifier {
    let settings = [("JWT_SECRET_KEY", SECRET), ("MAX_STALENESS", "30s"), ("ON_STALE", on_stale)];
    let environment: BTreeMap<_, _> = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let config = Config::read(&Settings::load(SETTINGS, &environment, None).unwrap()).unwrap();
    let routes = routes.map(|text| Routes::parse(text, &config.policy.audiences).unwrap());
    let verifier = Verifier::new(&config, routes, Arc::new(Metrics::new()), None);
    verifier.state().begin(1);
    verifier.state().fresh(0, ClockReading { wall_ms: 0, monotonic_ms: AT.monotonic_ms }, 0);
    verifier
}

pub fn other_keys() -> KeyRing {
    let other = SigningKey::hs256(&Secret::new("another-secret-of-thirty-two-bytes-or-more")).unwrap();
    KeyRing::new(vec![other.verifying().clone()]).unwrap()
}

pub fn revoke_session(tokens: &TokenChecker, sid: &str) {
    let target = Target::Session { sid: Id::parse(sid).unwrap(), subject: None };
    tokens.state().apply(0, &Revocation { target, expires_at: UnixTime(u64::from(u32::MAX)) });
}
