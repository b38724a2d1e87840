//! The peers of a check: servers on a Unix socket that allow everything and do nothing else.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderMap, HeaderValue};
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use sidegate_proto::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use sidegate_proto::envoy::service::auth::v3::check_response::HttpResponse;
use sidegate_proto::envoy::service::auth::v3::{CheckRequest, CheckResponse, OkHttpResponse};
use sidegate_proto::google::rpc::Status;
use tokio_stream::wrappers::UnixListenerStream;

use crate::program::Program;

/// The response of a bare server.
#[derive(Clone, Copy, Debug)]
pub enum Says {
    /// 200 without any extra header.
    Yes,
    /// 200 with as many bytes of headers as Sidegate's.
    Identity,
    /// Envoy's gRPC: allowed, without anything else.
    Grpc,
}

impl Says {
    const ALL: [(Self, &str); 3] = [(Self::Yes, "yes"), (Self::Identity, "identity"), (Self::Grpc, "grpc")];

    /// Parses the name on a command line.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(says, _)| *says)
    }

    fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// Serves until killed. Runs in its own process: see [`start`].
pub fn serve(socket: &Path, workers: usize, says: Says) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(workers).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(socket).expect("the socket is free");
        match says {
            Says::Yes => answer(listener, HeaderMap::new()).await,
            Says::Identity => answer(listener, identity()).await,
            Says::Grpc => {
                let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(Constant));
                server.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("serves");
            }
        }
    });
}

async fn answer(listener: tokio::net::UnixListener, headers: HeaderMap) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let headers = headers.clone();
        tokio::spawn(async move {
            let answer = service_fn(|_| {
                let mut response = http::Response::new(Empty::<Bytes>::new());
                *response.headers_mut() = headers.clone();
                async { Ok::<_, Infallible>(response) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            let _client_gone = builder.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// Sidegate's headers for the benchmark's user.
fn identity() -> HeaderMap {
    let id = "0123456789012345678901";
    let values = [("subject", "1"), ("session", id), ("token-id", id), ("client", "sidegate"), ("scope", "-")];
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in values.into_iter().chain([("expires", "1700000000")]) {
        let name = http::HeaderName::try_from(format!("x-auth-{name}")).expect("a name");
        headers.insert(name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

struct Constant;

#[tonic::async_trait]
impl Authorization for Constant {
    async fn check(&self, _: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let http_response = Some(HttpResponse::OkResponse(OkHttpResponse::default()));
        let status = Some(Status::default());
        Ok(tonic::Response::new(CheckResponse { status, http_response, dynamic_metadata: None }))
    }
}

/// Starts a bare server as a child of the benchmark and waits for its socket.
pub async fn start(folder: &crate::scratch::Scratch, workers: usize, says: Says) -> (Program, PathBuf) {
    let socket = folder.file(&format!("bare-{}.sock", says.name()));
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    command.arg("--bare-server").arg(&socket).arg(workers.to_string()).arg(says.name());
    let program = Program::start("bare server", command, &folder.file("bare.log"));
    crate::wait::eventually("the bare server", || async { tokio::net::UnixStream::connect(&socket).await.ok() }).await;
    (program, socket)
}
