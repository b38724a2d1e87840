//! The cache of verified tokens: a repeated token needs no cryptography.
//!
//! A private, bounded cache. A hit means only "the signature and claims of exactly these bytes were
//! right under that key epoch"; time, revocation and freshness are checked every time. The key is
//! bytes of the token's signature, which only the signing key's owner can choose, and the whole
//! token is compared. A lost entry costs one verification.

use std::sync::{Arc, Mutex, PoisonError};

use sidegate_common::time::UnixTime;
use sidegate_common::token::VerifiedToken;

use crate::rendered::RenderedAnswer;

/// The tokens per bucket; a look-up compares at most this many.
const WAYS: usize = 4;
/// Longer tokens are verified every time, so that the cache's memory has a bound.
const KEPT_BYTES_MAX: usize = 2048;

/// A verified token with its rendered response.
#[derive(Debug)]
pub struct CachedToken {
    token: Box<str>,
    key_epoch: u64,
    verified: Arc<VerifiedToken>,
    rendered: RenderedAnswer,
}

impl CachedToken {
    /// The verified token.
    pub const fn verified(&self) -> &Arc<VerifiedToken> {
        &self.verified
    }

    /// The allowing response.
    pub const fn rendered(&self) -> &RenderedAnswer {
        &self.rendered
    }
}

type Bucket = [Option<Arc<CachedToken>>; WAYS];

/// A fixed number of slots for verified tokens.
#[derive(Debug)]
pub struct TokenCache {
    buckets: Box<[Mutex<Bucket>]>,
}

impl TokenCache {
    /// Room for about `entries` tokens (rounded up to a power of two); 0 disables the cache.
    pub fn new(entries: usize) -> Self {
        let buckets = if entries == 0 { 0 } else { entries.div_ceil(WAYS).next_power_of_two() };
        Self { buckets: (0..buckets).map(|_| Mutex::new(Bucket::default())).collect() }
    }

    /// The token, if exactly these bytes were verified under `key_epoch`.
    pub fn find(&self, token: &str, key_epoch: u64) -> Option<Arc<CachedToken>> {
        let mut bucket = self.bucket(token)?.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |slot: &Option<Arc<CachedToken>>| slot.as_ref().is_some_and(|cached| *cached.token == *token);
        let at = bucket.iter().position(is_it)?;
        if bucket[at].as_ref().is_none_or(|cached| cached.key_epoch != key_epoch) {
            bucket[at] = None;
            return None;
        }
        // A hit moves towards the front; the last slot is evicted first.
        let front = at.saturating_sub(1);
        bucket.swap(at, front);
        bucket[front].clone()
    }

    /// Caches a token that was verified under `key_epoch`, which must have been read before
    /// verifying.
    pub fn keep(&self, token: &str, key_epoch: u64, verified: Arc<VerifiedToken>) -> Arc<CachedToken> {
        let cached =
            Arc::new(CachedToken { token: token.into(), key_epoch, verified, rendered: RenderedAnswer::default() });
        if let Some(bucket) = self.bucket(token).filter(|_| token.len() <= KEPT_BYTES_MAX) {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            let same = bucket.iter().position(|slot| slot.as_ref().is_some_and(|held| *held.token == *token));
            let free = same.or_else(|| bucket.iter().position(Option::is_none));
            bucket[free.unwrap_or(WAYS - 1)] = Some(Arc::clone(&cached));
        }
        cached
    }

    /// Drops tokens that have expired at `now` by their `exp` and `leeway` seconds, and those of
    /// other keys.
    pub fn expire(&self, now: UnixTime, leeway: u64, key_epoch: u64) {
        for bucket in &self.buckets {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            for slot in bucket.iter_mut() {
                let dead = slot.as_ref().is_some_and(|cached| {
                    cached.key_epoch != key_epoch || cached.verified.claims().expires_at().plus(leeway) < now
                });
                if dead {
                    *slot = None;
                }
            }
        }
    }

    fn bucket(&self, token: &str) -> Option<&Mutex<Bucket>> {
        // Not the very end: the last characters of a signature have few bits.
        let tail = token.len().checked_sub(12)?;
        let bytes = token.as_bytes()[tail..].first_chunk::<8>()?;
        let spread = u64::from_le_bytes(*bytes).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mask = self.buckets.len().checked_sub(1)?;
        self.buckets.get(spread as usize & mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn only_the_same_bytes_under_the_same_epoch_are_found() {
        let (token, verified) = testing::verified("a");
        let cache = TokenCache::new(64);
        assert!(cache.find(&token, 1).is_none());
        cache.keep(&token, 1, Arc::clone(&verified));
        assert!(cache.find(&token, 1).is_some_and(|found| found.verified() == &verified));
        let signature_at = token.rfind('.').unwrap();
        let edited = format!("{}x{}", &token[..signature_at - 1], &token[signature_at..]);
        assert!(cache.find(&edited, 1).is_none(), "the same signature under another payload is another token");
        assert!(cache.find(&token, 2).is_none(), "other keys: verify again");
        assert!(cache.find(&token, 1).is_none(), "and the old entry is gone");
    }

    #[test]
    fn expired_tokens_and_those_of_other_keys_are_dropped() {
        let (token, verified) = testing::verified("a");
        let cache = TokenCache::new(64);
        cache.keep(&token, 1, Arc::clone(&verified));
        let exp = verified.claims().expires_at();
        cache.expire(exp.plus(5), 5, 1);
        assert!(cache.find(&token, 1).is_some(), "still good within the leeway");
        cache.expire(exp.plus(6), 5, 1);
        assert_eq!(Arc::strong_count(&verified), 1, "its memory is freed");
        cache.keep(&token, 1, Arc::clone(&verified));
        cache.expire(exp, 5, 2);
        assert_eq!(Arc::strong_count(&verified), 1);
    }

    #[test]
    fn cache_is_bounded() {
        let cache = TokenCache::new(8);
        let tokens: Vec<String> = (0..100).map(|n| testing::verified(&format!("jti-{n}")).0).collect();
        let (_, verified) = testing::verified("x");
        for token in &tokens {
            cache.keep(token, 0, Arc::clone(&verified));
        }
        let found = tokens.iter().filter(|token| cache.find(token, 0).is_some()).count();
        assert!((1..=8).contains(&found), "{found}");
        assert!(TokenCache::new(0).find(&tokens[0], 0).is_none());
        assert!(TokenCache::new(8).find("short", 0).is_none());
    }
}
