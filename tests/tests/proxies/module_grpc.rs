//! gRPC through Sidegate's module: what calls see of the application, and of a refusal.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use sidegate_tests::daemon::{Daemon, good};
use sidegate_tests::envoy_file::{shipped, with_grpc, with_tls};
use sidegate_tests::http::At;
use sidegate_tests::program::free_port;
use sidegate_tests::proxies::{IDENTITY, Kind};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::wait::eventually;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::service_fn;

const ROUTES: &str = "[[route]]\npath = \"/admin/**\"\nscopes = [\"admin\"]\n";

/// An application of gRPC that answers only callers that it is given by name.
async fn application() -> (SocketAddr, HealthReporter) {
    let reporter = HealthReporter::new();
    let named = |request: Request<()>| {
        let once = |name: &&str| request.metadata().get_all(*name).iter().count() == 1;
        let subject = request.metadata().get("x-auth-subject");
        if subject.is_some_and(|subject| subject.as_bytes().starts_with(b"user")) && IDENTITY.iter().all(once) {
            Ok(request)
        } else {
            Err(Status::data_loss("the application does not know who calls"))
        }
    };
    let service = HealthServer::with_interceptor(HealthService::from_health_reporter(reporter.clone()), named);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    (address, reporter)
}

async fn channel(at: &At) -> Channel {
    let at = Arc::new(at.clone());
    let connect = service_fn(move |_: Uri| {
        let at = Arc::clone(&at);
        async move { at.connect().await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connect).await.expect("Envoy listens")
}

/// A call about `service` with a token, and a name that the client makes up.
fn call(service: &str, token: Option<&str>) -> Request<HealthCheckRequest> {
    let mut request = Request::new(HealthCheckRequest { service: service.to_owned() });
    for name in IDENTITY {
        request.metadata_mut().insert(name, "mallory".parse().unwrap());
    }
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

async fn calls(kind: Kind) {
    let folder = Scratch::new();
    std::fs::write(folder.file("routes.toml"), ROUTES).unwrap();
    let attach = folder.file("attach.sock");
    let mut daemon = Daemon::start_in(folder, &[("ATTACH_SOCKET", attach.to_str().unwrap())]);
    daemon.prove();
    let (application, mut reporter) = application().await;
    let port = free_port();
    let text = with_tls(&with_grpc(&shipped(), application), daemon.folder.path(), port);
    let started = kind.start_with(&text, daemon.folder.path(), &daemon.socket, &[]).await;
    let Some(proxy) = started else { return };
    let At::Tcp(plain) = proxy.at else { unreachable!("proxies listen on TCP") };
    let ways = [At::H2(plain), At::TlsH2(([127, 0, 0, 1], port).into())];
    for (way, at) in ways.iter().enumerate() {
        let token = good(&format!("user{way}"));
        let channel = channel(at).await;
        let mut client = HealthClient::new(channel.clone());
        answers_pass(&mut client, &mut reporter, &token).await;
        let refused = async |token: Option<&str>, code: Code, problem: &str| {
            let (mut unary, mut stream) = (HealthClient::new(channel.clone()), HealthClient::new(channel.clone()));
            let refusals = [unary.check(call("", token)).await.err(), stream.watch(call("", token)).await.err()];
            for status in refusals {
                let status = status.unwrap_or_else(|| panic!("{kind:?}: {at:?}: {problem} passed"));
                is_refusal(&status, code, problem);
            }
        };
        refused(None, Code::Unauthenticated, "token_missing").await;
        refused(Some("a.b.c"), Code::Unauthenticated, "token_invalid").await;
        let admin = Uri::from_static("http://localhost/admin");
        let status = HealthClient::with_origin(channel.clone(), admin).check(call("", Some(&token))).await;
        is_refusal(&status.unwrap_err(), Code::PermissionDenied, "insufficient_scope");
        daemon.revoke_session(&format!("sid-of-user{way}"));
        refused(Some(&token), Code::Unauthenticated, "token_revoked").await;
        // The connection is kept, and good for others.
        answers_pass(&mut client, &mut reporter, &good(&format!("user-other{way}"))).await;
    }
    daemon.stop.send_replace(true);
    daemon.task.take().unwrap().await.unwrap();
    let token = good("user-late");
    for at in &ways {
        let mut client = HealthClient::new(channel(at).await);
        // What shared memory says of a dead daemon holds for up to a second.
        let status = eventually("a refusal", || {
            let mut client = client.clone();
            let call = call("", Some(&token));
            async move { client.check(call).await.err() }
        })
        .await;
        is_refusal(&status, Code::Unavailable, "temporarily_unavailable");
        is_refusal(
            &client.watch(call("", Some(&token))).await.unwrap_err(),
            Code::Unavailable,
            "temporarily_unavailable",
        );
    }
}

/// Unary calls with their status in the trailers, and a stream.
async fn answers_pass(client: &mut HealthClient<Channel>, reporter: &mut HealthReporter, token: &str) {
    for _ in 0..2 {
        let answer = client.check(call("", Some(token))).await.unwrap();
        assert_eq!(answer.get_ref().status, ServingStatus::Serving as i32);
        let unknown = client.check(call("unknown", Some(token))).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound, "the application's own status: {unknown:?}");
    }
    reporter.set_service_status("watched", ServingStatus::Serving).await;
    let mut watched = client.watch(call("watched", Some(token))).await.unwrap().into_inner();
    for status in [ServingStatus::NotServing, ServingStatus::Serving, ServingStatus::NotServing] {
        assert_ne!(watched.message().await.unwrap().unwrap().status, status as i32);
        reporter.set_service_status("watched", status).await;
    }
    assert_eq!(watched.message().await.unwrap().unwrap().status, ServingStatus::NotServing as i32);
    reporter.clear_service_status("watched").await;
}

/// Envoy makes a status of the module's answer: its code of the HTTP status, its message of the body.
fn is_refusal(status: &Status, code: Code, problem: &str) {
    assert_eq!(status.code(), code, "{problem}: {status:?}");
    let body: serde_json::Value = serde_json::from_str(status.message()).unwrap_or_else(|_| panic!("{status:?}"));
    assert_eq!(body["code"], problem, "{status:?}");
    let challenges = status.metadata().get_all("www-authenticate").iter().count();
    assert_eq!(challenges, usize::from(code != Code::Unavailable), "{status:?}");
    assert_eq!(status.metadata().get("retry-after").is_some(), code == Code::Unavailable, "{status:?}");
}

macro_rules! for_every_envoy {
    ($($name:ident: $version:literal, $workers:literal),*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            calls(Kind::EnvoyModule($version, $workers)).await;
        })*
    };
}

for_every_envoy!(
    envoy_1_38_with_one_worker: "1.38.3", 1,
    envoy_1_38_with_four_workers: "1.38.3", 4,
    envoy_1_39_with_one_worker: "1.39.3", 1,
    envoy_1_39_with_four_workers: "1.39.3", 4,
    envoy_1_40_with_one_worker: "1.40.0", 1,
    envoy_1_40_with_four_workers: "1.40.0", 4
);
