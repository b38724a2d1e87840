//! A gRPC service whose calls need a token, and whose stream ends with it. The health service stands for an
//! application's own.
//!
//! `VERIFIER_SOCKET=... ATTACH_SOCKET=... LISTEN=127.0.0.1:3000 cargo run -p sidegate-client --example tonic_app`

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt as _, poll_fn};
use sidegate_client::{Denied, Sidegate, Verified, Watch, bearer};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Extensions, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// What a denial is in gRPC.
fn status(denied: &Denied) -> Status {
    let code = match denied.status() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        _ => Code::Unavailable,
    };
    Status::new(code, denied.code())
}

/// An interceptor: every call needs a good token, which the service finds in its extensions.
fn require_token(sidegate: Sidegate) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |mut request| {
        let values = request.metadata().get_all("authorization");
        let token = bearer(values.iter().map(|value| value.as_encoded_bytes())).map_err(|denied| status(&denied))?;
        // The daemon is asked about a new token, which blocks: other tasks move to another thread.
        let ask = || tokio::task::block_in_place(|| sidegate.check(token));
        let verified = sidegate.try_cached(token).unwrap_or_else(ask).map_err(|denied| status(&denied))?;
        request.extensions_mut().insert(verified);
        Ok(request)
    }
}

/// Events until the token ends; then a status says why.
fn until_ended<T>(mut watch: Watch, events: impl Stream<Item = T>) -> impl Stream<Item = Result<T, Status>> {
    let mut events = Box::pin(events);
    poll_fn(move |context| match Pin::new(&mut watch).poll(context) {
        Poll::Ready(denied) => Poll::Ready(Some(Err(status(&denied)))),
        Poll::Pending => events.poll_next_unpin(context).map(|event| event.map(Ok)),
    })
}

/// The caller's token, which the interceptor has checked.
fn caller(extensions: &Extensions) -> Result<&Verified, Status> {
    extensions.get().ok_or_else(|| Status::internal("the interceptor is missing"))
}

struct App {
    sidegate: Sidegate,
}

#[tonic::async_trait]
impl Health for App {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let mut response = Response::new(serving());
        let subject = caller(request.extensions())?.subject().parse();
        response.metadata_mut().insert("x-caller", subject.map_err(|_| Status::internal("an unusual subject"))?);
        Ok(response)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let ticks = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Some((serving(), ()))
        });
        let watch = self.sidegate.watch(caller(request.extensions())?);
        Ok(Response::new(Box::pin(until_ended(watch, ticks))))
    }
}

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving.into() }
}

// `block_in_place` needs the runtime with several threads.
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let incoming = TcpIncoming::bind(address.parse()?)?;
    println!("listening on {}", incoming.local_addr()?);
    let sidegate = Sidegate::connect();
    let service = HealthServer::with_interceptor(App { sidegate: sidegate.clone() }, require_token(sidegate));
    Server::builder().add_service(service).serve_with_incoming(incoming).await?;
    Ok(())
}
