//! The body of the target that parses requests of login, refresh and logout.

use std::sync::LazyLock;

use sidegate_common::revocation::SubjectTag;
use sidegate_common::secret::Secret;
use sidegate_issuer::domain::refresh_token::{RefreshKeys, TOKEN_CHARS};
use sidegate_issuer::http::fields::{BodyKind, Fields};
use sidegate_issuer::http::{login, logout, refresh};

static KEYS: LazyLock<RefreshKeys> =
    LazyLock::new(|| RefreshKeys::new(&Secret::new("the session secret of the fuzz targets"), &[]).expect("keys"));

/// The first byte selects the kind of the body and its parser; the rest is the body, a
/// `Content-Type`, or damage to a valid refresh token.
pub fn bodies(data: &[u8]) {
    let Some((mode, body)) = data.split_first() else { return };
    let kind = if mode & 1 == 0 { BodyKind::Json } else { BodyKind::Form };
    match mode >> 1 & 7 {
        0 | 1 => credentials(kind, body),
        2 => {
            if let Ok(text) = Fields::read(kind, body).and_then(refresh::token) {
                refresh_token(&text);
            }
        }
        3 => {
            if let Ok((Some(text), scope)) = Fields::read(kind, body).and_then(logout::parse_logout) {
                assert!(["local", "others", "global"].contains(&scope.name()));
                refresh_token(&text);
            }
        }
        4 => content_type(body),
        5 => refresh_token(&String::from_utf8_lossy(body)),
        _ => damaged(body),
    }
}

/// Parsed credentials, written again in either kind, parse to the same value.
fn credentials(kind: BodyKind, body: &[u8]) {
    let found = match Fields::read(kind, body).and_then(login::credentials) {
        Ok(found) => found,
        Err(error) => {
            assert!(error.0.chars().count() < 100, "no value is quoted: {error}");
            return;
        }
    };
    let password = found.password.expose_str().expect("text");
    if kind == BodyKind::Json {
        let value: serde_json::Value = serde_json::from_slice(body).expect("JSON for others, too");
        let email = value.get("email").or_else(|| value.get("username"));
        assert!(email == Some(&found.email.as_str().into()) && value["password"] == password);
    }
    let json = serde_json::json!({"email": found.email, "password": password}).to_string();
    let form =
        serde_urlencoded::to_string([("username", found.email.as_str()), ("password", password)]).expect("a form");
    for (kind, text) in [(BodyKind::Json, json), (BodyKind::Form, form)] {
        let again = Fields::read(kind, text.as_bytes()).and_then(login::credentials).expect("good credentials");
        assert!(again.email == found.email && again.password.matches(password.as_bytes()), "{kind:?}");
    }
}

fn content_type(body: &[u8]) {
    let Ok(value) = http::HeaderValue::from_bytes(body) else { return };
    if BodyKind::of(&value).is_some() {
        let text = value.to_str().expect("ASCII").to_ascii_lowercase();
        let essence = text.split(';').next().unwrap_or_default().trim();
        assert!(["application/json", "application/x-www-form-urlencoded"].contains(&essence), "{text}");
    }
}

/// A refresh token has one spelling.
fn refresh_token(text: &str) {
    if let Ok(token) = KEYS.read(text) {
        assert_eq!(text.len(), TOKEN_CHARS);
        assert_eq!(KEYS.write(&token).as_deref(), Some(text));
    }
}

/// Any change to a valid token is refused: sixteen bytes of session, one of generation, then
/// positions and bytes to put there.
fn damaged(body: &[u8]) {
    let Some((sid, rest)) = body.split_first_chunk::<16>() else { return };
    let Some((generation, damage)) = rest.split_first() else { return };
    let token = KEYS.first(SubjectTag::of("42"), *sid).child((*generation).into());
    let good = KEYS.write(&token).expect("its key is there");
    assert_eq!(KEYS.read(&good), Ok(token));
    let mut bytes = good.clone().into_bytes();
    let length = bytes.len();
    damage.chunks_exact(2).take(8).for_each(|pair| bytes[usize::from(pair[0]) % length] = pair[1]);
    if let Ok(changed) = std::str::from_utf8(&bytes)
        && changed != good
    {
        assert!(KEYS.read(changed).is_err(), "forged: {changed}");
    }
}
