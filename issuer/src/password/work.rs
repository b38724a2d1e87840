//! Argon2id: checks a hash, and spends the work of a check.

use argon2::{Algorithm, Argon2, Params, Version};
use subtle::ConstantTimeEq as _;

use crate::domain::hash::{Argon2Parameters, argon2};

/// Argon2's minimum memory, in KiB, with one lane.
const MEMORY_MIN: u32 = 8;

/// True if `hash` (`$argon2id$v=19$…`) is of this password.
pub(super) fn argon2_matches(password: &[u8], hash: &str) -> bool {
    let Some((parameters, salt, digest)) = hash.strip_prefix("$argon2id$v=19$").and_then(argon2) else { return false };
    let Some(made) = derive(password, &salt, parameters, digest.len()) else { return false };
    made.ct_eq(&digest).into()
}

/// Spends the work of `target` less `spent` KiB, and returns the KiB filled. The measure is memory
/// times passes: the remainder is filled in whole passes over the same memory, and one pass over
/// the rest.
pub(super) fn spend_argon2(target: Argon2Parameters, spent: u64) -> u64 {
    let missing = target.work().saturating_sub(spent);
    let memory = u64::from(target.memory_used());
    let (passes, rest) = (missing / memory, missing % memory);
    let part = |memory: u64, passes: u64| Argon2Parameters { memory: memory as u32, passes: passes as u32, lanes: 1 };
    let mut filled = 0;
    for part in [part(memory, passes), part(rest, u64::from(rest > 0))] {
        if part.passes > 0 {
            let part = Argon2Parameters { memory: part.memory.max(MEMORY_MIN), ..part };
            std::hint::black_box(derive(b"a dummy password", &[0x5a; 16], part, 32));
            filled += part.work();
        }
    }
    filled
}

fn derive(password: &[u8], salt: &[u8], parameters: Argon2Parameters, length: usize) -> Option<Vec<u8>> {
    let Argon2Parameters { memory, passes, lanes } = parameters;
    let parameters = Params::new(memory, passes, lanes, Some(length)).ok()?;
    let mut out = vec![0; length];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters).hash_password_into(password, salt, &mut out).ok()?;
    Some(out)
}

/// A hash for tests.
#[cfg(test)]
pub(super) fn argon2_hash(password: &[u8], memory: u32, passes: u32, lanes: u32) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let salt = b"somesalt of tests";
    let digest = derive(password, salt, Argon2Parameters { memory, passes, lanes }, 32).unwrap_or_default();
    let (salt, digest) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(digest));
    format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Python's argon2-cffi 25.1: `PasswordHasher(time_cost=2, memory_cost=64, parallelism=2,
    /// salt_len=8)`.
    const OTHER_PROGRAM: &str = "$argon2id$v=19$m=64,t=2,p=2$YKB/iMTB99s$su1DDYAreQ8QmK02qRRWUvLPJ4oKHn489flWlCca4TE";

    #[test]
    fn hashes_of_another_program_are_checked() {
        assert!(argon2_matches(b"correct horse battery staple", OTHER_PROGRAM));
        assert!(!argon2_matches(b"correct horse battery stapl", OTHER_PROGRAM));
        assert!(!argon2_matches(b"", "$argon2id$v=19$m=64,t=2,p=2$x"));
    }

    #[test]
    fn the_remaining_work_is_spent() {
        for (memory, passes, lanes) in [(64, 3, 1), (65, 2, 1), (96, 1, 4), (8, 1, 1), (1024, 5, 8)] {
            let target = Argon2Parameters { memory, passes, lanes };
            assert_eq!(spend_argon2(target, 0), target.work(), "{target:?}");
            assert_eq!(spend_argon2(target, target.work()), 0, "{target:?}");
        }
        let target = Argon2Parameters { memory: 64, passes: 3, lanes: 1 };
        assert_eq!(spend_argon2(target, 40), 152);
        assert_eq!(spend_argon2(target, 188), 8, "four KiB are below the minimum");
    }
}
