//! The rules of `ISSUERS_FILE`, and the access tokens of identity providers as their documentation
//! shows them, each accepted by its preset and refused when one thing is off.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sidegate_hostile::{Forge, KeyKind};

use super::file::{FileError, FileLimits, IssuerEntry, parse};
use super::ids::ClaimId;
use super::issuer::ForeignIssuer;
use super::set::ForeignIssuers;
use crate::clock::CheckTime;
use crate::jwks;
use crate::revocation::{Id, Revocation, Target};
use crate::revocation_state::{OnStale, RevocationState, Staleness, Unavailable};
use crate::sync::Sink as _;
use crate::time::{ClockReading, UnixTime};
use crate::token::{Policy, Rejection};
use crate::token_checker::{GoodToken, TokenChecker, TokenError};

const AT: CheckTime = CheckTime { now: UnixTime(1_700_000_000), monotonic_ms: 50_000 };
const LIMITS: FileLimits<'_> = FileLimits { home: Some("sidegate"), lifetime_max: 100_800, now: AT.now };

fn entries(text: &str) -> Vec<IssuerEntry> {
    parse(text, LIMITS).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A checker of tokens of these issuers, all with `forge`'s key; the list is proven complete.
fn checker(text: &str, forge: &Forge, has_home: bool) -> TokenChecker {
    let policy = Policy {
        issuer: "sidegate".into(),
        audiences: vec!["sidegate".into()],
        leeway_seconds: 5,
        lifetime_max_seconds: LIMITS.lifetime_max,
    };
    let staleness = Staleness { max_ms: 30_000, policy: OnStale::Deny };
    let now = ClockReading { wall_ms: AT.now.0 * 1000, monotonic_ms: 1 };
    let state = Arc::new(RevocationState::new(staleness, now, None));
    state.begin(3);
    (0..3).for_each(|partition| {
        state.fresh(partition, ClockReading { wall_ms: 0, monotonic_ms: AT.monotonic_ms }, 0);
    });
    let checker = TokenChecker::new(policy, Arc::clone(&state));
    let limits = FileLimits { home: has_home.then_some("sidegate"), ..LIMITS };
    let issuers: Vec<_> =
        parse(text, limits).unwrap().into_iter().map(|one| Arc::new(ForeignIssuer::new(one))).collect();
    for issuer in &issuers {
        let set = json!({ "keys": [forge.jwk().unwrap()] }).to_string();
        checker.set_keys_of(issuer, jwks::parse_for(set.as_bytes(), &issuer.entry().algorithms).unwrap());
    }
    state.set_foreign(Arc::new(ForeignIssuers::new(issuers, has_home)));
    checker
}

fn token(forge: &Forge, header: &Value, payload: &Value) -> String {
    forge.token(header.to_string().as_bytes(), payload.to_string().as_bytes())
}

fn rejected(checked: Result<GoodToken, TokenError>) -> Rejection {
    match checked {
        Err(TokenError::Rejected(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// A provider's token as documented.
struct Shape {
    entry: &'static str,
    typ: Option<&'static str>,
    payload: Value,
    /// `sub`, `sid`, `jti`, `client_id` and `scope` as applications see them.
    shown: [&'static str; 5],
    /// A member whose absence takes the mark of an access token away.
    mark: &'static str,
}

fn shapes() -> Vec<Shape> {
    let (iat, exp) = (AT.now.0 - 10, AT.now.0 + 3_590);
    vec![
        Shape {
            entry: "name = \"auth0\"\niss = \"https://t.auth0.com/\"\npreset = \"auth0\"\naudiences = [\"https://api\"]",
            typ: Some("JWT"),
            payload: json!({ "iss": "https://t.auth0.com/", "sub": "auth0|123456", "aud": ["https://api",
                "https://t.auth0.com/userinfo"], "azp": "my_client_id", "exp": exp, "iat": iat,
                "scope": "openid profile read:admin" }),
            shown: ["auth0:auth0|123456", "-", "-", "my_client_id", "openid profile read:admin"],
            mark: "scope",
        },
        Shape {
            entry: "name = \"cognito\"\niss = \"https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_X\"\npreset = \"cognito\"\naudiences = [\"xmpl\"]",
            typ: None,
            payload: json!({ "sub": "aaaaaaaa-bbbb", "device_key": "x", "cognito:groups": ["testgroup"],
                "iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_X", "version": 2, "client_id": "xmpl",
                "origin_jti": "o-1", "event_id": "e", "token_use": "access", "scope": "phone openid",
                "auth_time": iat, "exp": exp, "iat": iat, "jti": "j-1", "username": "u" }),
            shown: ["cognito:aaaaaaaa-bbbb", "o-1", "j-1", "xmpl", "phone openid"],
            mark: "token_use",
        },
        Shape {
            entry: "name = \"entra1\"\niss = \"https://sts.windows.net/t/\"\npreset = \"entra\"\naudiences = [\"api://orders\"]",
            typ: Some("JWT"),
            payload: json!({ "aud": "api://orders", "iss": "https://sts.windows.net/t/", "iat": iat, "nbf": iat,
                "exp": exp, "acr": "1", "aio": "x", "amr": ["pwd"], "appid": "app-1", "appidacr": "0",
                "ipaddr": "192.0.2.1", "name": "Ada", "oid": "00000000-1", "scp": "access_as_user", "sub": "pairwise",
                "tid": "t", "unique_name": "a@b", "uti": "u-1", "ver": "1.0" }),
            shown: ["entra1:00000000-1", "-", "u-1", "app-1", "access_as_user"],
            mark: "scp",
        },
        Shape {
            entry: "name = \"entra2\"\niss = \"https://login.microsoftonline.com/t/v2.0\"\npreset = \"entra\"\naudiences = [\"6e74172b\"]",
            typ: Some("JWT"),
            payload: json!({ "aud": "6e74172b", "iss": "https://login.microsoftonline.com/t/v2.0", "iat": iat,
                "nbf": iat, "exp": iat + 100_000, "azp": "app-2", "azpacr": "0", "name": "Ada", "oid": "00000000-2",
                "roles": ["Reader"], "sid": "s-2", "sub": "pairwise", "tid": "t", "uti": "u-2", "ver": "2.0" }),
            shown: ["entra2:00000000-2", "s-2", "u-2", "app-2", ""],
            mark: "roles",
        },
        Shape {
            entry: "name = \"supabase\"\niss = \"https://p.supabase.co/auth/v1\"\npreset = \"supabase\"\naudiences = [\"authenticated\"]",
            typ: Some("JWT"),
            payload: json!({ "aal": "aal1", "amr": [{ "method": "password", "timestamp": iat }],
                "app_metadata": { "provider": "email", "providers": ["email"] }, "aud": "authenticated",
                "email": "a@b", "exp": exp, "iat": iat, "iss": "https://p.supabase.co/auth/v1", "phone": "",
                "role": "authenticated", "session_id": "1ffa", "sub": "38aaff", "user_metadata": {},
                "is_anonymous": false }),
            shown: ["supabase:38aaff", "1ffa", "-", "-", ""],
            mark: "role",
        },
        Shape {
            entry: "name = \"okta\"\niss = \"https://o.okta.com/oauth2/default\"\npreset = \"okta\"\naudiences = [\"api://default\"]",
            typ: None,
            payload: json!({ "ver": 1, "jti": "AT.0m", "iss": "https://o.okta.com/oauth2/default",
                "aud": "api://default", "iat": iat, "exp": exp, "cid": "nmdP1f", "uid": "00uid4",
                "scp": ["openid", "read"], "sub": "ada@example.com" }),
            shown: ["okta:ada@example.com", "-", "AT.0m", "nmdP1f", "openid read"],
            mark: "cid",
        },
        Shape {
            entry: "name = \"corp\"\niss = \"https://kc/realms/corp\"\npreset = \"keycloak\"\naudiences = [\"orders\"]",
            typ: Some("JWT"),
            payload: json!({ "exp": exp, "iat": iat, "jti": "onrtro:1", "iss": "https://kc/realms/corp",
                "aud": ["orders", "account"], "sub": "f:1:ada", "typ": "Bearer", "azp": "shop", "sid": "s-7",
                "acr": "1", "allowed-origins": ["https://shop"], "realm_access": { "roles": ["user"] },
                "resource_access": { "account": { "roles": ["view-profile"] } }, "scope": "openid email" }),
            shown: ["corp:f:1:ada", "s-7", "onrtro:1", "shop", "openid email"],
            mark: "typ",
        },
        Shape {
            entry: "name = \"hydra\"\niss = \"https://hydra/\"\npreset = \"hydra\"\naudiences = [\"api\"]",
            typ: Some("JWT"),
            payload: json!({ "aud": ["api"], "client_id": "c1", "exp": exp, "ext": {}, "iat": iat,
                "iss": "https://hydra/", "jti": "j-9", "nbf": iat, "scp": ["read"], "sub": "ada" }),
            shown: ["hydra:ada", "-", "j-9", "c1", "read"],
            mark: "",
        },
        Shape {
            entry: "name = \"op\"\niss = \"https://op\"\naudiences = [\"api\"]",
            typ: Some("at+jwt"),
            payload: json!({ "iss": "https://op", "aud": "api", "sub": "ada", "client_id": "c2", "iat": iat,
                "exp": exp, "jti": "j-2", "scope": "read" }),
            shown: ["op:ada", "-", "j-2", "c2", "read"],
            mark: "",
        },
    ]
}

impl Shape {
    fn text(&self) -> String {
        format!("[[issuer]]\n{}\njwks_url = \"https://keys\"\n", self.entry)
    }

    fn header(&self, forge: &Forge) -> Value {
        let mut header = json!({ "alg": "RS256", "kid": forge.kid(), "x5t": "ignored" });
        if let Some(typ) = self.typ {
            header["typ"] = typ.into();
        }
        header
    }
}

#[test]
fn documented_tokens_are_accepted_by_their_preset() {
    let forge = Forge::generate(KeyKind::Rs256);
    for shape in shapes() {
        let checker = checker(&shape.text(), &forge, true);
        let good = checker.check(&token(&forge, &shape.header(&forge), &shape.payload), AT);
        let good = good.unwrap_or_else(|error| panic!("{}: {error}", shape.entry));
        let claims = good.claims();
        let scope = claims.scope.as_deref().unwrap_or_default();
        assert_eq!([claims.sub.as_str(), &claims.sid, &claims.jti, &claims.client_id, scope], shape.shown);
        assert_eq!(good.issuer_name(), shape.shown[0].split(':').next().unwrap());
    }
}

#[test]
fn tokens_with_one_thing_off_are_refused() {
    let forge = Forge::generate(KeyKind::Rs256);
    for shape in shapes() {
        let checker = checker(&shape.text(), &forge, true);
        let refused = |header: &Value, payload: &Value| rejected(checker.check(&token(&forge, header, payload), AT));
        let header = shape.header(&forge);
        let changed = |name: &str, value: Value| {
            let mut payload = shape.payload.clone();
            payload[name] = value;
            refused(&header, &payload)
        };
        for (name, value) in [("nonce", json!("n")), ("at_hash", json!("h")), ("events", json!({}))] {
            assert_eq!(changed(name, value), Rejection::OtherKind, "{} {name}", shape.entry);
        }
        assert_eq!(changed("cnf", json!({ "jkt": "x" })), Rejection::Bound, "{}", shape.entry);
        assert_eq!(changed("iss", json!("https://elsewhere")), Rejection::Issuer);
        assert_eq!(changed("iat", json!(1.5)), Rejection::Claim("iat"));
        assert_eq!(changed("iat", json!(AT.now.0 + 60)), Rejection::NotYetValid);
        assert_eq!(changed("exp", json!(AT.now.0 + 200_000)), Rejection::Lifetime);
        assert_eq!(changed("exp", json!(AT.now.0 - 5)), Rejection::Expired);
        assert_eq!(changed("nbf", json!("now")), Rejection::Claim("nbf"));
        let audience = if shape.entry.contains("cognito") { "client_id" } else { "aud" };
        assert_eq!(changed(audience, json!("other")), Rejection::Audience, "{}", shape.entry);
        assert_eq!(changed(audience, json!(7)), Rejection::Claim("aud"));
        let subject = if shape.entry.contains("entra") { "oid" } else { "sub" };
        for bad in [json!(7), json!(""), json!("a b"), json!("é"), json!("a\0b"), Value::Null] {
            assert_eq!(changed(subject, bad.clone()), Rejection::Claim("subject"), "{} {bad}", shape.entry);
        }
        if !shape.mark.is_empty() {
            let mut payload = shape.payload.clone();
            payload.as_object_mut().unwrap().remove(shape.mark);
            assert_eq!(refused(&header, &payload), Rejection::Type, "{} without {}", shape.entry, shape.mark);
        }
        for typ in ["logout+jwt", "secevent+jwt", "dpop+jwt", "x"] {
            let mut header = header.clone();
            header["typ"] = typ.into();
            assert_eq!(refused(&header, &shape.payload), Rejection::Type, "{} {typ}", shape.entry);
        }
        for (name, value) in
            [("crit", json!(["exp"])), ("b64", json!(false)), ("kid", json!(1)), ("alg", json!(["RS256"]))]
        {
            let mut header = header.clone();
            header[name] = value;
            assert_eq!(refused(&header, &shape.payload), Rejection::Header, "{} {name}", shape.entry);
        }
        for (name, value) in [("alg", "none"), ("alg", "HS256"), ("alg", "PS256"), ("kid", "other")] {
            let mut header = header.clone();
            header[name] = value.into();
            assert_eq!(refused(&header, &shape.payload), Rejection::UnknownKey, "{} {name} {value}", shape.entry);
        }
        let other = Forge::generate(KeyKind::Rs256);
        assert_eq!(rejected(checker.check(&token(&other, &header, &shape.payload), AT)), Rejection::Signature);
        let twice = shape.payload.to_string().replacen('{', "{\"sub\":\"ada\",\"sub\":\"eve\",", 1);
        let twice = forge.token(header.to_string().as_bytes(), twice.as_bytes());
        assert_eq!(rejected(checker.check(&twice, AT)), Rejection::Claim("payload"));
    }
}

#[test]
fn every_kind_of_revocation_reaches_its_tokens_and_no_others() {
    let forge = Forge::generate(KeyKind::Rs256);
    let text = |name: &str| {
        format!(
            "[[issuer]]\nname = \"{name}\"\niss = \"https://{name}\"\naudiences = [\"api\"]\njwks_url = \"https://keys\"\n\
             [issuer.claims]\nrevocable = [\"azp\", [\"tenant\", \"id\"]]\n"
        )
    };
    let both = format!("{}{}", text("a"), text("b"));
    let payload = |name: &str| {
        json!({ "iss": format!("https://{name}"), "aud": "api", "sub": "ada", "client_id": "c", "iat": AT.now.0 - 10,
            "exp": AT.now.0 + 100, "jti": "j", "sid": "s", "azp": "app", "tenant": { "id": "t" } })
    };
    let header = json!({ "alg": "RS256", "typ": "at+jwt", "kid": forge.kid() });
    let [a, b] = ["a", "b"].map(|name| token(&forge, &header, &payload(name)));
    let ids = |checker: &TokenChecker| checker.check(&a, AT).unwrap().token().other_issuer().unwrap().ids().clone();
    let ids = ids(&checker(&both, &forge, true));
    assert_eq!(ids.claims.len(), 4, "issuer, key and both claims");
    let up_to = |seconds| AT.now.plus(seconds);
    let mut targets = vec![
        Target::ForeignSubject { subject: ids.subject, threshold: up_to(0) },
        Target::Session { sid: Id::Packed(ids.session.unwrap()), subject: None },
        Target::Token { jti: Id::Packed(ids.token.unwrap()), subject: None },
    ];
    targets.extend(ids.claims.iter().map(|claim| Target::Claim { claim: *claim, threshold: up_to(0) }));
    for target in targets {
        let revocation = Revocation { target, expires_at: up_to(9_999) };
        let checker = checker(&both, &forge, true);
        let held = checker.check(&a, AT).unwrap();
        let push = (crate::log_protocol::Position { ms: 1, sequence: 1 }, revocation.clone());
        assert!(checker.state().push(0, &push), "an early push counts at once");
        assert_eq!(rejected(checker.check(&a, AT)), Rejection::Revoked, "{revocation:?}");
        checker.state().drop_pushes(0, std::slice::from_ref(&push));
        assert!(checker.check(&a, AT).is_ok());
        assert!(checker.state().apply(0, &revocation));
        assert_eq!(rejected(checker.check(&a, AT)), Rejection::Revoked, "{revocation:?}");
        assert_eq!(rejected(checker.recheck(held.token(), AT)), Rejection::Revoked, "cached");
        assert!(checker.check(&b, AT).is_ok(), "another issuer's same names: {revocation:?}");
        if revocation.target.threshold().is_some() {
            let fresh = self::checker(&both, &forge, true);
            let target = revocation.target.with_threshold(AT.now.minus(11));
            fresh.state().apply(0, &Revocation { target, ..revocation });
            assert!(fresh.check(&a, AT).is_ok(), "issued after the threshold");
        }
    }
    for target in [Target::All { threshold: up_to(0) }, Target::Key { kid: forge.kid().into() }] {
        let checker = checker(&both, &forge, true);
        checker.state().apply(0, &Revocation { target, expires_at: up_to(9_999) });
        assert!(checker.check(&a, AT).is_ok(), "entries of the home issuer");
    }
    let old = checker(&both, &forge, true);
    (0..3).for_each(|partition| old.state().since(partition, AT.now));
    assert_eq!(rejected(old.check(&a, AT)), Rejection::OlderThanLog);
    // 2023-11-14T22:13:20Z is AT.
    let enrolled = both.replacen("[issuer.claims]", "enrolled_at = 2023-11-14T23:13:20+01:00\n[issuer.claims]", 1);
    let living = self::checker(&enrolled, &forge, true);
    (0..3).for_each(|partition| living.state().since(partition, AT.now));
    assert!(living.check(&a, AT).is_ok(), "the log began when its issuer was enrolled");
    assert_eq!(rejected(living.check(&b, AT)), Rejection::OlderThanLog, "which the other was not");
    let subject = Target::ForeignSubject { subject: ids.subject, threshold: up_to(0) };
    let revocation = Revocation { target: subject, expires_at: up_to(9_999) };
    let partition = crate::revocation::SubjectTag::of_foreign(&ids.subject).partition(3);
    living.state().apply(partition, &revocation);
    assert_eq!(rejected(living.check(&a, AT)), Rejection::Revoked);
    let lost = self::checker(&enrolled, &forge, true);
    (0..3).for_each(|partition| lost.state().since(partition, up_to(1)));
    assert_eq!(rejected(lost.check(&a, AT)), Rejection::OlderThanLog, "a log made later may lack its revocation");
}

#[test]
fn entry_of_an_unlisted_claim_stops_every_token() {
    let forge = Forge::generate(KeyKind::Rs256);
    let shape = shapes().pop().unwrap();
    let checker = checker(&shape.text(), &forge, true);
    let good = token(&forge, &shape.header(&forge), &shape.payload);
    let entry = |iss: &str| Revocation {
        target: Target::Claim { claim: ClaimId::of(iss, "claim.tenant", "t"), threshold: AT.now },
        expires_at: AT.now.plus(60),
    };
    checker.state().apply(0, &entry("https://not-ours"));
    assert!(checker.check(&good, AT).is_ok(), "whose tokens are not accepted here");
    checker.state().apply(0, &entry("https://op"));
    let held = checker.check(&good, AT);
    assert!(matches!(held, Err(TokenError::Unavailable(Unavailable::UnlistedClaim))), "{held:?}");
    assert_eq!(checker.ensure_ready(AT), Err(Unavailable::UnlistedClaim));
    checker.state().index().expire(AT.now.plus(61));
    checker.state().look_for_unlisted_claims();
    assert!(checker.check(&good, AT).is_ok());
}

#[test]
fn subjects_without_prefix_never_look_like_anothers() {
    let forge = Forge::generate(KeyKind::Rs256);
    let shape = shapes().pop().unwrap();
    let text = shape.text().replace("audiences", "subject_prefix = false\naudiences");
    let checker = checker(&text, &forge, false);
    let check = |subject: &str| {
        let mut payload = shape.payload.clone();
        payload["sub"] = subject.into();
        checker.check(&token(&forge, &shape.header(&forge), &payload), AT)
    };
    assert_eq!(check("ada").unwrap().claims().sub, "ada");
    assert_eq!(check("f:1").unwrap().claims().sub, "f:1");
    assert_eq!(rejected(check("op:ada")), Rejection::Claim("subject"));
}

#[test]
fn rsa_key_without_alg_serves_the_only_rsa_algorithm() {
    let forge = Forge::generate(KeyKind::Rs256);
    let shape = shapes().pop().unwrap();
    let with = |algorithms: &str| shape.text().replace("audiences", &format!("algorithms = [{algorithms}]\naudiences"));
    let header = json!({ "alg": "PS256", "typ": "at+jwt", "kid": forge.kid() }).to_string();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(shape.payload.to_string()));
    let pss = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(forge.sign_pss(signed.as_bytes()).unwrap()));
    let plain = token(&forge, &shape.header(&forge), &shape.payload);
    let both = checker(&with("\"PS256\""), &forge, true);
    assert!(both.check(&pss, AT).is_ok());
    assert_eq!(rejected(both.check(&plain, AT)), Rejection::UnknownKey);
    let set = json!({ "keys": [forge.jwk().unwrap()] }).to_string();
    let entry = &entries(&with("\"RS256\", \"PS256\""))[0];
    assert_eq!(jwks::parse_for(set.as_bytes(), &entry.algorithms).unwrap_err(), jwks::JwksError::Empty);
    let mut jwk = forge.jwk().unwrap().clone();
    jwk["alg"] = "PS256".into();
    let set = json!({ "keys": [jwk] }).to_string();
    assert_eq!(jwks::parse_for(set.as_bytes(), &entry.algorithms).unwrap().keys()[0].algorithm().name(), "PS256");
}

#[test]
fn every_mistake_names_issuer_and_key() {
    let good = "name = \"corp\"\niss = \"https://a\"\naudiences = [\"x\"]\n";
    assert_eq!(entries(&format!("[[issuer]]\n{good}")).len(), 1);
    for (text, key) in [
        ("iss = 1", "iss"),
        ("iss = \"\"", "iss"),
        ("iss = \"sidegate\"\njwks_file = \"/f\"", "iss"),
        ("iss = \"urn:x\"", "jwks_url"),
        ("iss = \"http://a\"", "jwks_url"),
        ("preset = \"other\"", "preset"),
        ("audiences = []", "audiences"),
        ("audiences = \"x\"", "audiences"),
        ("jwks_url = \"http://a/keys\"", "jwks_url"),
        ("jwks_url = \"https://a/k\"\njwks_file = \"/f\"", "jwks_file"),
        ("secret_file = \"/f\"\njwks_file = \"/f\"", "secret_file"),
        ("algorithms = [\"HS256\"]", "algorithms"),
        ("algorithms = [\"none\"]", "algorithms"),
        ("algorithms = [\"RS256\", \"RS256\"]", "algorithms"),
        ("secret_file = \"/f\"\nalgorithms = [\"RS256\"]", "algorithms"),
        ("max_lifetime = \"29h\"", "max_lifetime"),
        ("max_lifetime = \"soon\"", "max_lifetime"),
        ("clock_slack = \"59s\"", "clock_slack"),
        ("clock_slack = \"6m\"", "clock_slack"),
        ("enrolled_at = \"2023-11-14T22:13:20Z\"", "enrolled_at"),
        ("enrolled_at = 2023-11-14", "enrolled_at"),
        ("enrolled_at = 2023-11-14T22:13:20", "enrolled_at"),
        ("enrolled_at = 1969-12-31T23:59:59Z", "enrolled_at"),
        ("enrolled_at = 2023-11-14T22:13:21Z", "enrolled_at"),
        ("subject_prefix = false", "subject_prefix"),
        ("subject_prefix = 1", "subject_prefix"),
        ("introspection_url = \"https://a\"", "introspection_url"),
        ("claims = 1", "claims"),
        ("claims = { subject = 1 }", "claims.subject"),
        ("claims = { subject = [] }", "claims.subject"),
        ("claims = { revocable = [\"a\", \"b\", \"c\", \"d\", \"e\"] }", "claims.revocable"),
        ("claims = { other = \"x\" }", "claims.other"),
    ] {
        let replaced: Vec<_> = text.lines().filter_map(|line| line.split(" =").next()).collect();
        let kept = good.lines().filter(|line| !replaced.contains(&line.split(" =").next().unwrap()));
        let file = format!("[[issuer]]\n{}\n{text}\n", kept.collect::<Vec<_>>().join("\n"));
        match parse(&file, LIMITS) {
            Err(FileError::Key { issuer, key: named, .. }) => {
                assert_eq!((issuer.as_str(), named.as_str()), ("corp", key), "{text}")
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    for name in ["home", "Corp", "", "1a", "a_b", &"a".repeat(33)] {
        let file = format!("[[issuer]]\n{}", good.replace("corp", name));
        assert!(matches!(parse(&file, LIMITS), Err(FileError::Name(1, _))), "{name}");
    }
    let twice = |second: &str| parse(&format!("[[issuer]]\n{good}[[issuer]]\n{second}"), LIMITS);
    assert!(matches!(twice(&good.replace("https://a", "https://b")), Err(FileError::Name(2, _))));
    assert!(matches!(twice(&good.replace("corp", "b")), Err(FileError::Key { key, .. }) if key == "iss"));
    for file in ["", "issuer = 1", "[issuer]", "x = 1\n[[issuer]]", "[[issuer]", "[[issuers]]"] {
        assert!(parse(file, LIMITS).is_err(), "{file}");
    }
}
