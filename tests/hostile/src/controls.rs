//! Good tokens, some in unusual spellings that the standards allow: rejecting these is as wrong as
//! accepting bad ones.

use serde_json::json;

use crate::case::{Corpus, text};
use crate::forge::KeyKind;

pub(crate) fn add(corpus: &mut Corpus<'_>) {
    corpus.category("control");
    let token = corpus.token();
    corpus.good("a good token", token);
    headers(corpus);
    claims(corpus);
    spellings(corpus);
}

fn headers(corpus: &mut Corpus<'_>) {
    let token = corpus.with_member("typ", json!("application/at+jwt"));
    corpus.good("typ with its full media type", token);
    let mut header = corpus.header();
    header.remove("kid");
    let token = corpus.with_header(text(&header));
    corpus.good("no kid, and one key of this algorithm", token);
    let (alg, kid) = (corpus.forge.kind().alg(), corpus.forge.kid().to_owned());
    let spaced = format!("{{ \"kid\" :\"{kid}\",\n\t\"typ\": \"at+jwt\", \"alg\":\r\n\"{alg}\" }}");
    let token = corpus.with_header(spaced);
    corpus.good("white space and another order in the header", token);
    let escaped = format!("{{\"\\u0061lg\":\"{alg}\",\"typ\":\"at\\u002bjwt\",\"kid\":\"{kid}\"}}");
    let token = corpus.with_header(escaped);
    corpus.good("escapes in the header", token);
    if corpus.forge.kind() == KeyKind::EdDsa {
        let token = corpus.with_member("alg", json!("Ed25519"));
        corpus.good("the name of RFC 9864", token);
    }
}

fn claims(corpus: &mut Corpus<'_>) {
    let audience = corpus.setting.audience.clone();
    let now = corpus.setting.now;
    let cases = [
        ("one audience in an array", "aud", json!([audience])),
        ("the right audience among others", "aud", json!(["a", audience, "b"])),
        ("32 audiences", "aud", json!((0..31).map(|n| format!("a{n}")).chain([audience.clone()]).collect::<Vec<_>>())),
        ("nbf in the past", "nbf", json!(now - 30)),
        ("an unknown claim", "https://example.org/x", json!({"a": [1, -2.5e-3, null, {"b": "é"}]})),
        ("jti of 255 characters", "jti", json!("j".repeat(255))),
        ("jti of 1 character", "jti", json!("!")),
        ("jti that is not canonical base64url", "jti", json!("AAECAwQFBgcICQoLDA0ODx")),
        ("sub with punctuation", "sub", json!("a@b.example/~|{}\"\\")),
        ("sub of 255 characters", "sub", json!("s".repeat(255))),
        ("sub of two hyphens", "sub", json!("--")),
        ("one word of scope", "scope", json!("read")),
        ("scope of 1,024 characters", "scope", json!("s".repeat(1024))),
        ("iat two seconds ahead", "iat", json!(now + 2)),
    ];
    for (name, claim, value) in cases {
        let token = corpus.with_claim(claim, value);
        corpus.good(name, token);
    }
    let mut claims = corpus.claims();
    claims.remove("scope");
    let token = corpus.with_payload(text(&claims));
    corpus.good("no scope", token);
    let token =
        corpus.with_claims(&[("iat", json!(now - 100)), ("exp", json!(now - 100 + corpus.setting.lifetime_max))]);
    corpus.good("exactly the longest lifetime", token);
}

fn spellings(corpus: &mut Corpus<'_>) {
    let plain = String::from_utf8(text(&corpus.claims())).expect("UTF-8");
    let token = corpus.with_payload(plain.replacen("\"sub\"", "\"\\u0073ub\"", 1));
    corpus.good("an escaped claim name", token);
    let token = corpus.with_payload(plain.replacen("\"42\"", "\"\\u0034\\u0032\"", 1));
    corpus.good("an escaped claim value", token);
    let token = corpus.with_payload(format!(" \t\r\n{} \n", plain.replace(',', " ,\n ")));
    corpus.good("white space in the payload", token);
    let token = corpus.with_payload(plain.replacen('{', "{\"x\":\"\\ud83d\\ude00\",", 1));
    corpus.good("a surrogate pair in an unread claim", token);
    let deep = format!("{{\"x\":{}{},", "[".repeat(16), "]".repeat(16));
    let token = corpus.with_payload(plain.replacen('{', &deep, 1));
    corpus.good("16 nested arrays in an unread claim", token);
    let members: String = (0..24).map(|n| format!("\"m{n}\":0,")).collect();
    let token = corpus.with_payload(plain.replacen('{', &format!("{{{members}"), 1));
    corpus.good("24 more members", token);
    let token = corpus.with_claim("x", json!(vec![0; 23]));
    corpus.good("23 values in an unread claim", token);
}
