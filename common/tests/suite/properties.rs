//! Properties for any input: formats round-trip, identifiers have one spelling, nothing panics.

use crate::support::{NOW, policy, ring};
use proptest::prelude::*;
use sidegate_common::foreign::ids::ClaimId;
use sidegate_common::index::Index;
use sidegate_common::jwks;
use sidegate_common::log_protocol::{Message, Position};
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::text::{is_identifier, is_scope, scope_covers};
use sidegate_common::time::{UnixTime, parse_duration};
use sidegate_common::token::{self, Rejection};
use sidegate_hostile::{Forge, KeyKind, Setting};

fn identifier() -> impl Strategy<Value = String> {
    prop_oneof!["[!-~]{1,255}", "[A-Za-z0-9_-]{22}", "[A-Za-z0-9_-]{21}[AQgw]"]
        .prop_filter("a hyphen stands for none", |text| text != "-")
}

fn id() -> impl Strategy<Value = Id> {
    identifier().prop_map(|text| Id::parse(&text).unwrap())
}

fn subject() -> impl Strategy<Value = Option<SubjectTag>> {
    proptest::option::of((0..(1_u64 << SubjectTag::BITS) - 1).prop_map(|tag| SubjectTag::from_value(tag).unwrap()))
}

fn moment() -> impl Strategy<Value = UnixTime> {
    any::<u32>().prop_map(|seconds| UnixTime(seconds.into()))
}

fn revocation() -> impl Strategy<Value = Revocation> {
    let target = prop_oneof![
        (id(), subject()).prop_map(|(jti, subject)| Target::Token { jti, subject }),
        (id(), subject()).prop_map(|(sid, subject)| Target::Session { sid, subject }),
        (identifier(), moment()).prop_map(|(sub, threshold)| Target::Subject { sub: sub.into(), threshold }),
        moment().prop_map(|threshold| Target::All { threshold }),
        identifier().prop_map(|kid| Target::Key { kid: kid.into() }),
        (any::<[u8; 16]>(), moment()).prop_map(|(subject, threshold)| Target::ForeignSubject { subject, threshold }),
        (any::<[u8; 6]>(), any::<[u8; 6]>(), any::<[u8; 16]>(), moment()).prop_map(
            |(issuer, claim, value, threshold)| Target::Claim { claim: ClaimId { issuer, claim, value }, threshold }
        ),
    ];
    (target, moment()).prop_map(|(target, expires_at)| Revocation { target, expires_at })
}

fn position() -> impl Strategy<Value = Position> {
    (any::<u64>(), any::<u64>()).prop_map(|(ms, sequence)| Position { ms, sequence })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn entry_round_trips(revocation in revocation()) {
        prop_assert_eq!(Revocation::from_bytes(&revocation.to_bytes()), Ok(revocation));
    }

    #[test]
    fn entry_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0x10_u8..0x20) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        if let Ok(revocation) = Revocation::from_bytes(&bytes) {
            prop_assert_eq!(revocation.to_bytes(), bytes);
        }
    }

    #[test]
    fn position_round_trips(position in position()) {
        prop_assert_eq!(Position::parse(&position.to_string()), Some(position));
    }

    #[test]
    fn position_has_one_spelling(text in "[0-9+ -]{0,24}") {
        if let Some(position) = Position::parse(&text) {
            prop_assert_eq!(position.to_string(), text);
        }
    }

    #[test]
    fn positions_order_like_the_log(a in position(), b in position()) {
        prop_assert_eq!(a.cmp(&b), (a.ms, a.sequence).cmp(&(b.ms, b.sequence)));
    }

    #[test]
    fn message_round_trips(revocation in revocation(), a in position(), b in position(), epoch in "[A-Za-z0-9_-]{1,64}") {
        prop_assume!(a != b);
        let (previous, position) = (a.min(b), a.max(b));
        let mut bytes = format!("1 {epoch} {previous} {position} ").into_bytes();
        bytes.extend(revocation.to_bytes());
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!((&*message.epoch, message.previous, message.position), (epoch.as_str(), previous, position));
        prop_assert_eq!(message.revocation, Ok(revocation));
    }

    #[test]
    fn identifier_has_one_spelling(a in identifier(), b in identifier()) {
        prop_assert_eq!(Id::parse(&a).unwrap().to_string(), a.clone());
        prop_assert_eq!(Id::parse(&a) == Id::parse(&b), a == b);
    }

    #[test]
    fn valid_identifiers_parse(text in "\\PC{0,40}") {
        prop_assert_eq!(Id::parse(&text).is_some(), is_identifier(&text));
    }

    #[test]
    fn scope_covers_itself_and_its_words(scope in "[!#-\\[\\]-~]{1,8}( [!#-\\[\\]-~]{1,8}){0,4}") {
        prop_assume!(scope != "-");
        prop_assert!(is_scope(&scope));
        prop_assert!(scope_covers(Some(&scope), &scope));
        for word in scope.split(' ') {
            prop_assert!(scope_covers(Some(&scope), word));
            let longer = format!("{word}x");
            prop_assert_eq!(scope_covers(Some(&scope), &longer), scope.split(' ').any(|have| have == longer));
        }
    }

    #[test]
    fn applied_entry_is_held_until_it_expires(revocations in proptest::collection::vec(revocation(), 1..20), now in moment()) {
        let index = Index::new(1);
        for revocation in &revocations {
            index.apply(0, revocation);
        }
        index.expire(now);
        let mut held = Vec::new();
        index.each(|revocation| held.push(revocation));
        for revocation in revocations {
            let due = revocation.expires_at >= now;
            let kept = held.iter().any(|held| same_target(&held.target, &revocation.target) && held.expires_at >= revocation.expires_at);
            let forever = matches!(revocation.target, Target::All { .. });
            prop_assert!(!due || kept || forever, "{revocation:?} of {held:?}");
        }
    }

    #[test]
    fn nothing_panics(text in "\\PC*", bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = (jwks::parse(&bytes).is_ok(), jwks::parse(text.as_bytes()).is_ok());
        let _ = (Message::parse(&bytes).is_ok(), Revocation::from_bytes(&bytes).is_ok(), parse_duration(&text).is_ok());
        let _ = (token::unverified_key(&text), Position::parse(&text), Id::parse(&text));
    }
}

fn same_target(a: &Target, b: &Target) -> bool {
    match (a, b) {
        (Target::Token { jti: a, .. }, Target::Token { jti: b, .. }) => a == b,
        (Target::Session { sid: a, .. }, Target::Session { sid: b, .. }) => a == b,
        (Target::Subject { sub: a, threshold: s }, Target::Subject { sub: b, threshold: t }) => a == b && s >= t,
        (Target::Key { kid: a }, Target::Key { kid: b }) => a == b,
        (Target::ForeignSubject { subject: a, threshold: s }, Target::ForeignSubject { subject: b, threshold: t }) => {
            a == b && s >= t
        }
        (Target::Claim { claim: a, threshold: s }, Target::Claim { claim: b, threshold: t }) => a == b && s >= t,
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    // Three shapes: junk, three parts of junk, and a valid header and signature around junk.
    #[test]
    fn junk_is_never_a_token(text in "\\PC*", header in "\\PC{0,80}", payload in proptest::collection::vec(any::<u8>(), 0..400)) {
        let forge = Forge::generate(KeyKind::Hs256);
        let (keys, policy) = (ring(&forge), policy(&Setting::at(NOW.0)));
        let verify = |token: &str| token::verify(&keys, &policy, NOW, token);
        prop_assert!(verify(&text).is_err());
        prop_assert!(verify(&forge.token(header.as_bytes(), &payload)).is_err());
        let right = serde_json::json!({"alg": "HS256", "typ": "at+jwt", "kid": forge.kid()}).to_string();
        let refused = verify(&forge.token(right.as_bytes(), &payload));
        prop_assert!(matches!(refused, Err(Rejection::Claim(_) | Rejection::NotCompact)), "{:?}", refused);
    }

    #[test]
    fn token_with_a_changed_character_is_rejected(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let forge = Forge::generate(KeyKind::Hs256);
        let (keys, policy) = (ring(&forge), policy(&Setting::at(NOW.0)));
        let header = serde_json::json!({"alg": "HS256", "typ": "at+jwt", "kid": forge.kid()}).to_string();
        let claims = serde_json::json!({
            "iss": "sidegate", "aud": "sidegate", "sub": "42", "client_id": "c", "iat": NOW.0, "exp": NOW.0 + 60, "jti": "j", "sid": "s",
        });
        let token = forge.token(header.as_bytes(), claims.to_string().as_bytes());
        prop_assert!(token::verify(&keys, &policy, NOW, &token).is_ok());
        let at = at.index(token.len());
        let mut changed = token.clone();
        changed.replace_range(at..=at, &to);
        prop_assert_eq!(token::verify(&keys, &policy, NOW, &changed).is_ok(), changed == token);
    }
}
