//! A good token and its claims: one allocation, cheap to clone.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use sidegate_shm::{CoarseClock, Probe, SegmentLookup, TokenFacts};

use crate::denied::Denied;
use crate::readers;
use crate::subject;

/// A token that was good when it was checked, with its claims.
///
/// The data for the next check of the token precede the text, so that one memory access fetches
/// them.
#[derive(Clone)]
pub struct Verified(Arc<[u8]>);

/// Probe and key epoch, as words.
const WORDS: usize = Probe::WORDS + 1;
const EPOCH: usize = Probe::WORDS;
/// Ends of the texts, as 32-bit numbers, after the words.
const ENDS: usize = WORDS * 8;
const TEXTS: usize = 9;
const HEAD: usize = ENDS + TEXTS * 4;

const TOKEN: usize = 0;
const SUBJECT: usize = 1;
const SESSION: usize = 2;
const TOKEN_ID: usize = 3;
const CLIENT: usize = 4;
const ISSUER: usize = 5;
const SCOPE: usize = 6;
const JSON: usize = 7;
const ISSUER_NAME: usize = 8;

#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    #[serde(borrow)]
    client_id: Cow<'a, str>,
    iat: u64,
    exp: u64,
    #[serde(borrow)]
    jti: Cow<'a, str>,
    #[serde(borrow)]
    sid: Cow<'a, str>,
    #[serde(borrow, default)]
    scope: Cow<'a, str>,
}

/// The daemon's response for a good token: its claims, and the segment and key epoch before the
/// check.
#[derive(Deserialize)]
pub(crate) struct Answer<'a> {
    /// Absent in the answer of a daemon that knows only the home issuer.
    #[serde(borrow, default)]
    issuer: Option<&'a str>,
    #[serde(borrow)]
    claims: &'a RawValue,
    segment: &'a str,
    epoch: u64,
}

impl Answer<'_> {
    /// The segment in the response; zero if the daemon has no segment.
    pub(crate) fn segment(&self) -> u64 {
        u64::from_str_radix(self.segment, 16).unwrap_or(0)
    }

    /// Stores token and claims together; `probe` computes the token's location in the segment, if
    /// it is attached.
    ///
    /// # Errors
    /// The claims lack a required one.
    pub(crate) fn keep(
        &self,
        token: &str,
        probe: impl FnOnce(&TokenFacts<'_>) -> Option<Probe>,
    ) -> Result<Verified, serde_json::Error> {
        let json = self.claims.get();
        let claims: Claims<'_> = serde_json::from_str(json)?;
        let facts = TokenFacts {
            jti: &claims.jti,
            sid: &claims.sid,
            subject: subject::tag(&claims.sub),
            iat_s: claims.iat,
            exp_s: claims.exp,
        };
        let mut words = [0; Probe::WORDS];
        (words[Probe::IAT], words[Probe::EXP]) = (claims.iat, claims.exp);
        if let Some(probe) = probe(&facts) {
            words = probe.to_words();
        }
        let texts: [&str; TEXTS] = [
            token,
            &claims.sub,
            &claims.sid,
            &claims.jti,
            &claims.client_id,
            &claims.iss,
            &claims.scope,
            json,
            self.issuer.unwrap_or("home"),
        ];
        let mut blob = Vec::with_capacity(HEAD + texts.iter().map(|text| text.len()).sum::<usize>());
        words.iter().chain([&self.epoch]).for_each(|word| blob.extend(word.to_ne_bytes()));
        let mut end = HEAD;
        for text in texts {
            end += text.len();
            blob.extend((end as u32).to_ne_bytes());
        }
        texts.iter().for_each(|text| blob.extend(text.as_bytes()));
        Ok(Verified(blob.into()))
    }
}

impl Verified {
    /// `sub`: the user.
    pub fn subject(&self) -> &str {
        self.text(SUBJECT)
    }

    /// `sid`: the token's session.
    pub fn session(&self) -> &str {
        self.text(SESSION)
    }

    /// `jti`: the token's identifier.
    pub fn token_id(&self) -> &str {
        self.text(TOKEN_ID)
    }

    /// `client_id`: the application that the token was issued to.
    pub fn client_id(&self) -> &str {
        self.text(CLIENT)
    }

    /// `iss`: the issuer.
    pub fn issuer(&self) -> &str {
        self.text(ISSUER)
    }

    /// The issuer's name: `home`, or as in `ISSUERS_FILE`.
    pub fn issuer_name(&self) -> &str {
        self.text(ISSUER_NAME)
    }

    /// `scope`, space separated; empty if the token has none.
    pub fn scope(&self) -> &str {
        self.text(SCOPE)
    }

    /// `iat`, seconds since 1970.
    pub fn issued_at(&self) -> u64 {
        self.word(Probe::IAT)
    }

    /// `exp`, seconds since 1970.
    pub fn expires_at(&self) -> u64 {
        self.word(Probe::EXP)
    }

    /// All claims, as the JSON object in the token.
    pub fn claims_json(&self) -> &str {
        self.text(JSON)
    }

    /// Whether shared memory calls this token good at this moment. No system call, never waits.
    ///
    /// `false` does not mean revoked: only the daemon can tell then, so call [`crate::Sidegate::check`] with the token again.
    /// Always `false` without shared memory.
    pub fn still_good(&self) -> bool {
        let probe = self.probe();
        readers::find(probe.segment())
            .is_some_and(|reader| reader.check(&probe, self.epoch(), &CoarseClock) == SegmentLookup::Clear)
    }

    /// Whether the token has this scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scope().split(' ').any(|held| held == scope)
    }

    /// Requires all of these scopes.
    ///
    /// # Errors
    /// [`Denied::InsufficientScope`] if one is missing.
    pub fn require_scopes(&self, required: &[impl AsRef<str>]) -> Result<(), Denied> {
        if required.iter().all(|scope| self.has_scope(scope.as_ref())) {
            return Ok(());
        }
        let required: Vec<&str> = required.iter().map(AsRef::as_ref).collect();
        Err(Denied::InsufficientScope { required: required.join(" ") })
    }

    /// The token itself.
    pub(crate) fn token(&self) -> &str {
        self.text(TOKEN)
    }

    /// Whether this is the same token, byte by byte.
    #[inline]
    pub(crate) fn is_token(&self, token: &[u8]) -> bool {
        self.0.get(self.range(TOKEN)) == Some(token)
    }

    #[inline]
    pub(crate) fn probe(&self) -> Probe {
        // Written out: the compiler does not inline `array::from_fn` here, and this is the hot
        // path.
        let word = |at| self.word(at);
        Probe::from_words([word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7), word(8)])
    }

    /// A copy in its own memory, so that threads do not share the reference count.
    pub(crate) fn private_copy(&self) -> Self {
        Self(Arc::from(&*self.0))
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.word(EPOCH)
    }

    /// The fixed part with its length known, so that later accesses need no bounds checks.
    #[inline]
    fn head(&self) -> &[u8; HEAD] {
        self.0.first_chunk().unwrap_or(&[0; HEAD])
    }

    #[inline]
    fn word(&self, at: usize) -> u64 {
        let head = self.head();
        head[at * 8..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }

    #[inline]
    fn end(&self, text: usize) -> usize {
        self.head()[ENDS + text * 4..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes) as usize)
    }

    #[inline]
    fn range(&self, text: usize) -> Range<usize> {
        if text == TOKEN { HEAD..self.end(TOKEN) } else { self.end(text - 1)..self.end(text) }
    }

    fn text(&self, text: usize) -> &str {
        // The bytes were a `str` when they were stored.
        self.0.get(self.range(text)).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

/// Equal for the same token with the same claims, whatever segment it was checked against.
impl PartialEq for Verified {
    fn eq(&self, other: &Self) -> bool {
        self.0.get(ENDS..) == other.0.get(ENDS..)
    }
}

impl Eq for Verified {}

/// Never shows the token, because the text may be logged.
impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verified")
            .field("subject", &self.subject())
            .field("session", &self.session())
            .field("token_id", &self.token_id())
            .field("scope", &self.scope())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}
