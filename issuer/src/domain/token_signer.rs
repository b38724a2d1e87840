//! Signs access tokens with the current signing key.

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sidegate_common::claims::{Audience, Claims};
use sidegate_common::key::SigningKey;
use sidegate_common::revocation::Id;
use sidegate_common::text::{is_identifier, is_scope};
use sidegate_common::time::UnixTime;
use sidegate_common::token::{self, SignError};

use super::traits::Account;
use super::{NoRandomness, random_id};

/// Claims common to all access tokens of this issuer.
#[derive(Clone, Debug)]
pub struct Issuing {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// `client_id`.
    pub client_id: String,
    /// Lifetime of a token, in seconds.
    pub access_ttl: u64,
}

/// Signs access tokens. The key can be replaced at any time.
pub struct TokenSigner {
    issuing: Issuing,
    key: RwLock<Arc<SigningKey>>,
}

/// Why no token could be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// A value of the user's row that must not be in a token; names the column.
    #[error(
        "the user's {0} cannot be put in a token: an id is 1 to 255 visible ASCII characters, a scope ASCII words with single spaces"
    )]
    Unfit(&'static str),
    /// The key failed to sign.
    #[error("the signing key failed")]
    Key,
    /// The random generator failed.
    #[error("the random number generator failed")]
    NoRandomness,
}

impl From<NoRandomness> for MintError {
    fn from(_: NoRandomness) -> Self {
        Self::NoRandomness
    }
}

impl From<SignError> for MintError {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Unfit(name) => Self::Unfit(name),
            SignError::TooLong => Self::Unfit("scope"),
            SignError::Key => Self::Key,
        }
    }
}

/// An access token and its identifier.
pub(super) struct SignedToken {
    pub(super) token: String,
    pub(super) jti: String,
}

impl TokenSigner {
    /// A signer with `key`.
    pub fn new(issuing: Issuing, key: SigningKey) -> Self {
        Self { issuing, key: RwLock::new(Arc::new(key)) }
    }

    /// Replaces the signing key.
    pub fn replace_key(&self, key: SigningKey) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }

    /// The `kid` of the signing key.
    pub fn kid(&self) -> String {
        self.key().kid().to_owned()
    }

    /// Lifetime of a token, in seconds.
    pub const fn access_ttl(&self) -> u64 {
        self.issuing.access_ttl
    }

    fn key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Checks, before a session is created, that a token can be signed for this user.
    pub(super) fn check(account: &Account) -> Result<(), MintError> {
        if !is_identifier(&account.id) {
            return Err(MintError::Unfit("id"));
        }
        match &account.scope {
            Some(scope) if !is_scope(scope) => Err(MintError::Unfit("scope")),
            _ => Ok(()),
        }
    }

    /// Signs an access token, issued at `issued`.
    pub(super) fn sign(&self, account: &Account, sid: &Id, issued: UnixTime) -> Result<SignedToken, MintError> {
        let jti = URL_SAFE_NO_PAD.encode(random_id()?);
        let claims = Claims {
            iss: self.issuing.issuer.clone(),
            aud: Audience::One(self.issuing.audience.clone()),
            sub: account.id.clone(),
            client_id: self.issuing.client_id.clone(),
            iat: issued.0,
            exp: issued.plus(self.issuing.access_ttl).0,
            nbf: None,
            jti: jti.clone(),
            sid: sid.to_string(),
            scope: account.scope.clone(),
        };
        Ok(SignedToken { token: token::sign(&self.key(), &claims)?, jti })
    }
}
