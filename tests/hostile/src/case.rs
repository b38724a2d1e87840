//! A case: a token and its expected verdict; and the collection of cases.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::forge::Forge;

/// The expected verdict of a token, as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Expected {
    /// The token is good.
    Good,
    /// `token_invalid`.
    Invalid,
    /// `token_expired`: authentic, and valid except for its age.
    Expired,
    /// `token_missing`.
    Missing,
}

/// The settings of the verifier under test.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The verifier's time, in seconds since 1970.
    pub now: u64,
    /// `JWT_ISSUER`.
    pub issuer: String,
    /// `JWT_AUDIENCE`.
    pub audience: String,
    /// `LEEWAY`, in seconds.
    pub leeway: u64,
    /// `MAX_TOKEN_LIFETIME`, in seconds.
    pub lifetime_max: u64,
}

impl Setting {
    /// The defaults of both programs, at `now`.
    pub fn at(now: u64) -> Self {
        Self { now, issuer: "sidegate".into(), audience: "sidegate".into(), leeway: 5, lifetime_max: 86_400 }
    }
}

/// A token and its expected verdict.
#[derive(Clone, Debug)]
pub struct Case {
    /// The attack.
    pub name: String,
    /// The class of the attack.
    pub category: &'static str,
    /// The token.
    pub token: String,
    /// The expected verdict.
    pub expected: Expected,
    /// True if the verdict holds only at exactly the setting's `now`, so the case is only for a
    /// verifier with a fixed clock.
    pub frozen: bool,
}

/// Collects cases.
pub(crate) struct Corpus<'a> {
    pub forge: &'a Forge,
    pub setting: &'a Setting,
    category: &'static str,
    cases: Vec<Case>,
}

impl<'a> Corpus<'a> {
    pub fn new(forge: &'a Forge, setting: &'a Setting) -> Self {
        Self { forge, setting, category: "", cases: Vec::new() }
    }

    /// Sets the category of the following cases.
    pub fn category(&mut self, category: &'static str) {
        self.category = category;
    }

    pub fn add(&mut self, name: impl Into<String>, token: impl Into<String>, expected: Expected) {
        let (name, token) = (name.into(), token.into());
        self.cases.push(Case { name, category: self.category, token, expected, frozen: false });
    }

    pub fn invalid(&mut self, name: impl Into<String>, token: impl Into<String>) {
        self.add(name, token, Expected::Invalid);
    }

    pub fn good(&mut self, name: impl Into<String>, token: impl Into<String>) {
        self.add(name, token, Expected::Good);
    }

    /// Marks the last case as valid only at exactly `now`.
    pub fn frozen(&mut self) {
        self.cases.last_mut().expect("a case").frozen = true;
    }

    /// Marks the last case if a running clock would soon make its verdict wrong.
    pub fn frozen_if(&mut self, soon: bool) {
        if soon {
            self.frozen();
        }
    }

    /// The claims of a good token.
    pub fn claims(&self) -> Map<String, Value> {
        let now = self.setting.now;
        let claims = json!({
            "iss": self.setting.issuer, "aud": self.setting.audience, "sub": "42", "client_id": "sidegate",
            "iat": now - 60, "exp": now + 3600, "jti": "AAECAwQFBgcICQoLDA0ODw", "sid": "EBESExQVFhcYGRobHB0eHw",
            "scope": "read write",
        });
        object(claims)
    }

    /// The header of a good token.
    pub fn header(&self) -> Map<String, Value> {
        object(json!({"alg": self.forge.kind().alg(), "typ": "at+jwt", "kid": self.forge.kid()}))
    }

    /// A good token.
    pub fn token(&self) -> String {
        self.forge.token(&text(&self.header()), &text(&self.claims()))
    }

    /// A token with these payload bytes, signed with the right key.
    pub fn with_payload(&self, payload: impl AsRef<[u8]>) -> String {
        self.forge.token(&text(&self.header()), payload.as_ref())
    }

    /// A token with these header bytes, signed with the right key.
    pub fn with_header(&self, header: impl AsRef<[u8]>) -> String {
        self.forge.token(header.as_ref(), &text(&self.claims()))
    }

    /// A token with one claim set, signed with the right key.
    pub fn with_claim(&self, name: &str, value: Value) -> String {
        let mut claims = self.claims();
        claims.insert(name.into(), value);
        self.with_payload(text(&claims))
    }

    /// A token with several claims set, signed with the right key.
    pub fn with_claims(&self, changed: &[(&str, Value)]) -> String {
        let mut claims = self.claims();
        claims.extend(changed.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.with_payload(text(&claims))
    }

    /// A token with one header member set, signed with the right key.
    pub fn with_member(&self, name: &str, value: Value) -> String {
        let mut header = self.header();
        header.insert(name.into(), value);
        self.with_header(text(&header))
    }

    /// The cases; names are unique within a category.
    pub fn finish(self) -> Vec<Case> {
        let mut seen = HashSet::new();
        for case in &self.cases {
            assert!(seen.insert((case.category, &case.name)), "{}: {} stands twice", case.category, case.name);
        }
        self.cases
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The JSON text of an object.
pub(crate) fn text(map: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(map).expect("JSON")
}
