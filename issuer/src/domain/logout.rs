//! Logout: ends sessions. Their revocations are in the log before the client gets its answer.

use sidegate_common::claims::Claims;
use sidegate_common::clock::CheckTime;
use sidegate_common::revocation::{Id, SubjectTag};
use sidegate_common::time::UnixTime;
use sidegate_common::token::{Rejection, VerifiedToken};
use sidegate_common::token_checker::TokenError;

use super::Auth;
use super::refresh::rotation_of;
use super::refresh_token::{RefreshToken, RefreshTokenError};
use super::session::{EndOutcome, EndSession, Refusal, Reuse, Session, Standing};
use super::traits::{DependencyUnavailable, Passwords, Store, Users};

/// Which sessions a logout ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The session of each token given.
    Local,
    /// The user's other sessions.
    Others,
    /// All of the user's sessions.
    Global,
}

impl Scope {
    /// Parses the word that a client sends.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "local" => Some(Self::Local),
            "others" => Some(Self::Others),
            "global" => Some(Self::Global),
            _ => None,
        }
    }

    /// The word for the scope.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Others => "others",
            Self::Global => "global",
        }
    }
}

/// The tokens that a client presents: at least one of the two.
#[derive(Clone, Copy, Debug)]
pub struct PresentedTokens<'a> {
    /// The access token of the `Authorization` header.
    pub access: Option<&'a str>,
    /// The refresh token of the body.
    pub refresh: Option<&'a str>,
}

/// Why nothing was ended. A logout ends sessions only if every presented token is valid for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogoutError {
    /// The access token was rejected.
    #[error(transparent)]
    Access(#[from] Rejection),
    /// The refresh token was not issued here.
    #[error(transparent)]
    Refresh(#[from] RefreshTokenError),
    /// The refresh token's session has ended, so the token may not end other sessions.
    #[error("the session has ended: {why:?}")]
    Refused {
        /// The reason, for the log.
        why: Refusal,
        /// The session.
        sid: String,
        /// The user.
        sub: String,
    },
    /// The refresh token had been used before: only its own session was ended.
    #[error("the refresh token was used before")]
    Reused {
        /// The session.
        sid: String,
        /// The user.
        sub: String,
        /// How old the token was.
        reuse: Reuse,
    },
    /// The log could not be written; completed steps stand, and a retry does the rest.
    #[error(transparent)]
    Unavailable(#[from] DependencyUnavailable),
}

/// A session that was ended, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedSession {
    /// The session; `None` for all sessions of the user.
    pub sid: Option<String>,
    /// The user, if known.
    pub sub: Option<String>,
    /// Whether the session still existed.
    pub outcome: EndOutcome,
}

/// A session named by a token.
struct SessionRef {
    sid: Id,
    sub: Option<String>,
    subject: SubjectTag,
    exp_seen: UnixTime,
    /// True if a global logout of the user happened after the token was issued.
    logged_out: bool,
}

impl SessionRef {
    fn of(sid: &Id, sub: &str) -> Self {
        let (sub, subject) = (Some(sub.to_owned()), SubjectTag::of(sub));
        Self { sid: sid.clone(), sub, subject, exp_seen: UnixTime(0), logged_out: false }
    }

    fn by_claims(claims: &Claims, logged_out: bool) -> Option<Self> {
        let sid = Id::parse(&claims.sid)?;
        Some(Self { exp_seen: claims.expires_at(), logged_out, ..Self::of(&sid, &claims.sub) })
    }

    fn by_refresh(token: &RefreshToken, session: Option<&Session>) -> Self {
        let sub = session.map(|session| session.sub.clone());
        Self { sid: Id::Packed(token.sid), sub, subject: token.subject, exp_seen: UnixTime(0), logged_out: false }
    }
}

impl<U: Users, S: Store, P: Passwords> Auth<U, S, P> {
    /// Ends sessions. Returns once their revocations are in the log.
    ///
    /// # Errors
    /// See [`LogoutError`].
    pub async fn logout(
        &self,
        presented: PresentedTokens<'_>,
        scope: Scope,
        at: CheckTime,
    ) -> Result<Vec<EndedSession>, LogoutError> {
        let mut named = Vec::with_capacity(2);
        if let Some(access) = presented.access {
            let verified = self.authentic(access, scope, at)?;
            let claims = verified.claims();
            let logged_out = self.knows_logged_out(&claims.sub, claims.issued_at());
            named.push(SessionRef::by_claims(claims, logged_out).ok_or(Rejection::Claim("sid"))?);
        }
        let mut unread = None;
        if let Some(refresh) = presented.refresh {
            let token = self.refresh_keys.read(refresh)?;
            let mut session = self.session_of(&token).await.unwrap_or_else(|error| {
                unread = Some(error);
                None
            });
            if let Some(found) = session.as_ref().filter(|_| scope != Scope::Local)
                && !self.entitled(&token, found).await?
            {
                session = None;
            }
            // Only the record names the user: if a session ended without being read, a retry of
            // `global` could not identify the user to log out.
            let lost = unread.is_some() && scope == Scope::Global;
            if !lost && !named.iter().any(|one| one.sid == Id::Packed(token.sid)) {
                named.push(SessionRef::by_refresh(&token, session.as_ref()));
            }
        }
        if named.is_empty() {
            return Err(unread.map_or_else(|| Rejection::Missing.into(), LogoutError::from));
        }
        // Sends the request even if the store could not be read: the outbox keeps and delivers what
        // the store refuses.
        let ended = match scope {
            Scope::Local => self.end_each(&named).await,
            Scope::Others => self.end_others(&named).await,
            Scope::Global => self.end_all(&named).await,
        };
        unread.map_or(ended, |error| Err(error.into()))
    }

    /// Verifies an access token for a logout. An expired or revoked token may end its own session;
    /// to end others the token must be valid, or revoked by an earlier attempt of this logout whose
    /// answer was lost.
    fn authentic(&self, access: &str, scope: Scope, at: CheckTime) -> Result<VerifiedToken, Rejection> {
        let verified = self.tokens.issuer().verify_expired_too(at.now, access)?;
        if scope == Scope::Local {
            return Ok(verified);
        }
        self.tokens.issuer().still_valid(at.now, &verified)?;
        let claims = verified.claims();
        let logged_out = || scope == Scope::Global && self.knows_logged_out(&claims.sub, claims.issued_at());
        match self.tokens.check(access, at) {
            Err(TokenError::Rejected(rejection)) if !logged_out() => Err(rejection),
            _ => Ok(verified),
        }
    }

    /// Only a current refresh token, or one in its retry window, may end other sessions. An older
    /// token was stolen, or its client lost the answer long ago: its session ends, as on a refresh.
    /// Returns false if the session has disappeared since it was read.
    async fn entitled(&self, token: &RefreshToken, session: &Session) -> Result<bool, LogoutError> {
        let (sid, sub) = (session.sid.to_string(), session.sub.clone());
        match self.store.examine(&rotation_of(token, session)).await? {
            Standing::Current => Ok(true),
            Standing::Refused(Refusal::Gone) => Ok(false),
            Standing::Refused(why) => Err(LogoutError::Refused { why, sid, sub }),
            Standing::Reused(reuse) => Err(LogoutError::Reused { sid, sub, reuse }),
        }
    }

    // Each is tried even if others fail: the outbox keeps what the store refuses.

    async fn end_each(&self, named: &[SessionRef]) -> Result<Vec<EndedSession>, LogoutError> {
        let mut ended = Vec::new();
        for one in named {
            ended.push(self.end_named(one).await);
        }
        Ok(ended.into_iter().collect::<Result<_, _>>()?)
    }

    async fn end_others(&self, named: &[SessionRef]) -> Result<Vec<EndedSession>, LogoutError> {
        let mut ended = Vec::new();
        for sub in users_of(named) {
            for sid in self.store.session_ids(&sub).await? {
                if named.iter().all(|one| one.sid != sid) {
                    ended.push(self.end_session(&sid, &sub).await);
                }
            }
        }
        Ok(ended.into_iter().collect::<Result<_, _>>()?)
    }

    async fn end_all(&self, named: &[SessionRef]) -> Result<Vec<EndedSession>, LogoutError> {
        let mut ended = Vec::new();
        for sub in users_of(named) {
            let before = named.iter().filter(|one| one.sub.as_ref() == Some(&sub)).all(|one| one.logged_out);
            let revoked = if before {
                Ok(EndOutcome::Before)
            } else {
                self.store.revoke_subject(&sub).await.map(|_| EndOutcome::Now)
            };
            ended.push(revoked.map(|outcome| EndedSession { sid: None, sub: Some(sub), outcome }));
        }
        // A refresh token without a record names no user: at least its own session is ended.
        for one in named.iter().filter(|one| one.sub.is_none()) {
            ended.push(self.end_named(one).await);
        }
        Ok(ended.into_iter().collect::<Result<_, _>>()?)
    }

    async fn end_named(&self, one: &SessionRef) -> Result<EndedSession, DependencyUnavailable> {
        let request = EndSession {
            sid: one.sid.clone(),
            partition: one.subject.partition(self.store.partitions()),
            sub: one.sub.clone(),
            subject: Some(one.subject),
            exp_seen: one.exp_seen,
            known: self.knows_ended(&one.sid),
        };
        let outcome = self.store.end(&request).await?;
        Ok(EndedSession { sid: Some(one.sid.to_string()), sub: one.sub.clone(), outcome })
    }

    /// Ends a session that the store has.
    pub(super) async fn end_session(&self, sid: &Id, sub: &str) -> Result<EndedSession, DependencyUnavailable> {
        self.end_named(&SessionRef::of(sid, sub)).await
    }
}

fn users_of(named: &[SessionRef]) -> Vec<String> {
    let mut users: Vec<String> = named.iter().filter_map(|one| one.sub.clone()).collect();
    users.dedup();
    users
}
