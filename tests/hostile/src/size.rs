//! Sizes: at the limit, above it, and tokens whose check would cost much.

use serde_json::json;

use crate::case::{Corpus, text};
use crate::forge::b64;

/// The longest accepted token, in bytes.
const LONGEST: usize = 8 * 1024;

pub(crate) fn add(corpus: &mut Corpus<'_>) {
    corpus.category("size");
    // Base64 grows in steps, so this searches for the nearest length below the limit.
    let longest = (1..6000).rev().map(|n| padded(corpus, n)).find(|token| token.len() <= LONGEST).expect("a token");
    assert!(longest.len() > LONGEST - 4, "{}", longest.len());
    corpus.good("as long as a token may be", longest);
    let shortest = (5000..7000).map(|n| padded(corpus, n)).find(|token| token.len() > LONGEST).expect("a token");
    assert!(shortest.len() < LONGEST + 4, "{}", shortest.len());
    corpus.invalid("as short as a token may not be", shortest);
    for bytes in [16, 32, 64, 128, 1024] {
        let token = padded(corpus, bytes * 1024);
        corpus.invalid(format!("a claim of {bytes} KiB"), token);
        let token = corpus.with_claim("jti", json!("j".repeat(bytes * 1024)));
        corpus.invalid(format!("a jti of {bytes} KiB"), token);
        let token = corpus.with_member("kid", json!("k".repeat(bytes * 1024)));
        corpus.invalid(format!("a kid of {bytes} KiB"), token);
        corpus.invalid(format!("{bytes} Ki letters"), "A".repeat(bytes * 1024));
        corpus.invalid(format!("{bytes} Ki dots"), ".".repeat(bytes * 1024));
        let token = format!("{}.{}.{}", b64(vec![0; bytes * 512]), b64("{}"), b64(vec![0; bytes * 512]));
        corpus.invalid(format!("two halves of {bytes} KiB"), token);
    }
    let mut header = corpus.header();
    header.extend((0..10_000).map(|n| (format!("k{n}"), json!(n))));
    let token = corpus.with_header(text(&header));
    corpus.invalid("10,000 members in the header", token);
    let mut header = corpus.header();
    header.extend((0..400).map(|n| (format!("k{n}"), json!(n))));
    let token = corpus.with_header(text(&header));
    corpus.invalid("400 members in the header", token);
    for members in [25, 65, 200, 500] {
        let mut claims = corpus.claims();
        claims.extend((0..members).map(|n| (format!("k{n}"), json!(n))));
        let token = corpus.with_payload(text(&claims));
        corpus.invalid(format!("{members} more members in the payload"), token);
    }
    for values in [24, 65, 1000] {
        let token = corpus.with_claim("x", json!(vec![0; values]));
        corpus.invalid(format!("{values} values in an unread claim"), token);
        let object: serde_json::Map<_, _> = (0..values).map(|n| (format!("k{n}"), json!(n))).collect();
        let token = corpus.with_claim("x", json!({"y": object}));
        corpus.invalid(format!("{values} members in an unread claim"), token);
    }
    let token = corpus.with_claim("aud", json!(vec![corpus.setting.audience.clone(); 400]));
    corpus.invalid("400 audiences", token);
    for length in [1023, 1024, 1025, 2000, 5000] {
        let signed = format!("{}.{}", b64(text(&corpus.header())), b64(text(&corpus.claims())));
        corpus.invalid(format!("a signature of {length} bytes"), format!("{signed}.{}", b64(vec![0; length])));
    }
    corpus.invalid(
        "8,190 letters in three parts",
        format!("{}.{}.{}", "A".repeat(2729), "A".repeat(2729), "A".repeat(2730)),
    );
}

fn padded(corpus: &Corpus<'_>, bytes: usize) -> String {
    corpus.with_claim("x", json!("x".repeat(bytes)))
}
