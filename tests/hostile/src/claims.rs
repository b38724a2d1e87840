//! The claims: missing, of another type, empty, unsafe in a header line, of another issuer or
//! audience (RFC 9068 §2.2).

use serde_json::{Value, json};

use crate::case::{Corpus, text};

const REQUIRED: [&str; 8] = ["iss", "aud", "sub", "client_id", "iat", "exp", "jti", "sid"];
const IDENTIFIERS: [&str; 4] = ["sub", "client_id", "jti", "sid"];

pub(crate) fn add(corpus: &mut Corpus<'_>) {
    missing(corpus);
    types(corpus);
    unfit(corpus);
    scope(corpus);
    issuer(corpus);
    audience(corpus);
    substitution(corpus);
}

fn missing(corpus: &mut Corpus<'_>) {
    corpus.category("claim missing");
    for name in REQUIRED {
        let mut claims = corpus.claims();
        let value = claims.remove(name).expect("a required claim");
        let token = corpus.with_payload(text(&claims));
        corpus.invalid(name, token);
        for other in [name.to_uppercase(), format!("{name} "), format!("{name}\u{0}"), format!(" {name}")] {
            let mut claims = claims.clone();
            claims.insert(other.clone(), value.clone());
            let token = corpus.with_payload(text(&claims));
            corpus.invalid(format!("{name}, but {other:?}"), token);
        }
    }
}

fn types(corpus: &mut Corpus<'_>) {
    corpus.category("claim type");
    let right = corpus.claims();
    for name in ["iss", "aud", "sub", "client_id", "iat", "exp", "jti", "sid", "scope", "nbf"] {
        let own = right.get(name).cloned().unwrap_or(json!(1));
        let mut values =
            vec![Value::Null, json!(true), json!(false), json!(1.5), json!({}), json!({"a": own}), json!([])];
        if own.is_string() {
            values.extend([json!(0), json!(42), json!(-1)]);
        } else {
            values.extend([json!(own.to_string()), json!("")]);
        }
        if name == "aud" {
            values.extend([
                json!([1]),
                json!([null]),
                json!([[own]]),
                json!([own, 1]),
                json!([own, null]),
                json!([{"aud": own}]),
            ]);
        } else {
            values.push(json!([own]));
        }
        for value in values {
            let token = corpus.with_claim(name, value.clone());
            corpus.invalid(format!("{name} is {value}"), token);
        }
    }
}

fn unfit(corpus: &mut Corpus<'_>) {
    corpus.category("claim unfit");
    for name in IDENTIFIERS {
        let values = [
            "",
            "-",
            " ",
            "a b",
            " a",
            "a ",
            "\t",
            "a\r\nX-Auth-Scope: admin",
            "a\n",
            "\0",
            "a\0b",
            "\u{7f}",
            "é",
            "\u{a0}",
            "\u{202e}a",
            "\u{200b}",
            "\u{1f600}",
            "\u{ff0d}",
            "a\u{1b}[2J",
        ];
        for value in values {
            let token = corpus.with_claim(name, json!(value));
            corpus.invalid(format!("{name} is {value:?}"), token);
        }
        for length in [256, 257, 1024, 4000] {
            let token = corpus.with_claim(name, json!("x".repeat(length)));
            corpus.invalid(format!("{name} of {length} characters"), token);
        }
        let plain = String::from_utf8(text(&corpus.claims())).expect("UTF-8");
        let value = corpus.claims()[name].clone();
        let escaped = plain.replacen(&format!("\"{name}\":{value}"), &format!("\"{name}\":\"a\\u000d\\u000aX: y\""), 1);
        let token = corpus.with_payload(escaped);
        corpus.invalid(format!("{name} with an escaped line break"), token);
    }
}

fn scope(corpus: &mut Corpus<'_>) {
    corpus.category("scope");
    let values = [
        "",
        " ",
        "-",
        " read",
        "read ",
        "read  write",
        "read\twrite",
        "read\nwrite",
        "re\"ad",
        "re\\ad",
        "é",
        "\0",
        "\u{7f}",
        "read\u{a0}write",
        "read\r\nX-Auth-Subject: admin",
    ];
    for value in values {
        let token = corpus.with_claim("scope", json!(value));
        corpus.invalid(format!("{value:?}"), token);
    }
    let token = corpus.with_claim("scope", json!("s".repeat(1025)));
    corpus.invalid("1,025 characters", token);
}

fn issuer(corpus: &mut Corpus<'_>) {
    corpus.category("issuer");
    let own = corpus.setting.issuer.clone();
    let values = [
        String::new(),
        own.to_uppercase(),
        format!("{own}/"),
        format!("{own} "),
        format!(" {own}"),
        format!("{own}\0"),
        format!("x{own}"),
        format!("{own}x"),
        own[..own.len() - 1].to_owned(),
        "other".into(),
        "*".into(),
        ".*".into(),
        "%".into(),
        format!("{own},other"),
        format!("https://{own}"),
        own.replace('i', "\u{456}"),
        "null".into(),
        "undefined".into(),
    ];
    for value in values {
        let token = corpus.with_claim("iss", json!(value));
        corpus.invalid(format!("{value:?}"), token);
    }
}

fn audience(corpus: &mut Corpus<'_>) {
    corpus.category("audience");
    let own = corpus.setting.audience.clone();
    let values = [
        json!(""),
        json!([""]),
        json!("other"),
        json!(["other"]),
        json!(["a", "b", "c"]),
        json!(own.to_uppercase()),
        json!(format!("{own}/")),
        json!(format!("{own} ")),
        json!(format!(" {own}")),
        json!(format!("{own}\0")),
        json!(format!("x{own}")),
        json!(format!("{own}x")),
        json!(&own[..own.len() - 1]),
        json!("*"),
        json!(["*"]),
        json!(".*"),
        json!(format!("{own},other")),
        json!(format!("{own} other")),
        json!(format!("[\"{own}\"]")),
        json!(own.replace('i', "\u{456}")),
        json!((0..32).map(|n| format!("a{n}")).chain([own.clone()]).collect::<Vec<_>>()),
    ];
    for (at, value) in values.into_iter().enumerate() {
        let short: String = value.to_string().chars().take(40).collect();
        let token = corpus.with_claim("aud", value);
        corpus.invalid(format!("{at}: {short}"), token);
    }
}

/// Other kinds of tokens that the same key may have signed (RFC 8725 §3.12).
fn substitution(corpus: &mut Corpus<'_>) {
    corpus.category("substitution");
    let now = corpus.setting.now;
    let (iss, aud, kid) =
        (corpus.setting.issuer.clone(), corpus.setting.audience.clone(), corpus.forge.kid().to_owned());
    let alg = corpus.forge.kind().alg();
    let times = json!({"iss": iss, "aud": aud, "sub": "42", "iat": now, "exp": now + 600});
    let with = |more: Value| {
        let mut claims = times.clone();
        if let (Value::Object(claims), Value::Object(more)) = (&mut claims, more) {
            claims.extend(more);
        }
        claims
    };
    let kinds = [
        ("an ID token", "JWT", with(json!({"nonce": "n", "auth_time": now, "azp": "sidegate"}))),
        ("a refresh token", "rt+jwt", with(json!({"jti": "r", "token_type": "refresh"}))),
        (
            "a refresh token as simplejwt makes it",
            "JWT",
            with(json!({"jti": "r", "token_type": "refresh", "user_id": 42})),
        ),
        (
            "a logout token",
            "logout+jwt",
            with(json!({"jti": "l", "sid": "s", "events": {"http://schemas.openid.net/event/backchannel-logout": {}}})),
        ),
        ("a client assertion", "JWT", json!({"iss": "c", "sub": "c", "aud": iss, "jti": "a", "exp": now + 60})),
        ("a DPoP proof", "dpop+jwt", json!({"jti": "d", "htm": "GET", "htu": "http://localhost/", "iat": now})),
        ("a security event", "secevent+jwt", json!({"iss": iss, "jti": "e", "iat": now, "events": {}})),
        ("an e-mail link", "JWT", with(json!({"purpose": "reset"}))),
        ("claims of an access token without a session", "at+jwt", with(json!({"jti": "x", "client_id": "c"}))),
        ("claims of an access token without jti", "at+jwt", with(json!({"sid": "x", "client_id": "c"}))),
    ];
    for (name, typ, claims) in kinds {
        let header = json!({"alg": alg, "typ": typ, "kid": kid}).to_string();
        let token = corpus.forge.token(header.as_bytes(), claims.to_string().as_bytes());
        corpus.invalid(name, token);
    }
}
