//! Our verifier beside jsonwebtoken at its strictest: every difference has a rule.

use std::collections::BTreeMap;

use crate::support::{policy, ring};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use sidegate_common::time::UnixTime;
use sidegate_common::token;
use sidegate_hostile::{Expected, Forge, KeyKind, Setting, corpus};

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(#[allow(dead_code)] String),
    Many(#[allow(dead_code)] Vec<String>),
}

/// The claims, as strict as serde can express them.
#[allow(dead_code)] // read for their types
#[derive(Deserialize)]
struct Strict {
    iss: String,
    aud: Audience,
    sub: String,
    client_id: String,
    iat: u64,
    exp: u64,
    nbf: Option<u64>,
    jti: String,
    sid: String,
    scope: Option<String>,
}

struct Oracle {
    key: DecodingKey,
    validation: Validation,
}

impl Oracle {
    fn new(forge: &Forge, setting: &Setting) -> Self {
        let (key, algorithm) = match forge.kind() {
            KeyKind::Hs256 => (DecodingKey::from_secret(forge.secret().unwrap()), Algorithm::HS256),
            kind => {
                let jwk: Jwk = serde_json::from_value(forge.jwk().unwrap().clone()).unwrap();
                let algorithm = match kind {
                    KeyKind::EdDsa => Algorithm::EdDSA,
                    KeyKind::Es256 => Algorithm::ES256,
                    _ => Algorithm::RS256,
                };
                (DecodingKey::from_jwk(&jwk).unwrap(), algorithm)
            }
        };
        let mut validation = Validation::new(algorithm);
        validation.leeway = setting.leeway;
        validation.validate_nbf = true;
        validation.set_issuer(&[&setting.issuer]);
        validation.set_audience(&[&setting.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Self { key, validation }
    }

    fn takes(&self, token: &str) -> bool {
        jsonwebtoken::decode::<Strict>(token, &self.key, &self.validation).is_ok()
    }
}

/// Why Sidegate rejects what jsonwebtoken accepts, by category of the corpus.
const STRICTER: &[(&str, &str)] = &[
    ("audience", "at most 32 audiences (R-10)"),
    ("claim type", "null is no scope (R-11: strict types)"),
    ("claim unfit", "what ends up in a header line is 1 to 255 visible ASCII characters (DESIGN §4)"),
    ("crit and b64", "crit and b64 are refused (R-11, RFC 7515 §4.1.11)"),
    ("depth", "unknown claims must be JSON too, 16 levels at most (R-10)"),
    ("duplicate members", "no member stands twice, read or not (R-11)"),
    ("header member", "a header has alg, typ and kid, and nothing else (R-11)"),
    ("key from an address", "no key comes from a token's header (R-10, RFC 8725 §3.10)"),
    ("kid", "the key is the one that kid names (R-14)"),
    ("lifetime", "exp - iat is at most the longest lifetime (R-11)"),
    ("not yet valid", "iat is not in the future (R-11)"),
    ("numbers", "iat and exp bound each other (R-11)"),
    ("payload JSON", "unknown claims must be JSON too (R-9)"),
    ("payload encoding", "unknown claims must be UTF-8 too (R-9)"),
    ("scope", "scope has the grammar of RFC 6749 §3.3 (DESIGN §4)"),
    ("size", "8 KiB, 24 unknown values (R-10)"),
    ("typ", "typ is at+jwt (R-11, RFC 9068 §4)"),
];

/// Why Sidegate accepts what jsonwebtoken rejects.
const WIDER: &[(&str, &str)] = &[("control", "Ed25519 is EdDSA's new name (RFC 9864)")];

#[test]
fn every_difference_has_a_rule() {
    let setting = Setting::at(jsonwebtoken::get_current_timestamp());
    let policy = policy(&setting);
    let (mut stricter, mut wider) = (BTreeMap::<&str, Vec<String>>::new(), BTreeMap::<&str, Vec<String>>::new());
    let mut total = 0;
    for kind in KeyKind::ALL {
        let forge = Forge::generate(kind);
        let (keys, oracle) = (ring(&forge), Oracle::new(&forge, &setting));
        // The oracle uses its own clock.
        for case in corpus(&forge, &setting).into_iter().filter(|case| !case.frozen) {
            total += 1;
            let (ours, theirs) =
                (token::verify(&keys, &policy, UnixTime(setting.now), &case.token).is_ok(), oracle.takes(&case.token));
            assert_eq!(ours, case.expected == Expected::Good, "{} / {}", case.category, case.name);
            match (ours, theirs) {
                (false, true) => stricter.entry(case.category).or_default().push(case.name),
                (true, false) => wider.entry(case.category).or_default().push(case.name),
                _ => {}
            }
        }
    }
    let count = |found: &BTreeMap<&str, Vec<String>>| found.values().map(Vec::len).sum::<usize>();
    println!(
        "{total} tokens; jsonwebtoken takes {} that we refuse, and refuses {} that we take",
        count(&stricter),
        count(&wider)
    );
    explain("refused by", &stricter, STRICTER);
    explain("taken by", &wider, WIDER);
}

/// Each differing category needs a rule, and each rule a difference: an unused rule would hide the
/// next difference.
fn explain(what: &str, found: &BTreeMap<&str, Vec<String>>, rules: &[(&str, &str)]) {
    let rules: BTreeMap<&str, &str> = rules.iter().copied().collect();
    let mut faults = Vec::new();
    for (category, names) in found {
        match rules.get(category) {
            Some(rule) => println!("{:>5} in {category:<20} {what} {rule}", names.len()),
            None => faults.push(format!("no rule for {category}: {names:?}")),
        }
    }
    faults.extend(
        rules.keys().filter(|rule| !found.contains_key(*rule)).map(|rule| format!("nothing differs in {rule}")),
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
