//! Revocation of other issuers' tokens, by the identifiers of `ISSUERS_FILE`.

use std::sync::{Arc, PoisonError, RwLock};

use sidegate_common::foreign::file::IssuerEntry;
use sidegate_common::foreign::ids::{ALL, ClaimId, KEY, SESSION, TOKEN, foreign_id};
use sidegate_common::foreign::issuer::subject_id;
use sidegate_common::foreign::set::unverified_text;
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::time::UnixTime;

use super::Auth;
use super::foreign_request::{ForeignError, ForeignRequest, ForeignTarget};
use super::revoke::{RevokeError, Revoked};
use super::traits::{Passwords, Store, Users};

/// The issuers of `ISSUERS_FILE`, and whether entries about them may be written (`FOREIGN_ENTRIES`).
#[derive(Debug, Default)]
pub struct KnownIssuers(RwLock<Arc<Known>>);

#[derive(Debug, Default)]
struct Known {
    entries: Vec<IssuerEntry>,
    writes: bool,
}

impl KnownIssuers {
    /// The issuers of the file; `writes` is `FOREIGN_ENTRIES`.
    pub fn new(entries: Vec<IssuerEntry>, writes: bool) -> Self {
        Self(RwLock::new(Arc::new(Known { entries, writes })))
    }

    /// Replaces them.
    pub fn replace(&self, entries: Vec<IssuerEntry>, writes: bool) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Known { entries, writes });
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// True if a subject begins with the name of an issuer and a colon.
    pub fn is_prefixed(&self, subject: &str) -> bool {
        let Some((name, _)) = subject.split_once(':') else { return false };
        self.known().entries.iter().any(|entry| entry.name == name)
    }
}

/// What to write: an entry as it is, or one whose threshold the store sets to its clock.
enum Entry {
    Given(Target),
    UntilNow(Target),
}

fn entry(issuer: &IssuerEntry, target: &ForeignTarget) -> Result<Entry, ForeignError> {
    let iss = issuer.iss.as_str();
    let fit = |value: &str| !value.is_empty() && !value.contains('\0');
    let threshold = UnixTime(0);
    let claim =
        |kind: &str, value: &str| Entry::UntilNow(Target::Claim { claim: ClaimId::of(iss, kind, value), threshold });
    Ok(match target {
        ForeignTarget::User(subject) if fit(subject) => {
            Entry::UntilNow(Target::ForeignSubject { subject: subject_id(iss, subject), threshold })
        }
        ForeignTarget::Session(_) if issuer.session.is_none() => return Err(ForeignError::NoSuchClaim("session")),
        ForeignTarget::Session(sid) if fit(sid) => {
            Entry::Given(Target::Session { sid: Id::Packed(foreign_id(iss, SESSION, sid)), subject: None })
        }
        ForeignTarget::Token(token) => {
            let path = issuer.token.as_ref().ok_or(ForeignError::NoSuchClaim("token identifier"))?;
            let jti = if token.contains('.') && token.split('.').count() == 3 {
                unverified_text(token, iss, path).ok_or(ForeignError::Unfit("token"))?
            } else {
                token.clone()
            };
            if !fit(&jti) {
                return Err(ForeignError::Unfit("token"));
            }
            Entry::Given(Target::Token { jti: Id::Packed(foreign_id(iss, TOKEN, &jti)), subject: None })
        }
        ForeignTarget::Key(kid) if fit(kid) => claim(KEY, kid),
        ForeignTarget::All => claim(ALL, iss),
        ForeignTarget::Claim(path, _) if !issuer.revocable.contains(path) => return Err(ForeignError::NotRevocable),
        ForeignTarget::Claim(path, value) if fit(value) => claim(&path.kind(), value),
        unfit => return Err(ForeignError::Unfit(unfit.kind())),
    })
}

impl<U: Users, S: Store, P: Passwords> Auth<U, S, P> {
    /// Revokes tokens of another issuer. Entries without a subject go to every partition.
    ///
    /// # Errors
    /// See [`RevokeError`].
    pub(super) async fn revoke_foreign(&self, request: &ForeignRequest) -> Result<Revoked, RevokeError> {
        let known = self.issuers.known();
        let issuer = known.entries.iter().find(|entry| entry.name == request.issuer);
        let issuer = issuer.ok_or(RevokeError::Foreign(ForeignError::UnknownIssuer))?;
        let entry = entry(issuer, &request.target).map_err(RevokeError::Foreign)?;
        if !known.writes && matches!(entry, Entry::UntilNow(_)) {
            return Err(RevokeError::Foreign(ForeignError::EntriesOff));
        }
        match &entry {
            Entry::Given(target) => {
                let revocation = Revocation { target: target.clone(), expires_at: UnixTime(0) };
                self.everywhere(|partition| self.store.append(partition, &revocation)).await?;
            }
            Entry::UntilNow(target @ Target::ForeignSubject { subject, .. }) => {
                let partition = SubjectTag::of_foreign(subject).partition(self.store.partitions());
                self.store.append_until_now(partition, target, issuer.clock_slack).await?;
            }
            Entry::UntilNow(target) => {
                let slack = issuer.clock_slack;
                self.everywhere(|partition| self.store.append_until_now(partition, target, slack)).await?;
            }
        }
        Ok(Revoked::of_issuer(&request.issuer, &request.target))
    }
}
