//! Wrong signatures: cut, extended, flipped, of another form, taken from another token
//! (CVE-2022-21449, -2020-28042).

use serde_json::json;

use crate::case::{Corpus, text};
use crate::forge::{KeyKind, b64};

/// The order of P-256's base point (SEC 2 §2.4.2).
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
/// The order of Ed25519's base point, little endian (RFC 8032 §5.1).
const ED25519_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

pub(crate) fn add(corpus: &mut Corpus<'_>) {
    let signed = format!("{}.{}", b64(text(&corpus.header())), b64(text(&corpus.claims())));
    let signature = corpus.forge.sign(signed.as_bytes());
    length(corpus, &signed, &signature);
    flips(corpus, &signed, &signature);
    borrowed(corpus, &signed, &signature);
    match corpus.forge.kind() {
        KeyKind::Es256 => ecdsa(corpus, &signed, &signature),
        KeyKind::EdDsa => ed25519(corpus, &signed, &signature),
        KeyKind::Rs256 => rsa(corpus, &signed, &signature),
        KeyKind::Hs256 => {}
    }
}

fn put(signed: &str, signature: impl AsRef<[u8]>) -> String {
    format!("{signed}.{}", b64(signature))
}

fn length(corpus: &mut Corpus<'_>, signed: &str, signature: &[u8]) {
    corpus.category("signature length");
    for kept in [1, 4, 8, 10, 16, signature.len() / 2, signature.len() - 2, signature.len() - 1] {
        if kept < signature.len() {
            let cut = put(signed, &signature[..kept]);
            if kept != signature.len() / 2 || signature.len() > 32 {
                corpus.invalid(format!("the first {kept} bytes"), cut);
            }
        }
    }
    for (name, other) in [
        ("a zero byte before", [&[0][..], signature].concat()),
        ("a zero byte after", [signature, &[0]].concat()),
        ("itself twice", [signature, signature].concat()),
        ("1,000 bytes after", [signature, &[7; 1000]].concat()),
        ("one byte", vec![0]),
        ("zeros", vec![0; signature.len()]),
        ("ones", vec![0xff; signature.len()]),
        ("its ASCII", b64(signature).into_bytes()),
        ("its bytes reversed", signature.iter().rev().copied().collect()),
    ] {
        corpus.invalid(name, put(signed, other));
    }
}

fn flips(corpus: &mut Corpus<'_>, signed: &str, signature: &[u8]) {
    corpus.category("flipped bits");
    let bits = signature.len() * 8;
    for n in 0..32 {
        let bit = (n * bits / 32 + n % 8) % bits;
        let mut flipped = signature.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        corpus.invalid(format!("signature bit {bit}"), put(signed, flipped));
    }
    // In the signing input: every character stays base64url, so only the signature check can fail.
    for n in 0..32 {
        let at = n * signed.len() / 32;
        let mut bytes = signed.as_bytes().to_vec();
        bytes[at] = match bytes[at] {
            b'.' => continue,
            b'A' => b'B',
            b'a'..=b'z' => bytes[at].to_ascii_uppercase(),
            _ => b'A',
        };
        let changed = String::from_utf8(bytes).expect("ASCII");
        corpus.invalid(format!("signed character {at}"), put(&changed, signature));
    }
}

fn borrowed(corpus: &mut Corpus<'_>, signed: &str, signature: &[u8]) {
    corpus.category("borrowed signature");
    let forge = corpus.forge;
    let (header, payload) = signed.split_once('.').expect("two parts");
    for (claim, value) in [
        ("sub", json!("admin")),
        ("scope", json!("admin")),
        ("exp", json!(corpus.setting.now + 80_000)),
        ("jti", json!("x")),
    ] {
        let mut claims = corpus.claims();
        claims.insert(claim.into(), value);
        corpus.invalid(
            format!("{claim} changed afterwards"),
            put(&format!("{header}.{}", b64(text(&claims))), signature),
        );
    }
    let mut claims = corpus.claims();
    claims.insert("sub".into(), json!("43"));
    let other = format!("{header}.{}", b64(text(&claims)));
    corpus.invalid("another token's", put(signed, forge.sign(other.as_bytes())));
    corpus.invalid("over the payload alone", put(signed, forge.sign(payload.as_bytes())));
    corpus.invalid("over the header alone", put(signed, forge.sign(header.as_bytes())));
    corpus.invalid("over the decoded parts", {
        let decoded = [text(&corpus.header()), b".".to_vec(), text(&corpus.claims())].concat();
        put(signed, forge.sign(&decoded))
    });
    corpus.invalid("over the token with a dot after it", put(signed, forge.sign(format!("{signed}.").as_bytes())));
    corpus.invalid("over nothing", put(signed, forge.sign(b"")));
    corpus.invalid("over the parts swapped", put(signed, forge.sign(format!("{payload}.{header}").as_bytes())));
    corpus.invalid("over its SHA-256", {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, signed.as_bytes());
        put(signed, forge.sign(digest.as_ref()))
    });
}

/// `order - number`, big endian.
fn minus(order: &[u8; 32], number: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 32];
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i32::from(order[at]) - i32::from(number[at]) - borrow;
        borrow = i32::from(difference < 0);
        out[at] = difference.rem_euclid(256) as u8;
    }
    out
}

fn der_integer(number: &[u8]) -> Vec<u8> {
    let mut body: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
    if body.first().is_none_or(|byte| byte & 0x80 != 0) {
        body.insert(0, 0);
    }
    [vec![2, body.len() as u8], body].concat()
}

fn ecdsa(corpus: &mut Corpus<'_>, signed: &str, signature: &[u8]) {
    corpus.category("ECDSA");
    let (r, s) = signature.split_at(32);
    let der = [der_integer(r), der_integer(s)].concat();
    corpus.invalid("DER instead of two numbers", put(signed, [vec![0x30, der.len() as u8], der].concat()));
    corpus.invalid("the numbers swapped", put(signed, [s, r].concat()));
    let zero = [0; 32];
    let mut one = [0; 32];
    one[31] = 1;
    for (name, r, s) in [
        ("0, 0 (CVE-2022-21449)", &zero, &zero),
        ("0, 1", &zero, &one),
        ("1, 0", &one, &zero),
        ("1, 1", &one, &one),
        ("n, n", &P256_ORDER, &P256_ORDER),
        ("n, 0", &P256_ORDER, &zero),
        ("0, n", &zero, &P256_ORDER),
        ("1, n", &one, &P256_ORDER),
        ("n, 1", &P256_ORDER, &one),
    ] {
        corpus.invalid(format!("r, s = {name}"), put(signed, [&r[..], &s[..]].concat()));
    }
    corpus.invalid("r as n - r", put(signed, [&minus(&P256_ORDER, r)[..], s].concat()));
    // ECDSA is malleable: this is as valid as the original. It is the same token, since the jti
    // identifies a token.
    corpus.good("s as n - s, which is another spelling", put(signed, [r, &minus(&P256_ORDER, s)[..]].concat()));
    corpus.invalid("the first number alone", put(signed, r));
    corpus.invalid("numbers of 48 bytes", put(signed, [&[0; 16][..], r, &[0; 16], s].concat()));
}

fn ed25519(corpus: &mut Corpus<'_>, signed: &str, signature: &[u8]) {
    corpus.category("Ed25519");
    let (r, s) = signature.split_at(32);
    let mut carry = 0;
    let plus: Vec<u8> = s
        .iter()
        .zip(ED25519_ORDER)
        .map(|(a, b)| {
            let sum = u16::from(*a) + u16::from(b) + carry;
            carry = sum >> 8;
            sum as u8
        })
        .collect();
    corpus.invalid("s plus the group's order (RFC 8032 §5.1.7)", put(signed, [r, &plus].concat()));
    let mut identity = [0; 32];
    identity[0] = 1;
    for (name, r, s) in [
        ("R the identity, s 0", &identity[..], &[0; 32][..]),
        ("R 0, s 0", &[0; 32], &[0; 32]),
        ("R right, s 0", r, &[0; 32]),
        ("R right, s the order", r, &ED25519_ORDER),
        ("R the identity, s right", &identity, s),
        ("s before R", s, r),
    ] {
        corpus.invalid(name, put(signed, [r, s].concat()));
    }
}

fn rsa(corpus: &mut Corpus<'_>, signed: &str, signature: &[u8]) {
    corpus.category("RSA");
    let mut one = vec![0; signature.len()];
    *one.last_mut().expect("a signature") = 1;
    corpus.invalid("the number 1", put(signed, &one));
    corpus.invalid("the number 1 alone", put(signed, [1]));
    corpus.invalid("a leading zero dropped or added", put(signed, [&[0, 0][..], signature].concat()));
    corpus.invalid("the padding itself", {
        let mut block = vec![0xff; signature.len()];
        (block[0], block[1]) = (0, 1);
        put(signed, block)
    });
    corpus.invalid("a signature of 4,096 bits", put(signed, [signature, signature].concat()));
    corpus.invalid("a signature of 8,193 bits", put(signed, vec![1; 1025]));
}
