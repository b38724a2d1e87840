//! What it takes to check a password, and how much work a refusal must cost.

use sidegate_common::secret::Secret;

/// The longest password that bcrypt reads whole, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 72;
/// The lowest cost bcrypt has.
pub const COST_MIN: u32 = 4;
/// The least cost that is advised for stored hashes (OWASP Password Storage Cheat Sheet).
pub const COST_ADVISED: u32 = 10;
/// The highest stored cost that is honoured: cost 31 would take a core for days.
pub const COST_MAX: u32 = 14;

/// A password to be checked against what is stored.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Exactly as received.
    pub password: Secret,
    /// The stored hash, where there is a user with one.
    pub stored: Option<Secret>,
    /// False if the answer must be no, whatever the password (a disabled user); the work is done all the same.
    pub eligible: bool,
}

/// What became of an attempt.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The password is right.
    Right {
        /// The cost of the stored hash, if it is of bcrypt.
        cost: Option<u32>,
        /// True if the hash is to be made anew: it is too cheap, and rehashing is on.
        outdated: bool,
    },
    /// It is not, or could not be.
    Wrong(Reason),
}

/// A hash to be made anew once the login is answered.
#[derive(Clone, Debug)]
pub struct Rehash {
    /// The user's id.
    pub id: String,
    /// The password that was right.
    pub password: Secret,
    /// What is stored now.
    pub stored: Secret,
}

/// Why a password was refused. For the log and metrics; the client never learns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It does not match.
    Mismatch,
    /// There is nothing to match it with: no such user, or one without a password.
    NothingStored,
    /// What is stored is no hash, or one of absurd cost.
    MalformedHash,
    /// What is stored is a hash of a scheme that is not taken.
    UnsupportedHash,
    /// Over 72 bytes, or with a NUL byte, which bcrypt would cut short.
    UnfitPassword,
    /// The user may not log in.
    NotEligible,
}

/// The queue for passwords is full: try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the password queue is full")]
pub struct QueueFullError;

/// True for a password that bcrypt reads whole.
pub fn is_fit(password: &[u8]) -> bool {
    password.len() <= PASSWORD_BYTES_MAX && !password.contains(&0)
}

/// The costs of the dummies that must be hashed after `spent` (the cost of the hash that was checked, or none), so that
/// the rounds of a refusal add up to 2^`target`: 2^c + 2^c + 2^(c+1) + ... + 2^(C-1) = 2^C.
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
    fn passwords_that_bcrypt_would_cut_are_unfit() {
        assert!(is_fit(b""));
        assert!(is_fit(&[b'x'; 72]));
        assert!(!is_fit(&[b'x'; 73]));
        assert!(!is_fit(b"a\0b"));
    }
}
