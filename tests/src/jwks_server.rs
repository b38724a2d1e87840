//! An HTTP server of one JWK set, which the test can change; counts the requests.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sidegate_common::key::SigningKey;
use tokio::net::TcpListener;

/// The server; it ends with the test's runtime.
#[derive(Debug)]
pub struct JwksServer {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    document: Mutex<String>,
    asked: AtomicU64,
    broken: AtomicBool,
    gate: tokio::sync::Mutex<()>,
}

impl JwksServer {
    /// Starts a server of `document`.
    pub async fn start(document: &Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/jwks.json", listener.local_addr().expect("an address"));
        let (document, asked) = (Mutex::new(document.to_string()), AtomicU64::new(0));
        let (broken, gate) = (AtomicBool::new(false), tokio::sync::Mutex::new(()));
        let shared = Arc::new(Shared { document, asked, broken, gate });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let shared = Arc::clone(&serving);
                let answer = service_fn(move |_| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, Infallible>(shared.answer().await) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { url, shared }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// How often the set was fetched.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// Delays responses until the returned guard is dropped.
    pub async fn hold(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.shared.gate.lock().await
    }

    /// Answers 500 to every request while `broken`.
    pub fn set_broken(&self, broken: bool) {
        self.shared.broken.store(broken, Ordering::Relaxed);
    }

    /// Replaces the set.
    pub fn serve(&self, document: &Value) {
        *self.shared.document.lock().unwrap_or_else(PoisonError::into_inner) = document.to_string();
    }
}

impl Shared {
    async fn answer(&self) -> http::Response<Full<Bytes>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let _open = self.gate.lock().await;
        let body = self.document.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut response = http::Response::new(Full::new(body.into()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.broken.load(Ordering::Relaxed) {
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    }
}

/// The public halves of keys as a JWK set.
pub fn jwk_set(keys: &[&SigningKey]) -> Value {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk().expect("an asymmetric key")).collect();
    json!({ "keys": keys })
}
