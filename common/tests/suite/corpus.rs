//! The attack corpus against the verifier, for each kind of key: no wrong verdict.

use std::collections::BTreeMap;

use crate::support::{NOW, policy, ring};
use sidegate_common::jwks;
use sidegate_common::key::KeyRing;
use sidegate_common::problem::Code;
use sidegate_common::token::{self, Policy};
use sidegate_hostile::{Expected, Forge, KeyKind, Setting, corpus};

fn class(keys: &KeyRing, policy: &Policy, token: &str) -> Expected {
    match token::verify(keys, policy, NOW, token).map_err(token::Rejection::code) {
        Ok(_) => Expected::Good,
        Err(Code::TokenExpired) => Expected::Expired,
        Err(Code::TokenMissing) => Expected::Missing,
        Err(Code::TokenInvalid) => Expected::Invalid,
        Err(code) => panic!("the verifier alone never says {code:?}"),
    }
}

#[test]
fn corpus_verdicts_are_right_for_every_kind_of_key() {
    let setting = Setting::at(NOW.0);
    let mut tally: BTreeMap<(&str, Expected), usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for kind in KeyKind::ALL {
        let forge = Forge::generate(kind);
        let (keys, policy) = (ring(&forge), policy(&setting));
        assert_eq!(keys.keys()[0].kid(), forge.kid(), "both compute the same kid");
        for case in corpus(&forge, &setting) {
            let got = class(&keys, &policy, &case.token);
            *tally.entry((case.category, case.expected)).or_default() += 1;
            if got != case.expected {
                let token: String = case.token.chars().take(400).collect();
                wrong.push(format!(
                    "{kind:?} / {} / {}: {got:?}, not {:?}\n  {token}",
                    case.category, case.name, case.expected
                ));
            }
        }
    }
    let (mut total, mut refused) = (0, 0);
    for ((category, expected), count) in &tally {
        println!("{category:<22} {:<8} {count:>5}", format!("{expected:?}"));
        total += count;
        refused += if *expected == Expected::Good { 0 } else { *count };
    }
    println!("{:<22} {total} cases, {refused} of them to be refused, {} wrong verdicts", "all", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused >= 1_000, "the corpus has shrunk: {refused}");
}

#[test]
fn corpus_verdicts_are_right_with_all_keys() {
    let setting = Setting::at(NOW.0);
    let forges = KeyKind::ALL.map(Forge::generate);
    let all = forges.iter().flat_map(|forge| ring(forge).keys().to_vec()).collect();
    let (keys, policy) = (KeyRing::new(all).unwrap(), policy(&setting));
    for forge in &forges {
        for case in corpus(forge, &setting) {
            let got = class(&keys, &policy, &case.token);
            assert_eq!(got, case.expected, "{} / {}: {}", case.category, case.name, case.token);
        }
    }
}

#[test]
fn key_set_verdicts_are_right() {
    let documents = sidegate_hostile::jwks::documents();
    let mut wrong = Vec::new();
    for document in &documents {
        let reading = jwks::parse(&document.bytes).map(|ring| ring.keys().len());
        let right = match document.reading {
            sidegate_hostile::jwks::Reading::Refused => reading.is_err(),
            sidegate_hostile::jwks::Reading::Keys(count) => reading == Ok(count),
        };
        if !right {
            wrong.push(format!("{}: {reading:?}, not {:?}", document.name, document.reading));
        }
    }
    println!("{} JWK sets, {} wrongly read", documents.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
