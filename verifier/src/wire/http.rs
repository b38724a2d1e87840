//! The service of one connection: routes methods and paths to handlers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use sidegate_common::identity_headers::is_lookalike;
use sidegate_common::problem::Code;
use sidegate_runtime::serve::Peer;
use sidegate_runtime::trace::{self, Parent};
use tokio::sync::Semaphore;

use super::answer::{CheckAnswer, answer, log_check, not_allowed, problem};
use super::bearer::present;
use super::body::Body;
use super::grpc::{Grpc, WATCHES_MAX};
use super::proxy_protocol::{LOOKALIKE, ProxyProtocol};
use super::{introspect, verify};
use crate::domain::request::{CheckRequest, Denial};
use crate::verifier::{Verdict, Verifier};

/// The state that the check listeners share.
#[derive(Clone, Debug)]
pub struct CheckService {
    verifier: Arc<Verifier>,
    grpc: Grpc,
}

impl CheckService {
    /// The interfaces of `verifier`.
    pub fn new(verifier: Arc<Verifier>, grpc: Grpc) -> Self {
        Self { verifier, grpc }
    }

    /// The service of one connection.
    pub fn connection(&self, peer: Peer) -> Connection {
        Connection { service: self.clone(), peer, watches: Arc::new(Semaphore::new(WATCHES_MAX)) }
    }
}

/// The service of one connection.
#[derive(Clone, Debug)]
pub struct Connection {
    service: CheckService,
    peer: Peer,
    watches: Arc<Semaphore>,
}

impl hyper::service::Service<Request<Incoming>> for Connection {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Reply;

    fn call(&self, request: Request<Incoming>) -> Reply {
        // Without the feature otel this is false at compile time.
        if trace::is_on() { self.traced(request) } else { self.answer(request) }
    }
}

impl Connection {
    /// Handles a request in a span. gRPC calls make their own, because only they know the checked
    /// request.
    fn traced(&self, request: Request<Incoming>) -> Reply {
        let route = match (ProxyProtocol::at(request.uri().path()), request.uri().path()) {
            (Some(protocol), _) => protocol.route(),
            (None, "/introspect") => "/introspect",
            (None, "/verify") => "/verify",
            (None, _) => return self.answer(request),
        };
        let span = trace::Span::request(request.method(), Some(route), Parent::of(request.headers()));
        match span.within(|| self.answer(request)) {
            Reply::Now(response) => {
                if let Some(response) = &response {
                    span.answered(response.status());
                }
                Reply::Now(response)
            }
            Reply::Later(work) => Reply::later(async move {
                let response = span.around(work).await;
                span.answered(response.status());
                response
            }),
        }
    }

    fn answer(&self, request: Request<Incoming>) -> Reply {
        let CheckService { verifier, grpc } = &self.service;
        if let Some(protocol) = ProxyProtocol::at(request.uri().path()) {
            // The body, if there is one, is dropped unread.
            return check(verifier, protocol, request.into_parts().0);
        }
        if request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            return Reply::later(grpc.call(request, &self.watches));
        }
        let path = request.uri().path();
        let post = *request.method() == Method::POST;
        match path {
            "/introspect" if post => Reply::later(introspect::introspect(Arc::clone(verifier), self.peer, request)),
            "/verify" if post => Reply::later(verify::verify(Arc::clone(verifier), request)),
            "/introspect" | "/verify" => Reply::now(not_allowed("POST")),
            _ => Reply::now(problem(Code::NotFound, Code::NotFound.title(), None)),
        }
    }
}

fn check(verifier: &Arc<Verifier>, protocol: ProxyProtocol, parts: Parts) -> Reply {
    let checked = match check_request(verifier, protocol, &parts) {
        Ok(request) => verifier.check_at_once(&request),
        Err(denial) => Ok(Verdict::Deny(denial)),
    };
    if let Ok(verdict) = checked {
        return Reply::now(finish(verifier, protocol, &parts.headers, answer(verdict)));
    }
    let verifier = Arc::clone(verifier);
    Reply::later(async move {
        let verdict = match check_request(&verifier, protocol, &parts) {
            Ok(request) => verifier.check(&request).await,
            Err(denial) => Verdict::Deny(denial),
        };
        finish(&verifier, protocol, &parts.headers, answer(verdict)).into()
    })
}

fn finish(verifier: &Verifier, protocol: ProxyProtocol, headers: &HeaderMap, mut answer: CheckAnswer) -> CheckAnswer {
    verifier.answered(protocol.name(), answer.outcome);
    log_check(protocol.name(), answer.outcome, || Parent::of(headers));
    if protocol == ProxyProtocol::Envoy && !answer.headers.contains_key(super::answer::STALE) {
        // Only Envoy keeps a client's header that the response does not set.
        answer.headers.insert("x-envoy-auth-headers-to-remove", HeaderValue::from_static("x-auth-stale"));
    }
    answer
}

/// Builds the check of the request that `parts` describe.
fn check_request<'a>(
    verifier: &'a Verifier,
    protocol: ProxyProtocol,
    parts: &'a Parts,
) -> Result<CheckRequest<'a>, Denial> {
    if protocol != ProxyProtocol::Check && parts.headers.keys().any(|name| is_lookalike(name.as_str())) {
        return Err(Denial::Header(LOOKALIKE));
    }
    let (cookie, has_route) = (verifier.token_cookie(), protocol != ProxyProtocol::Check && verifier.has_routes());
    if cookie.is_none() && !has_route {
        let token = present(&parts.headers, None, "", None);
        return Ok(CheckRequest { token, method: "", target: None, requirement: None });
    }
    let target = protocol.target(parts);
    if has_route && (target.method.is_none() || target.path.is_none()) {
        return Err(Denial::NoTarget(protocol.lacks()));
    }
    let method = target.method.unwrap_or_default();
    let token = present(&parts.headers, cookie, method, target.host);
    Ok(CheckRequest { token, method, target: target.path.filter(|_| has_route), requirement: None })
}

/// A response that is ready, as for nearly every check, or a future.
pub enum Reply {
    /// Taken by the first poll.
    Now(Option<Response<Body>>),
    /// A pending response.
    Later(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
}

impl Reply {
    fn now(answer: CheckAnswer) -> Self {
        Self::Now(Some(answer.into()))
    }

    fn later(response: impl Future<Output = Response<Body>> + Send + 'static) -> Self {
        Self::Later(Box::pin(response))
    }
}

impl Future for Reply {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Now(response) => response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Self::Later(response) => response.as_mut().poll(context).map(Ok),
        }
    }
}
