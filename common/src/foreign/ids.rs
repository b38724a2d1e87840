//! Identifiers of other issuers' tokens, sessions and subjects as log and index have them: a hash
//! with the issuer in it, so that no issuer can name another's.

use std::sync::Arc;

use aws_lc_rs::digest;

use crate::time::UnixTime;

/// The identifier of a foreign subject, session, token or claim value.
pub type ForeignId = [u8; 16];
/// The head of a hash that names an issuer or a claim.
pub type NameTag = [u8; 6];

/// The kind of a subject's identifier.
pub const SUBJECT: &str = "subject";
/// The kind of a session's identifier.
pub const SESSION: &str = "session";
/// The kind of a token's identifier.
pub const TOKEN: &str = "token";
/// The kind of a signing key's identifier.
pub const KEY: &str = "key";
/// The kind whose value is the issuer itself: all of its tokens.
pub const ALL: &str = "claim.iss";

/// The first 16 bytes of SHA-256 of `iss`, zero, `kind`, zero, `value`. No two triples give the
/// same bytes to hash, since neither `iss` nor `value` contains zero.
pub fn foreign_id(iss: &str, kind: &str, value: &str) -> ForeignId {
    head(&[iss.as_bytes(), &[0], kind.as_bytes(), &[0], value.as_bytes()].concat())
}

fn head<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let hash = digest::digest(&digest::SHA256, bytes);
    let mut out = [0; N];
    out.copy_from_slice(&hash.as_ref()[..N]);
    out
}

/// The tag of a name: the first six bytes of its SHA-256.
pub fn name_tag(name: &str) -> NameTag {
    head(name.as_bytes())
}

/// A claim's value as a revocation names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimId {
    /// The tag of the issuer's `iss`.
    pub issuer: NameTag,
    /// The tag of the claim's kind.
    pub claim: NameTag,
    /// The identifier of the value.
    pub value: ForeignId,
}

impl ClaimId {
    /// The value of a claim of this kind ([`ClaimPath::kind`], [`KEY`] or [`ALL`]).
    pub fn of(iss: &str, kind: &str, value: &str) -> Self {
        Self { issuer: name_tag(iss), claim: name_tag(kind), value: foreign_id(iss, kind, value) }
    }
}

/// Where a claim is in the payload: the names of the members, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(pub Vec<String>);

impl ClaimPath {
    /// A claim at the top.
    pub fn top(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    /// The claim's value.
    pub fn find<'a>(&self, payload: &'a serde_json::Value) -> Option<&'a serde_json::Value> {
        self.0.iter().try_fold(payload, |value, name| value.as_object()?.get(name))
    }

    /// The kind of the value's identifier. No name contains the zero between names.
    pub fn kind(&self) -> String {
        format!("claim.{}", self.0.join("\0"))
    }
}

impl std::fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(" / "))
    }
}

/// Everything by which a verified token of another issuer can be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignIds {
    /// The user.
    pub subject: ForeignId,
    /// The session, if the token has one.
    pub session: Option<ForeignId>,
    /// The token, if it has an identifier.
    pub token: Option<ForeignId>,
    /// The issuer, the signing key, and the revocable claims.
    pub claims: Vec<ClaimId>,
}

/// What a verified token of another issuer has beside its claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignToken {
    issuer: Arc<str>,
    ids: ForeignIds,
    enrolled_at: Option<UnixTime>,
}

impl ForeignToken {
    /// A token of the issuer with this name.
    pub(crate) const fn new(issuer: Arc<str>, ids: ForeignIds, enrolled_at: Option<UnixTime>) -> Self {
        Self { issuer, ids, enrolled_at }
    }

    /// True if a log that is complete since `since` may lack revocations of its issuer: it began after the issuer was
    /// enrolled.
    pub fn is_older_than_log(&self, iat: UnixTime, since: UnixTime) -> bool {
        iat <= since && self.enrolled_at.is_none_or(|enrolled_at| since > enrolled_at)
    }

    /// The issuer's name.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The identifiers by which it can be revoked.
    pub const fn ids(&self) -> &ForeignIds {
        &self.ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_the_head_of_sha256() {
        // printf 'https://a\0subject\0alice' | sha256sum
        let id = foreign_id("https://a", SUBJECT, "alice");
        let hash = digest::digest(&digest::SHA256, b"https://a\0subject\0alice");
        assert_eq!(id, hash.as_ref()[..16]);
    }

    #[test]
    fn kinds_and_issuers_have_spaces_of_their_own() {
        let kinds = [SUBJECT, SESSION, TOKEN, KEY, ALL, "claim.azp"];
        let mut all = std::collections::HashSet::new();
        for iss in ["https://a", "https://b"] {
            for kind in kinds {
                assert!(all.insert(foreign_id(iss, kind, "x")), "{iss} {kind}");
            }
        }
    }

    #[test]
    fn paths_find_members_whose_names_contain_dots() {
        let payload = serde_json::json!({ "https://x.y/z": { "id": "1" }, "a.b": "2", "a": { "b": "3" } });
        let find = |path: &[&str]| ClaimPath(path.iter().map(|name| (*name).to_owned()).collect()).find(&payload);
        assert_eq!(find(&["https://x.y/z", "id"]).unwrap(), "1");
        assert_eq!(find(&["a.b"]).unwrap(), "2");
        assert_eq!(find(&["a", "b"]).unwrap(), "3");
        assert_eq!(find(&["a", "b", "c"]), None);
        assert_ne!(ClaimPath(vec!["a".into(), "b".into()]).kind(), ClaimPath::top("a.b").kind());
    }
}
