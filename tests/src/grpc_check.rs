//! Calls the verifier's gRPC authorization service like Envoy.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use sidegate_proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use sidegate_proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use sidegate_proto::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// A channel over a Unix socket.
pub async fn channel(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    let connect = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connect).await.expect("the verifier listens")
}

/// The attributes of a request, with the headers in Envoy's usual map.
pub fn attributes(method: &str, path: &str, headers: &[(&str, &str)]) -> HttpRequest {
    HttpRequest {
        method: method.into(),
        path: path.into(),
        host: "app.example".into(),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..HttpRequest::default()
    }
}

/// Sends one check.
pub async fn check(channel: &Channel, http: Option<HttpRequest>, extensions: &[(&str, &str)]) -> CheckResponse {
    let attributes = AttributeContext {
        request: Some(Request { http }),
        context_extensions: extensions.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    };
    let request = CheckRequest { attributes: Some(attributes) };
    AuthorizationClient::new(channel.clone()).check(request).await.expect("an answer").into_inner()
}
