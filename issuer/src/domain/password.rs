//! Password checks: input, outcome, and the work that every refusal must cost.

use sidegate_common::secret::Secret;

/// The longest password that bcrypt reads completely, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 72;
/// bcrypt's lowest cost.
pub const COST_MIN: u32 = 4;
/// The lowest recommended cost of stored hashes (OWASP Password Storage Cheat Sheet).
pub const COST_ADVISED: u32 = 10;
/// The highest stored cost that is accepted: cost 31 would occupy a core for days.
pub const COST_MAX: u32 = 14;

/// A password to be checked against the stored hash.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Exactly as received.
    pub password: Secret,
    /// The stored hash, if there is a user with one.
    pub stored: Option<Secret>,
    /// False if the attempt must be refused whatever the password (a disabled user); the work is
    /// done nevertheless.
    pub eligible: bool,
}

/// Result of an attempt.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The password is right.
    Right {
        /// The cost of the stored hash, if it is a bcrypt hash.
        cost: Option<u32>,
        /// True if the stored hash is to be replaced: its cost is too low, and rehashing is on.
        outdated: bool,
    },
    /// The password is wrong, or could not be checked.
    Wrong(Reason),
}

/// A hash to be replaced after the login was answered.
#[derive(Clone, Debug)]
pub struct Rehash {
    /// The user's id.
    pub id: String,
    /// The correct password.
    pub password: Secret,
    /// The stored hash.
    pub stored: Secret,
}

/// Why a password was refused. For log and metrics; the client never sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The password does not match.
    Mismatch,
    /// No hash to compare with: no such user, or a user without a password.
    NothingStored,
    /// The stored value is not a hash, or its cost is out of range.
    MalformedHash,
    /// The stored hash is of an unsupported scheme.
    UnsupportedHash,
    /// Over 72 bytes, or with a NUL byte: bcrypt would truncate it.
    UnfitPassword,
    /// The user must not log in.
    NotEligible,
}

/// The password queue is full; the client should retry later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the password queue is full")]
pub struct QueueFullError;

/// True for a password that bcrypt reads completely.
pub fn is_fit(password: &[u8]) -> bool {
    password.len() <= PASSWORD_BYTES_MAX && !password.contains(&0)
}

/// The costs of the dummy hashes to compute after `spent` (the cost of the hash that was checked,
/// if any), so that the rounds of a refusal add up to 2^`target`: 2^c + 2^c + 2^(c+1) + ... +
/// 2^(C-1) = 2^C.
pub fn top_up(spent: Option<u32>, target: u32) -> std::ops::Range<u32> {
    match spent {
        None => target..target + 1,
        Some(cost) => cost..target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_costs_the_same_rounds() {
        for target in COST_MIN..=COST_MAX {
            let unknown: u64 = top_up(None, target).map(|cost| 1 << cost).sum();
            assert_eq!(unknown, 1 << target);
            for stored in COST_MIN..=target {
                let rounds = (1_u64 << stored) + top_up(Some(stored), target).map(|cost| 1 << cost).sum::<u64>();
                assert_eq!(rounds, 1 << target, "stored {stored}, target {target}");
            }
        }
    }

    #[test]
    fn passwords_that_bcrypt_would_truncate_are_unfit() {
        assert!(is_fit(b""));
        assert!(is_fit(&[b'x'; 72]));
        assert!(!is_fit(&[b'x'; 73]));
        assert!(!is_fit(b"a\0b"));
    }
}
