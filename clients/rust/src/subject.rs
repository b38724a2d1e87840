//! The tag of a subject: the name of a user in the shared table.

use sha2::{Digest as _, Sha256};
use sidegate_shm::Subject;

/// The first six bytes of SHA-256 of `sub`, big endian; all ones is mapped to zero
/// (docs/protocol.md).
pub(crate) fn tag(sub: &str) -> Subject {
    let hash = Sha256::digest(sub.as_bytes());
    let tag = hash[..6].iter().fold(0, |tag: u64, byte| tag << 8 | u64::from(*byte));
    Subject(if tag == (1 << 48) - 1 { 0 } else { tag })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_the_head_of_sha256() {
        // FIPS 180-4's example: SHA-256("abc") begins ba7816bf 8f01.
        assert_eq!(tag("abc"), Subject(0xba78_16bf_8f01));
        assert_eq!(tag(""), Subject(0xe3b0_c442_98fc));
    }
}
