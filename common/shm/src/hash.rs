//! Keyed hashes: map a token, a session or a subject to a line and a tag of a table.
//!
//! SipHash-2-4 with 128 bits of output under the segment's random key: one half selects the line,
//! the other is the tag.

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::layout::{Header, Region};

/// In slot 0 of a line: a tag of this home line is in a later line. In slot 1: some entries of this
/// home line are not stored.
pub(crate) const FLAG: u64 = 1 << 63;
/// The threshold of a subject whose tokens are revoked whatever their `iat`.
pub(crate) const ALWAYS: u32 = u32::MAX;
/// Equal to no word of a line, so it never matches: no stored word has kind 0, and an empty word is
/// zero.
const NOTHING: u64 = 1;

const KIND_SHIFT: u32 = 61;
const TOKEN: u64 = 1;
const SESSION: u64 = 2;
const SUBJECT: u64 = 3;

/// A subject's 48-bit tag: the first six bytes of SHA-256 of `sub`, big endian; all ones is mapped
/// to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(pub u64);

/// The claims of a token that matter for revocation.
#[derive(Clone, Copy, Debug)]
pub struct TokenFacts<'a> {
    /// The token's `jti`, as text.
    pub jti: &'a str,
    /// The token's `sid`, as text.
    pub sid: &'a str,
    /// The tag of its `sub`.
    pub subject: Subject,
    /// `iat`, seconds since 1970.
    pub iat_s: u64,
    /// `exp`, seconds since 1970.
    pub exp_s: u64,
}

/// A token's location in one segment, computed once, so that each check is a few loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub(crate) segment: u64,
    pub(crate) home: u64,
    pub(crate) token: u64,
    pub(crate) session: u64,
    /// The upper half of a watermark's word: kind and tag.
    pub(crate) subject: u64,
    pub(crate) unbound_token: u64,
    pub(crate) unbound_session: u64,
    pub(crate) iat_s: u64,
    pub(crate) exp_s: u64,
}

/// The words to search for in a chain of lines.
#[derive(Clone, Copy)]
pub(crate) struct Want {
    pub(crate) token: u64,
    pub(crate) session: u64,
    pub(crate) subject: u64,
    pub(crate) iat_s: u64,
}

impl Want {
    /// Only one word.
    pub(crate) fn word(word: u64) -> Self {
        Self { token: word, session: NOTHING, subject: NOTHING, iat_s: 0 }
    }

    /// Whether one of the words is in the line, ignoring the line's flags.
    #[inline]
    pub(crate) fn is_in(&self, line: &[u64; 8]) -> bool {
        // Without branches, and first without thresholds: nearly every line has none of the words.
        let maybe = line.iter().fold(false, |maybe, word| {
            let word = word << 1;
            maybe | (word == self.token << 1) | (word == self.session << 1) | (word >> 33 == self.subject)
        });
        maybe && line.iter().any(|word| self.is(word & !FLAG))
    }

    fn is(&self, word: u64) -> bool {
        let threshold = word as u32;
        word == self.token
            || word == self.session
            || (word >> 32 == self.subject && (threshold == ALWAYS || self.iat_s <= u64::from(threshold)))
    }
}

/// The location of an identifier or subject in a table: its home line, and its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) home: usize,
    pub(crate) word: u64,
}

impl Header {
    fn hash(&self, kind: u64, bytes: &[u8]) -> (u64, u64) {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hasher.write(&[kind as u8]);
        hasher.write(bytes);
        let hash = hasher.finish128();
        (hash.h1, hash.h2)
    }

    fn id(&self, region: Region, kind: u64, id: &[u8]) -> Place {
        let (line, tag) = self.hash(kind, id);
        Place { home: region.home(line), word: kind << KIND_SHIFT | tag >> 3 }
    }

    /// A token id's location in the table of unbound ids; its word is the same in both tables.
    pub(crate) fn token(&self, jti: &[u8]) -> Place {
        self.id(self.unbound, TOKEN, jti)
    }

    /// A session id's location in the table of unbound ids; its word is the same in both tables.
    pub(crate) fn session(&self, sid: &[u8]) -> Place {
        self.id(self.unbound, SESSION, sid)
    }

    /// A subject's home line, and its watermark's word with a threshold of zero.
    pub(crate) fn subject(&self, subject: Subject) -> Place {
        let (line, tag) = self.hash(SUBJECT, &subject.0.to_be_bytes()[2..]);
        Place { home: self.table.home(line), word: SUBJECT << KIND_SHIFT | tag >> 35 << 32 }
    }

    /// Everything that must be looked up before this token is accepted.
    pub(crate) fn probe(&self, facts: &TokenFacts<'_>) -> Probe {
        let token = self.token(facts.jti.as_bytes());
        let session = self.session(facts.sid.as_bytes());
        let subject = self.subject(facts.subject);
        Probe {
            segment: self.id,
            home: subject.home as u64,
            token: token.word,
            session: session.word,
            subject: subject.word >> 32,
            unbound_token: token.home as u64,
            unbound_session: session.home as u64,
            iat_s: facts.iat_s,
            exp_s: facts.exp_s,
        }
    }
}

impl Probe {
    /// The number of words in a probe.
    pub const WORDS: usize = 9;
    /// The index of the token's `iat`.
    pub const IAT: usize = 7;
    /// The index of the token's `exp`.
    pub const EXP: usize = 8;

    /// The segment that it is for; zero for none.
    #[inline]
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// The token's `exp`, seconds since 1970.
    #[inline]
    pub fn exp_s(&self) -> u64 {
        self.exp_s
    }

    /// The token's line in the table, for [`crate::Reader::fetch`].
    #[inline]
    pub fn home(&self) -> u32 {
        self.home as u32
    }

    /// The probe as plain words, to be stored beside a token.
    pub fn to_words(self) -> [u64; Self::WORDS] {
        [
            self.segment,
            self.home,
            self.token,
            self.session,
            self.subject,
            self.unbound_token,
            self.unbound_session,
            self.iat_s,
            self.exp_s,
        ]
    }

    /// A probe from the words of [`Probe::to_words`]. Other words are a bug, and a check may then
    /// panic.
    #[inline]
    pub fn from_words(words: [u64; Self::WORDS]) -> Self {
        let [segment, home, token, session, subject, unbound_token, unbound_session, iat_s, exp_s] = words;
        Self { segment, home, token, session, subject, unbound_token, unbound_session, iat_s, exp_s }
    }
}
