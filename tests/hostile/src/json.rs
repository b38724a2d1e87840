//! The payload as JSON: malformed, with duplicates, badly encoded, deep (RFC 8259, RFC 7519 §4, RFC
//! 8725 §3.7).

use serde_json::json;

use crate::case::{Corpus, text};

pub(crate) fn add(corpus: &mut Corpus<'_>) {
    let plain = String::from_utf8(text(&corpus.claims())).expect("UTF-8");
    malformed(corpus, &plain);
    encoding(corpus, &plain);
    duplicates(corpus, &plain);
    depth(corpus, &plain);
}

fn behind_brace(plain: &str, what: &str) -> String {
    plain.replacen('{', &format!("{{{what}"), 1)
}

fn malformed(corpus: &mut Corpus<'_>, plain: &str) {
    corpus.category("payload JSON");
    let cut = &plain[..plain.len() - 1];
    let payloads = [
        format!("[{plain}]"),
        json!(plain).to_string(),
        format!("{plain}{plain}"),
        format!("{plain},{plain}"),
        format!("{plain}x"),
        format!("{plain}}}"),
        format!("{plain}\0"),
        format!("{plain}//"),
        format!("{plain}/**/"),
        format!("\u{feff}{plain}"),
        format!("\0{plain}"),
        format!("//\n{plain}"),
        format!(",{plain}"),
        format!("={plain}"),
        cut.to_owned(),
        format!("{cut},}}"),
        format!("{cut},,\"x\":1}}"),
        format!("{cut},\"x\"}}"),
        format!("{cut},\"x\":}}"),
        format!("{cut},:1}}"),
        format!("{cut},\"x\" 1}}"),
        format!("{cut};\"x\":1}}"),
        format!("{cut},x:1}}"),
        format!("{cut},'x':1}}"),
        format!("{cut},1:1}}"),
        format!("{cut},null:1}}"),
        format!("{cut},\"x\":'1'}}"),
        format!("{cut},\"x\":undefined}}"),
        format!("{cut},\"x\":NaN}}"),
        format!("{cut},\"x\":Infinity}}"),
        format!("{cut},\"x\":-Infinity}}"),
        format!("{cut},\"x\":True}}"),
        format!("{cut},\"x\":nul}}"),
        format!("{cut},\"x\":01}}"),
        format!("{cut},\"x\":+1}}"),
        format!("{cut},\"x\":.5}}"),
        format!("{cut},\"x\":5.}}"),
        format!("{cut},\"x\":1e}}"),
        format!("{cut},\"x\":0x10}}"),
        format!("{cut},\"x\":--1}}"),
        format!("{cut},\"x\":1e999}}"),
        format!("{cut},\"x\":1_000}}"),
        format!("{cut},\"x\":[1,]}}"),
        format!("{cut},\"x\":[,1]}}"),
        format!("{cut},\"x\":[1 2]}}"),
        format!("{cut},\"x\":[1}}"),
        format!("{cut},\"x\":{{\"a\":1]}}"),
        format!("{cut},\"x\":\"a}}"),
        format!("{cut},\"x\":\"\\x41\"}}"),
        format!("{cut},\"x\":\"\\u12\"}}"),
        format!("{cut},\"x\":\"\\'\"}}"),
        format!("{cut},\"x\":\"\\\"}}"),
        format!("{cut},\"x\":\"\n\"}}"),
        format!("{cut},\"x\":\"\t\"}}"),
        format!("{cut},\"x\":\"\0\"}}"),
        format!("{cut},\"x\":\"\u{1f}\"}}"),
        format!("{cut}\u{a0},\"x\":1}}"),
        format!("{cut},\u{c}\"x\":1}}"),
        plain.replace('"', "'"),
        plain.replace(':', "="),
        plain.replace(',', ";"),
        plain.replacen("\"sub\"", "sub", 1),
        plain.replacen('{', "", 1),
        plain.replacen('{', "{{", 1),
    ];
    for (at, payload) in payloads.into_iter().enumerate() {
        let token = corpus.with_payload(payload);
        corpus.invalid(format!("not JSON or not one object, {at}"), token);
    }
    for word in
        ["{}", "[]", "null", "true", "0", "\"\"", "\"42\"", " ", "\0", "{", "}", "a", "sub=42", "<a/>", "[[]]", "-"]
    {
        let token = corpus.with_payload(word);
        corpus.invalid(format!("{word:?}"), token);
    }
    let claims = corpus.claims();
    let values = serde_json::Value::Array(claims.values().cloned().collect()).to_string();
    let token = corpus.with_payload(values);
    corpus.invalid("an array of the claims' values", token);
}

fn encoding(corpus: &mut Corpus<'_>, plain: &str) {
    corpus.category("payload encoding");
    let body = &plain.as_bytes()[1..];
    for (name, bytes) in [
        ("a stray continuation byte", &b"\x80"[..]),
        ("0xff", b"\xff"),
        ("an overlong slash", b"\xc0\xaf"),
        ("an overlong zero", b"\xc0\x80"),
        ("a cut sequence", b"\xe2\x82"),
        ("an encoded surrogate", b"\xed\xa0\x80"),
        ("beyond Unicode", b"\xf4\x90\x80\x80"),
        ("Latin-1", b"\xe9"),
    ] {
        let token = corpus.with_payload([b"{\"x\":\"", bytes, b"\",", body].concat());
        corpus.invalid(format!("{name} in an unread value"), token);
        let token = corpus.with_payload([b"{\"", bytes, b"\":1,", body].concat());
        corpus.invalid(format!("{name} in an unread name"), token);
        let token = corpus.with_payload([b"{\"x\":[{\"", bytes, b"\":0}],", body].concat());
        corpus.invalid(format!("{name} deep in an unread value"), token);
        let changed = [
            plain.replacen("\"42\"", "\"", 1).split_once("\"sub\":\"").map_or("", |(head, _)| head).as_bytes(),
            b"\"sub\":\"",
            bytes,
            b"\"}",
        ]
        .concat();
        let token = corpus.with_payload(changed);
        corpus.invalid(format!("{name} in sub"), token);
    }
    for (name, escape) in [
        ("a lone high surrogate", "\\ud800"),
        ("a lone low surrogate", "\\udc00"),
        ("surrogates the wrong way round", "\\udc00\\ud800"),
        ("a high surrogate and a letter", "\\ud800a"),
        ("a high surrogate twice", "\\ud800\\ud800"),
    ] {
        let token = corpus.with_payload(behind_brace(plain, &format!("\"x\":\"{escape}\",")));
        corpus.invalid(format!("{name} in an unread value"), token);
        let token = corpus.with_payload(behind_brace(plain, &format!("\"{escape}\":1,")));
        corpus.invalid(format!("{name} in an unread name"), token);
        let token = corpus.with_payload(plain.replacen("\"42\"", &format!("\"42{escape}\""), 1));
        corpus.invalid(format!("{name} in sub"), token);
    }
    let wide: Vec<u8> = plain.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let token = corpus.with_payload(wide);
    corpus.invalid("UTF-16", token);
}

fn duplicates(corpus: &mut Corpus<'_>, plain: &str) {
    corpus.category("duplicate members");
    let claims = corpus.claims();
    for (name, value) in &claims {
        let token = corpus.with_payload(behind_brace(plain, &format!("\"{name}\":{value},")));
        corpus.invalid(format!("{name} twice, alike"), token);
        let token = corpus.with_payload(behind_brace(plain, &format!("\"{name}\":\"other\",")));
        corpus.invalid(format!("{name} twice, first other"), token);
        let last = format!("{},\"{name}\":null}}", &plain[..plain.len() - 1]);
        let token = corpus.with_payload(last);
        corpus.invalid(format!("{name} twice, last null"), token);
        let first = name.chars().next().expect("a name") as u32;
        let escaped = format!("\"\\u{first:04x}{}\":{value},", &name[1..]);
        let token = corpus.with_payload(behind_brace(plain, &escaped));
        corpus.invalid(format!("{name} twice, once escaped"), token);
    }
    for (name, what) in [
        ("unread, alike", "\"x\":1,\"x\":1,"),
        ("unread, apart", "\"x\":1,\"y\":2,\"x\":3,"),
        ("unread, escaped", "\"x\":1,\"\\u0078\":1,"),
        ("unread, nested", "\"x\":{\"a\":1,\"a\":2},"),
        ("unread, nested and escaped", "\"x\":{\"a\":1,\"\\u0061\":2},"),
        ("unread, in an array", "\"x\":[0,{\"a\":1,\"b\":2,\"a\":3}],"),
        ("unread, deep", "\"x\":[[[{\"y\":{\"a\":[],\"a\":[]}}]]],"),
        ("unread, empty names", "\"\":1,\"\":2,"),
        ("nbf twice", "\"nbf\":1,\"nbf\":1,"),
    ] {
        let token = corpus.with_payload(behind_brace(plain, what));
        corpus.invalid(name, token);
    }
}

fn depth(corpus: &mut Corpus<'_>, plain: &str) {
    corpus.category("depth");
    for levels in [17, 100, 128, 200, 500, 1000, 2000] {
        let array = format!("\"x\":{}{},", "[".repeat(levels), "]".repeat(levels));
        let token = corpus.with_payload(behind_brace(plain, &array));
        corpus.invalid(format!("{levels} nested arrays"), token);
    }
    for levels in [17, 100, 128, 500, 900] {
        let object = format!("\"x\":{}0{},", "{\"\":".repeat(levels), "}".repeat(levels));
        let token = corpus.with_payload(behind_brace(plain, &object));
        corpus.invalid(format!("{levels} nested objects"), token);
    }
    let token = corpus.with_payload("[".repeat(5000));
    corpus.invalid("5,000 open brackets", token);
    let token = corpus.with_payload("{\"a\":".repeat(1000));
    corpus.invalid("1,000 open braces", token);
}
