//! Commands that call the admin API of a running issuer.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sidegate_runtime::settings::{ConfigError, Settings};

use super::Source;

const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest response that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The target of a revocation.
pub enum What {
    /// A JWT or jti; `-` for standard input.
    Token(String),
    /// A sid.
    Session(String),
    /// A sub; true keeps the user's sessions.
    User(String, bool),
    /// A kid of another issuer.
    Key(String),
    /// A claim's path and value, of another issuer's tokens.
    Claim(Vec<String>, String),
    /// Everything.
    All,
}

/// Sends one revocation.
///
/// # Errors
/// `ISSUER_ADMIN_LISTEN` or `ADMIN_TOKEN` is wrong or missing.
pub fn revoke(source: &Source, what: &What, issuer: Option<&str>) -> Result<ExitCode, ConfigError> {
    let mut body = match what {
        What::Token(token) if token == "-" => match std::io::read_to_string(std::io::stdin()) {
            Ok(token) => json!({ "token": token.trim() }),
            Err(error) => {
                eprintln!("cannot read standard input: {error}");
                return Ok(ExitCode::FAILURE);
            }
        },
        What::Token(token) => json!({ "token": token }),
        What::Session(sid) => json!({ "session": sid }),
        What::User(sub, false) => json!({ "user": sub }),
        What::User(sub, true) => json!({ "user": sub, "sessions": "keep" }),
        What::Key(kid) => json!({ "key": kid }),
        What::Claim(path, value) => {
            let nested = path.iter().rev().fold(json!(value), |inner, name| json!({ name.as_str(): inner }));
            json!({ "claim": nested })
        }
        What::All => json!({ "all": true }),
    };
    if let Some(issuer) = issuer {
        body["issuer"] = issuer.into();
    }
    let admin = Admin::of(&source.settings()?)?;
    Ok(match admin.ask(Method::POST, "/admin/revocations", &body.to_string()) {
        Ok(answer) => {
            if let Some(ended) = answer["sessions_ended"].as_u64() {
                println!("revoked; live sessions ended: {ended}");
            }
            ExitCode::SUCCESS
        }
        Err(problem) => failed(&problem),
    })
}

/// Prints a user's sessions, all pages.
///
/// # Errors
/// As [`revoke`].
pub fn sessions(source: &Source, user: &str) -> Result<ExitCode, ConfigError> {
    let admin = Admin::of(&source.settings()?)?;
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let query = serde_urlencoded::to_string([("user", user), ("after", &after)]).unwrap_or_default();
        let query = query.trim_end_matches("&after=");
        let page = match admin.ask(Method::GET, &format!("/admin/sessions?{query}"), "") {
            Ok(page) => page,
            Err(problem) => return Ok(failed(&problem)),
        };
        all.extend(page["sessions"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    println!("{}", json!({ "sessions": all }));
    Ok(ExitCode::SUCCESS)
}

fn failed(problem: &str) -> ExitCode {
    eprintln!("{problem}");
    ExitCode::FAILURE
}

/// The admin API of a running issuer.
struct Admin {
    address: SocketAddr,
    authorization: HeaderValue,
}

impl Admin {
    fn of(settings: &Settings) -> Result<Self, ConfigError> {
        let mut address: SocketAddr = settings.parse("ISSUER_ADMIN_LISTEN", "an address and port")?;
        // A server may listen on all addresses; a client on the same machine connects to loopback.
        if address.ip().is_unspecified() {
            let here: std::net::IpAddr = if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            };
            address.set_ip(here);
        }
        let token = settings.required("ADMIN_TOKEN")?;
        let authorization = HeaderValue::from_str(&format!("Bearer {token}"));
        let authorization = authorization.map_err(|_| settings.unfit("ADMIN_TOKEN", "a bearer token"))?;
        Ok(Self { address, authorization })
    }

    /// Sends a request and returns the response body, or a message that says what failed.
    fn ask(&self, method: Method, path: &str, body: &str) -> Result<Value, String> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("prefer", "return=representation")
            .body(Full::new(Bytes::from(body.to_owned())))
            .map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answer = runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(send(request)));
        let (status, body) = answer
            .map_err(|error| format!("cannot reach the issuer at {} (ISSUER_ADMIN_LISTEN): {error}", self.address))?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::UNAUTHORIZED => Err("refused: ADMIN_TOKEN is not that of the running issuer".to_owned()),
            StatusCode::NOT_FOUND => {
                Err("the issuer has no admin API: set ADMIN_TOKEN there and restart it".to_owned())
            }
            status => Err(format!("refused ({status}): {}", body["detail"].as_str().unwrap_or_default())),
        }
    }
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
