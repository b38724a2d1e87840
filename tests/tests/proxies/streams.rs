//! Requests that are open when their token ends, behind Sidegate's module in Envoy: each kind is cut, and no other user's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Either, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidegate_tests::daemon::{Daemon, claims, good, sign};
use sidegate_tests::envoy_file::{self, with_admin};
use sidegate_tests::http::At;
use sidegate_tests::program::free_port;
use sidegate_tests::proxies::{Kind, Proxy};
use sidegate_tests::stack::{EMAIL, Stack, Store};
use sidegate_tests::ticks::Ticks;
use sidegate_tests::wait::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

const MODULE: Kind = Kind::EnvoyModule("1.40.0", 2);

/// What is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Events,
    WebSocket,
    Http2,
    Grpc,
    /// The response has not begun.
    LongPoll,
    /// The request goes on; the response has not begun.
    Upload,
}

const EVERY: [What; 6] = [What::Events, What::WebSocket, What::Http2, What::Grpc, What::LongPoll, What::Upload];

/// An open request.
struct Open {
    what: What,
    /// Pieces of the response so far.
    pieces: Arc<AtomicU64>,
    /// The status of the response, or 0, and "" until it ends.
    end: watch::Receiver<Option<(u16, String)>>,
}

impl Open {
    async fn new(what: What, proxy: &Proxy, token: &str) -> Self {
        let At::Tcp(address) = proxy.at else { unreachable!("proxies listen on TCP") };
        let stream = TcpStream::connect(address).await.expect("the proxy listens");
        let pieces = Arc::new(AtomicU64::new(0));
        let (ended, end) = watch::channel(None);
        let (token, counted) = (token.to_owned(), Arc::clone(&pieces));
        tokio::spawn(async move {
            let end = match what {
                What::WebSocket => web_socket(stream, &token, &counted).await,
                _ => request(what, stream, &token, &counted).await,
            };
            ended.send_replace(Some(end));
        });
        let open = Self { what, pieces, end };
        if !matches!(what, What::LongPoll | What::Upload) {
            open.goes_on().await;
        }
        open
    }

    fn end(&self) -> Option<(u16, String)> {
        self.end.borrow().clone()
    }

    /// Waits for further pieces.
    async fn goes_on(&self) {
        let before = self.pieces.load(Ordering::Relaxed);
        eventually(&format!("{:?} goes on", self.what), || async {
            assert_eq!(self.end(), None, "{:?}", self.what);
            (self.pieces.load(Ordering::Relaxed) > before).then_some(())
        })
        .await;
    }

    async fn ended(&mut self) -> (u16, String) {
        let what = self.what;
        let waited = tokio::time::timeout(Duration::from_secs(60), self.end.wait_for(Option::is_some)).await;
        waited.unwrap_or_else(|_| panic!("{what:?} is not cut")).expect("it has a result").clone().expect("an end")
    }
}

async fn request(what: What, stream: TcpStream, token: &str, pieces: &AtomicU64) -> (u16, String) {
    let (path, method) = match what {
        What::LongPoll => ("/late", "GET"),
        What::Upload => ("/sink", "POST"),
        _ => ("/ticks", "POST"),
    };
    let body =
        if what == What::Upload { Either::Left(Ticks::new()) } else { Either::Right(Empty::<bytes::Bytes>::new()) };
    let request = http::Request::builder().method(method).header("authorization", format!("Bearer {token}"));
    let request = if what == What::Grpc { request.header("content-type", "application/grpc") } else { request };
    let io = TokioIo::new(stream);
    let sent = if matches!(what, What::Http2 | What::Grpc) {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
        tokio::spawn(connection);
        let request = request.uri(format!("http://app{path}")).header("te", "trailers").body(body).expect("a request");
        let sent = sender.send_request(request).await;
        // While its sender lives, the connection does.
        tokio::spawn(async move { drop((sender.ready().await, tokio::time::sleep(Duration::from_secs(300)).await)) });
        sent
    } else {
        let (mut sender, connection) = http1::handshake(io).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        sender.send_request(request.uri(path).header("host", "app").body(body).expect("a request")).await
    };
    let response = match sent {
        Ok(response) => response,
        Err(error) => return (0, error.to_string()),
    };
    let (head, mut body) = response.into_parts();
    let mut text = String::new();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                pieces.fetch_add(1, Ordering::Relaxed);
                let data = frame.into_data().unwrap_or_default();
                text = String::from_utf8_lossy(&data).into_owned();
            }
            Some(Err(error)) => return (head.status.as_u16(), error.to_string()),
            None => return (head.status.as_u16(), text),
        }
    }
}

/// Sends a message and reads its echo, again and again.
async fn web_socket(mut stream: TcpStream, token: &str, pieces: &AtomicU64) -> (u16, String) {
    let handshake = format!(
        "GET /ws HTTP/1.1\r\nHost: app\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(handshake.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    loop {
        let mut echoed = [0; 5];
        let talked = async {
            stream.write_all(b"hello").await?;
            stream.read_exact(&mut echoed).await
        };
        match talked.await {
            Ok(_) => pieces.fetch_add(1, Ordering::Relaxed),
            Err(error) => return (101, error.to_string()),
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The shipped file; Envoy's own limit of 15 s would end every stream.
fn shipped() -> String {
    let text = envoy_file::shipped();
    let route = "route: { cluster: app }";
    assert!(text.contains(route));
    text.replace(route, "route: { cluster: app, timeout: 0s }")
}

/// The shipped file with one more member in the module's configuration.
fn with_member(member: &str) -> String {
    let text = shipped();
    let socket = "                          socket: VERIFIER_SOCKET\n";
    assert!(text.contains(socket));
    text.replace(socket, &format!("{socket}                          {member}\n"))
}

/// `text` with Envoy's administration interface, and its address.
fn watched(text: &str) -> (At, String) {
    let port = free_port();
    (At::Tcp(([127, 0, 0, 1], port).into()), with_admin(text, port))
}

async fn counter(admin: &At, name: &str) -> u64 {
    let stats = admin.get(&format!("/stats?filter=sidegate.{name}$")).send().await;
    let text = String::from_utf8_lossy(&stats.body).into_owned();
    text.trim().rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{text:?}"))
}

async fn open_every(proxy: &Proxy, token: &str) -> Vec<Open> {
    let mut open = Vec::new();
    for what in EVERY {
        open.push(Open::new(what, proxy, token).await);
    }
    open
}

/// Each is cut as it should be: with a status where its response had not begun.
async fn all_end(open: &mut [Open], status: u16, code: &str) {
    for one in open {
        let (got, text) = one.ended().await;
        match one.what {
            What::LongPoll | What::Upload => {
                assert_eq!(got, status, "{:?}: {text}", one.what);
                assert!(text.contains(code), "{:?}: {text}", one.what);
            }
            What::WebSocket => assert_eq!(got, 101, "{text}"),
            _ => assert_eq!(got, 200, "{:?}: {text}", one.what),
        }
    }
}

async fn logout_cuts_the_sessions_streams_only(version: &'static str, workers: u8, store: Store) {
    let stack = Stack::start(store, 1).await;
    let (at, text) = watched(&shipped());
    let attach = format!(": {}", stack.verifiers[0].attach.display());
    let At::Unix(socket) = stack.verifiers[0].at.clone() else { panic!("the verifier listens on a socket") };
    let kind = Kind::EnvoyModule(version, workers);
    let started = kind.start_with(&text, stack.folder.path(), &socket, &[(": ATTACH_SOCKET", &attach)]).await;
    let Some(proxy) = started else { return };
    let (alice, again) = (stack.issuer.login(EMAIL).await.access, stack.issuer.login(EMAIL).await.access);
    let bob = stack.issuer.login("bob@example.org").await.access;
    let mut ending = open_every(&proxy, &alice).await;
    ending.extend(open_every(&proxy, &alice).await);
    let (others, strangers) = (open_every(&proxy, &again).await, open_every(&proxy, &bob).await);
    let before = counter(&at, "asked").await;
    assert_eq!(stack.issuer.logout(&alice).await.status, 204);
    all_end(&mut ending, 401, "token_revoked").await;
    for open in others.iter().chain(&strangers).filter(|open| !matches!(open.what, What::LongPoll | What::Upload)) {
        open.goes_on().await;
    }
    assert!(others.iter().chain(&strangers).all(|open| open.end().is_none()));
    assert_eq!(counter(&at, "ended").await, ending.len() as u64);
    assert_eq!(counter(&at, "asked").await, before, "sweeps are no requests");
    assert_eq!(proxy.at.get("/a").bearer(&bob).send().await.status, 200);
    let everything = serde_json::json!({ "all": true });
    assert_eq!(stack.issuer.revoke(&everything).await.status, 204);
    for mut open in [others, strangers] {
        all_end(&mut open, 401, "token_revoked").await;
    }
}

macro_rules! for_every_envoy {
    ($($name:ident: $version:expr, $workers:expr, $store:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            logout_cuts_the_sessions_streams_only($version, $workers, $store).await;
        })*
    };
}

for_every_envoy!(
    envoy_1_38_with_one_worker: "1.38.3", 1, Store::Embedded;
    envoy_1_38_with_four_workers: "1.38.3", 4, Store::Redis;
    envoy_1_39_with_one_worker: "1.39.3", 1, Store::Redis;
    envoy_1_39_with_four_workers: "1.39.3", 4, Store::Embedded;
    envoy_1_40_with_one_worker: "1.40.0", 1, Store::Embedded;
    envoy_1_40_with_four_workers: "1.40.0", 4, Store::Redis;
);

async fn start(daemon: &Daemon, text: &str) -> Option<Proxy> {
    MODULE.start_with(text, daemon.folder.path(), &daemon.socket, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_cuts_after_the_leeway() {
    let (daemon, _) = Daemon::start_shared(&[("LEEWAY", "2s")]).await;
    let Some(proxy) = start(&daemon, &shipped()).await else { return };
    let mut soon = claims("alice");
    soon.exp = sidegate_runtime::clock::unix_now().0 + 3;
    let mut ending = open_every(&proxy, &sign(&soon)).await;
    let lasting = open_every(&proxy, &good("bob")).await;
    all_end(&mut ending, 401, "token_expired").await;
    assert!(sidegate_runtime::clock::unix_now().0 >= soon.exp + 2, "not before its leeway has passed");
    assert!(lasting.iter().all(|open| open.end().is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_list_cuts_after_the_grace() {
    let (daemon, _) = Daemon::start_shared(&[("MAX_STALENESS", "2s")]).await;
    let Some(proxy) = start(&daemon, &with_member("open_stream_grace: 6s")).await else { return };
    let mut open = open_every(&proxy, &good("alice")).await;
    // Stale for less than the grace, and then again.
    tokio::time::sleep(Duration::from_secs(4)).await;
    daemon.prove();
    eventually("fresh again", || async {
        (proxy.at.get("/a").bearer(&good("bob")).send().await.status == 200).then_some(())
    })
    .await;
    assert!(open.iter().all(|open| open.end().is_none()), "within the grace");
    all_end(&mut open, 503, "stale").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_grace_a_dead_verifier_cuts_nothing() {
    let mut stack = Stack::start(Store::Embedded, 1).await;
    let token = stack.issuer.login(EMAIL).await.access;
    let attach = format!(": {}", stack.verifiers[0].attach.display());
    let At::Unix(socket) = stack.verifiers[0].at.clone() else { panic!("the verifier listens on a socket") };
    let text = with_member("open_stream_grace: \"off\"");
    let started = MODULE.start_with(&text, stack.folder.path(), &socket, &[(": ATTACH_SOCKET", &attach)]).await;
    let Some(proxy) = started else { return };
    let mut open = open_every(&proxy, &token).await;
    stack.verifiers[0].program.kill();
    eventually("the verifier is missed", || async {
        (proxy.at.get("/a").bearer(&token).send().await.status == 503).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(open.iter().all(|open| open.end().is_none()));
    assert_eq!(stack.issuer.logout(&token).await.status, 204);
    stack.verifiers[0].restart().await;
    all_end(&mut open, 401, "token_revoked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn panic_when_a_stream_is_cut_cuts_it() {
    let (daemon, _) = Daemon::start_shared(&[]).await;
    let token = good("alice");
    for version in ["1.38.3", "1.39.3", "1.40.0"] {
        let (at, text) = watched(&with_member("panic_in: response_headers"));
        let kind = Kind::EnvoyModule(version, 1);
        let Some(mut proxy) = kind.start_with(&text, daemon.folder.path(), &daemon.socket, &[]).await else { return };
        let reply = proxy.at.get("/a").bearer(&token).send().await;
        assert_eq!(reply.status, 500, "{version}");
        assert_eq!(proxy.at.get("/a").bearer("a.b.c").send().await.status, 401, "{version}: Envoy lives");
        assert!(counter(&at, "panics").await > 0);
        assert!(proxy.program.stop().success(), "{version}: {}", proxy.program.output());
    }
    let text = with_member("panic_in: scheduled");
    let Some(mut proxy) = start(&daemon, &text).await else { return };
    // The first answer of the verifier panics too; after it the token is cached.
    assert_eq!(proxy.at.get("/a").bearer(&token).send().await.status, 500);
    let mut open = open_every(&proxy, &token).await;
    daemon.revoke_session("sid-of-alice");
    for one in &mut open {
        let _end = one.ended().await;
    }
    assert!(proxy.program.running(), "{}", proxy.program.output());
}
