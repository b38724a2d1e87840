//! JWK set documents from a hostile or broken key server (RFC 7517).

use serde_json::{Value, json};

use crate::forge::{Forge, KeyKind, b64};

/// The expected result for a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Rejected as a whole: the previous keys stay in use.
    Refused,
    /// Accepted, with this many keys.
    Keys(usize),
}

/// A document and its expected result.
#[derive(Clone, Debug)]
pub struct Document {
    /// The fault.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The expected result.
    pub reading: Reading,
}

/// Documents around three good keys.
pub fn documents() -> Vec<Document> {
    let keys = [KeyKind::EdDsa, KeyKind::Es256, KeyKind::Rs256].map(|kind| jwk(&Forge::generate(kind)));
    let mut out = Vec::new();
    whole(&mut out, &keys);
    members(&mut out, &keys);
    weak(&mut out, &keys);
    malformed(&mut out, &keys);
    out
}

fn jwk(forge: &Forge) -> Value {
    forge.jwk().expect("a public key").clone()
}

fn push(out: &mut Vec<Document>, name: impl Into<String>, bytes: impl Into<Vec<u8>>, reading: Reading) {
    out.push(Document { name: name.into(), bytes: bytes.into(), reading });
}

fn set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

fn whole(out: &mut Vec<Document>, keys: &[Value; 3]) {
    push(out, "three keys", set(keys), Reading::Keys(3));
    push(out, "other members beside", json!({"keys": keys, "x": {"a": 1}}).to_string(), Reading::Keys(3));
    for (at, key) in keys.iter().enumerate() {
        push(out, format!("key {at} alone"), set(std::slice::from_ref(key)), Reading::Keys(1));
        let mut without = key.clone();
        for member in ["kid", "use"] {
            if let Value::Object(members) = &mut without {
                members.remove(member);
            }
        }
        push(out, format!("key {at} without kid and use"), set(&[without]), Reading::Keys(1));
    }
    push(out, "no keys", set(&[]), Reading::Refused);
    push(out, "one key twice", set(&[keys[0].clone(), keys[0].clone()]), Reading::Refused);
    let mut thief = keys[1].clone();
    thief["kid"] = keys[0]["kid"].clone();
    push(out, "two keys under one kid", set(&[keys[0].clone(), thief]), Reading::Refused);
    let secret = json!({"kty": "oct", "k": b64([7; 32]), "alg": "HS256", "kid": "h"});
    push(out, "a shared secret among public keys", set(&[keys[0].clone(), secret.clone()]), Reading::Refused);
    push(out, "a shared secret alone", set(&[secret]), Reading::Refused);
    let mut private = keys[0].clone();
    private["d"] = json!(b64([1; 32]));
    push(out, "a private key", set(&[keys[1].clone(), private]), Reading::Refused);
    let many: Vec<Value> =
        (0..65).map(|n| json!({"kty": "OKP", "crv": "Ed25519", "x": keys[0]["x"], "kid": n.to_string()})).collect();
    push(out, "65 keys", set(&many), Reading::Refused);
    push(out, "300 KiB", set(&[json!({"kty": "OKP", "x": "A".repeat(300 * 1024)})]), Reading::Refused);
    push(out, "300 KiB of white space", [set(keys), " ".repeat(300 * 1024)].concat(), Reading::Refused);
}

/// Unsupported keys are skipped: alone they leave no key, beside a good one they have no effect
/// (RFC 7517 §5).
fn members(out: &mut Vec<Document>, keys: &[Value; 3]) {
    let with = |at: usize, member: &str, value: Value| {
        let mut key = keys[at].clone();
        key[member] = value;
        key
    };
    let foreign = [
        ("for encryption", with(0, "use", json!("enc"))),
        ("with an unknown use", with(0, "use", json!("tls"))),
        ("with a use of another type", with(0, "use", json!(1))),
        ("with operations that are not verification", with(0, "key_ops", json!(["encrypt", "wrapKey"]))),
        ("with no operations", with(0, "key_ops", json!([]))),
        ("with operations of another type", with(0, "key_ops", json!("verify"))),
        ("with another key's algorithm", with(0, "alg", json!("ES256"))),
        ("with alg none", with(0, "alg", json!("none"))),
        ("with alg HS256", with(2, "alg", json!("HS256"))),
        ("with alg RS512", with(2, "alg", json!("RS512"))),
        ("with alg PS256", with(2, "alg", json!("PS256"))),
        ("with alg RSA-OAEP", with(2, "alg", json!("RSA-OAEP"))),
        ("with an algorithm of another type", with(1, "alg", json!(["ES256"]))),
        ("with an empty kid", with(0, "kid", json!(""))),
        ("with a kid of 256 characters", with(0, "kid", json!("k".repeat(256)))),
        ("with a kid that holds a line break", with(0, "kid", json!("k\r\nX: y"))),
        ("with a kid of another type", with(0, "kid", json!(7))),
        ("on another curve", with(0, "crv", json!("X25519"))),
        ("on P-384", with(1, "crv", json!("P-384"))),
        ("on secp256k1", with(1, "crv", json!("secp256k1"))),
        ("of another type", with(0, "kty", json!("EC"))),
        ("of no known type", with(0, "kty", json!("AKP"))),
        ("of a type in lower case", with(2, "kty", json!("rsa"))),
        ("without its numbers", json!({"kty": "RSA", "kid": "x"})),
        ("that is a number", json!(5)),
        ("that is null", Value::Null),
        ("that is an array", json!([keys[0]])),
        ("that is empty", json!({})),
    ];
    for (name, key) in foreign {
        push(out, format!("a key {name}, alone"), set(std::slice::from_ref(&key)), Reading::Refused);
        push(
            out,
            format!("a key {name}, beside a good one"),
            set(&[key, keys[1].clone()].map(|mut key| {
                // The good key has its own name, so that no result depends on a duplicate kid.
                if key == keys[1] {
                    key["kid"] = json!("good");
                }
                key
            })),
            Reading::Keys(1),
        );
    }
}

fn weak(out: &mut Vec<Document>, keys: &[Value; 3]) {
    let rsa = |n: &[u8], e: &[u8]| json!({"kty": "RSA", "n": b64(n), "e": b64(e), "kid": "weak"});
    let modulus = |bytes: usize| {
        let mut n = vec![0xc3; bytes];
        n[bytes - 1] |= 1;
        n
    };
    let own = keys[2]["n"].clone();
    let with_exponent = |e: &str| json!({"kty": "RSA", "n": own, "e": e, "kid": "weak"});
    let mut even = modulus(256);
    even[255] &= 0xfe;
    let point = |x: &[u8], y: &[u8]| json!({"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y), "kid": "weak"});
    let ed = |x: &[u8]| json!({"kty": "OKP", "crv": "Ed25519", "x": b64(x), "kid": "weak"});
    let flipped = {
        let mut y = keys[1]["y"].as_str().unwrap_or_default().to_owned().into_bytes();
        y[4] = if y[4] == b'A' { b'B' } else { b'A' };
        json!({"kty": "EC", "crv": "P-256", "x": keys[1]["x"], "y": String::from_utf8(y).unwrap_or_default(), "kid": "weak"})
    };
    let cases = [
        ("RSA of 512 bits", rsa(&modulus(64), &[1, 0, 1])),
        ("RSA of 1,024 bits", rsa(&modulus(128), &[1, 0, 1])),
        ("RSA of 2,040 bits", rsa(&modulus(255), &[1, 0, 1])),
        ("RSA of 16,384 bits", rsa(&modulus(2048), &[1, 0, 1])),
        ("RSA with an even modulus", rsa(&even, &[1, 0, 1])),
        ("RSA with leading zeros to 2,048 bits", rsa(&[vec![0; 128], modulus(128)].concat(), &[1, 0, 1])),
        ("RSA with exponent 1", with_exponent("AQ")),
        ("RSA with exponent 0", with_exponent("AA")),
        ("RSA with exponent 2", with_exponent("Ag")),
        ("RSA with an even exponent", with_exponent("AQAA")),
        ("RSA with no exponent", with_exponent("")),
        ("RSA with an exponent of 64 bits", with_exponent(&b64([0xff; 8]))),
        (
            "RSA with a padded number",
            json!({"kty": "RSA", "n": format!("{}=", own.as_str().unwrap_or_default()), "e": "AQAB"}),
        ),
        ("P-256 at the origin", point(&[0; 32], &[0; 32])),
        ("P-256 beyond the field", point(&[0xff; 32], &[0xff; 32])),
        ("P-256 off the curve", flipped),
        ("P-256 with short numbers", point(&[1; 31], &[1; 31])),
        ("P-256 with long numbers", point(&[1; 33], &[1; 33])),
        ("Ed25519 of 31 bytes", ed(&[1; 31])),
        ("Ed25519 of 33 bytes", ed(&[1; 33])),
        ("Ed25519 of no bytes", ed(&[])),
        ("Ed25519 at the identity, which verifies anything", ed(&[&[1][..], &[0; 31]].concat())),
        ("Ed25519 at a point of order 2", ed(&[&[0xec][..], &[0xff; 30], &[0x7f]].concat())),
        ("Ed25519 at a point of order 4", ed(&[0; 32])),
        ("Ed25519 at a point of order 2, with the other sign", ed(&[&[0xec][..], &[0xff; 31]].concat())),
        ("Ed25519 at the identity, spelt otherwise", ed(&[&[0xee][..], &[0xff; 30], &[0x7f]].concat())),
    ];
    for (name, key) in cases {
        push(out, name, set(&[key]), Reading::Refused);
    }
}

fn malformed(out: &mut Vec<Document>, keys: &[Value; 3]) {
    let good = set(&keys[..1]);
    let body = &good[1..];
    for (name, text) in [
        ("nothing", String::new()),
        ("white space", "  \n".into()),
        ("null", "null".into()),
        ("an array", format!("[{good}]")),
        ("an array of keys", json!(keys).to_string()),
        ("a string", json!(good).to_string()),
        ("an empty object", "{}".into()),
        ("keys null", r#"{"keys":null}"#.into()),
        ("keys an object", json!({"keys": {"0": keys[0]}}).to_string()),
        ("keys a string", r#"{"keys":"x"}"#.into()),
        ("Keys for keys", json!({"Keys": keys}).to_string()),
        ("one key without a set", keys[0].to_string()),
        ("cut short", good[..good.len() - 1].to_owned()),
        ("text behind it", format!("{good}x")),
        ("two sets", format!("{good}{good}")),
        ("a byte order mark", format!("\u{feff}{good}")),
        ("a zero byte behind it", format!("{good}\0")),
        ("HTML", "<!doctype html><title>502</title>".into()),
        ("keys twice, alike", format!("{{\"keys\":{},{body}", json!(&keys[..1]))),
        ("keys twice, first empty", format!("{{\"keys\":[],{body}")),
        ("a key's member twice", good.replacen("\"kid\"", "\"kid\":\"other\",\"kid\"", 1)),
        ("10,000 nested arrays", format!("{{\"keys\":{}", "[".repeat(10_000))),
        ("nested in an unread member", format!("{{\"x\":{}0{},{body}", "[".repeat(1000), "]".repeat(1000))),
        ("a lone surrogate", format!("{{\"x\":\"\\ud800\",{body}")),
    ] {
        push(out, name, text, Reading::Refused);
    }
    push(out, "invalid UTF-8", [b"{\"x\":\"\xff\",", body.as_bytes()].concat(), Reading::Refused);
}
