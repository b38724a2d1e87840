//! Weak secrets: leaked, default or published ones, placeholders, and those with little variation.

mod published;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::secret::SECRET_BYTES_MIN;
use published::PUBLISHED;

/// Sorted first eight bytes of the SHA-256 of each well-known secret of 32 bytes or more; the list
/// itself is not part of the project. The chance of rejecting a random secret is 1 in 2^53.
static KNOWN: &[u8] = include_bytes!("weak_secrets.bin");

/// A secret with fewer distinct bytes is weak, however long it is.
const DISTINCT_BYTES_MIN: usize = 8;
/// A secret that contains a word of each list, with this many letters in total, is a placeholder. A
/// random secret contains them with a chance below 1 in 2^40.
const PLACEHOLDER_LETTERS_MIN: usize = 10;
const PLACEHOLDERS: [&str; 6] = ["your", "super", "change", "replace", "example", "insecure"];
const PLACEHOLDER_NOUNS: [&str; 5] = ["secret", "password", "token", "key", "jwt"];

/// True for a weak secret, also in base64 or hexadecimal.
pub fn is_weak(secret: &[u8]) -> bool {
    let trimmed = secret.trim_ascii();
    has_little_variation(secret)
        || is_placeholder(secret)
        || [secret, trimmed].into_iter().any(is_known)
        || decodes_to_weak(trimmed)
}

/// True if the decoded text is weak.
fn decodes_to_weak(text: &[u8]) -> bool {
    let hexadecimal = text.len().is_multiple_of(2) && text.iter().all(u8::is_ascii_hexdigit);
    let unpadded = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let decoded = if hexadecimal {
        Some(text.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect())
    } else {
        STANDARD_NO_PAD.decode(unpadded).or_else(|_| URL_SAFE_NO_PAD.decode(unpadded)).ok()
    };
    decoded.is_some_and(|bytes: Vec<u8>| has_little_variation(&bytes) || is_placeholder(&bytes) || is_known(&bytes))
}

fn digit(hexadecimal: u8) -> u8 {
    char::from(hexadecimal).to_digit(16).unwrap_or_default() as u8
}

/// True if the secret has few distinct bytes, repeats a short piece, or is mostly a sequence.
fn has_little_variation(secret: &[u8]) -> bool {
    let mut seen = [false; 256];
    secret.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    let distinct = seen.iter().filter(|seen| **seen).count();
    let follows = |pair: &&[u8]| matches!(pair[1].wrapping_sub(pair[0]), 0 | 1 | 255);
    let following = secret.windows(2).filter(follows).count();
    let period = period(secret);
    distinct < DISTINCT_BYTES_MIN
        || following * 3 >= secret.len() * 2
        || (period < SECRET_BYTES_MIN && period * 2 <= secret.len())
}

/// The length of the shortest piece whose repetition makes the whole; the last repetition may be
/// cut off.
fn period(whole: &[u8]) -> usize {
    // For each prefix, the length of its longest proper prefix that is also a suffix (Knuth,
    // Morris, Pratt).
    let mut borders = vec![0; whole.len()];
    for at in 1..whole.len() {
        let mut border: usize = borders[at - 1];
        while border > 0 && whole[at] != whole[border] {
            border = borders[border - 1];
        }
        borders[at] = border + usize::from(whole[at] == whole[border]);
    }
    whole.len() - borders.last().copied().unwrap_or_default()
}

fn is_placeholder(secret: &[u8]) -> bool {
    let lower = secret.to_ascii_lowercase();
    let letters = |words: &[&str]| {
        let held = words.iter().filter(|word| lower.windows(word.len()).any(|part| part == word.as_bytes()));
        held.map(|word| word.len()).sum::<usize>()
    };
    let (verbs, nouns) = (letters(&PLACEHOLDERS), letters(&PLACEHOLDER_NOUNS));
    verbs > 0 && nouns > 0 && verbs + nouns >= PLACEHOLDER_LETTERS_MIN
}

fn is_known(secret: &[u8]) -> bool {
    let hash = digest::digest(&digest::SHA256, secret);
    let (known, _) = KNOWN.as_chunks::<8>();
    known.binary_search_by(|entry| entry.as_slice().cmp(&hash.as_ref()[..8])).is_ok()
        || PUBLISHED.iter().any(|published| published.as_bytes().eq_ignore_ascii_case(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn filter_is_sorted_and_small() {
        let (known, rest) = KNOWN.as_chunks::<8>();
        assert!(rest.is_empty() && known.len() > 1_000 && KNOWN.len() <= 16 * 1024);
        assert!(known.is_sorted());
    }

    #[test]
    fn repetition_is_weak() {
        for weak in [
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abcabcabcabcabcabcabcabcabcabcabcabc",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "0123456789abcdef0123456789abcdef",
            "ZYXWVUTSRQPONMLKJIHGFEDCBA9876543210",
            "correct-horse-correct-horse-correct-horse-",
            "Xk29dQ7hLw4z!Xk29dQ7hLw4z!Xk29dQ7hLw4z!",
            "112233445566778899aabbccddeeff00112233",
            "1234567890qwertyuiop1234567890qwertyuiop",
            // 'a' 32 times, and "abc" 11 times, in hexadecimal and base64.
            "6161616161616161616161616161616161616161616161616161616161616161",
            "YWJjYWJjYWJjYWJjYWJjYWJjYWJjYWJjYWJjYWJjYWJj",
        ] {
            assert!(is_weak(weak.as_bytes()), "{weak}");
        }
        for good in [
            "0c7f0a86-4e5d-4a0e-9d0e-3f1c9a6c2b11-x",
            "a-secret-for-the-tests-of-thirty-two-bytes+",
            "correct horse battery staple, with a long tail",
        ] {
            assert!(!is_weak(good.as_bytes()), "{good}");
        }
    }

    #[test]
    fn published_secrets_are_weak() {
        for published in PUBLISHED {
            assert!(published.len() >= SECRET_BYTES_MIN, "{published} is refused for its length");
            assert!(is_weak(published.as_bytes()), "{published}");
            assert!(is_weak(format!(" {published}\n").as_bytes()), "{published}, with white space");
            assert!(is_weak(STANDARD_NO_PAD.encode(published).as_bytes()), "{published}, in base64");
        }
        for placeholder in [
            "your_jwt_secret_key_here_with_at_least_32_bytes",
            "change-me-to-a-very-long-secret-key-at-least-512-bits-long",
            "CHANGE_THIS_TO_A_LONG_RANDOM_SECRET_256_BITS_MIN",
            "please-replace-this-token-before-going-live",
            "mySuperSecretKeyThatIsLongEnoughForHS256",
            "bG9jYWwtZGV2ZWxvcG1lbnQtc2VjcmV0LWtleS1wbGVhc2UtY2hhbmdlIQ==",
        ] {
            assert!(is_weak(placeholder.as_bytes()), "{placeholder}");
        }
    }

    fn encoded(bytes: &[u8]) -> [String; 4] {
        let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (standard, url) = (STANDARD_NO_PAD.encode(bytes), URL_SAFE_NO_PAD.encode(bytes));
        let uuid = |digits: &str| {
            format!("{}-{}-4{}-a{}-{}", &digits[..8], &digits[8..12], &digits[13..16], &digits[17..20], &digits[20..32])
        };
        [uuid(&hexadecimal), hexadecimal, standard, url]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn random_secret_is_accepted(bytes in prop::collection::vec(any::<u8>(), 24..=64), seed in any::<[u8; 32]>()) {
            // Uniform bytes: proptest's own strategy prefers few and small ones.
            let stretch = |at: u8| digest::digest(&digest::SHA256, &[&seed[..], &bytes, &[at]].concat());
            let random = [stretch(0).as_ref(), stretch(1).as_ref()].concat();
            for text in encoded(&random[..bytes.len()]) {
                prop_assert!(text.len() < SECRET_BYTES_MIN || !is_weak(text.as_bytes()), "{text}");
            }
        }

        #[test]
        fn repetition_of_a_short_piece_is_weak(unit in prop::collection::vec(any::<u8>(), 1..32), times in 2..9_usize) {
            prop_assert!(is_weak(&unit.repeat(times.max(64_usize.div_ceil(unit.len())))));
        }
    }

    #[test]
    fn every_published_secret_is_weak() {
        let vectors = std::env::var("SIDEGATE_VECTORS")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").to_owned());
        let Ok(list) = std::fs::read(format!("{vectors}/weak-secrets/jwt.secrets.list")) else {
            println!("skipped: no weak-secrets list under {vectors}");
            return;
        };
        let long = list.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut tried = 0;
        for secret in long.filter(|line| line.len() >= SECRET_BYTES_MIN) {
            tried += 1;
            assert!(is_weak(secret), "{}", String::from_utf8_lossy(secret));
        }
        assert!(tried > 1_000, "{tried}");
    }
}
