//! A session: its record and the rules of refresh token rotation. Values only.

use sidegate_common::revocation::{Id, SubjectTag};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};

/// Lifetimes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLifetimes {
    /// An access token (`ACCESS_TOKEN_TTL`).
    pub access_ttl: u64,
    /// A session that is not refreshed (`REFRESH_TOKEN_TTL`).
    pub idle_ttl: u64,
    /// A session in total (`SESSION_TTL_MAX`).
    pub absolute_ttl: u64,
    /// The window in which a used refresh token may be sent again (`REFRESH_RETRY_WINDOW`).
    pub retry_window: u64,
    /// The longest lifetime of any token, whatever `access_ttl` is now (`MAX_TOKEN_LIFETIME`).
    pub lifetime_max: u64,
}

impl TokenLifetimes {
    /// How long the log keeps an entry.
    pub const fn retention(&self) -> u64 {
        self.lifetime_max + REVOCATION_MARGIN_SECONDS
    }

    /// How long a user's watermark is kept: as long as a session that it ends could live.
    pub const fn watermark_ttl(&self) -> u64 {
        if self.absolute_ttl > self.retention() { self.absolute_ttl } else { self.retention() }
    }
}

/// A session's record. Times are by the store's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The session's identifier.
    pub sid: Id,
    /// The user.
    pub sub: String,
    /// The current generation of the refresh token.
    pub generation: u32,
    /// `iat` of the first access token. Watermarks compare with this time, never with a later
    /// token's, so that a refresh does not make a session younger.
    pub created: UnixTime,
    /// Time of the last refresh.
    pub refreshed: UnixTime,
    /// Time when the current refresh token was created.
    pub rotated: UnixTime,
    /// `iat` of the latest access token.
    pub issued: UnixTime,
    /// The latest `exp` of the session's access tokens.
    pub exp_max: UnixTime,
    /// When the session expires without a refresh.
    pub idle_ends: UnixTime,
    /// When the session expires in any case.
    pub ends: UnixTime,
    /// The client's address at login.
    pub address: String,
    /// The client's `User-Agent` at login.
    pub agent: String,
}

impl Session {
    /// How old a refresh token of generation `presented` is, at `now`.
    pub fn reuse_of(&self, presented: u32, now: UnixTime) -> Reuse {
        Reuse {
            generations_old: self.generation.saturating_sub(presented),
            rotated_ago: now.0.saturating_sub(self.rotated.0),
        }
    }

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

    /// Creation time as watermarks count: `iat` of the first access token. The previous version
    /// stored the clock's time in `created`, which is the watermark's own second if a user logs in
    /// right after a revocation.
    pub const fn birth(&self) -> UnixTime {
        if self.generation == 0 { self.issued } else { self.created }
    }

    /// True if the session can be refreshed at `now`.
    pub fn is_live(&self, now: UnixTime) -> bool {
        now < self.idle_ends.min(self.ends)
    }

    /// How long the record is kept: until the session and all of its access tokens have expired.
    pub fn kept_until(&self) -> UnixTime {
        self.idle_ends.min(self.ends).max(self.exp_max.plus(REVOCATION_MARGIN_SECONDS))
    }
}

/// A session that a login creates.
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

/// Default limit of live sessions per user (`SESSIONS_PER_USER_MAX`).
pub const SESSIONS_PER_USER: u32 = 1000;

/// Result of creating a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// `iat` of the session's first access token.
    pub issued: UnixTime,
    /// Sessions of the user that ended because there were too many.
    pub displaced: Vec<Id>,
}

/// A page of a user's sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionPage {
    /// The sessions, most recently used first.
    pub sessions: Vec<Session>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<PageCursor>,
}

/// A position in the list of a user's sessions: the last session of the previous page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageCursor {
    /// How long its record is kept ([`Session::kept_until`]).
    pub kept_until: UnixTime,
    /// Its identifier.
    pub sid: Id,
}

impl PageCursor {
    /// Parses what [`Display`](std::fmt::Display) wrote: `seconds.sid`.
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

/// Whether a user's sessions end when the user's access tokens are revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserSessions {
    /// The sessions end.
    End,
    /// The sessions continue: their clients refresh.
    Keep,
}

/// Result of revoking a user's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectRevoked {
    /// The latest `iat` that is revoked.
    pub threshold: UnixTime,
    /// How many live sessions ended.
    pub sessions_ended: u64,
}

/// A refresh token presented to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The session.
    pub sid: Id,
    /// The user that the session's record names.
    pub sub: String,
    /// The generation of the presented token.
    pub presented: u32,
}

/// Result of presenting a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The client has the next generation now.
    Traded {
        /// Generation of the child.
        generation: u32,
        /// `iat` of the access token that is issued with it.
        issued: UnixTime,
        /// True if the token had been traded before, and the same child is issued again.
        retried: bool,
    },
    /// No such session, or the session has ended.
    Refused(Refusal),
    /// The token had been traded before: the session and its access tokens are revoked now.
    Reused(Reuse),
}

/// State of a refresh token, determined without trading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The token could be traded or retried now.
    Current,
    /// The session does not exist or has ended.
    Refused(Refusal),
    /// The token had been traded before: the session and its access tokens are revoked now.
    Reused(Reuse),
}

/// How old a refresh token is that was used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// How many generations old the token was.
    pub generations_old: u32,
    /// Seconds since the current generation was created.
    pub rotated_ago: u64,
}

/// Why a session cannot be refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The session does not exist, or no longer.
    Gone,
    /// Idle or absolute lifetime exceeded.
    Expired,
    /// A revocation of its user, or of everything, came after the session was created.
    Revoked,
}

/// A session to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndSession {
    /// The session.
    pub sid: Id,
    /// The partition that would hold it.
    pub partition: u16,
    /// The user, if known.
    pub sub: Option<String>,
    /// The user's tag, if known.
    pub subject: Option<SubjectTag>,
    /// `exp` of a presented token of the session, if any: a failover may have lost the record's own
    /// value.
    pub exp_seen: UnixTime,
    /// True if the log is known to have the session's revocation: nothing is appended if the record
    /// is gone as well.
    pub known: bool,
}

/// Result of ending a session. In both cases its revocation is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOutcome {
    /// The session existed and has ended now.
    Now,
    /// The session had ended before.
    Before,
}

/// Decision about a refresh token of generation `presented`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Make this generation current.
    Trade(u32),
    /// Issue the current generation again.
    Retry,
    /// Refuse the token.
    Refuse(Refusal),
    /// End the session and revoke its tokens.
    Reuse,
}

/// The rules of rotation. `watermark` is the later of the user's session watermark and the global
/// one: sessions created at or before it have ended.
///
/// Redis' `rotate.lua` implements the same rules; the conformance suite tests both with one table.
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
    // A valid token of a later generation than the store's: a failover lost the rotation that
    // created it.
    if retry { Decision::Retry } else { Decision::Trade(presented.saturating_add(1)) }
}

/// How far ahead of the store's clock a token may be issued, in seconds. Its client waits until the
/// token is valid; beyond this limit the store's clock is behind, and nothing is issued.
pub const AHEAD_MAX_SECONDS: u64 = 5;

/// How far ahead of the store's clock a threshold may be, in seconds; a later one is refused.
pub const THRESHOLD_AHEAD_MAX_SECONDS: u64 = 60;

/// The time at which a token is issued: never at or before a watermark, so that it is not revoked
/// from the start. `watermark` is the latest that revokes tokens, of the user (sessions kept or
/// not) or global. `None` if it is too far ahead.
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
    fn ended_sessions_are_refused_and_reuse_is_detected() {
        let idle = UnixTime(1600);
        assert_eq!(decide(&session(5), 5, idle, None, 30), Decision::Refuse(Refusal::Expired));
        assert_eq!(decide(&session(5), 2, idle, None, 30), Decision::Reuse, "its access tokens may still live");
        assert_eq!(decide(&session(5), 5, NOW, Some(NOW), 30), Decision::Refuse(Refusal::Revoked));
        assert_eq!(decide(&session(5), 5, NOW, Some(UnixTime(999)), 30), Decision::Trade(6));
    }

    #[test]
    fn a_refresh_does_not_make_a_session_younger() {
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
    fn tokens_are_issued_after_the_watermark() {
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
