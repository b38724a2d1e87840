//! The truth of the simulated world: its tokens and sessions, which requests were acknowledged, and
//! which of them a store has lost.

use crate::revocation::{EntryError, Id, Revocation, Target};
use crate::time::{REVOCATION_MARGIN_SECONDS, UnixTime};

pub type EntryId = usize;
pub type TokenId = usize;
pub type Sid = usize;
pub type User = usize;

/// The number of users.
pub const USERS: usize = 4;
/// The first user whose tokens are of another issuer.
pub const FOREIGN_FROM: User = 2;
/// From when on that issuer's tokens could be revoked here.
pub const ENROLLED_AT: UnixTime = UnixTime(ORIGIN_MS / 1000);
/// The longest lifetime of a token here, in seconds.
pub const LIFETIME_MAX: u64 = 200;
/// The store's clock at the beginning, in milliseconds since 1970.
pub const ORIGIN_MS: u64 = 1_700_000_000_000;
/// A late request may cover a login this much later, in milliseconds: its threshold was estimated
/// in whole seconds.
const ESTIMATED_MS: u64 = 2_000;

/// The true time.
pub fn true_seconds(now: u64) -> UnixTime {
    UnixTime((ORIGIN_MS + now) / 1000)
}

/// An access token.
#[derive(Clone, Debug)]
pub struct Token {
    pub sid: Sid,
    pub user: User,
    pub issued: UnixTime,
    pub expires: UnixTime,
    /// The entries that revoke it, once acknowledged.
    pub dead_by: Vec<EntryId>,
}

/// A session, as its client knows it.
#[derive(Clone, Debug)]
pub struct SessionTruth {
    pub user: User,
    /// When its client received its first token.
    pub created_ms: u64,
    pub tokens: Vec<TokenId>,
    /// The latest expiry of a token that the store issued for it, also one that the client has yet to receive.
    pub exp_max: UnixTime,
    pub dead_by: Vec<EntryId>,
}

/// What an entry of the log revokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    Token(TokenId),
    Session(Sid),
    /// `keep`: the sessions stay alive.
    Subject {
        user: User,
        threshold: UnixTime,
        keep: bool,
    },
    All {
        threshold: UnixTime,
        /// A consequence of a request, not one itself: sessions stay alive.
        tokens_only: bool,
    },
    /// In a format that this verifier cannot decode.
    Unreadable(TokenId),
}

/// A time during which an acknowledged entry was in no log that a proof can cover.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    pub from: u64,
    pub to: u64,
    /// Every issuer that acknowledged or received it is gone.
    pub orphaned: bool,
    /// The data set was lost with it: a verifier that was not connected knows about the gap.
    pub with_data: bool,
}

/// One entry, in whatever logs.
#[derive(Clone, Debug)]
pub struct Logged {
    pub kill: Kill,
    pub expires: UnixTime,
    /// When it was requested, and when that was acknowledged.
    pub given_ms: u64,
    pub acknowledged_ms: Option<u64>,
    pub late: bool,
    pub lost: Vec<Lost>,
}

impl Logged {
    /// The loss that covers a proof as of `at`.
    pub fn lost_at(&self, at: u64) -> Option<&Lost> {
        self.lost.iter().find(|lost| (lost.from..lost.to).contains(&at))
    }

    pub fn open_loss(&mut self) -> Option<&mut Lost> {
        self.lost.last_mut().filter(|lost| lost.to == u64::MAX)
    }

    pub fn lose(&mut self, now: u64, with_data: bool) {
        match self.open_loss() {
            Some(open) => open.with_data &= with_data,
            None => self.lost.push(Lost { from: now, to: u64::MAX, orphaned: false, with_data }),
        }
    }

    /// The log was trimmed early: nothing puts the entry back before the log changes.
    pub fn trimmed(&mut self, now: u64) {
        self.lose(now, false);
        if let Some(open) = self.open_loss() {
            open.orphaned = true;
        }
    }
}

/// The complete truth.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub tokens: Vec<Token>,
    pub sessions: Vec<SessionTruth>,
    pub entries: Vec<Logged>,
}

pub fn packed(number: usize) -> Id {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    Id::Packed(bytes)
}

pub fn number_of(id: &Id) -> usize {
    match id {
        Id::Packed(bytes) => {
            usize::try_from(u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"))).expect("small")
        }
        Id::Text(text) => panic!("no such identifier here: {text}"),
    }
}

impl Truth {
    /// An entry as the log or a push encodes it.
    pub fn revocation(&self, id: EntryId) -> Result<Revocation, EntryError> {
        let entry = &self.entries[id];
        let target = match entry.kill {
            Kill::Token(token) => Target::Token { jti: packed(token), subject: None },
            Kill::Session(sid) => Target::Session { sid: packed(sid), subject: None },
            Kill::Subject { user, threshold, .. } => Target::Subject { sub: user.to_string().into(), threshold },
            Kill::All { threshold, .. } => Target::All { threshold },
            Kill::Unreadable(_) => return Err(EntryError::Version(2)),
        };
        Ok(Revocation { target, expires_at: entry.expires })
    }

    /// True if this entry ends that session.
    pub fn ends(&self, id: EntryId, sid: Sid) -> bool {
        self.entries[id].kill == Kill::Session(sid)
    }

    pub fn enter(&mut self, now: u64, kill: Kill, given_ms: u64, late: bool) -> EntryId {
        let last_token = match kill {
            Kill::Token(token) | Kill::Unreadable(token) => self.tokens[token].expires,
            Kill::Session(sid) => self.sessions[sid].exp_max.max(true_seconds(now)),
            Kill::Subject { threshold, .. } | Kill::All { threshold, .. } => threshold.plus(LIFETIME_MAX),
        };
        let expires = last_token.plus(REVOCATION_MARGIN_SECONDS);
        self.entries.push(Logged { kill, expires, given_ms, acknowledged_ms: None, late, lost: Vec::new() });
        self.entries.len() - 1
    }

    /// The client has its 204: from now on everything that the request covers is revoked.
    pub fn acknowledge(&mut self, now: u64, id: EntryId) {
        let entry = &mut self.entries[id];
        if entry.acknowledged_ms.is_some() {
            return;
        }
        entry.acknowledged_ms = Some(now);
        let (kill, given) = (entry.kill, entry.given_ms);
        match kill {
            Kill::Token(token) | Kill::Unreadable(token) => self.tokens[token].dead_by.push(id),
            Kill::Session(sid) => self.end(sid, id),
            Kill::Subject { user, threshold, keep } => self.end_many(id, given, Some(user), threshold, keep),
            Kill::All { threshold, tokens_only } => self.end_many(id, given, None, threshold, tokens_only),
        }
    }

    fn end(&mut self, sid: Sid, id: EntryId) {
        let session = &mut self.sessions[sid];
        session.dead_by.push(id);
        for token in &session.tokens {
            self.tokens[*token].dead_by.push(id);
        }
    }

    fn end_many(&mut self, id: EntryId, given_ms: u64, user: Option<User>, threshold: UnixTime, keep: bool) {
        for sid in 0..self.sessions.len() {
            let session = &self.sessions[sid];
            if user.is_some_and(|user| user != session.user) || session.created_ms > given_ms {
                continue;
            }
            if !keep {
                self.end(sid, id);
                continue;
            }
            for token in &session.tokens {
                if self.tokens[*token].issued <= threshold {
                    self.tokens[*token].dead_by.push(id);
                }
            }
        }
    }

    /// A session whose client has no token yet.
    pub fn begin(&mut self, user: User) -> Sid {
        self.sessions.push(SessionTruth {
            user,
            created_ms: u64::MAX,
            tokens: Vec::new(),
            exp_max: UnixTime(0),
            dead_by: Vec::new(),
        });
        self.sessions.len() - 1
    }

    /// The client of a session receives a token.
    pub fn hand_out(&mut self, now: u64, sid: Sid, issued: UnixTime, lifetime: u64) -> TokenId {
        let user = self.sessions[sid].user;
        let id = self.tokens.len();
        self.tokens.push(Token { sid, user, issued, expires: issued.plus(lifetime), dead_by: Vec::new() });
        let session = &mut self.sessions[sid];
        session.tokens.push(id);
        session.exp_max = session.exp_max.max(issued.plus(lifetime));
        session.created_ms = session.created_ms.min(now);
        id
    }

    /// The request, if any, that revokes a token issued now.
    pub fn born_dead(&self, now: u64, user: User, issued: UnixTime) -> Option<EntryId> {
        self.entries.iter().position(|entry| {
            let names = match entry.kill {
                Kill::Subject { user: whose, threshold, .. } => whose == user && issued <= threshold,
                Kill::All { threshold, .. } => !entry.late && issued <= threshold,
                _ => false,
            };
            let slack = if entry.late { ESTIMATED_MS } else { 0 };
            let orphaned = entry.lost.last().is_some_and(|lost| lost.to == u64::MAX && lost.orphaned);
            names && !orphaned && entry.acknowledged_ms.is_some() && entry.given_ms + slack < now
        })
    }
}
