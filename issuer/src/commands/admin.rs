//! Commands that ask the admin API of a running issuer.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sidegate_runtime::settings::{ConfigError, Settings};

use super::Source;

const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What to revoke.
pub enum What {
    /// A JWT or jti; `-` for standard input.
    Token(String),
    /// A sid.
    Session(String),
    /// A sub.
    User(String),
    /// Everything.
    All,
}

/// Revokes.
///
/// # Errors
/// `ISSUER_ADMIN_LISTEN` or `ADMIN_TOKEN` is wrong or missing.
pub fn revoke(source: &Source, what: &What) -> Result<ExitCode, ConfigError> {
    let body = match what {
        What::Token(token) if token == "-" => match std::io::read_to_string(std::io::stdin()) {
            Ok(token) => json!({ "token": token.trim() }),
            Err(error) => {
                eprintln!("cannot read standard input: {error}");
                return Ok(ExitCode::FAILURE);
            }
        },
        What::Token(token) => json!({ "token": token }),
        What::Session(sid) => json!({ "session": sid }),
        What::User(sub) => json!({ "user": sub }),
        What::All => json!({ "all": true }),
    };
    ask(&source.settings()?, Method::POST, "/admin/revocations", &body.to_string())
}

/// Lists a user's sessions.
///
/// # Errors
/// As [`revoke`].
pub fn sessions(source: &Source, user: &str) -> Result<ExitCode, ConfigError> {
    let query = serde_urlencoded::to_string([("user", user)]).unwrap_or_default();
    ask(&source.settings()?, Method::GET, &format!("/admin/sessions?{query}"), "")
}

fn ask(settings: &Settings, method: Method, path: &str, body: &str) -> Result<ExitCode, ConfigError> {
    let mut address: SocketAddr = settings.parse("ISSUER_ADMIN_LISTEN", "an address and port")?;
    // "All addresses" is where a server listens; a client goes to its own machine.
    if address.ip().is_unspecified() {
        let here: std::net::IpAddr =
            if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(here);
    }
    let token = settings.required("ADMIN_TOKEN")?;
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_owned())))
        .map_err(|_| settings.unfit("ADMIN_TOKEN", "a bearer token"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(send(request)));
    Ok(report(answer))
}

async fn send(request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let exchange = async {
        let response = client.request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| "no answer in time".to_owned())?
}

fn report(answer: Result<(StatusCode, Bytes), String>) -> ExitCode {
    match answer {
        Ok((status, body)) if status.is_success() => {
            if !body.is_empty() {
                println!("{}", String::from_utf8_lossy(&body));
            }
            ExitCode::SUCCESS
        }
        Ok((StatusCode::NOT_FOUND, _)) => {
            eprintln!("the issuer has no admin API: ADMIN_TOKEN is not set there");
            ExitCode::FAILURE
        }
        Ok((status, body)) => {
            let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
            eprintln!("refused ({status}): {}", problem["detail"].as_str().unwrap_or_default());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("the issuer cannot be asked: {error}");
            ExitCode::FAILURE
        }
    }
}
