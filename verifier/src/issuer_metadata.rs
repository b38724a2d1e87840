//! From an issuer's `iss` to its JWK set: OpenID Connect Discovery 1.0, then RFC 8414.

use http::Uri;
use sidegate_common::foreign::file::{is_loopback_url, is_web_url};

use crate::jwks_http::{self, FetchError};

/// Why an issuer's metadata do not lead to its keys.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Neither place has a document; the error is that of the first.
    #[error("metadata: {0}")]
    Fetch(#[from] FetchError),
    /// Not a JSON object with `issuer` and `jwks_uri`.
    #[error("metadata: not a JSON document with issuer and jwks_uri")]
    Malformed,
    /// The document is another issuer's.
    #[error("metadata: their issuer is {0:?}, not the iss")]
    Issuer(String),
    /// Neither https, nor http of this machine for an issuer of this machine.
    #[error("metadata: jwks_uri is neither https nor, for an issuer on loopback, http on loopback")]
    Address,
    /// The JWK set itself could not be fetched.
    #[error("{0}")]
    Keys(FetchError),
}

#[derive(serde::Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

/// Fetches the JWK set of the issuer `iss`.
///
/// # Errors
/// See [`MetadataError`].
pub async fn fetch_keys(iss: &str) -> Result<Vec<u8>, MetadataError> {
    let [first, second] = places(iss);
    let document = match fetch(&first).await {
        Ok(document) => document,
        Err(error) => fetch(&second).await.map_err(|_| error)?,
    };
    let keys = jwks_uri(iss, &document)?;
    jwks_http::fetch_json(&keys).await.map_err(MetadataError::Keys)
}

async fn fetch(url: &str) -> Result<Vec<u8>, MetadataError> {
    let url: Uri = url.parse().map_err(|_| MetadataError::Address)?;
    Ok(jwks_http::fetch_json(&url).await?)
}

/// Below `iss`; and between the host and the path of `iss`.
fn places(iss: &str) -> [String; 2] {
    let iss = iss.trim_end_matches('/');
    let path_at = iss.find("://").map_or(0, |at| at + 3);
    let path_at = iss[path_at..].find('/').map_or(iss.len(), |at| path_at + at);
    let (host, path) = iss.split_at(path_at);
    [format!("{iss}/.well-known/openid-configuration"), format!("{host}/.well-known/oauth-authorization-server{path}")]
}

fn jwks_uri(iss: &str, document: &[u8]) -> Result<Uri, MetadataError> {
    let Metadata { issuer, jwks_uri } = serde_json::from_slice(document).map_err(|_| MetadataError::Malformed)?;
    if issuer != iss {
        return Err(MetadataError::Issuer(issuer.escape_debug().take(200).collect()));
    }
    if !is_web_url(&jwks_uri) || (is_loopback_url(&jwks_uri) && !is_loopback_url(iss)) {
        return Err(MetadataError::Address);
    }
    jwks_uri.parse().map_err(|_| MetadataError::Address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_both_standards() {
        let [first, second] = places("https://idp.example.com/realms/corp");
        assert_eq!(first, "https://idp.example.com/realms/corp/.well-known/openid-configuration");
        assert_eq!(second, "https://idp.example.com/.well-known/oauth-authorization-server/realms/corp");
        let [first, second] = places("https://tenant.auth0.com/");
        assert_eq!(first, "https://tenant.auth0.com/.well-known/openid-configuration");
        assert_eq!(second, "https://tenant.auth0.com/.well-known/oauth-authorization-server");
    }

    #[test]
    fn only_the_issuers_own_document_and_safe_addresses_count() {
        let uri = |iss: &str, issuer: &str, keys: &str| {
            jwks_uri(iss, format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}","x":1}}"#).as_bytes())
        };
        let iss = "https://a.example";
        assert!(uri(iss, iss, "https://b.example/keys").is_ok());
        assert!(uri("http://127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:2/keys").is_ok());
        assert!(matches!(uri(iss, "https://a.example/", "https://a.example/k"), Err(MetadataError::Issuer(_))));
        for keys in
            ["http://b.example/k", "http://127.0.0.1/k", "http://169.254.169.254/k", "file:///k", "/k", "", "ftp://b/k"]
        {
            assert!(matches!(uri(iss, iss, keys), Err(MetadataError::Address)), "{keys}");
        }
        for bad in ["", "[]", "{}", r#"{"issuer":"https://a.example"}"#, r#"{"issuer":1,"jwks_uri":"https://a"}"#] {
            assert!(matches!(jwks_uri(iss, bad.as_bytes()), Err(MetadataError::Malformed)), "{bad}");
        }
    }
}
