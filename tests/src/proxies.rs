//! Real proxies with our shipped configurations, in front of an application that reports its
//! requests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

use crate::daemon::Daemon;
use crate::envoy_file;
use crate::http::At;
use crate::program::{Program, free_port};
use crate::ticks::Ticks;
use crate::wait::eventually;

/// An application that answers 200 to everything with the request as JSON, echoes web sockets, and
/// counts.
///
/// - `/load/NAME/…` may only be reached by the user NAME, and by no user if NAME is `-`.
/// - `/ticks` never ends, and answers with the media type of the request.
/// - `/late` never answers.
/// - `/sink` answers with the number of bytes in the body.
#[derive(Debug)]
pub struct EchoApp {
    pub address: SocketAddr,
    pub counters: Arc<Counters>,
}

/// Counts of requests that reached an [`EchoApp`].
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    /// Requests to `/load/-/…`.
    through: AtomicU64,
    /// Requests to `/load/NAME/…` whose identity headers are not NAME's, or incomplete.
    misnamed: AtomicU64,
    /// Requests that were meant for the verifier.
    checks: AtomicU64,
}

impl EchoApp {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let counters = Arc::new(Counters::default());
        let shared = Arc::clone(&counters);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counters = Arc::clone(&shared);
                let _slower_without = stream.set_nodelay(true);
                tokio::spawn(async move {
                    let service = service_fn(move |request| respond(request, Arc::clone(&counters)));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                    let _client_gone = connection.await;
                });
            }
        });
        Self { address, counters }
    }

    /// The number of requests answered.
    pub fn count(&self) -> u64 {
        self.counters.requests.load(Ordering::SeqCst)
    }

    /// Requests of a load run that should not have come, came under a wrong name, or were meant for
    /// the verifier.
    pub fn faults(&self) -> [u64; 3] {
        let Counters { through, misnamed, checks, .. } = &*self.counters;
        [through, misnamed, checks].map(|count| count.load(Ordering::SeqCst))
    }
}

async fn respond(
    request: http::Request<hyper::body::Incoming>,
    counters: Arc<Counters>,
) -> Result<http::Response<Either<Full<Bytes>, Ticks>>, Infallible> {
    if request.uri().path() == "/ticks" {
        counters.requests.fetch_add(1, Ordering::SeqCst);
        let mut response = http::Response::new(Either::Right(Ticks::new()));
        let media = request.headers().get(http::header::CONTENT_TYPE).cloned();
        let media = media.unwrap_or(http::HeaderValue::from_static("text/event-stream"));
        response.headers_mut().insert(http::header::CONTENT_TYPE, media);
        return Ok(response);
    }
    Ok(answer(request, counters).await.map(Either::Left))
}

async fn answer(request: http::Request<hyper::body::Incoming>, counters: Arc<Counters>) -> http::Response<Full<Bytes>> {
    counters.requests.fetch_add(1, Ordering::SeqCst);
    let path = request.uri().path();
    if ["/check", "/forward", "/nginx", "/haproxy", "/envoy/", "/_sidegate"].iter().any(|check| path.starts_with(check))
    {
        counters.checks.fetch_add(1, Ordering::SeqCst);
    }
    if let Some(name) = path.strip_prefix("/load/").and_then(|rest| rest.split('/').next()) {
        if name == "-" {
            counters.through.fetch_add(1, Ordering::SeqCst);
        } else if !is_named(request.headers(), name) {
            counters.misnamed.fetch_add(1, Ordering::SeqCst);
        }
        return http::Response::new(Full::new(Bytes::from_static(b"ok")));
    }
    if path == "/late" {
        return std::future::pending().await;
    }
    if path == "/sink" {
        let mut body = request.into_body();
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        return http::Response::new(Full::new(Bytes::from(bytes.to_string())));
    }
    if request.headers().get("upgrade").is_some_and(|protocol| protocol == "websocket") {
        tokio::spawn(async move {
            let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _client_gone = tokio::io::copy(&mut read, &mut write).await;
        });
        let switched = http::Response::builder().status(101).header("connection", "upgrade");
        // The response to the key of RFC 6455 §1.3, which tests send.
        let switched = switched.header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        return switched.header("upgrade", "websocket").body(Full::default()).expect("a response");
    }
    http::Response::new(Full::new(echo(request).await))
}

/// The request as JSON.
async fn echo(request: http::Request<hyper::body::Incoming>) -> Bytes {
    let (parts, body) = request.into_parts();
    let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let headers: Vec<(String, String)> = parts.headers.iter().map(pair).collect();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let seen = serde_json::json!({
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    Bytes::from(seen.to_string())
}

/// True if the request has every identity header exactly once, and the user is `name`.
fn is_named(headers: &http::HeaderMap, name: &str) -> bool {
    let values =
        |header: &str| headers.get_all(header).iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>();
    let expected = [("x-auth-subject", name.to_owned()), ("x-auth-session", format!("sid-of-{name}"))];
    IDENTITY.iter().all(|header| values(header).len() == 1)
        && expected.iter().all(|(header, value)| values(header) == [value.as_bytes()])
        && headers.values().all(|value| value != "mallory")
}

/// The identity headers.
pub const IDENTITY: [&str; 7] = [
    "x-auth-subject",
    "x-auth-session",
    "x-auth-token-id",
    "x-auth-client",
    "x-auth-scope",
    "x-auth-expires",
    "x-auth-issuer",
];

/// The proxies, by kind of authorization request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    EnvoyGrpc,
    EnvoyHttp,
    /// Sidegate's module in an Envoy of this version with so many workers.
    EnvoyModule(&'static str, u8),
    Nginx,
    Caddy,
    Haproxy,
}

/// A running proxy in front of an [`EchoApp`], which calls a [`Daemon`].
#[derive(Debug)]
pub struct Proxy {
    pub at: At,
    pub program: Program,
    pub app: EchoApp,
}

impl Kind {
    fn program(self) -> Option<PathBuf> {
        match self {
            Self::EnvoyGrpc | Self::EnvoyHttp => envoy(),
            Self::EnvoyModule(version, _) => envoy_version(version),
            Self::Nginx => which("nginx"),
            Self::Caddy => which("caddy"),
            Self::Haproxy => which("haproxy"),
        }
    }

    fn shipped(self) -> &'static str {
        match self {
            Self::EnvoyGrpc => "envoy/grpc.yaml",
            Self::EnvoyHttp => "envoy/http.yaml",
            Self::EnvoyModule(..) => "envoy/module.yaml",
            Self::Nginx => "nginx/nginx.conf",
            Self::Caddy => "caddy/Caddyfile",
            Self::Haproxy => "haproxy/haproxy.cfg",
        }
    }

    fn command(self, program: &Path, file: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        match self {
            Self::EnvoyGrpc | Self::EnvoyHttp => {
                command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"]).arg(file)
            }
            Self::EnvoyModule(_, workers) => {
                command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", module_folder());
                let workers = workers.to_string();
                command
                    .args(["--concurrency", &workers, "--disable-hot-restart", "--log-level", "warn", "-c"])
                    .arg(file)
            }
            Self::Nginx => command.arg("-p").arg(folder).arg("-c").arg(file).args(["-g", "daemon off;"]),
            Self::Caddy => command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file).env("HOME", folder),
            Self::Haproxy => command.arg("-f").arg(file),
        };
        command
    }

    /// Starts the proxy with the shipped configuration for `daemon`; `None`, with a message, if the
    /// program is not installed.
    pub async fn start(self, daemon: &Daemon) -> Option<Proxy> {
        self.start_at(daemon.folder.path(), &daemon.socket).await
    }

    /// As [`Kind::start_at`], and every way to reach the proxy: Envoy with the module also speaks
    /// HTTP/2 and TLS.
    pub async fn start_every_way(self, folder: &Path, socket: &Path) -> Option<(Proxy, Vec<At>)> {
        if !self.has_module() {
            let proxy = self.start_at(folder, socket).await?;
            let ways = vec![proxy.at.clone()];
            return Some((proxy, ways));
        }
        let port = free_port();
        let text = envoy_file::with_tls(&envoy_file::shipped(), folder, port);
        let proxy = self.start_with(&text, folder, socket, &[]).await?;
        let At::Tcp(plain) = proxy.at else { unreachable!("proxies listen on TCP") };
        let tls = SocketAddr::from(([127, 0, 0, 1], port));
        Some((proxy, vec![At::Tcp(plain), At::H2(plain), At::Tls(tls), At::TlsH2(tls)]))
    }

    /// Starts the proxy with the shipped configuration and its files in `folder`, for the server at
    /// `socket`.
    pub async fn start_at(self, folder: &Path, socket: &Path) -> Option<Proxy> {
        let text = std::fs::read_to_string(deploy().join(self.shipped())).expect("a shipped file");
        self.start_with(&text, folder, socket, &[]).await
    }

    /// Starts the proxy with this configuration; `more` replaces further words.
    pub async fn start_with(self, text: &str, folder: &Path, socket: &Path, more: &[(&str, &str)]) -> Option<Proxy> {
        let Some(program) = self.program() else {
            println!("skipped: {self:?} is not installed");
            return None;
        };
        let app = EchoApp::start().await;
        let port = free_port();
        let text = more.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value));
        let text = self.filled(&text, folder, socket, &app, port);
        let file = folder.join(Path::new(self.shipped()).file_name().expect("a file"));
        std::fs::write(&file, text).expect("written");
        for beside in self.beside() {
            let name = Path::new(beside).file_name().expect("a file");
            std::fs::copy(deploy().join(beside), folder.join(name)).expect("copied");
        }
        let mut command = self.command(&program, &file, folder);
        command.env("VERIFIER_SOCKET", socket);
        let program = Program::start(self.shipped(), command, &folder.join("proxy.log"));
        let mut proxy = Proxy { at: At::Tcp(([127, 0, 0, 1], port).into()), program, app };
        proxy.until_up().await;
        Some(proxy)
    }

    /// The text with its words replaced: what the proxy asks, where it listens, and what is behind it.
    pub fn filled(self, text: &str, folder: &Path, socket: &Path, app: &EchoApp, port: u16) -> String {
        let listen = format!("127.0.0.1:{port}");
        let path = folder.to_str().expect("UTF-8");
        let routes = folder.join("routes.toml");
        let mut attach = folder.join("attach.sock").display().to_string();
        if self.has_module() && routes.exists() {
            attach.push_str(&format!("\n                          routes_file: {}", routes.display()));
        }
        let text = text.replace(": ATTACH_SOCKET", &format!(": {attach}"));
        let text = text
            .replace("VERIFIER_SOCKET", socket.to_str().expect("UTF-8"))
            .replace("APP_ADDRESS", &app.address.to_string())
            .replace("APP_PORT", &app.address.port().to_string())
            .replace("ENVOY_PORT", &port.to_string())
            .replace("CADDY_PORT", &port.to_string());
        ["NGINX", "HAPROXY"].iter().fold(text, |text, name| {
            text.replace(&format!("{name}_LISTEN"), &listen).replace(&format!("{name}_DIR"), path)
        })
    }

    /// The files that the configuration includes.
    const fn beside(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &["nginx/sidegate_protect.conf", "nginx/sidegate_server.conf"],
            Self::Haproxy => &["haproxy/sidegate.lua"],
            Self::EnvoyGrpc | Self::EnvoyHttp | Self::EnvoyModule(..) | Self::Caddy => &[],
        }
    }

    /// Sidegate decides inside the proxy, without a request to the verifier for each of its own.
    pub const fn has_module(self) -> bool {
        matches!(self, Self::EnvoyModule(..))
    }
}

/// The folder of shipped configurations.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

impl Proxy {
    async fn until_up(&mut self) {
        let (at, program) = (self.at.clone(), std::cell::RefCell::new(&mut self.program));
        eventually("the proxy to answer", || async {
            assert!(program.borrow_mut().running(), "it ended:\n{}", program.borrow().output());
            at.get("/").try_send().await.ok()
        })
        .await;
    }
}

/// The path of an installed program.
pub fn which(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
}

/// The folder of `libsidegate_envoy.so`.
pub fn module_folder() -> PathBuf {
    let file = crate::program::binary("libsidegate_envoy.so");
    file.parent().expect("a folder").to_owned()
}

/// One of the Envoys for the module that tests/run installs.
pub fn envoy_version(version: &str) -> Option<PathBuf> {
    find_envoy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/envoys").join(version))
}

/// The Envoy of tests/run: a Python wheel in a virtual environment under the target folder.
pub fn envoy() -> Option<PathBuf> {
    find_envoy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/envoy"))
}

fn find_envoy(python: &Path) -> Option<PathBuf> {
    let arguments = ["-name", "envoy*", "-type", "f", "-perm", "-u+x", "-size", "+10M"];
    let found = Command::new("find").arg(python).args(arguments).output().ok()?;
    String::from_utf8_lossy(&found.stdout).lines().next().map(Into::into)
}
