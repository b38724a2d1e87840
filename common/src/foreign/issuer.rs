//! One issuer of `ISSUERS_FILE` with its keys, and the check of its access tokens: the rules of
//! [`crate::token`], but with the members, the mark and the claims that the issuer's entry names.

use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use super::file::{IssuerEntry, KeysFrom};
use super::ids::{ALL, ClaimId, ClaimPath, ForeignId, ForeignIds, ForeignToken, KEY, NameTag, SESSION, SUBJECT, TOKEN};
use super::ids::{foreign_id, name_tag};
use super::preset::AccessMark;
use crate::claims::{Audience, Claims};
use crate::key::{KeyRing, VerifyingKey};
use crate::text::{is_identifier, is_scope};
use crate::time::UnixTime;
use crate::token::compact::{self, Parts};
use crate::token::{Rejection, VerifiedToken};

/// What a claim is called that a token lacks, wherever applications read claims.
const ABSENT: &str = "-";
/// The most audiences a token may name.
const AUDIENCES_MAX: usize = 64;
/// Members that only other kinds of tokens have: ID tokens, logout tokens, security events.
const OTHER_KINDS: [&str; 4] = ["nonce", "at_hash", "c_hash", "events"];

/// An issuer of `ISSUERS_FILE`. Its keys can be replaced while tokens are verified.
#[derive(Debug)]
pub struct ForeignIssuer {
    entry: IssuerEntry,
    keys: RwLock<Arc<KeyRing>>,
    /// The tag of `iss`, and of every claim by which its tokens are looked up.
    tag: NameTag,
    claim_tags: Vec<NameTag>,
    all: ClaimId,
}

impl ForeignIssuer {
    /// The issuer, without keys.
    pub fn new(entry: IssuerEntry) -> Self {
        let kinds = entry.revocable.iter().map(ClaimPath::kind);
        let claim_tags = [ALL.to_owned(), KEY.to_owned()].into_iter().chain(kinds).map(|kind| name_tag(&kind));
        let all = ClaimId::of(&entry.iss, ALL, &entry.iss);
        Self { tag: name_tag(&entry.iss), claim_tags: claim_tags.collect(), all, keys: RwLock::default(), entry }
    }

    /// Its entry in the file.
    pub const fn entry(&self) -> &IssuerEntry {
        &self.entry
    }

    /// Its current keys.
    pub fn keys(&self) -> Arc<KeyRing> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the keys; see [`crate::token_checker::TokenChecker::set_keys_of`].
    pub(crate) fn set_keys(&self, ring: KeyRing) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }

    /// True if an entry of this issuer names a claim that its tokens are not looked up by.
    pub fn lacks_claim(&self, claim: &ClaimId) -> bool {
        claim.issuer == self.tag && !self.claim_tags.contains(&claim.claim)
    }

    /// Verifies a token whose payload names this issuer.
    ///
    /// # Errors
    /// As [`crate::token::verify`].
    pub(crate) fn verify(
        &self,
        parts: &Parts<'_>,
        payload: &Value,
        leeway_seconds: u64,
        now: UnixTime,
    ) -> Result<VerifiedToken, Rejection> {
        let header = Header::read(parts.header)?;
        self.check_kind(&header, payload)?;
        let ring = self.keys();
        let key = self.key(&ring, &header)?;
        let mut signature = [0; compact::SIGNATURE_BYTES_MAX];
        let signature = compact::decode_signature(parts.signature, &mut signature)?;
        if !key.verifies(parts.signed.as_bytes(), signature) {
            return Err(Rejection::Signature);
        }
        let claims = self.claims(payload)?;
        if !self.entry.audiences.iter().any(|audience| claims.aud.names(audience)) {
            return Err(Rejection::Audience);
        }
        match claims.exp.checked_sub(claims.iat) {
            Some(lifetime) if lifetime <= self.entry.lifetime_max => {}
            _ => return Err(Rejection::Lifetime),
        }
        let latest = now.plus(leeway_seconds);
        if claims.issued_at() > latest || claims.nbf.is_some_and(|nbf| UnixTime(nbf) > latest) {
            return Err(Rejection::NotYetValid);
        }
        let ids = self.ids(payload, key.kid())?;
        let name = self.entry.name.as_str().into();
        let kid = key.kid().to_owned();
        Ok(VerifiedToken::foreign(claims, kid, ForeignToken::new(name, ids, self.entry.enrolled_at)))
    }

    fn key<'a>(&self, ring: &'a KeyRing, header: &Header) -> Result<&'a VerifyingKey, Rejection> {
        // A shared secret is the only key of its issuer, whatever name a token gives it.
        let kid = if matches!(self.entry.keys, KeysFrom::Secret(_)) { None } else { header.kid.as_deref() };
        ring.named(kid, &header.alg).ok_or(Rejection::UnknownKey)
    }

    /// Only access tokens, by a positive mark, and none that is bound to a key of its client.
    fn check_kind(&self, header: &Header, payload: &Value) -> Result<(), Rejection> {
        let typ = header.typ.as_deref().map(str::to_ascii_lowercase);
        let marked = match (typ.as_deref(), self.entry.mark) {
            (Some("at+jwt" | "application/at+jwt"), _) => true,
            (None | Some("jwt"), AccessMark::Value(name, value)) => payload.get(name).is_some_and(|held| held == value),
            (None | Some("jwt"), AccessMark::AnyOf(names)) => names.iter().any(|name| payload.get(name).is_some()),
            _ => false,
        };
        if !marked {
            return Err(Rejection::Type);
        }
        if OTHER_KINDS.iter().any(|name| payload.get(name).is_some()) {
            return Err(Rejection::OtherKind);
        }
        if payload.get("cnf").is_some() { Err(Rejection::Bound) } else { Ok(()) }
    }

    fn claims(&self, payload: &Value) -> Result<Claims, Rejection> {
        let entry = &self.entry;
        let seconds = |name| payload.get(name).and_then(Value::as_u64);
        let subject = text(payload, &entry.subject, "subject")?.ok_or(Rejection::Claim("subject"))?;
        let shown = if entry.subject_prefix { format!("{}:{subject}", entry.name) } else { subject.to_owned() };
        let client = entry.client.iter().find(|path| path.find(payload).is_some());
        let claims = Claims {
            iss: entry.iss.clone(),
            aud: audience(payload, &entry.audience)?,
            sub: shown,
            client_id: shown_or_absent(client.map(|path| text(payload, path, "client")).transpose()?.flatten()),
            iat: seconds("iat").ok_or(Rejection::Claim("iat"))?,
            exp: seconds("exp").ok_or(Rejection::Claim("exp"))?,
            nbf: match payload.get("nbf") {
                None => None,
                Some(nbf) => Some(nbf.as_u64().ok_or(Rejection::Claim("nbf"))?),
            },
            jti: shown_or_absent(optional(payload, entry.token.as_ref(), "token")?),
            sid: shown_or_absent(optional(payload, entry.session.as_ref(), "session")?),
            scope: scope(payload, &entry.scope)?,
        };
        if !is_identifier(&claims.sub) {
            return Err(Rejection::Claim("subject"));
        }
        Ok(claims)
    }

    fn ids(&self, payload: &Value, kid: &str) -> Result<ForeignIds, Rejection> {
        let entry = &self.entry;
        let id = |kind, value: &str| foreign_id(&entry.iss, kind, value);
        let subject = text(payload, &entry.subject, "subject")?.ok_or(Rejection::Claim("subject"))?;
        let mut claims = vec![self.all, ClaimId::of(&entry.iss, KEY, kid)];
        for path in &entry.revocable {
            if let Some(value) = any_text(payload, path)? {
                claims.push(ClaimId::of(&entry.iss, &path.kind(), value));
            }
        }
        Ok(ForeignIds {
            subject: id(SUBJECT, subject),
            session: optional(payload, entry.session.as_ref(), "session")?.map(|value| id(SESSION, value)),
            token: optional(payload, entry.token.as_ref(), "token")?.map(|value| id(TOKEN, value)),
            claims,
        })
    }
}

/// The part of a JOSE header that is used. Members that contain keys or name where to fetch them
/// are ignored, like all others.
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
}

impl Header {
    fn read(encoded: &str) -> Result<Self, Rejection> {
        let header = crate::json::parse(&compact::decode(encoded)?).ok_or(Rejection::Header)?;
        let member = |name| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Rejection::Header),
        };
        if !header.is_object() || header.get("crit").is_some() || header.get("b64").is_some() {
            return Err(Rejection::Header);
        }
        Ok(Self { alg: member("alg")?.ok_or(Rejection::Header)?, typ: member("typ")?, kid: member("kid")? })
    }
}

/// A claim's text, fit for a header line; `None` if the token does not have it.
fn text<'a>(payload: &'a Value, path: &ClaimPath, at_fault: &'static str) -> Result<Option<&'a str>, Rejection> {
    match path.find(payload) {
        None => Ok(None),
        Some(Value::String(text)) if is_identifier(text) => Ok(Some(text)),
        Some(_) => Err(Rejection::Claim(at_fault)),
    }
}

/// As [`text`], of a claim that the issuer may not have at all.
fn optional<'a>(
    payload: &'a Value,
    path: Option<&ClaimPath>,
    at_fault: &'static str,
) -> Result<Option<&'a str>, Rejection> {
    path.map_or(Ok(None), |path| text(payload, path, at_fault))
}

/// A revocable claim's value: it need not be fit for a header line.
fn any_text<'a>(payload: &'a Value, path: &ClaimPath) -> Result<Option<&'a str>, Rejection> {
    match path.find(payload) {
        None => Ok(None),
        Some(Value::String(text)) if !text.contains('\0') => Ok(Some(text)),
        Some(_) => Err(Rejection::Claim("revocable")),
    }
}

fn shown_or_absent(value: Option<&str>) -> String {
    value.unwrap_or(ABSENT).to_owned()
}

fn audience(payload: &Value, path: &ClaimPath) -> Result<Audience, Rejection> {
    match path.find(payload) {
        Some(Value::String(one)) => Ok(Audience::One(one.clone())),
        Some(Value::Array(many)) if (1..=AUDIENCES_MAX).contains(&many.len()) => {
            let many = many.iter().map(|one| one.as_str().map(str::to_owned));
            many.collect::<Option<_>>().map(Audience::Many).ok_or(Rejection::Claim("aud"))
        }
        _ => Err(Rejection::Claim("aud")),
    }
}

/// Scope words from a string with spaces, or from an array.
fn scope(payload: &Value, path: &ClaimPath) -> Result<Option<String>, Rejection> {
    let scope = match path.find(payload) {
        None => return Ok(None),
        Some(Value::String(words)) => words.clone(),
        Some(Value::Array(words)) => {
            let words = words.iter().map(Value::as_str).collect::<Option<Vec<_>>>().ok_or(Rejection::Claim("scope"))?;
            if words.iter().any(|word| word.contains(' ')) {
                return Err(Rejection::Claim("scope"));
            }
            words.join(" ")
        }
        Some(_) => return Err(Rejection::Claim("scope")),
    };
    if scope.is_empty() {
        return Ok(None);
    }
    if is_scope(&scope) { Ok(Some(scope)) } else { Err(Rejection::Claim("scope")) }
}

/// The identifier of a foreign subject, from the text in its tokens.
pub fn subject_id(iss: &str, subject: &str) -> ForeignId {
    foreign_id(iss, SUBJECT, subject)
}
