//! Refused tokens by reason, and the minute in which all tokens fail alike: then issuer and verifier differ in a setting.

use std::sync::{Mutex, PoisonError};

use sidegate_common::time::UnixTime;
use sidegate_common::token::{Policy, Rejection, unverified_claims, unverified_key};

/// How long tokens are looked at before they are said to fail alike, in milliseconds.
const WINDOW_MS: u64 = 60_000;
/// A token or two that fail say nothing of the settings.
const TOKENS_MIN: u64 = 3;
/// The most that is shown of what a token says.
const SHOWN_MAX: usize = 200;

/// Why tokens are refused, as metrics name it.
pub const REASONS: [&str; 10] = [
    "malformed",
    "unknown_key",
    "signature",
    "claim",
    "issuer",
    "audience",
    "not_yet_valid",
    "lifetime",
    "expired",
    "revoked",
];

/// The reason among [`REASONS`]; none if there was no token.
pub const fn reason(rejection: Rejection) -> Option<&'static str> {
    Some(match rejection {
        Rejection::Missing => return None,
        Rejection::TooLong | Rejection::NotCompact | Rejection::Header | Rejection::Type => "malformed",
        Rejection::UnknownKey => "unknown_key",
        Rejection::Signature => "signature",
        Rejection::Claim(_) => "claim",
        Rejection::Issuer => "issuer",
        Rejection::Audience => "audience",
        Rejection::NotYetValid => "not_yet_valid",
        Rejection::Lifetime => "lifetime",
        Rejection::Expired => "expired",
        Rejection::Revoked => "revoked",
    })
}

/// A setting in which issuer and verifier seem to differ, with both values; of a secret its `kid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The verifier's setting, or what else is to be looked at.
    pub setting: &'static str,
    /// What this verifier has.
    pub ours: String,
    /// What the token has.
    pub theirs: String,
}

/// What a refused token says of the settings; none where the reason lies in the token alone.
pub fn difference(
    rejection: Rejection,
    token: &str,
    policy: &Policy,
    kids: &[String],
    now: UnixTime,
) -> Option<Difference> {
    let claims = || unverified_claims(token);
    let (setting, ours, theirs) = match rejection {
        Rejection::UnknownKey | Rejection::Signature => {
            let kid = unverified_key(token)?.kid.unwrap_or_else(|| "none".to_owned());
            ("JWT_SECRET_KEY or JWKS_URL (kid)", kids.join(" "), kid)
        }
        Rejection::Issuer => ("JWT_ISSUER", policy.issuer.clone(), claims()?.iss),
        Rejection::Audience => ("JWT_AUDIENCE", policy.audiences.join(" "), claims()?.aud.to_string()),
        Rejection::Lifetime => {
            let claims = claims()?;
            let lifetime = claims.exp.saturating_sub(claims.iat);
            ("MAX_TOKEN_LIFETIME", format!("{}s", policy.lifetime_max_seconds), format!("{lifetime}s"))
        }
        Rejection::NotYetValid => ("the clock (iat)", now.0.to_string(), claims()?.iat.to_string()),
        _ => return None,
    };
    Some(Difference { setting, ours, theirs: shown(&theirs) })
}

/// Text of unknown origin, made fit for a log line.
fn shown(text: &str) -> String {
    text.escape_debug().take(SHOWN_MAX).collect()
}

/// What a look at the last minute says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// This many tokens were refused alike, and none was good.
    AllAlike(&'static str, Difference, u64),
    /// Tokens are good again.
    Over,
}

/// The refusals of the present minute.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    window: Option<Window>,
    /// What was told, and how many good tokens there were by then.
    told: Option<(Difference, u64)>,
}

#[derive(Debug)]
struct Window {
    began_ms: u64,
    good_before: u64,
    reason: &'static str,
    difference: Option<Difference>,
    alike: bool,
    tokens: u64,
}

impl Refusals {
    /// Takes note of a refused token. `good` is how many tokens have been good until now.
    pub fn note(
        &self,
        reason: &'static str,
        now_ms: u64,
        good: impl FnOnce() -> u64,
        difference: impl FnOnce() -> Option<Difference>,
    ) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut state.window {
            Some(window) => {
                window.tokens += 1;
                window.alike &= window.reason == reason;
            }
            None => {
                let (good_before, difference) = (good(), difference());
                let window = Window { began_ms: now_ms, good_before, reason, difference, alike: true, tokens: 1 };
                state.window = Some(window);
            }
        }
    }

    /// Looks at the minute that is over, if one is; tells of each difference once.
    pub fn look(&self, now_ms: u64, good: u64) -> Option<Finding> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.told.as_ref().is_some_and(|(_, before)| good > *before) {
            state.told = None;
            return Some(Finding::Over);
        }
        let window = state.window.take_if(|window| now_ms.saturating_sub(window.began_ms) >= WINDOW_MS)?;
        let difference = window.difference.filter(|_| window.alike && window.tokens >= TOKENS_MIN)?;
        if good > window.good_before || state.told.as_ref().is_some_and(|(told, _)| *told == difference) {
            return None;
        }
        state.told = Some((difference.clone(), good));
        Some(Finding::AllAlike(window.reason, difference, window.tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, AT};
    use sidegate_common::claims::Audience;
    use sidegate_common::token;

    fn refused(refusals: &Refusals, reason: &'static str, at_ms: u64, good: u64) {
        let difference = Difference { setting: "JWT_ISSUER", ours: "a".into(), theirs: "b".into() };
        refusals.note(reason, at_ms, || good, || Some(difference));
    }

    #[test]
    fn a_minute_of_equal_refusals_is_told_once_and_its_end_too() {
        let refusals = Refusals::default();
        for at in 0..3 {
            refused(&refusals, "issuer", at * 1000, 7);
        }
        assert_eq!(refusals.look(59_000, 7), None, "not over yet");
        let found = refusals.look(60_000, 7);
        assert!(matches!(&found, Some(Finding::AllAlike("issuer", told, 3)) if told.theirs == "b"), "{found:?}");
        for at in 0..3 {
            refused(&refusals, "issuer", 70_000 + at, 7);
        }
        assert_eq!(refusals.look(131_000, 7), None, "told already");
        assert_eq!(refusals.look(132_000, 8), Some(Finding::Over));
        assert_eq!(refusals.look(133_000, 9), None);
    }

    #[test]
    fn one_good_token_another_reason_or_too_few_say_nothing() {
        for (reasons, good_after) in [
            (&["issuer", "issuer", "issuer"][..], 1),
            (&["issuer", "issuer", "signature"], 0),
            (&["issuer", "issuer"], 0),
        ] {
            let refusals = Refusals::default();
            reasons.iter().for_each(|reason| refused(&refusals, reason, 0, 0));
            assert_eq!(refusals.look(60_000, good_after), None, "{reasons:?}");
        }
    }

    #[test]
    fn both_values_are_named_and_no_secret() {
        let policy = testing::policy();
        let kids = [testing::key().kid().to_owned()];
        let sign = |claims: &_| token::sign(&testing::key(), claims).unwrap();
        let good = testing::claims("one");
        let differs = |rejection, token: &str| difference(rejection, token, &policy, &kids, AT.now);
        let told = |setting, ours: &str, theirs: &str| {
            Some(Difference { setting, ours: ours.to_owned(), theirs: theirs.to_owned() })
        };
        let mut claims = good.clone();
        claims.iss = "https://elsewhere".into();
        assert_eq!(differs(Rejection::Issuer, &sign(&claims)), told("JWT_ISSUER", "sidegate", "https://elsewhere"));
        let mut claims = good.clone();
        claims.aud = Audience::One("other".into());
        assert_eq!(differs(Rejection::Audience, &sign(&claims)), told("JWT_AUDIENCE", "sidegate", "other"));
        let mut claims = good.clone();
        claims.exp = claims.iat + 90_000;
        assert_eq!(differs(Rejection::Lifetime, &sign(&claims)), told("MAX_TOKEN_LIFETIME", "86400s", "90000s"));
        let kid = differs(Rejection::UnknownKey, &sign(&good)).unwrap();
        assert_eq!((kid.ours.as_str(), kid.theirs.as_str()), (kids[0].as_str(), kids[0].as_str()));
        assert_eq!(differs(Rejection::Expired, &sign(&good)), None);
        assert_eq!(differs(Rejection::UnknownKey, "junk"), None);
    }

    #[test]
    fn every_reason_is_counted() {
        let all = [
            Rejection::TooLong,
            Rejection::UnknownKey,
            Rejection::Signature,
            Rejection::Claim("sub"),
            Rejection::Issuer,
            Rejection::Audience,
            Rejection::NotYetValid,
            Rejection::Lifetime,
            Rejection::Expired,
            Rejection::Revoked,
        ];
        assert_eq!(all.map(|rejection| reason(rejection).unwrap()), REASONS);
        assert_eq!(reason(Rejection::Missing), None);
    }
}
