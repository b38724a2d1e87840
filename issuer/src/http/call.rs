//! A request taken apart: its body read within limits, its fields by name and type.

use std::time::Duration;

use axum::body::Body;
use http::request::Parts;
use http::{Request, header};
use serde_json::{Map, Value};
use sidegate_runtime::serve::{BodyError, Peer, read_body};

use super::error::Failure;
use super::origin::{TrustedProxies, client_address};
use crate::domain::Client;

/// The longest body, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest `User-Agent` that is kept, in bytes.
const AGENT_BYTES_MAX: usize = 256;

/// A request whose body has not been read.
pub(super) struct Call {
    pub(super) head: Parts,
    body: Body,
}

/// The fields of a body. Unknown ones are ignored.
pub(super) struct Fields(Map<String, Value>);

impl Call {
    pub(super) fn new(request: Request<Body>) -> Self {
        let (head, body) = request.into_parts();
        Self { head, body }
    }

    /// Who is calling.
    pub(super) fn client(&self, proxies: &TrustedProxies) -> Client {
        let peer = self.head.extensions.get::<Peer>();
        let agent = self.head.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let cut = agent.len().min(AGENT_BYTES_MAX);
        // A header's text is ASCII, so any cut is between characters.
        Client {
            address: client_address(peer, &self.head.headers, proxies),
            agent: agent.get(..cut).unwrap_or_default().to_owned(),
        }
    }

    /// The body's fields: JSON, or a form.
    pub(super) async fn fields(self) -> Result<Fields, Failure> {
        match self.kind()? {
            Some(kind) => read_fields(kind, self.body).await,
            None => Err(Failure::UnsupportedMediaType),
        }
    }

    /// The body's fields; none if there is no body.
    pub(super) async fn optional_fields(self) -> Result<Fields, Failure> {
        if hyper::body::Body::is_end_stream(&self.body) {
            return Ok(Fields(Map::new()));
        }
        match self.kind()? {
            Some(kind) => read_fields(kind, self.body).await,
            None => {
                let bytes = read(self.body).await?;
                if bytes.is_empty() { Ok(Fields(Map::new())) } else { Err(Failure::UnsupportedMediaType) }
            }
        }
    }

    fn kind(&self) -> Result<Option<Kind>, Failure> {
        let Some(value) = self.head.headers.get(header::CONTENT_TYPE) else { return Ok(None) };
        let text = value.to_str().map_err(|_| Failure::UnsupportedMediaType)?;
        let essence = text.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Ok(Some(Kind::Json))
        } else if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            Ok(Some(Kind::Form))
        } else {
            Err(Failure::UnsupportedMediaType)
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Form,
}

async fn read(body: Body) -> Result<bytes::Bytes, Failure> {
    read_body(body, BODY_BYTES_MAX, BODY_TIMEOUT).await.map_err(|error| match error {
        BodyError::TooLarge => Failure::TooLarge,
        BodyError::NotReceived => Failure::Invalid("the body did not arrive".to_owned()),
    })
}

async fn read_fields(kind: Kind, body: Body) -> Result<Fields, Failure> {
    let bytes = read(body).await?;
    match kind {
        Kind::Json => parse_json(&bytes),
        Kind::Form => parse_form(&bytes),
    }
}

fn parse_json(bytes: &[u8]) -> Result<Fields, Failure> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(members)) => Ok(Fields(members)),
        Ok(_) => Err(Failure::Invalid("the body must be a JSON object".to_owned())),
        // serde_json's own message may quote the body, which may hold a password.
        Err(error) => Err(Failure::Invalid(format!("the body is not JSON (column {})", error.column()))),
    }
}

fn parse_form(bytes: &[u8]) -> Result<Fields, Failure> {
    let malformed = || Failure::Invalid("the form is malformed".to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| malformed())?;
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(text).map_err(|_| malformed())?;
    // The decoder replaces what is not UTF-8: a password would not be used exactly as received.
    let replaced = |text: &str| text.contains('\u{fffd}');
    let meant = text.contains('\u{fffd}') || text.to_ascii_uppercase().contains("%EF%BF%BD");
    if !meant && pairs.iter().any(|(name, value)| replaced(name) || replaced(value)) {
        return Err(Failure::Invalid("the form is not UTF-8".to_owned()));
    }
    let mut fields = Map::new();
    for (name, value) in pairs {
        if fields.insert(name.clone(), Value::String(value)).is_some() {
            return Err(Failure::Invalid(format!("{} is given twice", shown(&name))));
        }
    }
    Ok(Fields(fields))
}

/// A field's name that came from outside, cut to a bearable length.
fn shown(name: &str) -> String {
    name.chars().take(40).collect()
}

impl Fields {
    /// A text that must be there.
    pub(super) fn text(&mut self, name: &'static str) -> Result<String, Failure> {
        self.optional_text(name)?.ok_or_else(|| Failure::Invalid(format!("{name} is missing")))
    }

    /// A text that may be there.
    pub(super) fn optional_text(&mut self, name: &'static str) -> Result<Option<String>, Failure> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Failure::Invalid(format!("{name} must be a string"))),
        }
    }

    /// A switch that may be there.
    pub(super) fn optional_flag(&mut self, name: &'static str) -> Result<Option<bool>, Failure> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(Failure::Invalid(format!("{name} must be true or false"))),
        }
    }

    /// True if the field is there, whatever it is.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Result<Fields, Failure> {
        parse_form(text.as_bytes())
    }

    #[test]
    fn forms_keep_the_password_as_it_was_sent() {
        let mut fields = form("username=a%40b&password=+x%2B%C3%A9%EF%BF%BD").unwrap();
        assert_eq!(fields.text("password").unwrap(), " x+\u{e9}\u{fffd}");
        assert!(form("password=%ff").is_err(), "would be replaced");
        assert!(form("a=1&a=2").is_err(), "given twice");
        assert!(parse_form(b"a=\xff").is_err());
    }

    #[test]
    fn errors_name_the_field_and_never_quote_the_body() {
        let mut fields = parse_json(br#"{"a":1,"b":null}"#).unwrap();
        for (name, expected) in [("a", "a must be a string"), ("b", "b must be a string"), ("c", "c is missing")] {
            let Err(Failure::Invalid(detail)) = fields.text(name) else { panic!("{name}") };
            assert_eq!(detail, expected);
        }
        let Err(Failure::Invalid(detail)) = parse_json(br#"{"password":"canary"#) else { panic!() };
        assert!(!detail.contains("canary"), "{detail}");
    }
}
