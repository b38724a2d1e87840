//! gRPC on the same socket: Envoy's external authorization (v3) and the standard health service.
//!
//! Two rules keep Envoy from misreading a response: the status is always set (an empty response
//! *allows*), and a denial is never a gRPC error (with `failure_mode_allow` that would let the
//! request pass).

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut as _, Bytes};
use http::header::HeaderMap;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use sidegate_common::claims::{Audience, Claims};
use sidegate_common::identity_headers::is_lookalike;
use sidegate_common::problem::Code;
use sidegate_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use sidegate_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use sidegate_proto::envoy::service::auth::v3::attribute_context::HttpRequest;
use sidegate_proto::envoy::service::auth::v3::authorization_server::SERVICE_NAME;
use sidegate_proto::envoy::service::auth::v3::check_response::HttpResponse;
use sidegate_proto::envoy::service::auth::v3::{self as envoy, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use sidegate_proto::envoy::r#type::v3::HttpStatus;
use sidegate_proto::google::rpc::Status as RpcStatus;
use sidegate_runtime::trace::{self, Parent};
use tokio::sync::Semaphore;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, UnaryService};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::Service;

use super::answer::{CheckAnswer, IDENTITY, STALE, answer, log_check, problem};
use super::bearer::{Headers, present};
use super::body::Body;
use super::proxy_protocol::LOOKALIKE;
use crate::domain::request::{CheckRequest, Denial};
use crate::verifier::{Verdict, Verifier};
use sidegate_common::routes::Requirement;

const NAME: &str = "grpc";
/// Envoy's name for the service, also in the health service.
pub const AUTHORIZATION: &str = SERVICE_NAME;
const UNKNOWN_KEYS_LOGGED_MAX: usize = 16;
const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// A client watches each of the two services once; a stream stays open as long as the client likes.
pub const WATCHES_MAX: usize = 4;
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Both services.
#[derive(Clone, Debug)]
pub struct Grpc {
    verifier: Arc<Verifier>,
    health: HealthServer<HealthService>,
}

impl Grpc {
    /// The services of `verifier`; the caller updates `health`.
    pub fn new(verifier: Arc<Verifier>, health: HealthReporter) -> Self {
        Self { verifier, health: HealthServer::new(HealthService::from_health_reporter(health)) }
    }

    /// Handles one call; `watches` are the health streams that its connection may still open.
    pub fn call(
        &self,
        request: Request<Incoming>,
        watches: &Arc<Semaphore>,
    ) -> impl Future<Output = Response<Body>> + Send + use<> {
        let path = request.uri().path();
        let watch = (path == WATCH).then(|| Arc::clone(watches).try_acquire_owned());
        let checker = (path == CHECK).then(|| Authorizer { verifier: Arc::clone(&self.verifier) });
        let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let health = (service == <HealthServer<HealthService> as NamedService>::NAME).then(|| self.health.clone());
        async move {
            let permit = match watch.transpose() {
                Ok(permit) => permit,
                Err(_) => return refuse_watch().map(|body| Body::Grpc(body, None)),
            };
            let response = match (checker, health) {
                (Some(checker), _) => tonic::server::Grpc::new(CheckCodec).unary(checker, request).await,
                (None, Some(mut health)) => {
                    let Ok(response) = health.call(request).await;
                    response
                }
                (None, None) => tonic::Status::unimplemented("no such service").into_http(),
            };
            response.map(|body| Body::Grpc(body, permit))
        }
    }
}

fn refuse_watch() -> Response<tonic::body::Body> {
    tonic::Status::resource_exhausted("too many health streams on this connection").into_http()
}

/// `envoy.service.auth.v3.Authorization/Check`, not by the generated server: its responses are
/// already encoded.
#[derive(Clone, Debug)]
struct Authorizer {
    verifier: Arc<Verifier>,
}

impl UnaryService<envoy::CheckRequest> for Authorizer {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Bytes>, tonic::Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<envoy::CheckRequest>) -> Self::Future {
        let verifier = Arc::clone(&self.verifier);
        if trace::is_on() {
            return Box::pin(async move { Ok(tonic::Response::new(traced(&verifier, request).await)) });
        }
        Box::pin(async move { Ok(tonic::Response::new(check(&verifier, request.into_inner()).await)) })
    }
}

/// Checks in a span. Envoy may have a span for the call; if not, the checked request names the
/// parent.
async fn traced(verifier: &Verifier, request: tonic::Request<envoy::CheckRequest>) -> Bytes {
    let (metadata, _, message) = request.into_parts();
    let attributes = message.attributes.as_ref().and_then(|attributes| attributes.request.as_ref());
    let asked_about = attributes.and_then(|request| request.http.as_ref());
    let parent = Parent::of(metadata.as_ref()).or_else(|| asked_about.and_then(parent));
    let span = trace::Span::call(AUTHORIZATION, "Check", parent);
    // The span ends when dropped: the call succeeds whatever the verdict, which is set as the
    // outcome.
    span.around(check(verifier, message)).await
}

/// The parent named by the checked request.
fn parent(http: &HttpRequest) -> Option<Parent<'_>> {
    Parent::read(values(http, "traceparent").next()?, values(http, "tracestate").next())
}

async fn check(verifier: &Verifier, request: envoy::CheckRequest) -> Bytes {
    let attributes = request.attributes.unwrap_or_default();
    let also = match requirement(&attributes.context_extensions) {
        Ok(also) => also,
        Err(key) => return unknown_extension(verifier, key),
    };
    let http = attributes.request.and_then(|request| request.http);
    let verdict = match &http {
        None => Verdict::Deny(Denial::NoTarget("the check request has no HTTP attributes")),
        Some(http) if names(http).any(is_lookalike) => Verdict::Deny(Denial::Header(LOOKALIKE)),
        Some(http) => {
            let token = present(http, verifier.token_cookie(), &http.method, Some(http.host.as_bytes()));
            let (method, target) = (http.method.as_str(), Some(http.path.as_bytes()));
            verifier.check(&CheckRequest { token, method, target, requirement: also.as_ref() }).await
        }
    };
    let (outcome, message) = render(verdict);
    verifier.answered(NAME, outcome);
    log_check(NAME, outcome, || http.as_ref().and_then(parent));
    message
}

/// A verdict's outcome and message; the message for a good token is made once and cached with the
/// token.
fn render(verdict: Verdict) -> (&'static str, Bytes) {
    match verdict {
        Verdict::Allow(good, cached) if good.stale_seconds().is_none() => {
            let message = cached.rendered().grpc(|| encode(Verdict::Allow(good, Arc::clone(&cached))).1);
            ("allowed", message.clone())
        }
        verdict => encode(verdict),
    }
}

fn encode(verdict: Verdict) -> (&'static str, Bytes) {
    let metadata = metadata(&verdict);
    let answer = answer(verdict);
    (answer.outcome, Bytes::from(respond(answer, metadata).encode_to_vec()))
}

/// Decodes requests, and sends encoded responses.
#[derive(Clone, Copy, Debug)]
struct CheckCodec;

impl Codec for CheckCodec {
    type Encode = Bytes;
    type Decode = envoy::CheckRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for CheckCodec {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for CheckCodec {
    type Item = envoy::CheckRequest;
    type Error = tonic::Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<envoy::CheckRequest>, tonic::Status> {
        envoy::CheckRequest::decode(bytes).map(Some).map_err(|error| tonic::Status::internal(error.to_string()))
    }
}

/// The requirement that the operator wrote beside the route in Envoy's configuration; clients
/// cannot change it.
///
/// # Errors
/// An unknown key: an operator who wrote `scopes` expects the route to be protected.
fn requirement(extensions: &HashMap<String, String>) -> Result<Option<Requirement>, &str> {
    if let Some(unknown) = extensions.keys().filter(|key| !matches!(key.as_str(), "scope" | "audience")).min() {
        return Err(unknown);
    }
    let scope = extensions.get("scope").cloned().unwrap_or_default();
    let audiences: Vec<String> = extensions.get("audience").cloned().into_iter().collect();
    Ok((!scope.is_empty() || !audiences.is_empty()).then_some(Requirement { scope, audiences }))
}

/// 503, and a log line for each key the first time: no request may pass a route whose requirement
/// is unknown.
fn unknown_extension(verifier: &Verifier, key: &str) -> Bytes {
    static LOGGED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if logged.len() < UNKNOWN_KEYS_LOGGED_MAX && logged.insert(key.to_owned()) {
        tracing::error!(key, "unknown key in context_extensions; known are scope and audience");
    }
    drop(logged);
    let answer = problem(Code::TemporarilyUnavailable, "the route's context_extensions are unsupported", None);
    verifier.answered(NAME, answer.outcome);
    Bytes::from(respond(answer, None).encode_to_vec())
}

/// Envoy sends headers as a map with repeated ones joined; with `encode_raw_headers` as a list of
/// bytes.
impl Headers for HttpRequest {
    fn authorization(&self) -> impl Iterator<Item = &[u8]> {
        values(self, "authorization")
    }

    fn cookie(&self) -> impl Iterator<Item = &[u8]> {
        values(self, "cookie")
    }

    fn origin(&self) -> impl Iterator<Item = &[u8]> {
        values(self, "origin")
    }
}

fn names(http: &HttpRequest) -> impl Iterator<Item = &str> {
    let raw = http.header_map.iter().flat_map(|map| &map.headers);
    http.headers.keys().chain(raw.map(|header| &header.key)).map(String::as_str)
}

fn values<'a>(http: &'a HttpRequest, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    let joined = http.headers.get(name).map(String::as_bytes);
    let raw =
        http.header_map.iter().flat_map(|map| &map.headers).filter(move |header| header.key.eq_ignore_ascii_case(name));
    joined.into_iter().chain(
        raw.map(
            |header| {
                if header.raw_value.is_empty() { header.value.as_bytes() } else { header.raw_value.as_slice() }
            },
        ),
    )
}

fn respond(answer: CheckAnswer, dynamic_metadata: Option<Struct>) -> CheckResponse {
    let (code, http_response) = match answer.status {
        StatusCode::OK => (tonic::Code::Ok, HttpResponse::OkResponse(allowed(&answer.headers))),
        StatusCode::UNAUTHORIZED => (tonic::Code::Unauthenticated, HttpResponse::DeniedResponse(refused(&answer))),
        StatusCode::SERVICE_UNAVAILABLE => (tonic::Code::Unavailable, HttpResponse::ErrorResponse(refused(&answer))),
        _ => (tonic::Code::PermissionDenied, HttpResponse::DeniedResponse(refused(&answer))),
    };
    let status = RpcStatus { code: code as i32, message: answer.outcome.to_owned(), details: Vec::new() };
    CheckResponse { status: Some(status), http_response: Some(http_response), dynamic_metadata }
}

fn allowed(headers: &HeaderMap) -> OkHttpResponse {
    // Only these: Envoy adds every header of the response to the application's request.
    let given =
        IDENTITY.into_iter().chain([STALE]).filter_map(|name| Some(overwrite(name.as_str(), headers.get(&name)?)));
    let headers_to_remove = if headers.contains_key(&STALE) { Vec::new() } else { vec![STALE.as_str().to_owned()] };
    OkHttpResponse { headers: given.collect(), headers_to_remove }
}

fn refused(answer: &CheckAnswer) -> DeniedHttpResponse {
    DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(answer.status.as_u16()) }),
        headers: answer.headers.iter().map(|(name, value)| overwrite(name.as_str(), value)).collect(),
        body: String::from_utf8_lossy(&answer.body).into_owned(),
    }
}

/// Old Envoys read only `append`, new ones prefer `append_action`, whose zero value appends: so
/// both are set.
fn overwrite(name: &str, value: &http::HeaderValue) -> HeaderValueOption {
    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, raw_value: Vec::new() }),
        append: Some(false),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
    }
}

/// The claims, for Envoy's access log and later filters.
fn metadata(verdict: &Verdict) -> Option<Struct> {
    let Verdict::Allow(good, _) = verdict else { return None };
    let Claims { iss, aud, sub, client_id, iat, exp, jti, sid, scope, nbf: _ } = good.claims();
    let aud = match aud {
        Audience::One(one) => text(one),
        Audience::Many(many) => {
            value(Kind::ListValue(ListValue { values: many.iter().map(|one| text(one)).collect() }))
        }
    };
    let mut fields = vec![
        ("iss", text(iss)),
        ("aud", aud),
        ("sub", text(sub)),
        ("client_id", text(client_id)),
        ("iat", value(Kind::NumberValue(*iat as f64))),
        ("exp", value(Kind::NumberValue(*exp as f64))),
        ("jti", text(jti)),
        ("sid", text(sid)),
    ];
    fields.extend(scope.as_ref().map(|scope| ("scope", text(scope))));
    Some(Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() })
}

fn text(text: &str) -> Value {
    value(Kind::StringValue(text.to_owned()))
}

const fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}
