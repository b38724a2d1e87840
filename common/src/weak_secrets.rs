//! Secrets nobody may use: a filter of those that are leaked, default or published, and of those with no variety.

use aws_lc_rs::digest;

/// Sorted first eight bytes of the SHA-256 of each well-known secret of 32 bytes or more. Only the hashes are kept here:
/// the list itself is no part of the project. A random secret is refused by mistake once in 2^53.
static KNOWN: &[u8] = include_bytes!("weak_secrets.bin");

/// Fewer different bytes than this make no secret, however long it is.
const DISTINCT_BYTES_MIN: usize = 8;

/// True for a secret that is well known or hardly varies.
pub fn is_weak(secret: &[u8]) -> bool {
    let mut seen = [false; 256];
    secret.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    if seen.iter().filter(|seen| **seen).count() < DISTINCT_BYTES_MIN {
        return true;
    }
    let trimmed = secret.trim_ascii();
    [secret, trimmed].into_iter().any(is_known)
}

fn is_known(secret: &[u8]) -> bool {
    let hash = digest::digest(&digest::SHA256, secret);
    let (known, _) = KNOWN.as_chunks::<8>();
    known.binary_search_by(|entry| entry.as_slice().cmp(&hash.as_ref()[..8])).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_sorted_and_small() {
        let (known, rest) = KNOWN.as_chunks::<8>();
        assert!(rest.is_empty() && known.len() > 1_000 && KNOWN.len() <= 16 * 1024);
        assert!(known.is_sorted());
    }

    #[test]
    fn repetition_is_no_secret() {
        assert!(is_weak(&[b'a'; 64]));
        assert!(is_weak(b"abcabcabcabcabcabcabcabcabcabcabcabc"));
        assert!(!is_weak(b"0c7f0a86-4e5d-4a0e-9d0e-3f1c9a6c2b11-x"));
    }

    #[test]
    fn none_of_the_published_list_passes() {
        let vectors = std::env::var("SIDEGATE_VECTORS")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").to_owned());
        let Ok(list) = std::fs::read(format!("{vectors}/weak-secrets/jwt.secrets.list")) else {
            println!("skipped: no weak-secrets list under {vectors}");
            return;
        };
        let long = list.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut tried = 0;
        for secret in long.filter(|line| line.len() >= crate::key::SECRET_BYTES_MIN) {
            tried += 1;
            assert!(is_weak(secret), "{}", String::from_utf8_lossy(secret));
        }
        assert!(tried > 1_000, "{tried}");
    }
}
