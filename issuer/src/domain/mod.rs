//! Login, refresh and logout. No sockets, no SQL, no Redis, no HTTP, no clock.
//!
//! - [`traits`]: the dependencies of the domain.
//! - [`session`]: a session's record and the rules of rotation. [`refresh_token`]: the refresh
//!   token's format.
//! - [`password`]: the cost of a refusal. [`hash`]: supported hashes. [`token_signer`]: signing
//!   access tokens.
//! - [`login`], [`refresh`], [`logout`], [`sessions`], [`revoke`], [`revoke_foreign`]: one operation
//!   each, on [`Auth`]. [`foreign_request`]: a revocation of another issuer's tokens.

pub mod foreign_request;
pub mod hash;
pub mod login;
pub mod logout;
pub mod password;
pub mod refresh;
pub mod refresh_token;
pub mod revoke;
pub mod revoke_foreign;
pub mod session;
pub mod sessions;
#[cfg(test)]
mod tests;
pub mod token_signer;
pub mod traits;

use aws_lc_rs::rand;
use sidegate_common::revocation::Id;
use sidegate_common::time::UnixTime;
use sidegate_common::token_checker::TokenChecker;

use refresh_token::RefreshKeys;
use revoke_foreign::KnownIssuers;
use token_signer::TokenSigner;
use traits::{Passwords, Store, Users};

/// Dependencies of login, refresh and logout.
pub struct Auth<U, S, P> {
    /// The application's users.
    pub users: U,
    /// Sessions and the revocation log.
    pub store: S,
    /// The password checker.
    pub passwords: P,
    /// Signs access tokens.
    pub signer: TokenSigner,
    /// Creates and recognises refresh tokens.
    pub refresh_keys: RefreshKeys,
    /// Checks access tokens against this issuer's own feed.
    pub tokens: TokenChecker,
    /// The issuers of `ISSUERS_FILE`.
    pub issuers: KnownIssuers,
}

/// The client, as the session's record and the audit log name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The client's address, as the trusted proxies report it.
    pub address: String,
    /// The client's `User-Agent`, truncated.
    pub agent: String,
}

/// A token pair for the client.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenPair {
    /// The access token, signed.
    pub access_token: String,
    /// The refresh token.
    pub refresh_token: String,
    /// Lifetime of the access token, in seconds.
    pub expires_in: u64,
    /// The user.
    pub sub: String,
    /// The session.
    pub sid: String,
    /// The access token's identifier.
    pub jti: String,
    /// Sessions of the user that the login ended because there were too many.
    pub displaced: Vec<String>,
}

/// The random generator failed; nothing can be issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the random number generator failed")]
pub struct NoRandomness;

/// 128 fresh random bits.
fn random_id() -> Result<[u8; 16], NoRandomness> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

impl<U: Users, S: Store, P: Passwords> Auth<U, S, P> {
    /// True if this issuer's own list has the revocation of the session.
    fn knows_ended(&self, sid: &Id) -> bool {
        self.tokens.state().index().has_session(sid)
    }

    /// True if this issuer's own list has the revocation of the key.
    pub fn knows_retired(&self, kid: &str) -> bool {
        self.tokens.state().index().has_key(kid)
    }

    /// True if, by this issuer's own list, the user's tokens issued at `iat` are revoked, whatever
    /// their session.
    fn knows_logged_out(&self, sub: &str, iat: UnixTime) -> bool {
        self.tokens.state().index().has_logged_out(sub, iat)
    }
}
