//! Real proxies with the configurations that we ship, in front of an application that tells what reached it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

use crate::daemon::Daemon;
use crate::http::At;
use crate::program::{Program, free_port};
use crate::wait::eventually;

/// An application that answers with its request as JSON, and counts requests.
#[derive(Debug)]
pub struct EchoApp {
    pub address: SocketAddr,
    pub requests: Arc<AtomicU64>,
}

impl EchoApp {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let service = service_fn(move |request| echo(request, Arc::clone(&count)));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _client_gone = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, requests }
    }

    pub fn count(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn echo(
    request: http::Request<hyper::body::Incoming>,
    count: Arc<AtomicU64>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    count.fetch_add(1, Ordering::SeqCst);
    let (parts, body) = request.into_parts();
    let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let headers: Vec<(String, String)> = parts.headers.iter().map(pair).collect();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let told = serde_json::json!({
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    Ok(http::Response::new(Full::new(Bytes::from(told.to_string()))))
}

/// The proxies, each by what it is configured to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    EnvoyGrpc,
    EnvoyHttp,
    Nginx,
    Caddy,
    Haproxy,
}

/// A running proxy in front of an [`EchoApp`], asking a [`Daemon`].
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
            Self::Nginx => which("nginx"),
            Self::Caddy => which("caddy"),
            Self::Haproxy => which("haproxy"),
        }
    }

    fn shipped(self) -> &'static str {
        match self {
            Self::EnvoyGrpc => "envoy/grpc.yaml",
            Self::EnvoyHttp => "envoy/http.yaml",
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
            Self::Nginx => command.arg("-p").arg(folder).arg("-c").arg(file).args(["-g", "daemon off;"]),
            Self::Caddy => command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file).env("HOME", folder),
            Self::Haproxy => command.arg("-f").arg(file),
        };
        command
    }

    /// Starts it with the shipped configuration; none (said aloud) if the program is not installed here.
    pub async fn start(self, daemon: &Daemon) -> Option<Proxy> {
        let Some(program) = self.program() else {
            println!("skipped: {self:?} is not installed");
            return None;
        };
        let app = EchoApp::start().await;
        let (port, folder) = (free_port(), daemon.folder.path().to_owned());
        let listen = format!("127.0.0.1:{port}");
        let path = folder.to_str().expect("UTF-8");
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let text = std::fs::read_to_string(deploy.join(self.shipped())).expect("a shipped file");
        let text = text
            .replace("VERIFIER_SOCKET", daemon.socket.to_str().expect("UTF-8"))
            .replace("APP_ADDRESS", &app.address.to_string())
            .replace("APP_PORT", &app.address.port().to_string())
            .replace("ENVOY_PORT", &port.to_string())
            .replace("CADDY_PORT", &port.to_string());
        let text = ["NGINX", "HAPROXY"].iter().fold(text, |text, name| {
            text.replace(&format!("{name}_LISTEN"), &listen).replace(&format!("{name}_DIR"), path)
        });
        let file = folder.join(Path::new(self.shipped()).file_name().expect("a file"));
        std::fs::write(&file, text).expect("written");
        if self == Self::Haproxy {
            std::fs::copy(deploy.join("haproxy/sidegate.lua"), folder.join("sidegate.lua")).expect("copied");
        }
        let mut command = self.command(&program, &file, &folder);
        command.env("VERIFIER_SOCKET", &daemon.socket);
        let program = Program::start(self.shipped(), command, &folder.join("proxy.log"));
        let mut proxy = Proxy { at: At::Tcp(([127, 0, 0, 1], port).into()), program, app };
        proxy.until_up().await;
        Some(proxy)
    }
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

/// A program of the system.
pub fn which(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
}

/// The Envoy of tests/run: a Python wheel in a virtual environment under the target folder.
pub fn envoy() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/envoy");
    let arguments = ["-name", "envoy*", "-type", "f", "-perm", "-u+x", "-size", "+10M"];
    let found = Command::new("find").arg(python).args(arguments).output().ok()?;
    String::from_utf8_lossy(&found.stdout).lines().next().map(Into::into)
}
