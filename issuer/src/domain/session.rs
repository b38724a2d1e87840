//! A session: its record, and the rules by which its refresh token is traded. Values only.

use sidegate_common::revocation::{Id, SubjectTag};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};

/// How long things live, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLifetimes {
    /// An access token (`ACCESS_TOKEN_TTL`).
    pub access_ttl: u64,
    /// A session that is not refreshed (`REFRESH_TOKEN_TTL`).
    pub idle_ttl: u64,
    /// A session at all (`SESSION_TTL_MAX`).
    pub absolute_ttl: u64,
    /// How long a refresh token may be sent again (`REFRESH_RETRY_WINDOW`).
    pub retry_window: u64,
    /// The longest life of any token, whatever today's `access_ttl` is (`MAX_TOKEN_LIFETIME`).
    pub lifetime_max: u64,
}

impl TokenLifetimes {
    /// How long the log keeps an entry.
    pub const fn retention(&self) -> u64 {
        self.lifetime_max + REVOCATION_MARGIN_SECONDS
    }

    /// How long a user's watermark is kept: sessions older than it must be recognised as long as they could live.
    pub const fn watermark_ttl(&self) -> u64 {
        if self.absolute_ttl > self.retention() { self.absolute_ttl } else { self.retention() }
    }
}

/// A session as the store keeps it. Moments are by the store's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its identifier.
    pub sid: Id,
    /// The user.
    pub sub: String,
    /// The generation of the refresh token that is current.
    pub generation: u32,
    /// `iat` of its first access token. Watermarks condemn a session by it, never by a later token: a refresh makes no
    /// session younger.
    pub created: UnixTime,
    /// When it was last refreshed.
    pub refreshed: UnixTime,
    /// When the current refresh token was made.
    pub rotated: UnixTime,
    /// `iat` of its latest access token.
    pub issued: UnixTime,
    /// The latest `exp` of its access tokens.
    pub exp_max: UnixTime,
    /// When it ends for want of a refresh.
    pub idle_ends: UnixTime,
    /// When it ends whatever happens.
    pub ends: UnixTime,
    /// The client's address at login.
    pub address: String,
    /// The client's `User-Agent` at login.
    pub agent: String,
}

impl Session {
    /// A session created at `now`, whose first access token is issued at `issued`.
    pub fn new(new: &NewSession, now: UnixTime, issued: UnixTime, lifetimes: &TokenLifetimes) -> Self {
        Self {
            sid: new.sid.clone(),
            sub: new.sub.clone(),
            generation: 0,
            created: issued,
            refreshed: now,
            rotated: now,
            issued,
            exp_max: issued.plus(lifetimes.access_ttl),
            idle_ends: now.plus(lifetimes.idle_ttl),
            ends: now.plus(lifetimes.absolute_ttl),
            address: new.address.clone(),
            agent: new.agent.clone(),
        }
    }

    /// When it was born, as watermarks count: `iat` of its first access token. The version before this one kept the clock's
    /// time in `created`, which is the second of the order itself where a user logs in right after it.
    pub const fn birth(&self) -> UnixTime {
        if self.generation == 0 { self.issued } else { self.created }
    }

    /// True if it can be refreshed at `now`.
    pub fn is_live(&self, now: UnixTime) -> bool {
        now < self.idle_ends.min(self.ends)
    }

    /// Until when the record is kept: as long as it lives, and as long as one of its access tokens could.
    pub fn kept_until(&self) -> UnixTime {
        self.idle_ends.min(self.ends).max(self.exp_max.plus(REVOCATION_MARGIN_SECONDS))
    }
}

/// What a login asks the store to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// Its identifier: 128 fresh random bits.
    pub sid: Id,
    /// The user.
    pub sub: String,
    /// The client's address; may be empty.
    pub address: String,
    /// The client's `User-Agent`; may be empty.
    pub agent: String,
}

/// How many live sessions a user may have, unless `SESSIONS_PER_USER_MAX` says otherwise.
pub const SESSIONS_PER_USER: u32 = 1000;

/// What a login came to in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// `iat` of the session's first access token.
    pub issued: UnixTime,
    /// Sessions of the user that were ended, because there were too many.
    pub displaced: Vec<Id>,
}

/// Some of a user's sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionPage {
    /// The sessions, most recently used first.
    pub sessions: Vec<Session>,
    /// Where the next page begins; none if this is the last one.
    pub next: Option<PageCursor>,
}

/// A place in the list of a user's sessions: behind this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageCursor {
    /// Until when its record is kept ([`Session::kept_until`]).
    pub kept_until: UnixTime,
    /// Its identifier.
    pub sid: Id,
}

impl PageCursor {
    /// Reads what [`Display`](std::fmt::Display) wrote: `seconds.sid`.
    pub fn parse(text: &str) -> Option<Self> {
        let (seconds, sid) = text.split_once('.')?;
        let digits = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
        let kept_until = UnixTime(seconds.parse().ok().filter(|_| digits)?);
        Some(Self { kept_until, sid: Id::parse(sid)? })
    }
}

impl std::fmt::Display for PageCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.kept_until.0, self.sid)
    }
}

/// What becomes of a user's sessions when the user's access tokens are revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserSessions {
    /// They end.
    End,
    /// They go on: their clients refresh.
    Keep,
}

/// What revoking a user's tokens came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectRevoked {
    /// The last dead `iat`.
    pub threshold: UnixTime,
    /// How many live sessions were ended.
    pub sessions_ended: u64,
}

/// A refresh token presented to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The session.
    pub sid: Id,
    /// The user, as the session's record named them.
    pub sub: String,
    /// The generation of the token presented.
    pub presented: u32,
}

/// What the store made of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The client holds the next generation now.
    Traded {
        /// Generation of the child.
        generation: u32,
        /// When the access token that goes with it is issued.
        issued: UnixTime,
        /// True if the token had been traded before, and the same child is handed out again.
        retried: bool,
    },
    /// No such session, or it has ended.
    Refused(Refusal),
    /// The token had been traded before: the session is dead now, and so are its access tokens.
    Reused {
        /// How many generations old it was.
        generations_old: u32,
        /// Seconds since the current generation was made.
        rotated_ago: u64,
    },
}

/// What a refresh token is worth, without trading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It could be traded now, or retried.
    Current,
    /// Its session is gone or has ended.
    Refused(Refusal),
    /// It had been traded before: the session is dead now, and so are its access tokens.
    Reused {
        /// How many generations old it was.
        generations_old: u32,
        /// Seconds since the current generation was made.
        rotated_ago: u64,
    },
}

/// Why a session cannot be refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such session (any more).
    Gone,
    /// It lived its idle or absolute time.
    Expired,
    /// Its user, or everybody, was logged out after it was created.
    Revoked,
}

/// A session to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndSession {
    /// The session.
    pub sid: Id,
    /// The partition that would hold it.
    pub partition: u16,
    /// The user, where known.
    pub sub: Option<String>,
    /// The user's tag, where known.
    pub subject: Option<SubjectTag>,
    /// `exp` of a token of the session, where one was presented: a failover may have lost the store's own record of it.
    pub exp_seen: UnixTime,
    /// True if the caller knows that the log has the session's revocation already: nothing is appended if the record is
    /// gone as well.
    pub known: bool,
}

/// What ending a session came to. In both cases its revocation is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOutcome {
    /// It was there and has ended now.
    Now,
    /// It had ended before.
    Before,
}

/// What to do with a refresh token of generation `presented`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Make this generation current.
    Trade(u32),
    /// Hand out the current generation again.
    Retry,
    /// Refuse.
    Refuse(Refusal),
    /// End the session and revoke its tokens.
    Reuse,
}

/// The rules of rotation. `watermark` is the later of the user's session watermark and everybody's: sessions created at or
/// before it have ended.
///
/// Redis' `rotate.lua` says the same in Lua; the conformance suite holds both to one table.
pub fn decide(
    session: &Session,
    presented: u32,
    now: UnixTime,
    watermark: Option<UnixTime>,
    retry_window: u64,
) -> Decision {
    let age = session.generation.checked_sub(presented);
    let retry = age == Some(1) && retry_window > 0 && now.0 <= session.rotated.0.saturating_add(retry_window);
    if age.is_some_and(|age| age > 0) && !retry {
        return Decision::Reuse;
    }
    if watermark.is_some_and(|dead| session.birth() <= dead) {
        return Decision::Refuse(Refusal::Revoked);
    }
    if !session.is_live(now) {
        return Decision::Refuse(Refusal::Expired);
    }
    // An authentic token of a later generation than the store's: a failover lost the rotation that made it.
    if retry { Decision::Retry } else { Decision::Trade(presented.saturating_add(1)) }
}

/// How far ahead of the store's clock a token may be issued, in seconds. Its client waits until it is valid; further ahead
/// the store's clock is behind, and nothing is issued.
pub const AHEAD_MAX_SECONDS: u64 = 5;

/// How far ahead of the store's clock a threshold may be, in seconds; further ahead it is refused.
pub const THRESHOLD_AHEAD_MAX_SECONDS: u64 = 60;

/// When a token is issued: never at or before a watermark, so that it is not born dead. `watermark` is the latest that
/// kills tokens: of the user, kept sessions or not, and of everybody. None if that is too far ahead.
pub fn issue_at(now: UnixTime, watermark: Option<UnixTime>) -> Option<UnixTime> {
    let issued = watermark.map_or(now, |dead| now.max(dead.plus(1)));
    (issued <= now.plus(AHEAD_MAX_SECONDS)).then_some(issued)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1000);

    fn session(generation: u32) -> Session {
        let lifetimes = TokenLifetimes {
            access_ttl: 60,
            idle_ttl: 600,
            absolute_ttl: 3600,
            retry_window: 30,
            lifetime_max: 86_400,
        };
        let sid = Id::parse("AAECAwQFBgcICQoLDA0ODw").unwrap();
        let new = NewSession { sid, sub: "1".into(), address: String::new(), agent: String::new() };
        Session { generation, ..Session::new(&new, NOW, NOW, &lifetimes) }
    }

    #[test]
    fn the_table_of_generations() {
        let late = UnixTime(1031);
        for (presented, now, window, expected) in [
            (5, NOW, 30, Decision::Trade(6)),
            (5, late, 0, Decision::Trade(6)),
            (4, UnixTime(1030), 30, Decision::Retry),
            (4, late, 30, Decision::Reuse),
            (4, NOW, 0, Decision::Reuse),
            (3, NOW, 30, Decision::Reuse),
            (0, NOW, 30, Decision::Reuse),
            (7, NOW, 30, Decision::Trade(8)),
        ] {
            assert_eq!(
                decide(&session(5), presented, now, None, window),
                expected,
                "{presented} at {now:?} in {window}"
            );
        }
    }

    #[test]
    fn ended_sessions_are_refused_and_reuse_is_still_noticed() {
        let idle = UnixTime(1600);
        assert_eq!(decide(&session(5), 5, idle, None, 30), Decision::Refuse(Refusal::Expired));
        assert_eq!(decide(&session(5), 2, idle, None, 30), Decision::Reuse, "its access tokens may still live");
        assert_eq!(decide(&session(5), 5, NOW, Some(NOW), 30), Decision::Refuse(Refusal::Revoked));
        assert_eq!(decide(&session(5), 5, NOW, Some(UnixTime(999)), 30), Decision::Trade(6));
    }

    #[test]
    fn a_refresh_does_not_make_a_session_younger_than_the_order_that_ended_it() {
        let refreshed = Session { issued: UnixTime(1010), refreshed: UnixTime(1010), ..session(5) };
        let order = Some(UnixTime(1005));
        assert_eq!(decide(&refreshed, 5, UnixTime(1010), order, 30), Decision::Refuse(Refusal::Revoked));
    }

    #[test]
    fn a_page_cursor_is_read_back_and_nothing_else_is() {
        let cursor = PageCursor { kept_until: UnixTime(1_700_000_000), sid: session(0).sid };
        assert_eq!(PageCursor::parse(&cursor.to_string()), Some(cursor));
        for other in ["", ".", "1.", ".a", "+1.a", "1 .a", "x.a", "99999999999999999999.a", "1.a b"] {
            assert_eq!(PageCursor::parse(other), None, "{other}");
        }
    }

    #[test]
    fn no_token_is_born_dead() {
        assert_eq!(issue_at(NOW, None), Some(NOW));
        assert_eq!(issue_at(NOW, Some(UnixTime(990))), Some(NOW));
        assert_eq!(issue_at(NOW, Some(NOW)), Some(UnixTime(1001)));
        assert_eq!(issue_at(NOW, Some(UnixTime(1004))), Some(UnixTime(1005)));
        assert_eq!(issue_at(NOW, Some(UnixTime(1005))), None, "no client waits that long");
    }

    #[test]
    fn a_record_outlives_its_access_tokens() {
        let mut short = session(0);
        short.idle_ends = UnixTime(1001);
        assert_eq!(short.kept_until(), UnixTime(1060 + REVOCATION_MARGIN_SECONDS));
        assert_eq!(session(0).kept_until(), UnixTime(1600));
    }
}
