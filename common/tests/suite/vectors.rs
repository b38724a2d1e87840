//! External vectors: Wycheproof, the JOSE cookbook, JSONTestSuite. Skipped, with a message, where
//! absent.

use crate::support::{NOW, hex, json, policy, ring};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sidegate_common::key::{KeyError, KeyRing, VerifyingKey};
use sidegate_common::secret::Secret;
use sidegate_common::token;
use sidegate_common::{jwks, token::Rejection};
use sidegate_hostile::{Forge, KeyKind, Setting};

/// The keys of a JWK or a JWK set as Sidegate would load them: secrets from settings, public keys
/// from a set.
fn keys(jwk: &Value) -> Vec<VerifyingKey> {
    let members = jwk["keys"].as_array().cloned().unwrap_or_else(|| vec![jwk.clone()]);
    let symmetric = members.iter().filter(|member| member["kty"] == "oct").count();
    if symmetric != 0 {
        // A verifier never has secrets and public keys from one document, nor two secrets with one
        // name.
        let kids: std::collections::HashSet<_> = members.iter().map(|member| member["kid"].as_str()).collect();
        if symmetric != members.len() || kids.len() != members.len() {
            return Vec::new();
        }
        let hs256 = members.iter().filter(|member| member["alg"] == "HS256");
        let secret = |member: &Value| URL_SAFE_NO_PAD.decode(member["k"].as_str().unwrap_or_default()).unwrap();
        return hs256.filter_map(|member| VerifyingKey::hs256(&Secret::new(secret(member))).ok()).collect();
    }
    let document = json!({"keys": members}).to_string();
    jwks::parse(document.as_bytes()).map(|ring| ring.keys().to_vec()).unwrap_or_default()
}

/// Checks the signature layer alone: any payload and type, but parts, alphabet, algorithm and
/// signature as Sidegate requires.
fn is_signed(keys: &[VerifyingKey], jws: &str) -> bool {
    let parts: Vec<&str> = jws.split('.').collect();
    let [header, payload, signature] = parts[..] else { return false };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    let (Some(header), Some(_), Some(signature)) = (decode(header), decode(payload), decode(signature)) else {
        return false;
    };
    let header: Value = serde_json::from_slice(&header).unwrap_or_default();
    let Some(alg) = header["alg"].as_str() else { return false };
    let (signed, _) = jws.rsplit_once('.').unwrap();
    keys.iter().filter(|key| key.algorithm().is_named(alg)).any(|key| key.verifies(signed.as_bytes(), &signature))
}

/// Why Sidegate differs from the label, where it does.
fn explained(file: &str, comment: &str, case: &Value, alg: &str) -> Option<&'static str> {
    let id = case["tcId"].as_u64().unwrap_or_default();
    match (file, id) {
        ("json_web_signature_test", 357..=359 | 372 | 373 | 376 | 377) => {
            Some("its secret is 32 zeros, which no verifier starts with")
        }
        ("json_web_key_test", 13) => Some("its secret counts from 0 to 64, which no verifier starts with"),
        _ if comment == "jws_rsa_roca_key" => Some("the issuer vouches for how its keys were made; no test for ROCA"),
        _ if !["HS256", "RS256", "ES256", "EdDSA"].contains(&alg) => Some("an algorithm that Sidegate does not take"),
        _ => None,
    }
}

#[test]
fn wycheproof_token_verdicts_are_right() {
    for file in ["json_web_signature_test", "json_web_crypto_test", "json_web_key_test", "json_web_encryption_test"] {
        let Some(vectors) = json(&format!("wycheproof/{file}.json")) else { return };
        let (mut total, mut agreed, mut otherwise) = (0, 0, Vec::new());
        for group in vectors["testGroups"].as_array().unwrap() {
            let jwk = if group["public"].is_object() { &group["public"] } else { &group["private"] };
            let comment = group["comment"].as_str().unwrap_or_default();
            let alg = jwk["alg"].as_str().or_else(|| jwk["keys"][0]["alg"].as_str()).unwrap_or_default();
            let keys = keys(jwk);
            let ring = KeyRing::new(keys.clone()).unwrap();
            for case in group["tests"].as_array().unwrap() {
                let jws = if case["jwe"].is_null() { &case["jws"] } else { &case["jwe"] };
                // Some vectors use the JSON serialisation.
                let jws = &jws.as_str().map_or_else(|| jws.to_string(), str::to_owned);
                total += 1;
                let refused = token::verify(&ring, &policy(&Setting::at(NOW.0)), NOW, jws);
                assert!(refused.is_err(), "{file} {}: no access token of ours", case["tcId"]);
                let valid = case["result"] == "valid" && case["jwe"].is_null();
                if is_signed(&keys, jws) == valid {
                    agreed += 1;
                } else {
                    let why = explained(file, comment, case, alg);
                    let why = why.unwrap_or_else(|| panic!("{file} {comment} {}: {case}", case["tcId"]));
                    otherwise.push(format!("{} ({why})", case["tcId"]));
                }
            }
        }
        println!("{file}: {total} cases, {agreed} as labelled, {} explained", otherwise.len());
        otherwise.iter().for_each(|line| println!("  otherwise: {line}"));
        assert_eq!(total, vectors["numberOfTests"].as_u64().unwrap());
    }
}

#[test]
fn wycheproof_signature_verdicts_are_right() {
    for file in [
        "ed25519_test",
        "ecdsa_secp256r1_sha256_p1363_test",
        "rsa_signature_2048_sha256_test",
        "rsa_signature_3072_sha256_test",
        "rsa_signature_4096_sha256_test",
    ] {
        let Some(vectors) = json(&format!("wycheproof/{file}.json")) else { return };
        let (mut total, mut otherwise) = (0, Vec::new());
        for group in vectors["testGroups"].as_array().unwrap() {
            let jwk = public_jwk(group);
            let keys = jwks::parse(json!({"keys": [jwk]}).to_string().as_bytes());
            for case in group["tests"].as_array().unwrap() {
                total += 1;
                let (message, signature) = (hex(case["msg"].as_str().unwrap()), hex(case["sig"].as_str().unwrap()));
                let accepted = keys.as_ref().is_ok_and(|ring| ring.keys()[0].verifies(&message, &signature));
                let flags = case["flags"].to_string();
                match (case["result"].as_str().unwrap(), accepted) {
                    ("valid", true) | ("invalid", false) => {}
                    // RFC 8017 §8.2.2 note: the digest's identifier lacks NULL. Rejected, as RFC
                    // 8725 §3.2 recommends.
                    ("acceptable", false) if flags.contains("MissingNull") => otherwise.push(case["tcId"].clone()),
                    _ => panic!("{file} {}: {case} was {accepted}, key {keys:?}", case["tcId"]),
                }
            }
        }
        println!("{file}: {total} cases, {} acceptable ones refused", otherwise.len());
        assert_eq!(total, vectors["numberOfTests"].as_u64().unwrap());
    }
}

fn public_jwk(group: &Value) -> Value {
    let key = &group["publicKey"];
    let number = |name: &str| {
        let bytes = hex(key[name].as_str().unwrap());
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes[zeros..].to_vec()
    };
    let sized = |name: &str| {
        let bytes = number(name);
        [vec![0; 32 - bytes.len()], bytes].concat()
    };
    let b64 = |bytes: Vec<u8>| URL_SAFE_NO_PAD.encode(bytes);
    match group["type"].as_str().unwrap() {
        "EddsaVerify" => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(hex(key["pk"].as_str().unwrap()))}),
        "EcdsaP1363Verify" => json!({"kty": "EC", "crv": "P-256", "x": b64(sized("wx")), "y": b64(sized("wy"))}),
        "RsassaPkcs1Verify" => json!({"kty": "RSA", "n": b64(number("modulus")), "e": b64(number("publicExponent"))}),
        other => panic!("{other}"),
    }
}

#[test]
fn wycheproof_mac_verdicts_are_right() {
    let Some(vectors) = json("wycheproof/hmac_sha256_test.json") else { return };
    let (mut tried, mut short) = (0, 0);
    for group in vectors["testGroups"].as_array().unwrap() {
        let whole = group["tagSize"] == 256;
        for case in group["tests"].as_array().unwrap() {
            let text = |name: &str| hex(case[name].as_str().unwrap());
            let key = match VerifyingKey::hs256(&Secret::new(text("key"))) {
                Ok(key) => key,
                Err(KeyError::SecretWellKnown) => {
                    assert!(text("key").starts_with(&[0, 1, 2, 3]), "only one that counts is refused: {case}");
                    continue;
                }
                Err(_) => {
                    assert!(text("key").len() < 32, "refused, but long enough: {case}");
                    short += 1;
                    continue;
                }
            };
            tried += 1;
            let accepted = key.verifies(&text("msg"), &text("tag"));
            assert_eq!(accepted, whole && case["result"] == "valid", "a tag is whole or wrong: {case}");
        }
    }
    println!("hmac_sha256_test: {tried} cases as labelled (cut tags refused), {short} with keys too short for us");
    assert!(tried >= 60, "as many as have another key than the one that counts");
}

#[test]
fn jose_cookbook_verdicts_are_right() {
    let Some(folder) = crate::support::vector("jose-cookbook") else { return };
    let mut files: Vec<_> = ["jws", "jwe", "curve25519", "rfc7797", "."]
        .iter()
        .flat_map(|name| std::fs::read_dir(folder.join(name)).unwrap().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter(|path| !path.ends_with("package.json"))
        .collect();
    files.sort();
    let mut signed = Vec::new();
    for path in &files {
        let example: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut key = example["input"]["key"].clone();
        for private in ["d", "p", "q", "dp", "dq", "qi"] {
            key.as_object_mut().map(|key| key.remove(private));
        }
        if key["kty"] == "oct" && key["alg"].is_null() {
            key["alg"] = json!("HS256");
        }
        let keys = if key.is_object() { keys(&key) } else { Vec::new() };
        let ring = KeyRing::new(keys.clone()).unwrap();
        let output = &example["output"];
        let texts = [&output["compact"], &output["json"], &output["json_flat"]];
        for text in texts.iter().map(|text| text.as_str().map_or_else(|| text.to_string(), str::to_owned)) {
            let refused = token::verify(&ring, &policy(&Setting::at(NOW.0)), NOW, &text);
            assert!(refused.is_err(), "{}: no access token of ours", path.display());
            if is_signed(&keys, &text) {
                signed.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
    }
    println!("JOSE cookbook: {} files, signatures right by the compact form in {signed:?}", files.len());
    let expected = ["jws.json", "4_1.rsa_v15_signature.json", "4_4.hmac-sha2_integrity_protection.json"];
    assert_eq!(signed, expected, "RS256, HS256 and EdDSA in the compact form; the rest has other forms or algorithms");
}

#[test]
fn json_test_suite_verdicts_are_right() {
    let Some(folder) = crate::support::vector("jsontestsuite/test_parsing") else { return };
    let forge = Forge::generate(KeyKind::Hs256);
    let (ring, policy) = (ring(&forge), policy(&Setting::at(NOW.0)));
    let header = json!({"alg": "HS256", "typ": "at+jwt", "kid": forge.kid()}).to_string();
    let claims = json!({
        "iss": "sidegate", "aud": "sidegate", "sub": "42", "client_id": "c", "iat": NOW.0, "exp": NOW.0 + 60, "jti": "j", "sid": "s",
    })
    .to_string();
    let verify = |header: &[u8], payload: &[u8]| token::verify(&ring, &policy, NOW, &forge.token(header, payload));
    let (mut yes, mut no, mut either, mut strict) = (0, 0, 0, Vec::new());
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let (name, bytes) = (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap());
        assert!(verify(header.as_bytes(), &bytes).is_err(), "{name} as a payload");
        assert!(verify(&bytes, claims.as_bytes()).is_err(), "{name} as a header");
        assert!(jwks::parse(&bytes).is_err(), "{name} as a JWK set");
        let inside = [&claims.as_bytes()[..claims.len() - 1], b",\"x\":", &bytes, b"}"].concat();
        let taken = verify(header.as_bytes(), &inside);
        match &name[..2] {
            "n_" => {
                no += 1;
                assert!(matches!(taken, Err(Rejection::Claim(_) | Rejection::TooLong)), "{name}: {taken:?}");
            }
            "y_" => {
                yes += 1;
                if taken.is_err() {
                    strict.push(name);
                }
            }
            _ => either += 1,
        }
    }
    println!(
        "JSONTestSuite: {no} refused, {either} either way without a panic, {yes} JSON, of which we refuse {strict:?}"
    );
    assert_eq!((yes, no, either), (95, 188, 35));
    let twice = ["y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"];
    assert_eq!(strict, twice, "duplicate members are JSON, but no claims (RFC 7519 §4)");
}
