//! Refresh: a refresh token in exchange for a new pair.

use sidegate_common::revocation::{Id, SubjectTag};

use super::refresh_token::{RefreshToken, RefreshTokenError};
use super::session::{EndSession, Refusal, Reuse, Rotated, Rotation, Session};
use super::token_signer::{MintError, TokenSigner};
use super::traits::{Account, DependencyUnavailable, Passwords, Store, Users};
use super::{Auth, TokenPair};

/// A token pair, and whether the refresh token had been traded before.
#[derive(Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// The pair.
    pub pair: TokenPair,
    /// True if the same child had been issued before.
    pub retried: bool,
}

/// Why a refresh was refused. The client always gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// Not a refresh token of this issuer.
    #[error(transparent)]
    NotAuthentic(#[from] RefreshTokenError),
    /// The session cannot be refreshed.
    #[error("the session cannot be refreshed: {why:?}")]
    Refused {
        /// The reason, for the log.
        why: Refusal,
        /// The session.
        sid: String,
        /// The user, if known.
        sub: Option<String>,
    },
    /// The user no longer exists or is disabled: the session was ended.
    #[error("user no longer exists or is disabled")]
    UserGone {
        /// The session.
        sid: String,
        /// The user.
        sub: String,
    },
    /// The token had been used before: the session was ended.
    #[error("the refresh token was used before")]
    Reused {
        /// The session.
        sid: String,
        /// The user.
        sub: String,
        /// How old the token was.
        reuse: Reuse,
    },
    /// A dependency cannot answer.
    #[error(transparent)]
    Unavailable(#[from] DependencyUnavailable),
    /// The user's row cannot be put into a token.
    #[error(transparent)]
    Mint(#[from] MintError),
}

impl<U: Users, S: Store, P: Passwords> Auth<U, S, P> {
    /// Trades a refresh token.
    ///
    /// # Errors
    /// See [`RefreshError`].
    pub async fn refresh(&self, presented: &str) -> Result<Refreshed, RefreshError> {
        let token = self.refresh_keys.read(presented)?;
        let session = self.session_of(&token).await?.ok_or_else(|| RefreshError::Refused {
            why: Refusal::Gone,
            sid: Id::Packed(token.sid).to_string(),
            sub: None,
        })?;
        let rotation = rotation_of(&token, &session);
        // Reuse is detected without reading the user, so that a database that is down does not
        // delay it.
        if token.generation.saturating_add(1) < session.generation {
            return Err(match self.store.rotate(&rotation).await? {
                Rotated::Traded { .. } => refused(&session, Refusal::Gone),
                other => not_traded(&session, &other),
            });
        }
        let account = self.account_of(&session).await?;
        TokenSigner::check(&account)?;
        match self.store.rotate(&rotation).await? {
            Rotated::Traded { generation, issued, retried } => {
                let access = self.signer.sign(&account, &session.sid, issued)?;
                let refresh_token = self.refresh_keys.write(&token.child(generation)).ok_or(MintError::Key)?;
                let pair = TokenPair {
                    access_token: access.token,
                    refresh_token,
                    expires_in: self.signer.access_ttl(),
                    sub: account.id,
                    sid: session.sid.to_string(),
                    jti: access.jti,
                    displaced: Vec::new(),
                };
                Ok(Refreshed { pair, retried })
            }
            other => Err(not_traded(&session, &other)),
        }
    }

    /// The session of a refresh token, if it exists.
    pub(super) async fn session_of(&self, token: &RefreshToken) -> Result<Option<Session>, DependencyUnavailable> {
        let partition = token.subject.partition(self.store.partitions());
        let session = self.store.read(partition, &Id::Packed(token.sid)).await?;
        Ok(session.filter(|session| SubjectTag::of(&session.sub) == token.subject))
    }

    /// Reads the session's user again; ends the session if the user is gone or disabled.
    async fn account_of(&self, session: &Session) -> Result<Account, RefreshError> {
        if let Some(account) = self.users.read(&session.sub).await? {
            // Guards against a wrong row: a user must never get another user's token.
            if account.id != session.sub {
                return Err(DependencyUnavailable::new("the users database", "the row is of another user").into());
            }
            if account.active {
                return Ok(account);
            }
        }
        let subject = SubjectTag::of(&session.sub);
        let ending = EndSession {
            sid: session.sid.clone(),
            partition: subject.partition(self.store.partitions()),
            sub: Some(session.sub.clone()),
            subject: Some(subject),
            exp_seen: session.exp_max,
            known: false,
        };
        self.store.end(&ending).await?;
        Err(RefreshError::UserGone { sid: session.sid.to_string(), sub: session.sub.clone() })
    }
}

/// The rotation that a token requests for its session.
pub(super) fn rotation_of(token: &RefreshToken, session: &Session) -> Rotation {
    Rotation { sid: session.sid.clone(), sub: session.sub.clone(), presented: token.generation }
}

fn refused(session: &Session, why: Refusal) -> RefreshError {
    RefreshError::Refused { why, sid: session.sid.to_string(), sub: Some(session.sub.clone()) }
}

fn not_traded(session: &Session, rotated: &Rotated) -> RefreshError {
    match rotated {
        Rotated::Reused(reuse) => {
            RefreshError::Reused { sid: session.sid.to_string(), sub: session.sub.clone(), reuse: *reuse }
        }
        Rotated::Refused(why) => refused(session, *why),
        Rotated::Traded { .. } => refused(session, Refusal::Gone),
    }
}
