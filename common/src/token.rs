//! The access token: signed by jsonwebtoken, verified here, strictly (RFC 7515, 7519, 8725, 9068;
//! docs/attacks.md).
//!
//! Every path of both programs verifies through [`verify`]; there is no other way to make a
//! [`VerifiedToken`].

pub(crate) mod compact;
mod payload;

pub use compact::TOKEN_BYTES_MAX;

use crate::claims::Claims;
use crate::foreign::ids::ForeignToken;
use crate::identity_headers::HOME_ISSUER;
use crate::key::{KeyRing, SigningKey};
use crate::problem::Code;
use crate::time::UnixTime;

/// What a verifier requires of claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The only accepted `iss`.
    pub issuer: String,
    /// A token must name at least one of these in `aud`.
    pub audiences: Vec<String>,
    /// How far clocks may differ, in seconds; at most [`crate::time::LEEWAY_MAX_SECONDS`].
    pub leeway_seconds: u64,
    /// The longest accepted `exp - iat`, in seconds.
    pub lifetime_max_seconds: u64,
}

/// Why a token is rejected. The client sees [`Rejection::code`]; the rest is for logs and `check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// No token was presented.
    #[error("no access token was sent")]
    Missing,
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("the token is too long")]
    TooLong,
    /// Not three canonical base64url parts (RFC 7515 §3.1, §2).
    #[error("not a compact JWS")]
    NotCompact,
    /// The header has members other than `alg`, `typ` and `kid`, or one that is not a string or
    /// stands twice.
    #[error("the header is malformed or has members that are not allowed")]
    Header,
    /// `typ` is not `at+jwt` (RFC 9068 §4).
    #[error("the token is not marked as an access token (typ is not at+jwt)")]
    Type,
    /// Has a member that only ID tokens, logout tokens or security events have.
    #[error("the token is not an access token: it has nonce, at_hash, c_hash or events")]
    OtherKind,
    /// Bound to a key of the client (`cnf`), whose possession is not checked.
    #[error("the token is bound to a key (cnf), whose possession is not checked here")]
    Bound,
    /// No key has this `kid` and this algorithm.
    #[error("no key has this kid and alg")]
    UnknownKey,
    /// The signature is not the key's.
    #[error("the signature is wrong")]
    Signature,
    /// The payload is not a JSON object without duplicate members, or a claim is missing, mistyped
    /// or invalid.
    #[error("claim {0} is missing, malformed or repeated")]
    Claim(&'static str),
    /// Another `iss`.
    #[error("the issuer (iss) is not accepted")]
    Issuer,
    /// Another `aud`.
    #[error("the audience (aud) is not accepted")]
    Audience,
    /// `iat` or `nbf` is in the future.
    #[error("not valid yet (iat or nbf)")]
    NotYetValid,
    /// The lifetime is too long.
    #[error("the lifetime (exp - iat) is too long")]
    Lifetime,
    /// Authentic, but past its `exp`.
    #[error("the access token has expired")]
    Expired,
    /// Authentic, but revoked.
    #[error("the access token has been revoked")]
    Revoked,
    /// Authentic, but issued before the log of revocations began, which may lack its own.
    #[error("the access token is older than the log of revocations, and its issuer's enrolled_at does not cover it")]
    OlderThanLog,
}

impl Rejection {
    /// The stable code that a client sees.
    pub const fn code(self) -> Code {
        match self {
            Self::Missing => Code::TokenMissing,
            Self::Expired => Code::TokenExpired,
            Self::Revoked | Self::OlderThanLog => Code::TokenRevoked,
            _ => Code::TokenInvalid,
        }
    }
}

/// A token whose signature and claims have been verified. It may still be revoked: see [`crate::token_checker`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    claims: Claims,
    kid: String,
    foreign: Option<Box<ForeignToken>>,
}

impl VerifiedToken {
    pub(crate) fn foreign(claims: Claims, kid: String, token: ForeignToken) -> Self {
        Self { claims, kid, foreign: Some(Box::new(token)) }
    }

    /// What a token of another issuer has beside its claims; `None` for the home issuer's.
    pub fn other_issuer(&self) -> Option<&ForeignToken> {
        self.foreign.as_deref()
    }

    /// The issuer's name: `home`, or as in `ISSUERS_FILE`.
    pub fn issuer_name(&self) -> &str {
        self.foreign.as_ref().map_or(HOME_ISSUER, |token| token.issuer())
    }

    /// The claims.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The key that signed it.
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

/// Why claims were not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// This claim is not safe in a header line.
    #[error("claim {0} cannot be put in a token")]
    Unfit(&'static str),
    /// The key failed.
    #[error("the signing key failed")]
    Key,
    /// The token would exceed the verifier's limit.
    #[error("the token would be too long")]
    TooLong,
}

/// Signs an access token.
///
/// # Errors
/// See [`SignError`].
pub fn sign(key: &SigningKey, claims: &Claims) -> Result<String, SignError> {
    if let Some(name) = claims.unfit_claim() {
        return Err(SignError::Unfit(name));
    }
    let token = key.sign(claims).map_err(|_| SignError::Key)?;
    if token.len() > TOKEN_BYTES_MAX { Err(SignError::TooLong) } else { Ok(token) }
}

/// Verifies a compact access token at `now`.
///
/// # Errors
/// See [`Rejection`]; [`Rejection::Expired`] only if everything else is right.
pub fn verify(keys: &KeyRing, policy: &Policy, now: UnixTime, token: &str) -> Result<VerifiedToken, Rejection> {
    let verified = verify_expired_too(keys, policy, now, token)?;
    still_valid(&verified, policy, now)?;
    Ok(verified)
}

/// As [`verify`], but accepts an expired token: a logout with one still ends its session.
///
/// # Errors
/// See [`Rejection`]; never [`Rejection::Expired`].
pub fn verify_expired_too(
    keys: &KeyRing,
    policy: &Policy,
    now: UnixTime,
    token: &str,
) -> Result<VerifiedToken, Rejection> {
    let parts = compact::split(token)?;
    let key = match keys.with_usual_header(parts.header) {
        Some(key) => key,
        None => compact::key_for(parts.header, keys)?,
    };
    let mut signature = [0; compact::SIGNATURE_BYTES_MAX];
    let signature = compact::decode_signature(parts.signature, &mut signature)?;
    if !key.verifies(parts.signed.as_bytes(), signature) {
        return Err(Rejection::Signature);
    }
    let claims = payload::parse(&compact::decode(parts.payload)?)?;
    if claims.iss != policy.issuer {
        return Err(Rejection::Issuer);
    }
    if !policy.audiences.iter().any(|audience| claims.aud.names(audience)) {
        return Err(Rejection::Audience);
    }
    match claims.exp.checked_sub(claims.iat) {
        Some(lifetime) if lifetime <= policy.lifetime_max_seconds => {}
        _ => return Err(Rejection::Lifetime),
    }
    let latest = now.plus(policy.leeway_seconds);
    if claims.issued_at() > latest || claims.nbf.is_some_and(|nbf| UnixTime(nbf) > latest) {
        return Err(Rejection::NotYetValid);
    }
    Ok(VerifiedToken { claims, kid: key.kid().to_owned(), foreign: None })
}

/// The part of [`verify`] that depends on the time alone; repeated whenever a verified token is
/// used again.
///
/// # Errors
/// [`Rejection::Expired`].
pub fn still_valid(token: &VerifiedToken, policy: &Policy, now: UnixTime) -> Result<(), Rejection> {
    if now >= token.claims.expires_at().plus(policy.leeway_seconds) { Err(Rejection::Expired) } else { Ok(()) }
}

/// The key named in a token's header, unverified: only to decide whether to fetch new keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedKey {
    /// `alg`.
    pub algorithm: String,
    /// `kid`, if there is one.
    pub kid: Option<String>,
}

/// The key that a token's header names, if the header is well-formed.
pub fn unverified_key(token: &str) -> Option<UnverifiedKey> {
    compact::unverified_key(compact::split(token).ok()?.header)
}

/// The claims of a token, unverified: only for log lines that say what was wrong with them.
pub fn unverified_claims(token: &str) -> Option<Claims> {
    payload::parse(&compact::decode(compact::split(token).ok()?.payload).ok()?).ok()
}

#[cfg(test)]
mod tests;
