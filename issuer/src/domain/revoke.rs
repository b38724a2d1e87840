//! Revocation by the operator or the application: a token, a session, a user, a key, or everything.

use futures_util::future::join_all;
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::text::is_identifier;
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};

use super::Auth;
use super::foreign_request::{ForeignError, ForeignRequest, ForeignTarget};
use super::session::{EndOutcome, EndSession, UserSessions};
use super::traits::{DependencyUnavailable, Passwords, Store, Users};

/// The target of a revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokeRequest {
    /// A token: the JWT itself, or its `jti`.
    Token(String),
    /// A session, by `sid`.
    Session(String),
    /// A user, by `sub`: all tokens, and the sessions unless they are kept.
    User {
        /// The user.
        sub: String,
        /// Whether the sessions end as well.
        sessions: UserSessions,
    },
    /// A key, by `kid`.
    Key(String),
    /// Everything of this issuer.
    All,
    /// Tokens of another issuer.
    Foreign(ForeignRequest),
}

impl RevokeRequest {
    /// The request's kind, for logs and metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Session(_) => "session",
            Self::User { .. } => "user",
            Self::Key(_) => "key",
            Self::All => "all",
            Self::Foreign(request) => request.target.kind(),
        }
    }
}

/// Result of a request, once the revocation is in the log of every partition concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// The target, for the audit log.
    pub named: String,
    /// How many live sessions ended; `None` where they are not counted ([`RevokeRequest::All`]).
    pub sessions_ended: Option<u64>,
}

impl Revoked {
    fn new(named: &str, sessions_ended: u64) -> Self {
        Self { named: named.to_owned(), sessions_ended: Some(sessions_ended) }
    }

    /// Of tokens of another issuer, whose sessions are not kept here.
    pub(super) fn of_issuer(issuer: &str, target: &ForeignTarget) -> Self {
        let value = match target {
            ForeignTarget::User(value) | ForeignTarget::Session(value) | ForeignTarget::Key(value) => value,
            // Only its identifier may be logged, and the caller may have given the token itself.
            ForeignTarget::Token(value) if value.contains('.') => "a JWT",
            ForeignTarget::Token(value) => value,
            ForeignTarget::All => "*",
            ForeignTarget::Claim(path, value) => &format!("{path} = {value}"),
        };
        Self { named: format!("{issuer}:{value}"), sessions_ended: None }
    }
}

/// Why a request failed, entirely or in part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// A value that no token can have; names the field.
    #[error("{0} is malformed, or not of this issuer")]
    Unfit(&'static str),
    /// The request is about another issuer's tokens, and cannot be executed.
    #[error(transparent)]
    Foreign(ForeignError),
    /// The log could not be written; a retry completes the rest.
    #[error(transparent)]
    Unavailable(#[from] DependencyUnavailable),
}

/// The store replaces zero by the longest lifetime of any token.
const AS_LONG_AS_POSSIBLE: UnixTime = UnixTime(0);

impl<U: Users, S: Store, P: Passwords> Auth<U, S, P> {
    /// Executes a request.
    ///
    /// # Errors
    /// See [`RevokeError`].
    pub async fn revoke(&self, request: &RevokeRequest, now: UnixTime) -> Result<Revoked, RevokeError> {
        match request {
            RevokeRequest::Token(token) => self.revoke_token(token, now).await.map(|jti| Revoked::new(&jti, 0)),
            RevokeRequest::Session(sid) => self.revoke_session(sid).await.map(|ended| Revoked::new(sid, ended)),
            RevokeRequest::User { sub, .. } if self.issuers.is_prefixed(sub) => {
                Err(RevokeError::Foreign(ForeignError::PrefixedUser))
            }
            RevokeRequest::User { sub, sessions } if is_identifier(sub) => {
                let revoked = self.store.revoke_user(sub, *sessions).await?;
                Ok(Revoked::new(sub, revoked.sessions_ended))
            }
            RevokeRequest::User { .. } => Err(RevokeError::Unfit("user")),
            RevokeRequest::Key(kid) if is_identifier(kid) => {
                self.revoke_key(kid).await?;
                Ok(Revoked::new(kid, 0))
            }
            RevokeRequest::Key(_) => Err(RevokeError::Unfit("key")),
            RevokeRequest::All => {
                self.everywhere(|partition| self.store.revoke_all(partition)).await?;
                Ok(Revoked { named: "*".to_owned(), sessions_ended: None })
            }
            RevokeRequest::Foreign(request) => self.revoke_foreign(request).await,
        }
    }

    /// Revokes every token signed with a key.
    ///
    /// # Errors
    /// The log could not be written in every partition; a retry completes the rest.
    pub async fn revoke_key(&self, kid: &str) -> Result<(), DependencyUnavailable> {
        let revocation = Revocation { target: Target::Key { kid: kid.into() }, expires_at: AS_LONG_AS_POSSIBLE };
        self.everywhere(|partition| self.store.append(partition, &revocation)).await
    }

    /// Runs an operation in all partitions at once, whatever the outcome in others: the outbox
    /// keeps what the store refuses.
    pub(super) async fn everywhere<T, F: Future<Output = Result<T, DependencyUnavailable>>>(
        &self,
        act: impl Fn(u16) -> F,
    ) -> Result<(), DependencyUnavailable> {
        let outcomes = join_all((0..self.store.partitions()).map(act)).await;
        outcomes.into_iter().try_for_each(|outcome| outcome.map(|_| ()))
    }

    async fn revoke_token(&self, token: &str, now: UnixTime) -> Result<String, RevokeError> {
        // A `jti` of this issuer contains no dot; a JWT contains two.
        if !token.contains('.') {
            let jti = Id::parse(token).ok_or(RevokeError::Unfit("token"))?;
            let target = Target::Token { jti, subject: None };
            self.store.append(0, &Revocation { target, expires_at: AS_LONG_AS_POSSIBLE }).await?;
            return Ok(token.to_owned());
        }
        let verified = self.tokens.issuer().verify_expired_too(now, token);
        let verified = verified.map_err(|_| RevokeError::Unfit("token"))?;
        let claims = verified.claims();
        let jti = Id::parse(&claims.jti).ok_or(RevokeError::Unfit("token"))?;
        let subject = SubjectTag::of(&claims.sub);
        let target = Target::Token { jti, subject: Some(subject) };
        let expires_at = claims.expires_at().plus(REVOCATION_MARGIN_SECONDS);
        let partition = subject.partition(self.store.partitions());
        self.store.append(partition, &Revocation { target, expires_at }).await?;
        Ok(claims.jti.clone())
    }

    /// Ends the session in whichever partition it is; if none has it, its revocation is appended
    /// nevertheless. Returns how many sessions ended.
    async fn revoke_session(&self, sid: &str) -> Result<u64, RevokeError> {
        let sid = Id::parse(sid).ok_or(RevokeError::Unfit("session"))?;
        let request = |partition| EndSession {
            sid: sid.clone(),
            partition,
            sub: None,
            subject: None,
            exp_seen: UnixTime(0),
            known: false,
        };
        let found = join_all((0..self.store.partitions()).map(|partition| self.store.read(partition, &sid))).await;
        let mut unread = Vec::new();
        for (partition, session) in (0..).zip(found) {
            match session {
                Ok(Some(session)) => {
                    let ended = self.end_session(&sid, &session.sub).await?;
                    return Ok(u64::from(ended.outcome == EndOutcome::Now));
                }
                Ok(None) => {}
                Err(error) => unread.push((request(partition), error)),
            }
        }
        if unread.is_empty() {
            self.store.end(&request(0)).await?;
            return Ok(0);
        }
        // The session may be in an unreadable partition: the outbox keeps and delivers what the
        // store refuses.
        join_all(unread.iter().map(|(request, _)| self.store.end(request))).await;
        unread.pop().map_or(Ok(0), |(_, error)| Err(error.into()))
    }
}
