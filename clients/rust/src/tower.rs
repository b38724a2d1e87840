//! A tower layer that passes only requests with a good token that has the required scopes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::{Denied, Sidegate, Verified, http};

/// Protects a service. The request's extensions get the [`Verified`] token.
#[derive(Clone, Debug)]
pub struct RequireToken {
    sidegate: Sidegate,
    scopes: Arc<[String]>,
}

/// A service behind [`RequireToken`].
#[derive(Clone, Debug)]
pub struct Protected<S> {
    inner: S,
    layer: RequireToken,
}

impl RequireToken {
    /// Accepts any good token.
    pub fn new(sidegate: Sidegate) -> Self {
        Self { sidegate, scopes: Arc::new([]) }
    }

    /// Also requires all of these scopes.
    #[must_use]
    pub fn scopes<T: Into<String>>(self, scopes: impl IntoIterator<Item = T>) -> Self {
        Self { scopes: scopes.into_iter().map(Into::into).collect(), ..self }
    }

    async fn admit<B>(&self, request: &mut Request<B>) -> Result<(), Denied> {
        // The request must not be borrowed while the daemon is asked: its body need not be `Sync`.
        let token = http::bearer(request.headers())?.to_owned();
        let verified: Verified = http::check(&self.sidegate, &token).await?;
        verified.require_scopes(&self.scopes)?;
        request.extensions_mut().insert(verified);
        Ok(())
    }
}

impl<S> Layer<S> for RequireToken {
    type Service = Protected<S>;

    fn layer(&self, inner: S) -> Protected<S> {
        Protected { inner, layer: self.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for Protected<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: From<String>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The polled service must be the one called; the clone replaces it.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let layer = self.layer.clone();
        Box::pin(async move {
            match layer.admit(&mut request).await {
                Ok(()) => inner.call(request).await,
                Err(denied) => Ok(http::refusal(&denied)),
            }
        })
    }
}
