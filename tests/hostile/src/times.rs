//! `exp`, `iat`, `nbf`: passed, ahead, too far apart, not whole seconds (RFC 7519 §4.1.4-6; CVE-2026-25537).

use serde_json::{Value, json};

use crate::case::{Corpus, Expected, text};

pub(crate) fn add(corpus: &mut Corpus<'_>) {
    let (now, leeway, longest) = (corpus.setting.now, corpus.setting.leeway, corpus.setting.lifetime_max);
    expired(corpus, now, leeway);
    ahead(corpus, now, leeway);
    lifetime(corpus, now, longest);
    numbers(corpus, now);
}

fn expired(corpus: &mut Corpus<'_>, now: u64, leeway: u64) {
    corpus.category("expired");
    for (name, exp) in
        [("an hour ago", now - 3600), ("a minute ago", now - 60), ("by the leeway and a second", now - leeway - 1)]
    {
        let token = corpus.with_claims(&[("iat", json!(now - 7200)), ("exp", json!(exp))]);
        corpus.add(name, token, Expected::Expired);
    }
    let token = corpus.with_claims(&[("iat", json!(now - 7200)), ("exp", json!(now - leeway))]);
    corpus.add("by exactly the leeway", token, Expected::Expired);
    corpus.frozen();
    let token = corpus.with_claims(&[("iat", json!(now - 7200)), ("exp", json!(now - leeway + 1))]);
    corpus.good("by a second less than the leeway", token);
    corpus.frozen();
    let token = corpus.with_claims(&[("iat", json!(0)), ("exp", json!(0))]);
    corpus.add("in 1970", token, Expected::Expired);
    let token = corpus.with_claims(&[("iat", json!(now - 7200)), ("exp", json!(now - 7200))]);
    corpus.add("lived no time at all", token, Expected::Expired);
    // Any other fault wins: an attacker must not learn the age of a token that was never good.
    let token = corpus.with_claims(&[("iat", json!(now - 7200)), ("exp", json!(now - 3600)), ("aud", json!("other"))]);
    corpus.invalid("and meant for somebody else", token);
    let old = corpus.with_claims(&[("iat", json!(now - 7200)), ("exp", json!(now - 3600))]);
    let (signed, _) = old.rsplit_once('.').expect("a token");
    corpus.invalid("and not signed", format!("{signed}.AAAA"));
}

fn ahead(corpus: &mut Corpus<'_>, now: u64, leeway: u64) {
    corpus.category("not yet valid");
    for (name, ahead) in [("an hour", 3600), ("a minute", 60), ("ten times the leeway", leeway * 10)] {
        let token = corpus.with_claims(&[("iat", json!(now + ahead)), ("exp", json!(now + ahead + 60))]);
        corpus.invalid(format!("iat {name} ahead"), token);
        corpus.frozen_if(ahead < 3600);
        let token = corpus.with_claim("nbf", json!(now + ahead));
        corpus.invalid(format!("nbf {name} ahead"), token);
        corpus.frozen_if(ahead < 3600);
    }
    for name in ["iat", "nbf"] {
        let token = corpus.with_claim(name, json!(now + leeway + 1));
        corpus.invalid(format!("{name} a second more than the leeway ahead"), token);
        corpus.frozen();
        let token = corpus.with_claim(name, json!(now + leeway));
        corpus.good(format!("{name} exactly the leeway ahead"), token);
        corpus.frozen();
    }
    let token = corpus.with_claim("nbf", json!(u64::MAX));
    corpus.invalid("nbf at the end of time", token);
    let token = corpus.with_claim("nbf", json!(u64::from(u32::MAX)));
    corpus.invalid("nbf in 2106", token);
}

fn lifetime(corpus: &mut Corpus<'_>, now: u64, longest: u64) {
    corpus.category("lifetime");
    for exp in [
        now - 60 + longest + 1,
        now + longest + 3600,
        now + 31_536_000,
        now + 315_360_000,
        u64::from(u32::MAX),
        u64::MAX,
    ] {
        let token = corpus.with_claim("exp", json!(exp));
        corpus.invalid(format!("exp {exp}"), token);
    }
    for exp in [9_007_199_254_740_993_u64, 253_402_300_800, now * 1000, now * 1_000_000] {
        let token = corpus.with_claim("exp", json!(exp));
        corpus.invalid(format!("exp {exp}, which overflows somewhere"), token);
    }
    for iat in [0, 1, now - longest - 3700] {
        let token = corpus.with_claim("iat", json!(iat));
        corpus.invalid(format!("iat {iat}"), token);
    }
    for (name, iat, exp) in [("a second", now - 10, now - 11), ("an hour", now, now - 3600), ("all", now, 0)] {
        let token = corpus.with_claims(&[("iat", json!(iat)), ("exp", json!(exp))]);
        corpus.invalid(format!("exp before iat by {name}"), token);
    }
}

fn numbers(corpus: &mut Corpus<'_>, now: u64) {
    corpus.category("numbers");
    let plain = text(&corpus.claims());
    let plain = String::from_utf8(plain).expect("UTF-8");
    for (name, right) in [("exp", now + 3600), ("iat", now - 60), ("nbf", now - 60)] {
        let spelt = [
            format!("{right}.0"),
            format!("{right}.5"),
            format!("{right}e0"),
            format!("{right}E+0"),
            "1e10".into(),
            "1e400".into(),
            "-1".into(),
            format!("-{right}"),
            "-0".into(),
            "18446744073709551616".into(),
            "18446744073709551615".into(),
            "9223372036854775808".into(),
            "99999999999999999999999999".into(),
            format!("\"{right}\""),
            format!("0{right}"),
            format!("+{right}"),
            format!("0x{right:x}"),
            "NaN".into(),
            "Infinity".into(),
            "\"never\"".into(),
            "\"\"".into(),
            "\"2030-01-01T00:00:00Z\"".into(),
            "[]".into(),
            "{}".into(),
            "null".into(),
            "true".into(),
            format!("[{right}]"),
        ];
        for value in spelt {
            let payload = if name == "nbf" {
                plain.replacen('{', &format!("{{\"nbf\":{value},"), 1)
            } else {
                let own = corpus.claims()[name].clone();
                plain.replacen(&format!("\"{name}\":{own}"), &format!("\"{name}\":{value}"), 1)
            };
            // Zero is a number, and 1970 a time that a token may not have been issued at and still live today.
            let token = corpus.with_payload(payload);
            corpus.invalid(format!("{name} is {value}"), token);
        }
    }
    let claims: Value = json!({"iat": 1e9, "exp": 2e9});
    let token = corpus.with_claims(&[("iat", claims["iat"].clone()), ("exp", claims["exp"].clone())]);
    corpus.invalid("both as fractions", token);
}
