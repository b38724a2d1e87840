//! The compact serialisation: parts, alphabet, canonical base64url (RFC 7515 §2, §7.1; RFC 8725bis §3.14).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use serde_json::json;

use crate::case::{Corpus, Expected, text};
use crate::forge::b64;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub(crate) fn add(corpus: &mut Corpus<'_>) {
    corpus.category("nothing presented");
    corpus.add("the empty string", "", Expected::Missing);
    parts(corpus);
    around(corpus);
    inside(corpus);
    trailing_bits(corpus);
    other_formats(corpus);
}

fn three(token: &str) -> [String; 3] {
    let parts: Vec<&str> = token.split('.').collect();
    [parts[0].to_owned(), parts[1].to_owned(), parts[2].to_owned()]
}

fn parts(corpus: &mut Corpus<'_>) {
    corpus.category("parts");
    let token = corpus.token();
    let [h, p, s] = three(&token);
    let tokens = [
        h.clone(),
        format!("{h}."),
        format!("{h}.{p}"),
        format!("{h}.{p}."),
        format!("{h}..{s}"),
        format!(".{p}.{s}"),
        format!("..{s}"),
        format!("{h}.."),
        format!(".{p}."),
        "..".into(),
        ".".into(),
        "...".into(),
        "....".into(),
        format!("{token}."),
        format!(".{token}"),
        format!("{token}.{s}"),
        format!("{h}.{p}.{p}.{s}"),
        format!("{h}.{h}.{p}.{s}"),
        format!("{h}.{p}..{s}"),
        format!("{h}..{p}.{s}"),
        format!("{h}.{p}.{s}.{s}.{s}"),
        format!("{p}.{h}.{s}"),
        format!("{s}.{p}.{h}"),
        format!("{h}.{s}.{p}"),
        format!("{h}{p}.{s}"),
        format!("{h}.{p}{s}"),
        format!("{h}.{p}.{s}{s}"),
        format!("{h},{p},{s}"),
        format!("{h}:{p}:{s}"),
        format!("{h}\u{3002}{p}\u{3002}{s}"),
        format!("{h}%2E{p}%2E{s}"),
        format!("{token}{token}"),
        format!("{token},{token}"),
        format!("{token} {token}"),
        format!("{token}.{token}"),
        format!("{token}~"),
        format!("{token}~WyJhIl0~"),
    ];
    for (at, token) in tokens.into_iter().enumerate() {
        let shape: String = token.chars().filter(|c| !c.is_ascii_alphanumeric() && !"-_".contains(*c)).collect();
        corpus.invalid(format!("shape {at} {shape:?}"), token);
    }
}

fn around(corpus: &mut Corpus<'_>) {
    corpus.category("around the token");
    let token = corpus.token();
    for outer in [
        " ", "\t", "\n", "\r\n", "\0", "\u{b}", "\u{a0}", "\u{200b}", "\u{feff}", "\"", "'", "=", ";", ",", "%20", "+",
        "<",
    ] {
        corpus.invalid(format!("{outer:?} before"), format!("{outer}{token}"));
        corpus.invalid(format!("{outer:?} after"), format!("{token}{outer}"));
    }
    for before in ["Bearer ", "bearer:", "JWT ", "Bearer Bearer ", "token=", "Basic "] {
        corpus.invalid(format!("{before:?} before"), format!("{before}{token}"));
    }
    for only in [" ", "\0", "\n", "null", "undefined", "Bearer", "-", "true", "{}", "[]", "\u{1f600}", "%00", "NaN"] {
        corpus.invalid(format!("only {only:?}"), only);
    }
}

fn inside(corpus: &mut Corpus<'_>) {
    corpus.category("alphabet");
    let token = corpus.token();
    let parts = three(&token);
    let names = ["header", "payload", "signature"];
    for (at, name) in names.into_iter().enumerate() {
        let put = |part: String| {
            let mut parts = parts.clone();
            parts[at] = part;
            parts.join(".")
        };
        let part = parts[at].clone();
        let middle = part.len() / 2;
        for stray in ["=", "==", "+", "/", " ", "\n", "\t", "\0", "%", "?", "*", "é", "\u{ff21}", "~", "\\", "%3D"] {
            let (head, tail) = part.split_at(middle);
            corpus.invalid(format!("{stray:?} in the {name}"), put(format!("{head}{stray}{tail}")));
        }
        for end in ["=", "==", "===", "====", "A", "AA", "AAA", "AAAA", "%3D", "\n"] {
            corpus.invalid(format!("{end:?} at the end of the {name}"), put(format!("{part}{end}")));
        }
        corpus.invalid(format!("the {name} padded"), {
            let bytes = decode(&part);
            let padded = URL_SAFE.encode(&bytes);
            put(if padded == part { format!("{padded}=") } else { padded })
        });
        corpus.invalid(format!("the {name} upside down"), put(part.chars().rev().collect()));
        corpus.invalid(
            format!("the {name} in hexadecimal"),
            put(decode(&part).iter().map(|b| format!("{b:02x}")).collect()),
        );
        corpus.invalid(format!("the {name} encoded twice"), put(b64(&part)));
        corpus.invalid(format!("the {name} in another case"), put(part.to_lowercase() + &part[..1].to_uppercase()));
    }
    // A payload whose encoding has both characters in which base64 and base64url differ, signed as
    // it is.
    let mut claims = corpus.claims();
    claims.insert("x".into(), json!("???>>>~~~\u{ff}\u{fe}???>>>"));
    let (header, payload) = (text(&corpus.header()), text(&claims));
    let mut signed_anew = |name: &str, header: String, payload: String| {
        let signed = format!("{header}.{payload}");
        let signature = b64(corpus.forge.sign(signed.as_bytes()));
        corpus.invalid(name, format!("{signed}.{signature}"));
    };
    signed_anew("standard base64, signed so", b64(&header), STANDARD_NO_PAD.encode(&payload) + "+/");
    signed_anew(
        "standard base64 with padding, signed so",
        STANDARD.encode([&header[..], b" "].concat()) + "=",
        b64(&payload),
    );
    signed_anew("a padded payload, signed so", b64(&header), URL_SAFE.encode(&payload) + "=");
    signed_anew("a line break in the payload, signed so", b64(&header), format!("{}\n", b64(&payload)));
    signed_anew("an empty payload, signed so", b64(&header), String::new());
    signed_anew("an empty header, signed so", String::new(), b64(&payload));
}

fn decode(part: &str) -> Vec<u8> {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("canonical")
}

/// The last character of a part may have bits that no byte uses; only zero is canonical (RFC 4648
/// §3.5).
fn trailing_bits(corpus: &mut Corpus<'_>) {
    corpus.category("trailing bits");
    for pad in 0..3 {
        // Spaces inside the JSON vary the length through every remainder.
        let space = " ".repeat(pad);
        let header = [&text(&corpus.header())[..], space.as_bytes()].concat();
        let payload = [&text(&corpus.claims())[..], space.as_bytes()].concat();
        for (name, at) in [("header", 0), ("payload", 1)] {
            let mut parts = [b64(&header), b64(&payload)];
            for (bits, altered) in altered(&parts[at]) {
                parts[at] = altered;
                let signed = parts.join(".");
                let signature = b64(corpus.forge.sign(signed.as_bytes()));
                corpus.invalid(
                    format!("{name} {pad} with stray bits {bits}, signed so"),
                    format!("{signed}.{signature}"),
                );
            }
        }
    }
    let [h, p, s] = three(&corpus.token());
    for (bits, signature) in altered(&s) {
        corpus.invalid(format!("signature with stray bits {bits}"), format!("{h}.{p}.{signature}"));
    }
}

/// The part with each other value of its unused bits.
fn altered(part: &str) -> Vec<(usize, String)> {
    let unused = match part.len() % 4 {
        2 => 16,
        3 => 4,
        _ => 1,
    };
    let (head, last) = part.split_at(part.len() - 1);
    let value = ALPHABET.iter().position(|c| *c == last.as_bytes()[0]).expect("base64url");
    (1..unused).map(|bits| (bits, format!("{head}{}", ALPHABET[value | bits] as char))).collect()
}

fn other_formats(corpus: &mut Corpus<'_>) {
    corpus.category("other formats");
    let [h, p, s] = three(&corpus.token());
    let flattened = json!({"protected": h, "payload": p, "signature": s});
    let general = json!({"payload": p, "signatures": [{"protected": h, "signature": s}]});
    corpus.invalid("JWS flattened JSON", flattened.to_string());
    corpus.invalid("JWS general JSON", general.to_string());
    corpus.invalid("JWS flattened JSON with an unprotected header", {
        json!({"payload": p, "signature": s, "header": {"alg": "none"}}).to_string()
    });
    corpus
        .invalid("a JWE with direct encryption", format!("{}..{p}.{s}.{s}", b64(br#"{"alg":"dir","enc":"A128GCM"}"#)));
    corpus.invalid("a JWE with PBES2 and a great count (CVE-2023-52428)", {
        let header = b64(br#"{"alg":"PBES2-HS256+A128KW","enc":"A128CBC-HS256","p2s":"AA","p2c":2147483647}"#);
        format!("{header}.{s}.{s}.{p}.{s}")
    });
    corpus.invalid("a JWE that inflates (CVE-2024-28176)", {
        format!("{}.{s}.{s}.{p}.{s}", b64(br#"{"alg":"A128KW","enc":"A128GCM","zip":"DEF"}"#))
    });
    corpus.invalid("a nested token", {
        let inner = corpus.token();
        corpus.with_payload(inner)
    });
    corpus.invalid("a nested token with cty", {
        let mut header = corpus.header();
        header.insert("cty".into(), json!("JWT"));
        corpus.forge.token(&text(&header), corpus.token().as_bytes())
    });
    for (name, token) in [
        (
            "a PASETO",
            "v4.public.eyJzdWIiOiI0MiJ9AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ),
        ("a Fernet token", "gAAAAABh0000000000000000000000000000000000000000000000000000000000000000000000000000=="),
        ("a macaroon", "MDAxY2xvY2F0aW9uIHNpZGVnYXRlCjAwMTZpZGVudGlmaWVyIDQyCg"),
        ("a UUID", "0c7f0a86-4e5d-4a0e-9d0e-3f1c9a6c2b11"),
        ("a signed cookie", "eyJzdWIiOiI0MiJ9.ZQ.AAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        ("Basic credentials", "YWxpY2U6cGFzc3dvcmQ="),
        ("a SAML assertion", "PHNhbWw6QXNzZXJ0aW9uPjwvc2FtbDpBc3NlcnRpb24+"),
        ("path traversal", "../../../../etc/passwd"),
        ("an SQL injection", "' OR '1'='1"),
        ("a format string", "%s%s%s%n"),
        ("a template", "${jndi:ldap://127.0.0.1:9/a}"),
        ("a header injection", "a.b.c\r\nX-Auth-Subject: admin"),
    ] {
        corpus.invalid(name, token);
    }
}
