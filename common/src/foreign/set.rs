//! All issuers of `ISSUERS_FILE`, found by the `iss` of a token before its signature is checked.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::ids::{ClaimId, ClaimPath};
use super::issuer::ForeignIssuer;
use crate::issuer::Issuer;
use crate::time::UnixTime;
use crate::token::compact;
use crate::token::{Rejection, VerifiedToken};

/// The issuers of the file, and whether there is a home issuer beside them.
#[derive(Debug)]
pub struct ForeignIssuers {
    by_iss: HashMap<String, Arc<ForeignIssuer>>,
    has_home: bool,
}

impl ForeignIssuers {
    /// The issuers. Without a home issuer only their tokens are accepted.
    pub fn new(issuers: Vec<Arc<ForeignIssuer>>, has_home: bool) -> Self {
        let by_iss = issuers.into_iter().map(|issuer| (issuer.entry().iss.clone(), issuer)).collect();
        Self { by_iss, has_home }
    }

    /// True if the home issuer's tokens are accepted.
    pub const fn has_home(&self) -> bool {
        self.has_home
    }

    /// The issuers, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<ForeignIssuer>> {
        self.by_iss.values()
    }

    /// The issuer that a token names, unverified; `None` if it is another's, or malformed.
    pub fn of_token(&self, token: &str) -> Option<&Arc<ForeignIssuer>> {
        let parts = compact::split(token).ok()?;
        let payload = crate::json::parse(&compact::decode(parts.payload).ok()?)?;
        self.by_iss.get(payload.get("iss")?.as_str()?)
    }

    /// True if an entry of one of these issuers names a claim that its tokens are not looked up by,
    /// because another program's `ISSUERS_FILE` lists it and this one does not.
    pub fn lack_claim(&self, claim: &ClaimId) -> bool {
        self.all().any(|issuer| issuer.lacks_claim(claim))
    }

    /// Verifies a token of any issuer.
    ///
    /// # Errors
    /// See [`crate::token::verify`]; [`Rejection::Issuer`] before any key is looked for.
    pub(crate) fn verify(&self, home: &Issuer, now: UnixTime, token: &str) -> Result<VerifiedToken, Rejection> {
        let parts = compact::split(token)?;
        if self.has_home && home.keys().with_usual_header(parts.header).is_some() {
            return self.home(home, now, token);
        }
        let payload = crate::json::parse(&compact::decode(parts.payload)?).ok_or(Rejection::Claim("payload"))?;
        let iss = payload.get("iss").and_then(Value::as_str).ok_or(Rejection::Claim("iss"))?;
        match self.by_iss.get(iss) {
            Some(issuer) => {
                let verified = issuer.verify(&parts, &payload, home.policy().leeway_seconds, now)?;
                if !issuer.entry().subject_prefix {
                    self.check_unprefixed(&verified)?;
                }
                home.still_valid(now, &verified)?;
                Ok(verified)
            }
            None if self.has_home && iss == home.policy().issuer => self.home(home, now, token),
            None => Err(Rejection::Issuer),
        }
    }

    fn home(&self, home: &Issuer, now: UnixTime, token: &str) -> Result<VerifiedToken, Rejection> {
        let verified = home.verify(now, token)?;
        self.check_unprefixed(&verified)?;
        Ok(verified)
    }

    /// A subject without prefix must not look like one of another issuer.
    fn check_unprefixed(&self, token: &VerifiedToken) -> Result<(), Rejection> {
        match self.names_issuer(&token.claims().sub) {
            true => Err(Rejection::Claim("subject")),
            false => Ok(()),
        }
    }

    /// True if a subject begins with the name of one of these issuers and a colon.
    pub fn names_issuer(&self, subject: &str) -> bool {
        let Some((name, _)) = subject.split_once(':') else { return false };
        self.all().any(|issuer| issuer.entry().name == name)
    }
}

/// The text of a claim of a token that names the issuer `iss`; the signature is not checked.
pub fn unverified_text(token: &str, iss: &str, path: &ClaimPath) -> Option<String> {
    let payload = crate::json::parse(&compact::decode(compact::split(token).ok()?.payload).ok()?)?;
    let named = payload.get("iss")?.as_str()? == iss;
    path.find(&payload)?.as_str().filter(|_| named).map(str::to_owned)
}
