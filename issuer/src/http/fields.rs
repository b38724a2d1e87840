//! A body's fields by name and type, parsed strictly from JSON or a form. Independent of the
//! server.

use std::fmt;

use http::{HeaderValue, header};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

/// The supported kinds of body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// `application/json`
    Json,
    /// `application/x-www-form-urlencoded`
    Form,
}

/// A body that the endpoint does not accept; the text is for the client, and never quotes a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// The fields of a body. Unknown ones are ignored.
#[derive(Default)]
pub struct Fields(Map<String, Value>);

impl BodyKind {
    /// The kind that a `Content-Type` names; `None` for any other.
    pub fn of(content_type: &HeaderValue) -> Option<Self> {
        let text = content_type.to_str().ok()?;
        let essence = text.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Some(Self::Json)
        } else if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            Some(Self::Form)
        } else {
            None
        }
    }

    /// The kind of the body with these headers; `None` without a `Content-Type`.
    ///
    /// # Errors
    /// The `Content-Type` is unsupported.
    pub fn announced(headers: &http::HeaderMap) -> Result<Option<Self>, OtherKind> {
        headers.get(header::CONTENT_TYPE).map(|value| Self::of(value).ok_or(OtherKind)).transpose()
    }
}

/// A body of an unsupported kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither JSON nor a form")]
pub struct OtherKind;

impl Fields {
    /// Parses a complete body. Refuses a duplicate field, because its value is ambiguous.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn read(kind: BodyKind, bytes: &[u8]) -> Result<Self, Invalid> {
        match kind {
            BodyKind::Json => read_json(bytes),
            BodyKind::Form => read_form(bytes),
        }
    }

    /// A required string.
    ///
    /// # Errors
    /// The field is missing or not a string.
    pub fn text(&mut self, name: &'static str) -> Result<String, Invalid> {
        self.optional_text(name)?.ok_or_else(|| Invalid(format!("{name} is missing")))
    }

    /// An optional string.
    ///
    /// # Errors
    /// The field is not a string.
    pub fn optional_text(&mut self, name: &'static str) -> Result<Option<String>, Invalid> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Invalid(format!("{name} must be a string"))),
        }
    }

    /// An optional identifier: a string, or a whole number, which stands for its digits.
    ///
    /// # Errors
    /// The field is neither.
    pub fn optional_identifier(&mut self, name: &'static str) -> Result<Option<String>, Invalid> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) if !number.is_f64() => Ok(Some(number.to_string())),
            Some(_) => Err(Invalid(format!("{name} must be a string or a whole number"))),
        }
    }

    /// An optional boolean.
    ///
    /// # Errors
    /// The field is not a boolean.
    pub fn optional_flag(&mut self, name: &'static str) -> Result<Option<bool>, Invalid> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(Invalid(format!("{name} must be true or false"))),
        }
    }

    /// An optional path to a string: nested objects with one member each.
    ///
    /// # Errors
    /// The field is anything else.
    pub fn optional_path(&mut self, name: &'static str) -> Result<Option<(Vec<String>, String)>, Invalid> {
        let Some(mut value) = self.0.remove(name) else { return Ok(None) };
        let mut path = Vec::new();
        loop {
            value = match value {
                Value::String(text) if !path.is_empty() => return Ok(Some((path, text))),
                Value::Object(members) if members.len() == 1 => {
                    members.into_iter().next().map_or(Value::Null, |(name, inner)| {
                        path.push(name);
                        inner
                    })
                }
                _ => return Err(Invalid(format!("{name} must be an object such as {{\"azp\": \"app1\"}}"))),
            }
        }
    }

    /// True if the field exists, whatever its value.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

fn read_json(bytes: &[u8]) -> Result<Fields, Invalid> {
    // serde_json does not check the encoding of what it skips.
    let text = std::str::from_utf8(bytes).map_err(|_| Invalid("the body is not UTF-8".to_owned()))?;
    serde_json::from_str(text).map_err(|error| match error.classify() {
        // serde_json's own message may quote the body, which may contain a password.
        serde_json::error::Category::Data => {
            Invalid("the body must be a JSON object without duplicate members".to_owned())
        }
        _ => Invalid(format!("the body is not JSON (column {})", error.column())),
    })
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Fields, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = members.next_entry::<String, Value>()? {
                    if fields.insert(name, value).is_some() {
                        return Err(A::Error::custom("duplicate member"));
                    }
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

fn read_form(bytes: &[u8]) -> Result<Fields, Invalid> {
    let malformed = || Invalid("the form is malformed".to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| malformed())?;
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(text).map_err(|_| malformed())?;
    // The decoder replaces invalid UTF-8: the password would no longer be exactly as received.
    let replaced = |text: &str| text.contains('\u{fffd}');
    let meant = text.contains('\u{fffd}') || text.to_ascii_uppercase().contains("%EF%BF%BD");
    if !meant && pairs.iter().any(|(name, value)| replaced(name) || replaced(value)) {
        return Err(Invalid("the form is not UTF-8".to_owned()));
    }
    let mut fields = Map::new();
    for (name, value) in pairs {
        if fields.insert(name.clone(), Value::String(value)).is_some() {
            return Err(Invalid(format!("{} is given twice", shown(&name))));
        }
    }
    Ok(Fields(fields))
}

/// A field name from the client, truncated for an error message.
fn shown(name: &str) -> String {
    name.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Result<Fields, Invalid> {
        Fields::read(BodyKind::Form, text.as_bytes())
    }

    fn json(text: &str) -> Result<Fields, Invalid> {
        Fields::read(BodyKind::Json, text.as_bytes())
    }

    #[test]
    fn forms_keep_the_password_as_sent() {
        let mut fields = form("username=a%40b&password=+x%2B%C3%A9%EF%BF%BD").unwrap();
        assert_eq!(fields.text("password").unwrap(), " x+\u{e9}\u{fffd}");
        assert!(form("password=%ff").is_err(), "would be replaced");
        assert!(form("a=1&a=2").is_err(), "given twice");
        assert!(Fields::read(BodyKind::Form, b"a=\xff").is_err());
    }

    #[test]
    fn a_duplicate_member_is_refused() {
        assert!(json(r#"{"email":"a","password":"b"}"#).is_ok());
        for twice in [r#"{"email":"a","email":"a"}"#, r#"{"email":"a","e\u006dail":"b"}"#] {
            assert!(json(twice).is_err(), "{twice}");
        }
        for other in ["[]", "1", "null", "", "{", "{} {}", "\"a\""] {
            assert!(json(other).is_err(), "{other}");
        }
        assert!(Fields::read(BodyKind::Json, b"{\"x\":\"\xff\"}").is_err(), "not UTF-8, even in an unused field");
    }

    #[test]
    fn errors_name_the_field_and_never_quote_the_body() {
        let mut fields = json(r#"{"a":1,"b":null}"#).unwrap();
        for (name, expected) in [("a", "a must be a string"), ("b", "b must be a string"), ("c", "c is missing")] {
            assert_eq!(fields.text(name), Err(Invalid(expected.to_owned())), "{name}");
        }
        for cut in [r#"{"password":"canary"#, r#"["canary"]"#, r#""canary""#, r#"{"canary":1,"canary":2}"#] {
            let Err(Invalid(detail)) = json(cut) else { panic!("{cut}") };
            assert!(!detail.contains("canary"), "{detail}");
        }
    }

    #[test]
    fn identifiers_may_be_whole_numbers() {
        let mut fields = json(r#"{"a":1,"b":"1","c":-7,"d":18446744073709551615,"e":1.0,"f":true,"g":1e3}"#).unwrap();
        for (name, expected) in [("a", "1"), ("b", "1"), ("c", "-7"), ("d", "18446744073709551615")] {
            assert_eq!(fields.optional_identifier(name), Ok(Some(expected.to_owned())), "{name}");
        }
        for name in ["e", "f", "g"] {
            assert!(fields.optional_identifier(name).is_err(), "{name}");
        }
        assert_eq!(fields.optional_identifier("h"), Ok(None));
    }

    #[test]
    fn content_types() {
        let kind = |text: &'static str| BodyKind::of(&HeaderValue::from_static(text));
        assert_eq!(kind("application/json"), Some(BodyKind::Json));
        assert_eq!(kind("Application/JSON ; charset=utf-8"), Some(BodyKind::Json));
        assert_eq!(kind("application/x-www-form-urlencoded"), Some(BodyKind::Form));
        for other in ["", "text/plain", "application/jsonx", "multipart/form-data"] {
            assert_eq!(kind(other), None, "{other}");
        }
    }
}
