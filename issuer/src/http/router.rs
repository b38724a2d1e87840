//! Paths and methods of the public listener.

use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::{MethodRouter, delete, get, post};
use http::Response;

use super::api::Api;
use super::call::Call;
use super::error::Failure;
use super::middleware::{RequestId, observe};
use super::origin::CorsOrigins;
use super::response::Answer;
use super::{docs, jwks, login, logout, me, refresh, sessions};
use crate::domain::traits::{Passwords, Store, Users};

/// The id of a request.
fn id_of(request: &Request) -> String {
    request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default()
}

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// An axum handler from one of ours.
pub(super) fn handler<A, F, W>(
    api: &Arc<A>,
    handle: F,
) -> impl Fn(Request) -> Answering + Clone + Send + Sync + 'static + use<A, F, W>
where
    A: Send + Sync + 'static,
    F: Fn(Arc<A>, Call) -> W + Clone + Send + Sync + 'static,
    W: Future<Output = Answer> + Send + 'static,
{
    let api = Arc::clone(api);
    move |request: Request| {
        let (api, handle) = (Arc::clone(&api), handle.clone());
        Box::pin(async move {
            let id = id_of(&request);
            handle(api, Call::new(request)).await.unwrap_or_else(|failure| failure.into_response(&id))
        })
    }
}

/// Adds the middleware and the responses for unknown paths and methods.
pub(super) fn with_middleware<U: Users, S: Store, P: Passwords>(
    api: &Arc<Api<U, S, P>>,
    cors: &CorsOrigins,
    routes: Router,
) -> Router {
    let not_found = handler(api, |_, _| async { Err(Failure::NotFound) });
    let not_allowed = handler(api, |_, _| async { Err(Failure::MethodNotAllowed) });
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(axum::middleware::from_fn_with_state((Arc::clone(api), cors.clone()), observe::<U, S, P>))
}

/// The public listener's routes, as `openapi.json` describes them.
pub fn public<U: Users, S: Store, P: Passwords>(api: &Arc<Api<U, S, P>>) -> Router {
    let routes: [(&str, MethodRouter); 10] = [
        ("/auth/login", post(handler(api, login::login))),
        ("/auth/refresh", post(handler(api, refresh::refresh))),
        ("/auth/logout", post(handler(api, logout::logout))),
        ("/auth/me", get(handler(api, me::me))),
        ("/auth/sessions", get(handler(api, sessions::list))),
        ("/auth/sessions/{sid}", delete(handler(api, sessions::end))),
        ("/.well-known/jwks.json", get(handler(api, jwks::jwks))),
        ("/openapi.json", get(handler(api, docs::openapi))),
        ("/docs", get(handler(api, docs::page))),
        ("/docs/page.js", get(handler(api, docs::script))),
    ];
    let router = routes.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    with_middleware(api, &api.cors, router)
}
