//! The verifier against the classes of docs/attacks.md, and against jsonwebtoken.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::claims::Audience;
use crate::key::VerifyingKey;
use crate::secret::Secret;

const SECRET: &str = "a-test-secret-of-thirty-two-bytes-or-more";
const NOW: UnixTime = UnixTime(1_700_000_000);

fn policy() -> Policy {
    Policy {
        issuer: "sidegate".into(),
        audiences: vec!["sidegate".into(), "other-app".into()],
        leeway_seconds: 5,
        lifetime_max_seconds: 86_400,
    }
}

fn key() -> SigningKey {
    SigningKey::hs256(&Secret::new(SECRET)).unwrap()
}

fn ring() -> KeyRing {
    KeyRing::new(vec![VerifyingKey::hs256(&Secret::new(SECRET)).unwrap()]).unwrap()
}

fn claims() -> Claims {
    Claims {
        iss: "sidegate".into(),
        aud: Audience::One("sidegate".into()),
        sub: "42".into(),
        client_id: "sidegate".into(),
        iat: NOW.0 - 10,
        exp: NOW.0 + 3600,
        nbf: None,
        jti: "AAECAwQFBgcICQoLDA0ODw".into(),
        sid: "EBESExQVFhcYGRobHB0eHw".into(),
        scope: Some("read write".into()),
    }
}

fn payload() -> Value {
    serde_json::to_value(claims()).unwrap()
}

fn header() -> Value {
    json!({"alg": "HS256", "typ": "at+jwt", "kid": key().kid()})
}

/// Signs any bytes as header and payload with the valid key.
fn forge(header: &[u8], payload: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn check(token: &str) -> Result<VerifiedToken, Rejection> {
    verify(&ring(), &policy(), NOW, token)
}

fn with_claim(name: &str, value: Value) -> Result<VerifiedToken, Rejection> {
    let mut payload = payload();
    payload[name] = value;
    check(&forge(header().to_string().as_bytes(), payload.to_string().as_bytes()))
}

fn with_header(change: impl FnOnce(&mut Value)) -> Result<VerifiedToken, Rejection> {
    let mut header = header();
    change(&mut header);
    check(&forge(header.to_string().as_bytes(), payload().to_string().as_bytes()))
}

#[test]
fn signed_token_verifies_to_the_same_claims() {
    let token = sign(&key(), &claims()).unwrap();
    let verified = check(&token).unwrap();
    assert_eq!(verified.claims(), &claims());
    assert_eq!(verified.kid(), key().kid());
}

#[test]
fn jsonwebtoken_accepts_our_tokens() {
    let token = sign(&key(), &claims()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.set_audience(&["sidegate"]);
    validation.validate_exp = false;
    let oracle =
        jsonwebtoken::decode::<Value>(&token, &jsonwebtoken::DecodingKey::from_secret(SECRET.as_bytes()), &validation);
    let oracle = oracle.unwrap();
    assert_eq!(oracle.claims, payload());
    assert_eq!(oracle.header.typ.as_deref(), Some("at+jwt"));
}

#[test]
fn other_valid_header_spellings_are_accepted() {
    assert!(with_header(|_| ()).is_ok());
    assert!(with_header(|header| header["typ"] = json!("application/at+jwt")).is_ok());
    assert!(
        with_header(|header| drop(header.as_object_mut().unwrap().remove("kid"))).is_ok(),
        "one key of its algorithm"
    );
}

#[test]
fn size_is_checked_first() {
    assert_eq!(check("").unwrap_err(), Rejection::Missing);
    assert_eq!(check(&"a".repeat(TOKEN_BYTES_MAX + 1)).unwrap_err(), Rejection::TooLong);
    assert_eq!(check(&"a".repeat(TOKEN_BYTES_MAX)).unwrap_err(), Rejection::NotCompact);
}

#[test]
fn only_canonical_compact_form_is_accepted() {
    let token = sign(&key(), &claims()).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let twin = alphabet.chars().nth(alphabet.find(last).unwrap() ^ 1).unwrap();
    let trailing_bits = format!("{}{twin}", &token[..token.len() - 1]);
    let hostile = [
        format!("{token}="),
        format!("{token}."),
        format!(".{token}"),
        format!("{token} "),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token},{token}"),
        format!("{token}\0"),
        format!("{signed}."),
        signed.to_string(),
        format!("{signed}..{signature}"),
        token.replace('.', ".."),
        token.replacen('.', "", 1),
        token.replace('e', "%65"),
        trailing_bits,
        format!("{token}é"),
        "....".into(),
        "..".into(),
        ".".into(),
    ];
    for bad in hostile {
        assert!(check(&bad).is_err(), "{bad}");
    }
}

#[test]
fn any_flipped_bit_is_rejected() {
    let token = sign(&key(), &claims()).unwrap();
    for at in 0..token.len() {
        for bit in 0..7 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let Ok(flipped) = String::from_utf8(bytes) else { continue };
            assert!(check(&flipped).is_err(), "bit {bit} of character {at}");
        }
    }
}

#[test]
fn headers_are_allow_listed() {
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("jku", json!("https://evil.example/jwks")),
        ("jwk", json!({"kty": "oct", "k": "AAAA"})),
        ("x5u", json!("https://evil.example")),
        ("x5c", json!(["MII"])),
        ("x5t", json!("a")),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
        ("enc", json!("A128GCM")),
        ("anything", json!(1)),
    ] {
        assert_eq!(with_header(|header| header[name] = value).unwrap_err(), Rejection::Header, "{name}");
    }
}

#[test]
fn alg_must_be_the_keys_algorithm() {
    for alg in ["none", "None", "NONE", "nOnE", "HS384", "HS512", "RS256", "ES256", "EdDSA", "hs256", "", "HS256 "] {
        assert_eq!(with_header(|h| h["alg"] = json!(alg)).unwrap_err(), Rejection::UnknownKey, "{alg:?}");
    }
    for alg in [json!(null), json!(1), json!(["HS256"]), json!({})] {
        assert_eq!(with_header(|h| h["alg"] = alg).unwrap_err(), Rejection::Header);
    }
    let unsigned = forge(header().to_string().as_bytes(), payload().to_string().as_bytes());
    let (signed, _) = unsigned.rsplit_once('.').unwrap();
    assert_eq!(check(&format!("{signed}.")).unwrap_err(), Rejection::NotCompact);
    assert_eq!(check(&format!("{signed}.AA")).unwrap_err(), Rejection::Signature);
}

#[test]
fn typ_and_kid_are_checked() {
    for typ in ["JWT", "jwt", "", "rt+jwt", "at+JWT", "at+jwt ", "application/jwt", "logout+jwt"] {
        assert_eq!(with_header(|h| h["typ"] = json!(typ)).unwrap_err(), Rejection::Type, "{typ:?}");
    }
    let no_type = with_header(|h| drop(h.as_object_mut().unwrap().remove("typ")));
    assert_eq!(no_type.unwrap_err(), Rejection::Header);
    for kid in ["", "other", "../../etc/passwd", "' or 1=1", "-"] {
        assert_eq!(with_header(|h| h["kid"] = json!(kid)).unwrap_err(), Rejection::UnknownKey, "{kid}");
    }
    assert_eq!(with_header(|h| h["kid"] = json!(7)).unwrap_err(), Rejection::Header);
}

#[test]
fn header_must_be_one_json_object_without_duplicates() {
    let kid = key().kid().to_owned();
    let payload = payload().to_string();
    for bad in [
        format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{kid}","kid":"{kid}"}}"#),
        format!(r#"{{"alg":"none","alg":"HS256","typ":"at+jwt","kid":"{kid}"}}"#),
        format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{kid}"}}x"#),
        format!(r#"["HS256","at+jwt","{kid}"]"#),
        "null".into(),
        "{}".into(),
        "\u{feff}{}".into(),
        format!(r#"{{"alg":"HS256","typ":"at+jwt","\u006bid":"{kid}","kid":"x"}}"#),
    ] {
        assert_eq!(check(&forge(bad.as_bytes(), payload.as_bytes())).unwrap_err(), Rejection::Header, "{bad}");
    }
}

#[test]
fn every_required_claim_and_its_type_are_checked() {
    for name in ["iss", "aud", "sub", "client_id", "iat", "exp", "jti", "sid"] {
        let mut without = payload();
        without.as_object_mut().unwrap().remove(name);
        let token = forge(header().to_string().as_bytes(), without.to_string().as_bytes());
        assert_eq!(check(&token).unwrap_err(), Rejection::Claim(name), "without {name}");
        for value in [json!(null), json!(true), json!({}), json!([]), json!([1]), json!("")] {
            assert!(with_claim(name, value.clone()).is_err(), "{name} = {value}");
        }
    }
    for name in ["iss", "sub", "client_id", "jti", "sid", "scope"] {
        assert_eq!(with_claim(name, json!(5)).unwrap_err(), Rejection::Claim(name));
        assert_eq!(with_claim(name, json!(["sidegate"])).unwrap_err(), Rejection::Claim(name));
    }
}

#[test]
fn times_must_be_whole_numbers() {
    for name in ["iat", "exp", "nbf"] {
        for value in ["1.5", "1e3", "-1", "\"1700000000\"", "18446744073709551616", "1700000000.0", "true", "null"] {
            let text = payload().to_string().replacen('{', &format!("{{\"{name}\":{value},"), 1);
            let mut object = payload();
            object.as_object_mut().unwrap().remove(name);
            let text = if object.get(name).is_none() {
                object.to_string().replacen('{', &format!("{{\"{name}\":{value},"), 1)
            } else {
                text
            };
            let token = forge(header().to_string().as_bytes(), text.as_bytes());
            assert_eq!(check(&token).unwrap_err(), Rejection::Claim(name), "{name} = {value}");
        }
    }
}

#[test]
fn lifetime_and_times_are_checked() {
    let at = |iat: u64, exp: u64, now: u64| {
        let token = sign(&key(), &Claims { iat, exp, ..claims() }).unwrap();
        verify(&ring(), &policy(), UnixTime(now), &token).map(|_| ())
    };
    assert_eq!(at(1000, 2000, 2004), Ok(()), "within the leeway");
    assert_eq!(at(1000, 2000, 2005), Err(Rejection::Expired));
    assert_eq!(at(1000, 2000, 995), Ok(()));
    assert_eq!(at(1000, 2000, 994), Err(Rejection::NotYetValid));
    assert_eq!(at(1000, 1000 + 86_400, 1000), Ok(()));
    assert_eq!(at(1000, 1001 + 86_400, 1000), Err(Rejection::Lifetime));
    assert_eq!(at(2000, 1000, 500), Err(Rejection::Lifetime), "expires before it is issued");
    assert_eq!(at(0, u64::MAX, 1000), Err(Rejection::Lifetime));
    let later = Claims { nbf: Some(NOW.0 + 6), ..claims() };
    assert_eq!(check(&sign(&key(), &later).unwrap()).unwrap_err(), Rejection::NotYetValid);
    let soon = Claims { nbf: Some(NOW.0 + 5), ..claims() };
    assert!(check(&sign(&key(), &soon).unwrap()).is_ok());
}

#[test]
fn expired_is_reported_only_for_valid_tokens() {
    let old = Claims { iat: NOW.0 - 90_000, exp: NOW.0 - 3_600, ..claims() };
    let token = sign(&key(), &old).unwrap();
    assert_eq!(check(&token).unwrap_err(), Rejection::Expired);
    assert_eq!(verify_expired_too(&ring(), &policy(), NOW, &token).unwrap().claims(), &old);
}

#[test]
fn issuer_and_audience_are_checked() {
    assert_eq!(with_claim("iss", json!("evil")).unwrap_err(), Rejection::Issuer);
    assert_eq!(with_claim("iss", json!("Sidegate")).unwrap_err(), Rejection::Issuer);
    assert_eq!(with_claim("aud", json!("evil")).unwrap_err(), Rejection::Audience);
    assert_eq!(with_claim("aud", json!(["evil"])).unwrap_err(), Rejection::Audience);
    assert!(with_claim("aud", json!(["evil", "other-app"])).is_ok());
    let many: Vec<_> = (0..33).map(|n| format!("app{n}")).collect();
    assert_eq!(with_claim("aud", json!(many)).unwrap_err(), Rejection::Claim("aud"));
}

#[test]
fn claims_must_be_safe_in_headers() {
    for name in ["sub", "sid", "jti", "client_id"] {
        for bad in ["", "-", "a b", "a\r\nX-Auth-Subject: root", "\u{0}", "é", "a\u{7f}", &"x".repeat(256)] {
            assert_eq!(with_claim(name, json!(bad)).unwrap_err(), Rejection::Claim(name), "{name} = {bad:?}");
        }
    }
    for bad in ["", " ", "a  b", "a\tb", "a\"b", "-", "a\\b", &"x".repeat(1025)] {
        assert_eq!(with_claim("scope", json!(bad)).unwrap_err(), Rejection::Claim("scope"), "{bad:?}");
    }
    let unfit = Claims { sub: "a b".into(), ..claims() };
    assert_eq!(sign(&key(), &unfit).unwrap_err(), SignError::Unfit("sub"));
}

#[test]
fn payload_must_be_a_plain_object() {
    let whole = payload().to_string();
    let mut hostile: Vec<Vec<u8>> =
        ["null", "[]", "1", "\"x\"", "{", "{}", "{\"iss\":\"sidegate\"}", "{'iss':1}", "/**/{}"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec();
    hostile.push(format!("{whole}{whole}").into_bytes());
    hostile.push(format!("{whole},").into_bytes());
    hostile.push(format!("\u{feff}{whole}").into_bytes());
    hostile.push(whole.replacen('{', "{\"jti\":\"other\",", 1).into_bytes());
    hostile.push(whole.replacen('{', "{\"\\u006ati\":\"other\",", 1).into_bytes());
    hostile.push(whole.replacen('{', "{\"x\":1,\"x\":2,", 1).into_bytes());
    hostile.push(whole.replacen('{', "{\"x\":{\"y\":1,\"y\":2},", 1).into_bytes());
    hostile.push(whole.replacen('{', "{\"x\":[{\"y\":1,\"\\u0079\":2}],", 1).into_bytes());
    hostile.push(whole.replacen('{', &format!("{{\"x\":{}{},", "[".repeat(1000), "]".repeat(1000)), 1).into_bytes());
    hostile.push([b"{\"x\":\"\xff\",", &whole.as_bytes()[1..]].concat());
    hostile.push([b"{\"x\":\"\xed\xa0\x80\",", &whole.as_bytes()[1..]].concat());
    let members: String = (0..64).map(|n| format!("\"m{n}\":0,")).collect();
    hostile.push(whole.replacen('{', &format!("{{{members}"), 1).into_bytes());
    for bad in hostile {
        let token = forge(header().to_string().as_bytes(), &bad);
        assert!(matches!(check(&token), Err(Rejection::Claim(_))), "{}", String::from_utf8_lossy(&bad));
    }
    let more = whole.replacen('{', "{\"x\":{\"y\":[1,-2,3.5,true,null,\"z\"]},", 1);
    assert!(check(&forge(header().to_string().as_bytes(), more.as_bytes())).is_ok(), "unknown claims are ignored");
}

#[test]
fn escaped_jti_is_unescaped() {
    let text = payload().to_string().replace("AAECAw", "\\u0041AECAw");
    let verified = check(&forge(header().to_string().as_bytes(), text.as_bytes())).unwrap();
    assert_eq!(verified.claims().jti, claims().jti);
}

#[test]
fn token_of_another_key_is_rejected() {
    let other = SigningKey::hs256(&Secret::new("quite-another-secret-of-32-bytes-and-more")).unwrap();
    assert_eq!(check(&sign(&other, &claims()).unwrap()).unwrap_err(), Rejection::UnknownKey);
    let disguised = with_header(|h| h["kid"] = json!(other.kid()));
    assert_eq!(disguised.unwrap_err(), Rejection::UnknownKey);
}

#[test]
fn unverified_key_reads_kid_and_alg() {
    let token = sign(&key(), &claims()).unwrap();
    let named = UnverifiedKey { algorithm: "HS256".to_owned(), kid: Some(key().kid().to_owned()) };
    assert_eq!(unverified_key(&token), Some(named));
    assert_eq!(unverified_key("a.b.c"), None);
}

#[test]
fn each_rejection_has_its_code() {
    assert_eq!(Rejection::Missing.code(), Code::TokenMissing);
    assert_eq!(Rejection::Expired.code(), Code::TokenExpired);
    assert_eq!(Rejection::Revoked.code(), Code::TokenRevoked);
    assert_eq!(Rejection::Signature.code(), Code::TokenInvalid);
}

#[test]
fn number_of_audiences_is_limited() {
    assert!(with_claim("aud", json!(vec!["sidegate"; 32])).is_ok());
    assert_eq!(with_claim("aud", json!(vec!["sidegate"; 33])), Err(Rejection::Claim("aud")));
}

#[test]
fn token_a_verifier_would_reject_is_not_signed() {
    let many = |count: usize| Claims { aud: Audience::Many(vec!["x".repeat(250); count]), ..claims() };
    assert!(sign(&key(), &many(10)).is_ok());
    assert_eq!(sign(&key(), &many(32)), Err(SignError::TooLong));
}
