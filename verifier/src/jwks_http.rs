//! Fetches a JWK set over HTTP or HTTPS: one GET, no redirects, limited in size and time.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Request, Uri};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sidegate_common::jwks::JWKS_BYTES_MAX;
use sidegate_runtime::serve::read_body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The timeout of the whole request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a set could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection, or a broken one.
    #[error("cannot reach {0}: {1}")]
    Unreachable(String, std::io::Error),
    /// Not HTTP.
    #[error("malformed HTTP answer")]
    Http(#[from] hyper::Error),
    /// A status other than 200.
    #[error("status {0} instead of 200")]
    Status(u16),
    /// Another media type than JSON: an error page, or something a user uploaded.
    #[error("the media type is not application/json or application/jwk-set+json")]
    MediaType,
    /// The body exceeds the limit, or did not arrive.
    #[error("the body is too large or did not arrive")]
    Body,
    /// It took longer than five seconds.
    #[error("no answer in time")]
    Timeout,
    /// The URL has no host name for the certificate check, or there are no root certificates.
    #[error("TLS cannot be set up: the URL's host is not a valid name, or no root certificate can be used")]
    Tls,
}

/// Fetches the document at `url`.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(url: &Uri) -> Result<Vec<u8>, FetchError> {
    tokio::time::timeout(TIMEOUT, get(url, false)).await.map_err(|_| FetchError::Timeout)?
}

/// As [`fetch`], but accepts only JSON, as the media type says.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch_json(url: &Uri) -> Result<Vec<u8>, FetchError> {
    tokio::time::timeout(TIMEOUT, get(url, true)).await.map_err(|_| FetchError::Timeout)?
}

async fn get(url: &Uri, json: bool) -> Result<Vec<u8>, FetchError> {
    let secure = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let unreachable = |error| FetchError::Unreachable(format!("{host}:{port}"), error);
    let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
    if !secure {
        return exchange(stream, url, json).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Tls)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls()?));
    exchange(connector.connect(name, stream).await.map_err(unreachable)?, url, json).await
}

async fn exchange<S>(stream: S, url: &Uri, json: bool) -> Result<Vec<u8>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let host = url.authority().map_or("", http::uri::Authority::as_str);
    let request = Request::get(path).header(HOST, host.rsplit('@').next().unwrap_or(host));
    let request = request.header(ACCEPT, "application/jwk-set+json, application/json").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(|_| FetchError::Status(0))?).await?;
    if response.status() != 200 {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    if json && !is_json(response.headers()) {
        return Err(FetchError::MediaType);
    }
    let body = read_body(response.into_body(), JWKS_BYTES_MAX, TIMEOUT).await.map_err(|_| FetchError::Body)?;
    connection.abort();
    Ok(body.to_vec())
}

fn is_json(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    ["application/json", "application/jwk-set+json"].iter().any(|known| kind.eq_ignore_ascii_case(known))
}

/// The machine's root certificates (`SSL_CERT_FILE`, `SSL_CERT_DIR` or the usual places), and
/// Mozilla's, since an image from scratch has none.
fn tls() -> Result<&'static Arc<rustls::ClientConfig>, FetchError> {
    static CONFIG: OnceLock<Option<Arc<rustls::ClientConfig>>> = OnceLock::new();
    let make = || {
        let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
        Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    };
    CONFIG.get_or_init(make).as_ref().ok_or(FetchError::Tls)
}
