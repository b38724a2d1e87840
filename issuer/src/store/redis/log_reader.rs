//! Reads a partition's log whole, and says what stands in it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use redis::{ErrorKind, FromRedisValue as _, RedisError, Value, cmd};
use sidegate_common::log_protocol::Position;
use sidegate_common::revocation::Revocation;
use sidegate_common::time::UnixTime;

use super::link::StoreLink;
use super::replay_entry::ReplayEntry;

/// Entries in one page: large pages would delay Redis' other clients.
const PAGE_ENTRIES: usize = 1000;

/// A page of XRANGE: positions, and the fields of each entry with their values.
type Page = Vec<(String, Vec<(String, Vec<u8>)>)>;

/// What stands in a log: of each target the latest expiry and threshold. Targets are kept as keyed hashes of 64 bits.
pub(super) struct LogContents {
    hasher: RandomState,
    entries: HashMap<u64, Latest>,
    /// The positions that are asked for, and the hash of what stands there.
    at: HashMap<Position, Option<u64>>,
}

#[derive(Clone, Copy, Default)]
struct Latest {
    expires_at: u64,
    threshold: u64,
}

impl LogContents {
    fn new(asked: HashSet<Position>) -> Self {
        let at = asked.into_iter().map(|position| (position, None)).collect();
        Self { hasher: RandomState::new(), entries: HashMap::new(), at }
    }

    /// Notes an entry that stands in the log.
    pub(super) fn add(&mut self, position: Option<Position>, revocation: &Revocation) {
        let key = self.key(revocation);
        let latest = self.entries.entry(key).or_default();
        latest.expires_at = latest.expires_at.max(revocation.expires_at.0);
        latest.threshold = latest.threshold.max(threshold(revocation).0);
        if let Some(found) = position.and_then(|position| self.at.get_mut(&position)) {
            *found = Some(key);
        }
    }

    /// True if an entry kills what this one kills, for as long.
    pub(super) fn covers(&self, revocation: &Revocation) -> bool {
        self.entries.get(&self.key(revocation)).is_some_and(|latest| {
            latest.threshold >= threshold(revocation).0 && latest.expires_at >= revocation.expires_at.0
        })
    }

    /// True if what this issuer acknowledged stands where the log had it, or another entry does as much.
    pub(super) fn has(&self, entry: &ReplayEntry) -> bool {
        let there = entry.position.and_then(|position| self.at.get(&position).copied().flatten());
        there == Some(self.key(&entry.revocation)) || self.covers(&entry.revocation)
    }

    fn key(&self, revocation: &Revocation) -> u64 {
        let target = revocation.target.clone().with_threshold(UnixTime(0));
        self.hasher.hash_one(Revocation { target, expires_at: UnixTime(0) }.to_bytes())
    }
}

fn threshold(revocation: &Revocation) -> UnixTime {
    revocation.target.threshold().unwrap_or_default()
}

/// Reads the log `key` from its beginning to its end. Whether it was one log all the time is for the caller to know.
pub(super) async fn read(link: &StoreLink, key: &str, asked: HashSet<Position>) -> Result<LogContents, RedisError> {
    let mut contents = LogContents::new(asked);
    let mut from = "-".to_owned();
    loop {
        let range = cmd("XRANGE").arg(key).arg(&from).arg("+").arg("COUNT").arg(PAGE_ENTRIES).take();
        let page = match link.call(&range).await? {
            Value::Nil => Page::new(),
            page => Page::from_redis_value(page)?,
        };
        let whole = page.len() == PAGE_ENTRIES;
        for (id, fields) in page {
            let position = Position::parse(&id).ok_or((ErrorKind::Parse, "not a position"))?;
            // What a newer version wrote is nothing that this one could put back.
            if let Some(Ok(revocation)) = fields.first().map(|(_, bytes)| Revocation::from_bytes(bytes)) {
                contents.add(Some(position), &revocation);
            }
            from = format!("({id}");
        }
        if !whole {
            return Ok(contents);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::session::TokenLifetimes;
    use sidegate_common::revocation::Target;

    const LIFETIMES: TokenLifetimes =
        TokenLifetimes { access_ttl: 1, idle_ttl: 1, absolute_ttl: 1, retry_window: 0, lifetime_max: 60 };

    fn subject(threshold: u64, expires_at: u64) -> Revocation {
        let target = Target::Subject { sub: "42".into(), threshold: UnixTime(threshold) };
        Revocation { target, expires_at: UnixTime(expires_at) }
    }

    #[test]
    fn what_kills_less_or_for_a_shorter_time_is_missing() {
        let mut contents = LogContents::new(HashSet::new());
        assert!(!contents.covers(&subject(5, 100)));
        contents.add(None, &subject(5, 100));
        assert!(contents.covers(&subject(5, 100)) && contents.covers(&subject(4, 99)));
        assert!(!contents.covers(&subject(6, 100)) && !contents.covers(&subject(5, 101)));
        let other = Target::All { threshold: UnixTime(5) };
        assert!(!contents.covers(&Revocation { target: other, expires_at: UnixTime(100) }));
    }

    #[test]
    fn what_stands_where_it_stood_is_there_however_long_it_is_kept() {
        let position = Position { ms: 7, sequence: 1 };
        let key = |kid: &str| Revocation { target: Target::Key { kid: kid.into() }, expires_at: UnixTime(1) };
        let entry = ReplayEntry::done(0, key("k1").target, &LIFETIMES, Some(position), UnixTime(5));
        let mut contents = LogContents::new(HashSet::from([position]));
        assert!(!contents.has(&entry));
        contents.add(Some(position), &key("k2"));
        assert!(!contents.has(&entry), "another entry has taken its place");
        contents.add(Some(position), &key("k1"));
        assert!(contents.has(&entry));
    }
}
