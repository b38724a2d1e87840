//! `none`, algorithm confusion, other algorithms, other keys (CVE-2015-9235, -2016-5431, -2023-48223, -2026-22817).

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use crate::case::{Corpus, text};
use crate::forge::{Forge, KeyKind, b64, mac};

pub(crate) fn add(corpus: &mut Corpus<'_>) {
    none(corpus);
    confusion(corpus);
    other_algorithms(corpus);
    other_keys(corpus);
}

fn none(corpus: &mut Corpus<'_>) {
    corpus.category("alg none");
    for alg in ["none", "None", "NONE", "nOnE", "noNE", "none ", " none", "no\u{0}ne", ""] {
        let token = corpus.with_member("alg", json!(alg));
        let (signed, _) = token.rsplit_once('.').expect("a token");
        let (signed, full) = (signed.to_owned(), token.clone());
        corpus.invalid(format!("{alg:?} without a signature"), format!("{signed}."));
        corpus.invalid(format!("{alg:?} without a signature part"), signed.clone());
        corpus.invalid(format!("{alg:?} with the right signature"), full);
        corpus.invalid(format!("{alg:?} with another signature"), format!("{signed}.AAAA"));
    }
    let mut header = corpus.header();
    header.remove("alg");
    header.remove("kid");
    let token = corpus.with_header(text(&header));
    let (signed, _) = token.rsplit_once('.').expect("a token");
    corpus.invalid("neither alg nor kid nor signature", format!("{signed}."));
}

fn hmac_token(corpus: &Corpus<'_>, alg: &str, kid: Option<&str>, secret: &[u8]) -> String {
    let mut header = corpus.header();
    header.insert("alg".into(), json!(alg));
    match kid {
        Some(kid) => header.insert("kid".into(), json!(kid)),
        None => header.remove("kid"),
    };
    let signed = format!("{}.{}", b64(text(&header)), b64(text(&corpus.claims())));
    let algorithm = match alg {
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let tag = mac(algorithm, secret, signed.as_bytes());
    format!("{signed}.{}", b64(tag))
}

fn confusion(corpus: &mut Corpus<'_>) {
    corpus.category("alg confusion");
    let kid = corpus.forge.kid().to_owned();
    for (what, secret) in corpus.forge.public().to_vec() {
        for alg in ["HS256", "HS384", "HS512"] {
            let token = hmac_token(corpus, alg, Some(&kid), &secret);
            corpus.invalid(format!("{alg} with {what}"), token);
            let token = hmac_token(corpus, alg, None, &secret);
            corpus.invalid(format!("{alg} with {what}, no kid"), token);
        }
        let token = hmac_token(corpus, corpus.forge.kind().alg(), Some(&kid), &secret);
        corpus.invalid(format!("a MAC under the key's own alg with {what}"), token);
    }
    for (what, secret) in [("an empty secret", &b""[..]), ("a zero byte", b"\0"), ("32 zero bytes", &[0; 32])] {
        let token = hmac_token(corpus, "HS256", Some(&kid), secret);
        corpus.invalid(format!("HS256 with {what}"), token);
    }
    if let Some(secret) = corpus.forge.secret().map(<[u8]>::to_vec) {
        for alg in ["HS384", "HS512"] {
            let token = hmac_token(corpus, alg, Some(&kid), &secret);
            corpus.invalid(format!("{alg} with the right secret"), token);
        }
        let variants: [(&str, Vec<u8>); 3] = [
            ("a newline after it", [&secret[..], b"\n"].concat()),
            ("a zero byte after it", [&secret[..], b"\0"].concat()),
            ("its last byte missing", secret[..secret.len() - 1].to_vec()),
        ];
        for (what, secret) in variants {
            let token = hmac_token(corpus, "HS256", Some(&kid), &secret);
            // HMAC pads short keys with zeros (RFC 2104): a key with a zero byte appended is the
            // same key.
            match what {
                "a zero byte after it" => corpus.good(format!("the secret with {what}"), token),
                _ => corpus.invalid(format!("the secret with {what}"), token),
            }
        }
    }
    if let Some(signature) = corpus.forge.sign_pss(b"") {
        assert!(!signature.is_empty());
        for alg in ["RS256", "PS256"] {
            let mut header = corpus.header();
            header.insert("alg".into(), json!(alg));
            let signed = format!("{}.{}", b64(text(&header)), b64(text(&corpus.claims())));
            let signature = corpus.forge.sign_pss(signed.as_bytes()).expect("an RSA key");
            corpus.invalid(format!("an RSA-PSS signature under {alg}"), format!("{signed}.{}", b64(signature)));
        }
    }
}

fn other_algorithms(corpus: &mut Corpus<'_>) {
    corpus.category("alg other");
    let own = corpus.forge.kind();
    let names = [
        "HS256",
        "HS384",
        "HS512",
        "RS256",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES256",
        "ES384",
        "ES512",
        "ES256K",
        "ES521",
        "EdDSA",
        "Ed25519",
        "Ed448",
        "HS1",
        "RSA-OAEP",
        "RSA1_5",
        "A128KW",
        "A256GCMKW",
        "dir",
        "ECDH-ES",
        "PBES2-HS256+A128KW",
        "ML-DSA-44",
        "X",
    ];
    for name in names {
        let own_name = name == own.alg() || (own == KeyKind::EdDsa && name == "Ed25519");
        if !own_name {
            let token = corpus.with_member("alg", json!(name));
            corpus.invalid(format!("{name} with the right signature"), token);
        }
    }
    let alg = own.alg();
    let spellings = [
        alg.to_lowercase(),
        format!("{alg} "),
        format!(" {alg}"),
        format!("{alg}\u{0}"),
        format!("{alg}\n"),
        format!("{alg},none"),
        alg.replace('S', "\u{17f}"),
        alg.chars().rev().collect(),
        format!("\u{feff}{alg}"),
    ];
    for spelt in spellings {
        if spelt != alg {
            let token = corpus.with_member("alg", json!(spelt));
            corpus.invalid(format!("its own name spelt {spelt:?}"), token);
        }
    }
    for value in [Value::Null, json!(true), json!(256), json!([alg]), json!({"alg": alg}), json!([]), json!(0)] {
        let token = corpus.with_member("alg", value.clone());
        corpus.invalid(format!("alg is {value}"), token);
    }
}

fn other_keys(corpus: &mut Corpus<'_>) {
    corpus.category("other key");
    let payload = text(&corpus.claims());
    for kind in KeyKind::ALL {
        let other = match kind {
            KeyKind::Hs256 => Forge::hs256(b"quite-another-secret-of-32-bytes-and-more"),
            _ => Forge::generate(kind),
        };
        let alg = kind.alg();
        let header = |kid: Option<&str>| {
            let mut header = corpus.header();
            header.insert("alg".into(), json!(alg));
            match kid {
                Some(kid) => header.insert("kid".into(), json!(kid)),
                None => header.remove("kid"),
            };
            text(&header)
        };
        let own = other.token(&header(Some(other.kid())), &payload);
        let ours = other.token(&header(Some(corpus.forge.kid())), &payload);
        let without = other.token(&header(None), &payload);
        let usual = other.token(&text(&corpus.header()), &payload);
        corpus.invalid(format!("another {alg} key under its own kid"), own);
        corpus.invalid(format!("another {alg} key under the right kid"), ours);
        corpus.invalid(format!("another {alg} key without kid"), without);
        corpus.invalid(format!("another {alg} key under the right header"), usual);
        if let Some(jwk) = other.jwk() {
            let mut embedded = corpus.header();
            embedded.insert("alg".into(), json!(alg));
            embedded.insert("jwk".into(), jwk.clone());
            let with_kid = other.token(&text(&embedded), &payload);
            embedded.remove("kid");
            let without_kid = other.token(&text(&embedded), &payload);
            corpus.invalid(format!("another {alg} key brought in the header (CVE-2018-0114)"), with_kid);
            corpus.invalid(format!("another {alg} key brought in the header, no kid"), without_kid);
        }
    }
}
