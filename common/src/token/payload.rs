//! The payload, strictly: UTF-8, one JSON object, no duplicate members at any depth, required
//! claims of the right types.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::Rejection;
use crate::claims::{Audience, Claims};
use crate::json::{Budget, Name, Unread};

/// The limit of unknown claims and the values in them, so that skipping them costs little beside
/// the signature. Sidegate's own tokens have none.
const UNREAD_MAX: usize = 24;
/// The most audiences a token may name.
const AUDIENCES_MAX: usize = 32;

/// Parses a payload.
///
/// # Errors
/// [`Rejection::Claim`] with the invalid claim, or `payload` if the payload is not a JSON object.
pub fn parse(bytes: &[u8]) -> Result<Claims, Rejection> {
    // serde_json does not check the encoding of values that it skips.
    let text = std::str::from_utf8(bytes).map_err(|_| Rejection::Claim("payload"))?;
    let mut at_fault = "payload";
    let mut json = serde_json::Deserializer::from_str(text);
    let claims = PayloadSeed { at_fault: &mut at_fault }.deserialize(&mut json);
    let claims = claims.map_err(|_| Rejection::Claim(at_fault))?;
    json.end().map_err(|_| Rejection::Claim("payload"))?;
    match claims.unfit_claim() {
        Some(name) => Err(Rejection::Claim(name)),
        None => Ok(claims),
    }
}

struct PayloadSeed<'a> {
    at_fault: &'a mut &'static str,
}

impl<'de> DeserializeSeed<'de> for PayloadSeed<'_> {
    type Value = Claims;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Claims, D::Error> {
        deserializer.deserialize_map(self)
    }
}

#[derive(Default)]
struct Fields {
    iss: Option<String>,
    aud: Option<Audience>,
    sub: Option<String>,
    client_id: Option<String>,
    iat: Option<u64>,
    exp: Option<u64>,
    nbf: Option<u64>,
    jti: Option<String>,
    sid: Option<String>,
    scope: Option<String>,
}

impl<'de> Visitor<'de> for PayloadSeed<'_> {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the claims of an access token")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let mut fields = Fields::default();
        let unread = Budget::new(UNREAD_MAX);
        let mut others: Vec<Cow<'de, str>> = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            match &*name {
                "iss" => take(&mut fields.iss, "iss", self.at_fault, || map.next_value())?,
                "aud" => take(&mut fields.aud, "aud", self.at_fault, || map.next_value_seed(AudienceSeed))?,
                "sub" => take(&mut fields.sub, "sub", self.at_fault, || map.next_value())?,
                "client_id" => take(&mut fields.client_id, "client_id", self.at_fault, || map.next_value())?,
                "iat" => take(&mut fields.iat, "iat", self.at_fault, || map.next_value())?,
                "exp" => take(&mut fields.exp, "exp", self.at_fault, || map.next_value())?,
                "nbf" => take(&mut fields.nbf, "nbf", self.at_fault, || map.next_value())?,
                "jti" => take(&mut fields.jti, "jti", self.at_fault, || map.next_value())?,
                "sid" => take(&mut fields.sid, "sid", self.at_fault, || map.next_value())?,
                "scope" => take(&mut fields.scope, "scope", self.at_fault, || map.next_value())?,
                _ => {
                    if others.contains(&name) {
                        return Err(A::Error::custom("duplicate member"));
                    }
                    unread.spend()?;
                    others.push(name);
                    map.next_value_seed(Unread::new(&unread))?;
                }
            }
        }
        fields.into_claims(self.at_fault).ok_or_else(|| A::Error::custom("a claim is missing"))
    }
}

fn take<T, E: serde::de::Error>(
    field: &mut Option<T>,
    name: &'static str,
    at_fault: &mut &'static str,
    read: impl FnOnce() -> Result<T, E>,
) -> Result<(), E> {
    *at_fault = name;
    if field.replace(read()?).is_some() {
        return Err(E::custom("duplicate claim"));
    }
    *at_fault = "payload";
    Ok(())
}

impl Fields {
    fn into_claims(self, at_fault: &mut &'static str) -> Option<Claims> {
        let mut need = |name: &'static str, there: bool| {
            if !there {
                *at_fault = name;
            }
            there
        };
        let there = need("iss", self.iss.is_some())
            && need("aud", self.aud.is_some())
            && need("sub", self.sub.is_some())
            && need("client_id", self.client_id.is_some())
            && need("iat", self.iat.is_some())
            && need("exp", self.exp.is_some())
            && need("jti", self.jti.is_some())
            && need("sid", self.sid.is_some());
        if !there {
            return None;
        }
        Some(Claims {
            iss: self.iss?,
            aud: self.aud?,
            sub: self.sub?,
            client_id: self.client_id?,
            iat: self.iat?,
            exp: self.exp?,
            nbf: self.nbf,
            jti: self.jti?,
            sid: self.sid?,
            scope: self.scope,
        })
    }
}

/// A string, or an array of 1 to [`AUDIENCES_MAX`] strings.
struct AudienceSeed;

impl<'de> DeserializeSeed<'de> for AudienceSeed {
    type Value = Audience;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Audience, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AudienceSeed {
    type Value = Audience;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an audience or an array of audiences")
    }

    fn visit_str<E>(self, one: &str) -> Result<Audience, E> {
        Ok(Audience::One(one.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Audience, A::Error> {
        let mut many = Vec::new();
        while let Some(one) = seq.next_element::<String>()? {
            many.push(one);
            if many.len() > AUDIENCES_MAX {
                return Err(A::Error::custom("too many audiences"));
            }
        }
        if many.is_empty() { Err(A::Error::custom("no audience")) } else { Ok(Audience::Many(many)) }
    }
}
