//! The header: `crit`, `b64`, `typ`, `kid`, addresses to fetch keys from, malformed JSON (RFC 7515 §4, RFC 8725 §3.10).

use serde_json::{Value, json};

use crate::case::{Corpus, text};

pub(crate) fn add(corpus: &mut Corpus<'_>) {
    crit(corpus);
    typ(corpus);
    kid(corpus);
    fetch(corpus);
    extra(corpus);
    malformed(corpus);
}

fn crit(corpus: &mut Corpus<'_>) {
    corpus.category("crit and b64");
    let values = [
        json!([]),
        json!(["exp"]),
        json!(["b64"]),
        json!(["alg"]),
        json!(["kid"]),
        json!(["typ"]),
        json!(["x"]),
        json!(["b64", "exp"]),
        json!([""]),
        json!([1]),
        json!([null]),
        json!([["b64"]]),
        json!("b64"),
        json!("exp"),
        json!({}),
        json!(1),
        json!(true),
        json!(false),
        Value::Null,
        json!(["crit"]),
        json!(["http://example.org/UNDEFINED"]),
        json!(["exp", "exp"]),
        json!(["\u{0}"]),
    ];
    for value in values {
        let token = corpus.with_member("crit", value.clone());
        corpus.invalid(format!("crit {value}"), token);
    }
    for (name, value) in [("exp", json!(4_000_000_000_u64)), ("x", json!(1)), ("http://example.org/X", json!(true))] {
        let mut header = corpus.header();
        header.insert("crit".into(), json!([name]));
        header.insert(name.into(), value);
        let token = corpus.with_header(text(&header));
        corpus.invalid(format!("crit names {name}, which is there"), token);
    }
    for value in [json!(false), json!(true), json!("false"), json!(0), Value::Null] {
        let mut header = corpus.header();
        header.insert("b64".into(), value.clone());
        let token = corpus.with_header(text(&header));
        corpus.invalid(format!("b64 {value} without crit"), token);
        header.insert("crit".into(), json!(["b64"]));
        let token = corpus.with_header(text(&header));
        corpus.invalid(format!("b64 {value} with crit"), token);
    }
    let mut header = corpus.header();
    header.insert("b64".into(), json!(false));
    header.insert("crit".into(), json!(["b64"]));
    let raw = String::from_utf8(text(&corpus.claims())).expect("UTF-8");
    let signed = format!("{}.{raw}", crate::forge::b64(text(&header)));
    let signature = crate::forge::b64(corpus.forge.sign(signed.as_bytes()));
    corpus.invalid("an unencoded payload (RFC 7797)", format!("{signed}.{signature}"));
    let signed_only = crate::forge::b64(text(&header));
    corpus.invalid("a detached payload (RFC 7797)", format!("{signed_only}..{signature}"));
}

fn typ(corpus: &mut Corpus<'_>) {
    corpus.category("typ");
    let values = [
        json!("JWT"),
        json!("jwt"),
        json!("at+JWT"),
        json!("AT+JWT"),
        json!("at-jwt"),
        json!("at+jwt "),
        json!(" at+jwt"),
        json!("at+jwt;v=1"),
        json!("application/jwt"),
        json!("application/at+jwt "),
        json!("APPLICATION/at+jwt"),
        json!("application/application/at+jwt"),
        json!("text/at+jwt"),
        json!("rt+jwt"),
        json!("refresh"),
        json!("refresh+jwt"),
        json!("id+jwt"),
        json!("JOSE"),
        json!("JOSE+JSON"),
        json!("logout+jwt"),
        json!("dpop+jwt"),
        json!("secevent+jwt"),
        json!("kb+jwt"),
        json!("oauth-authz-req+jwt"),
        json!("token-introspection+jwt"),
        json!(""),
        json!("at+jwt\u{0}"),
        json!("at\u{ff0b}jwt"),
        Value::Null,
        json!(1),
        json!(true),
        json!(["at+jwt"]),
        json!({"typ": "at+jwt"}),
    ];
    for value in values {
        let token = corpus.with_member("typ", value.clone());
        corpus.invalid(format!("typ {value}"), token);
    }
    let mut header = corpus.header();
    header.remove("typ");
    let token = corpus.with_header(text(&header));
    corpus.invalid("no typ", token);
}

fn kid(corpus: &mut Corpus<'_>) {
    corpus.category("kid");
    let right = corpus.forge.kid().to_owned();
    let values = [
        json!(""),
        json!("-"),
        json!("unknown"),
        json!("../../../../dev/null"),
        json!("/dev/null"),
        json!("..%2f..%2fkey"),
        json!("' OR 1=1 --"),
        json!("1' UNION SELECT 'key'--"),
        json!("$(id)"),
        json!("`id`"),
        json!("| id"),
        json!("*"),
        json!("http://127.0.0.1:9/key"),
        json!("file:///etc/passwd"),
        json!("key\u{0}"),
        json!("\r\nX-Injected: 1"),
        json!("\u{202e}dik"),
        json!("k".repeat(256)),
        json!("k".repeat(4000)),
        json!(right.to_uppercase() + "x"),
        json!(format!("{right} ")),
        json!(format!(" {right}")),
        json!(format!("{right}\u{0}")),
        json!(format!("{right}=")),
        json!(&right[..right.len() - 1]),
        json!(format!("{right},{right}")),
        json!("../verify/../"),
        json!("__proto__"),
        Value::Null,
        json!(0),
        json!(1),
        json!(true),
        json!([right]),
        json!({"kid": right}),
        json!([]),
        json!({}),
    ];
    for value in values {
        let short: String = value.to_string().chars().take(60).collect();
        let token = corpus.with_member("kid", value.clone());
        corpus.invalid(format!("kid {short} of {} bytes", value.to_string().len()), token);
    }
}

fn fetch(corpus: &mut Corpus<'_>) {
    corpus.category("key from an address");
    let urls = [
        "http://127.0.0.1:9/jwks.json",
        "https://attacker.example/jwks.json",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "//attacker.example/k",
        "http://[::1]:9/",
        "https://sidegate@attacker.example/",
        "",
        "data:application/json,{}",
    ];
    for url in urls {
        for member in ["jku", "x5u"] {
            let token = corpus.with_member(member, json!(url));
            corpus.invalid(format!("{member} {url:?}"), token);
            let mut header = corpus.header();
            header.insert(member.into(), json!(url));
            header.remove("kid");
            let token = corpus.with_header(text(&header));
            corpus.invalid(format!("{member} {url:?}, no kid"), token);
        }
    }
}

fn extra(corpus: &mut Corpus<'_>) {
    corpus.category("header member");
    let values = [
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
        ("enc", json!("A128GCM")),
        ("jwk", json!({"kty": "oct", "k": "AA"})),
        ("jwk", json!({})),
        ("jwk", Value::Null),
        ("x5c", json!(["MII="])),
        ("x5c", json!([])),
        ("x5t", json!("AA")),
        ("x5t#S256", json!("AA")),
        ("apu", json!("AA")),
        ("p2c", json!(2_147_483_647)),
        ("p2s", json!("AA")),
        ("epk", json!({})),
        ("iv", json!("AA")),
        ("tag", json!("AA")),
        ("iss", json!("sidegate")),
        ("sub", json!("1")),
        ("aud", json!("sidegate")),
        ("nonce", json!("n")),
        ("url", json!("http://127.0.0.1:9/")),
        ("ppt", json!("shaken")),
        ("Alg", json!("none")),
        ("ALG", json!("none")),
        ("alg ", json!("none")),
        ("Kid", json!("x")),
        ("", json!("")),
        ("__proto__", json!({"alg": "none"})),
        ("constructor", json!({})),
        ("svt", json!([])),
        ("trust_chain", json!([])),
    ];
    for (at, (name, value)) in values.into_iter().enumerate() {
        let token = corpus.with_member(name, value);
        corpus.invalid(format!("{name:?} ({at})"), token);
    }
}

fn malformed(corpus: &mut Corpus<'_>) {
    corpus.category("header JSON");
    let plain = String::from_utf8(text(&corpus.header())).expect("UTF-8");
    let (alg, kid) = (corpus.forge.kind().alg(), corpus.forge.kid().to_owned());
    let mut headers: Vec<(String, Vec<u8>)> = vec![
        ("an array of the members' values".into(), format!("[\"{alg}\",\"at+jwt\",\"{kid}\"]").into_bytes()),
        ("an array holding the header".into(), format!("[{plain}]").into_bytes()),
        ("the header as a string".into(), json!(plain).to_string().into_bytes()),
        ("a byte order mark".into(), format!("\u{feff}{plain}").into_bytes()),
        ("UTF-16".into(), plain.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("two headers".into(), format!("{plain}{plain}").into_bytes()),
        ("a comma at the end".into(), plain.replace('}', ",}").into_bytes()),
        ("a comment".into(), plain.replace('}', "/**/}").into_bytes()),
        ("cut short".into(), plain.as_bytes()[..plain.len() - 1].to_vec()),
        ("text behind it".into(), format!("{plain}x").into_bytes()),
        ("a zero byte behind it".into(), format!("{plain}\0").into_bytes()),
        ("single quotes".into(), plain.replace('"', "'").into_bytes()),
        ("names without quotes".into(), plain.replace("\"alg\"", "alg").into_bytes()),
        ("invalid UTF-8 in kid".into(), [&plain.as_bytes()[..plain.len() - 2], b"\xff\"}"].concat()),
        ("a lone surrogate in kid".into(), plain.replace(&kid, &format!("{kid}\\ud800")).into_bytes()),
        ("a raw newline in kid".into(), plain.replace(&kid, &format!("{kid}\n")).into_bytes()),
        ("10,000 nested arrays".into(), ["[".repeat(3000), "]".repeat(2000)].concat().into_bytes()),
    ];
    for word in ["{}", "null", "true", "0", "\"\"", "[]", "[[]]", " ", "\0", "{\"alg\"}", "{alg:none}", "\u{feff}"] {
        headers.push((format!("{word:?}"), word.as_bytes().to_vec()));
    }
    for (name, value) in [("alg", alg), ("typ", "at+jwt"), ("kid", kid.as_str())] {
        let again = plain.replacen('{', &format!("{{\"{name}\":\"{value}\","), 1);
        headers.push((format!("{name} twice, alike"), again.into_bytes()));
        let other = plain.replacen('{', &format!("{{\"{name}\":\"none\","), 1);
        headers.push((format!("{name} twice, first other"), other.into_bytes()));
        let last = plain.replace('}', &format!(",\"{name}\":\"none\"}}"));
        headers.push((format!("{name} twice, last other"), last.into_bytes()));
        let first = name.chars().next().expect("a name") as u32;
        let escaped = plain.replacen('{', &format!("{{\"\\u{first:04x}{}\":\"none\",", &name[1..]), 1);
        headers.push((format!("{name} twice, once escaped"), escaped.into_bytes()));
    }
    for (name, bytes) in headers {
        let token = corpus.with_header(bytes);
        corpus.invalid(name, token);
    }
}
