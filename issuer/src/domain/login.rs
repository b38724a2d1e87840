//! Login: email and password in exchange for a new session.

use sidegate_common::revocation::{Id, SubjectTag};
use sidegate_common::secret::Secret;

use super::password::{Attempt, COST_ADVISED, Outcome, QueueFullError, Reason, Rehash};
use super::session::NewSession;
use super::token_signer::{MintError, TokenSigner};
use super::traits::{Account, DependencyUnavailable, Lookup, Passwords, Store, Users};
use super::{Auth, ClientInfo, TokenPair, random_id};

/// The credentials that a client sends. The password is used exactly as received.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The email.
    pub email: String,
    /// The password.
    pub password: Secret,
}

/// Why a login was refused. The client always gets the same answer; log and metrics have the
/// reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// No user has this email.
    UnknownUser,
    /// Several rows match the email.
    SeveralUsers,
    /// The user is disabled.
    Disabled,
    /// The user has no password.
    NoPassword,
    /// The stored value is not a hash: the application's table needs repair.
    MalformedHash,
    /// The stored hash is of an unsupported scheme.
    UnsupportedHash,
    /// The password is over 72 bytes, or contains a NUL byte.
    UnfitPassword,
    /// The password is wrong.
    WrongPassword,
}

impl Refused {
    /// The reason's name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownUser => "unknown_user",
            Self::SeveralUsers => "several_users",
            Self::Disabled => "disabled",
            Self::NoPassword => "no_password",
            Self::MalformedHash => "malformed_hash",
            Self::UnsupportedHash => "unsupported_hash",
            Self::UnfitPassword => "unfit_password",
            Self::WrongPassword => "wrong_password",
        }
    }
}

/// Why a login failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The credentials were refused.
    #[error("login refused: {}", .reason.name())]
    Refused {
        /// The reason, for the log.
        reason: Refused,
        /// The user, if one was found.
        sub: Option<String>,
    },
    /// The password queue is full.
    #[error(transparent)]
    Overloaded(#[from] QueueFullError),
    /// A dependency cannot answer.
    #[error(transparent)]
    Unavailable(#[from] DependencyUnavailable),
    /// The user's row cannot be put into a token.
    #[error(transparent)]
    Mint(#[from] MintError),
}

impl<U: Users, S: Store, P: Passwords> Auth<U, S, P> {
    /// Logs a user in.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn login(&self, credentials: &Credentials, client: &ClientInfo) -> Result<TokenPair, LoginError> {
        let slot = self.passwords.acquire_slot()?;
        let found = self.users.find_by_email(&credentials.email).await?;
        let account = match &found {
            Lookup::One(account) => Some(account),
            Lookup::NotFound | Lookup::Several => None,
        };
        // An unknown user costs the same work, so that the response time reveals nothing.
        let attempt = Attempt {
            password: credentials.password.clone(),
            stored: account.and_then(|account| account.password_hash.as_deref()).map(Secret::new),
            eligible: account.is_some_and(|account| account.active),
        };
        let outcome = self.passwords.check(slot, attempt).await?;
        let (account, cost, outdated) = match (account, outcome) {
            (Some(account), Outcome::Right { cost, outdated }) => (account, cost, outdated),
            (_, outcome) => return Err(refusal(&found, &outcome)),
        };
        if let Some(cost) = cost.filter(|cost| *cost < COST_ADVISED && !outdated) {
            tracing::warn!(
                sub = account.id,
                cost,
                "stored bcrypt hash has a cost below 10; USERS_REHASH=true rehashes it at login"
            );
        }
        let pair = self.open_session(account, client).await?;
        if outdated && let Some(stored) = &account.password_hash {
            let (id, password, stored) =
                (account.id.clone(), credentials.password.clone(), Secret::new(stored.as_str()));
            self.passwords.rehash(Rehash { id, password, stored });
        }
        Ok(pair)
    }

    async fn open_session(&self, account: &Account, client: &ClientInfo) -> Result<TokenPair, LoginError> {
        TokenSigner::check(account)?;
        let sid_bytes = random_id().map_err(MintError::from)?;
        let sid = Id::Packed(sid_bytes);
        let new = NewSession {
            sid: sid.clone(),
            sub: account.id.clone(),
            address: client.address.clone(),
            agent: client.agent.clone(),
        };
        let created = self.store.create(&new).await?;
        let access = self.signer.sign(account, &sid, created.issued)?;
        let refresh = self.refresh_keys.first(SubjectTag::of(&account.id), sid_bytes);
        Ok(TokenPair {
            access_token: access.token,
            refresh_token: self.refresh_keys.write(&refresh).ok_or(MintError::Key)?,
            expires_in: self.signer.access_ttl(),
            sub: account.id.clone(),
            sid: sid.to_string(),
            jti: access.jti,
            displaced: created.displaced.iter().map(Id::to_string).collect(),
        })
    }
}

fn refusal(found: &Lookup, outcome: &Outcome) -> LoginError {
    let (account, reason) = match (found, outcome) {
        (Lookup::NotFound, _) => (None, Refused::UnknownUser),
        (Lookup::Several, _) => (None, Refused::SeveralUsers),
        (Lookup::One(account), Outcome::Wrong(reason)) => {
            let reason = match reason {
                Reason::Mismatch => Refused::WrongPassword,
                Reason::NothingStored => Refused::NoPassword,
                Reason::MalformedHash => Refused::MalformedHash,
                Reason::UnsupportedHash => Refused::UnsupportedHash,
                Reason::UnfitPassword => Refused::UnfitPassword,
                Reason::NotEligible => Refused::Disabled,
            };
            (Some(account), reason)
        }
        (Lookup::One(account), Outcome::Right { .. }) => (Some(account), Refused::Disabled),
    };
    LoginError::Refused { reason, sub: account.map(|account| account.id.clone()) }
}
