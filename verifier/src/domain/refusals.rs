//! Rejected tokens by reason, and detection of a minute in which all tokens fail for the same
//! reason: then issuer and verifier differ in a setting.

use std::sync::{Mutex, PoisonError};

use sidegate_common::time::UnixTime;
use sidegate_common::token::{Policy, Rejection, unverified_claims, unverified_key};

/// The window in which all tokens must fail for the same reason, in milliseconds.
const WINDOW_MS: u64 = 60_000;
/// Fewer rejected tokens say nothing about the settings.
const TOKENS_MIN: u64 = 3;
/// The most characters of a token's claim in a log line.
const SHOWN_MAX: usize = 200;

/// The reasons for rejection, as metrics name them.
pub const REASONS: [&str; 11] = [
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
    "older_than_log",
];

/// The reason among [`REASONS`]; `None` if there was no token.
pub const fn reason(rejection: Rejection) -> Option<&'static str> {
    Some(match rejection {
        Rejection::Missing => return None,
        Rejection::TooLong
        | Rejection::NotCompact
        | Rejection::Header
        | Rejection::Type
        | Rejection::OtherKind
        | Rejection::Bound => "malformed",
        Rejection::UnknownKey => "unknown_key",
        Rejection::Signature => "signature",
        Rejection::Claim(_) => "claim",
        Rejection::Issuer => "issuer",
        Rejection::Audience => "audience",
        Rejection::NotYetValid => "not_yet_valid",
        Rejection::Lifetime => "lifetime",
        Rejection::Expired => "expired",
        Rejection::Revoked => "revoked",
        Rejection::OlderThanLog => "older_than_log",
    })
}

/// A setting in which issuer and verifier seem to differ, with both values; for a secret its `kid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The verifier's setting, or another thing to check.
    pub setting: &'static str,
    /// The verifier's value.
    pub ours: String,
    /// The token's value.
    pub theirs: String,
}

/// What a rejected token says about the settings; `None` if the reason is in the token alone.
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

/// Escapes and shortens untrusted text for a log line.
fn shown(text: &str) -> String {
    text.escape_debug().take(SHOWN_MAX).collect()
}

/// The result for the last minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalTrend {
    /// This many tokens were rejected for the same reason, and none was good.
    AllAlike(&'static str, Difference, u64),
    /// Tokens are good again.
    Over,
}

/// The rejections of the current minute.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    window: Option<Window>,
    /// The last reported difference, and the number of good tokens by then.
    reported: Option<(Difference, u64)>,
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
    /// Records a rejected token. `good` is the number of good tokens so far.
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

    /// Evaluates the last minute, once it is over; reports each difference once.
    pub fn evaluate(&self, now_ms: u64, good: u64) -> Option<RefusalTrend> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.reported.as_ref().is_some_and(|(_, before)| good > *before) {
            state.reported = None;
            return Some(RefusalTrend::Over);
        }
        let window = state.window.take_if(|window| now_ms.saturating_sub(window.began_ms) >= WINDOW_MS)?;
        let difference = window.difference.filter(|_| window.alike && window.tokens >= TOKENS_MIN)?;
        if good > window.good_before || state.reported.as_ref().is_some_and(|(reported, _)| *reported == difference) {
            return None;
        }
        state.reported = Some((difference.clone(), good));
        Some(RefusalTrend::AllAlike(window.reason, difference, window.tokens))
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
    fn minute_of_equal_refusals_is_reported_once() {
        let refusals = Refusals::default();
        for at in 0..3 {
            refused(&refusals, "issuer", at * 1000, 7);
        }
        assert_eq!(refusals.evaluate(59_000, 7), None, "not over yet");
        let found = refusals.evaluate(60_000, 7);
        assert!(
            matches!(&found, Some(RefusalTrend::AllAlike("issuer", reported, 3)) if reported.theirs == "b"),
            "{found:?}"
        );
        for at in 0..3 {
            refused(&refusals, "issuer", 70_000 + at, 7);
        }
        assert_eq!(refusals.evaluate(131_000, 7), None, "reported already");
        assert_eq!(refusals.evaluate(132_000, 8), Some(RefusalTrend::Over));
        assert_eq!(refusals.evaluate(133_000, 9), None);
    }

    #[test]
    fn mixed_or_few_refusals_are_not_reported() {
        for (reasons, good_after) in [
            (&["issuer", "issuer", "issuer"][..], 1),
            (&["issuer", "issuer", "signature"], 0),
            (&["issuer", "issuer"], 0),
        ] {
            let refusals = Refusals::default();
            reasons.iter().for_each(|reason| refused(&refusals, reason, 0, 0));
            assert_eq!(refusals.evaluate(60_000, good_after), None, "{reasons:?}");
        }
    }

    #[test]
    fn difference_names_both_values_but_no_secret() {
        let policy = testing::policy();
        let kids = [testing::key().kid().to_owned()];
        let sign = |claims: &_| token::sign(&testing::key(), claims).unwrap();
        let good = testing::claims("one");
        let differs = |rejection, token: &str| difference(rejection, token, &policy, &kids, AT.now);
        let reported = |setting, ours: &str, theirs: &str| {
            Some(Difference { setting, ours: ours.to_owned(), theirs: theirs.to_owned() })
        };
        let mut claims = good.clone();
        claims.iss = "https://elsewhere".into();
        assert_eq!(differs(Rejection::Issuer, &sign(&claims)), reported("JWT_ISSUER", "sidegate", "https://elsewhere"));
        let mut claims = good.clone();
        claims.aud = Audience::One("other".into());
        assert_eq!(differs(Rejection::Audience, &sign(&claims)), reported("JWT_AUDIENCE", "sidegate", "other"));
        let mut claims = good.clone();
        claims.exp = claims.iat + 90_000;
        assert_eq!(differs(Rejection::Lifetime, &sign(&claims)), reported("MAX_TOKEN_LIFETIME", "86400s", "90000s"));
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
            Rejection::OlderThanLog,
        ];
        assert_eq!(all.map(|rejection| reason(rejection).unwrap()), REASONS);
        assert_eq!(reason(Rejection::Missing), None);
    }
}
