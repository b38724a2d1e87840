//! Issuer and verifiers together, on an embedded store or on Redis, with an application's users.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::http::{At, Reply};
use crate::program::{Program, free_port};
use crate::redis::Redis;
use crate::scratch::Scratch;
use crate::users;
use crate::wait::eventually;

/// The secret of every stack.
pub const SECRET: &str = "a-secret-for-the-tests-of-thirty-two-bytes+";
/// The bearer token of the admin API.
pub const ADMIN_TOKEN: &str = "admin-token-for-tests";
/// The user of every stack.
pub const EMAIL: &str = "alice@example.org";

/// The response of a login or a refresh.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

/// An issuer process and its address.
#[derive(Debug)]
pub struct Issuer {
    pub program: Program,
    pub settings: BTreeMap<String, String>,
    pub at: At,
    pub admin: At,
    log: PathBuf,
    sockets: Vec<OwnedFd>,
}

/// A verifier process and its addresses.
#[derive(Debug)]
pub struct Verifier {
    pub program: Program,
    pub settings: BTreeMap<String, String>,
    pub at: At,
    pub tcp: At,
    pub admin: At,
    pub attach: PathBuf,
    log: PathBuf,
    sockets: Vec<OwnedFd>,
}

fn local(port: u16) -> At {
    At::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn listen(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn own(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Issuer {
    /// Starts an issuer with these settings over the defaults of a test, and waits until it is
    /// ready.
    pub async fn start(folder: &Scratch, name: &str, settings: &[(&str, &str)]) -> Self {
        let (port, admin, feed) = (free_port(), free_port(), free_port());
        let mut all = own(&[
            ("ISSUER_LISTEN", &listen(port)),
            ("ISSUER_ADMIN_LISTEN", &listen(admin)),
            ("ISSUER_FEED_LISTEN", &listen(feed)),
            ("JWT_SECRET_KEY", SECRET),
            ("ADMIN_TOKEN", ADMIN_TOKEN),
            ("BCRYPT_COST", "4"),
            ("USERS_SCOPE_COLUMN", "scope"),
            ("USERS_ACTIVE_COLUMN", "active"),
        ]);
        all.extend(own(settings));
        let log = folder.file(&format!("{name}.log"));
        let program = Program::ours("sidegate-issuer", &all, &log);
        let mut issuer =
            Self { program, settings: all, at: local(port), admin: local(admin), log, sockets: Vec::new() };
        issuer.until_ready().await;
        issuer
    }

    /// Starts the issuer again under a service manager, which has opened its public socket and
    /// keeps it open.
    pub async fn manage(&mut self) {
        assert!(self.program.stop().success());
        self.sockets = vec![TcpListener::bind(&self.settings["ISSUER_LISTEN"]).expect("the port is free again").into()];
        self.restart().await;
    }

    /// Starts the issuer again with the same settings.
    pub async fn restart(&mut self) {
        self.program = Program::launch("sidegate-issuer", &self.settings, &self.log, &self.sockets);
        self.until_ready().await;
    }

    async fn until_ready(&mut self) {
        ready(&mut self.program, &self.admin).await;
    }

    pub fn feed_url(&self) -> String {
        format!("http://{}", self.settings["ISSUER_FEED_LISTEN"])
    }

    pub async fn login(&self, email: &str) -> Tokens {
        let reply =
            self.at.post("/auth/login").json(&json!({"email": email, "password": users::PASSWORD})).send().await;
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        tokens(&reply)
    }

    pub async fn refresh(&self, refresh: &str) -> Reply {
        self.at.post("/auth/refresh").json(&json!({"refresh_token": refresh})).send().await
    }

    pub async fn logout(&self, access: &str) -> Reply {
        self.at.post("/auth/logout").bearer(access).send().await
    }

    /// `POST /admin/revocations`.
    pub async fn revoke(&self, what: &serde_json::Value) -> Reply {
        self.admin.post("/admin/revocations").bearer(ADMIN_TOKEN).json(what).send().await
    }
}

/// The token pair of a 200 of login or refresh.
pub fn tokens(reply: &Reply) -> Tokens {
    let body = reply.json();
    let text = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("no {name}")).to_owned();
    Tokens { access: text("access_token"), refresh: text("refresh_token") }
}

impl Verifier {
    /// Starts a verifier with these settings over the defaults of a test, and waits until it is
    /// ready.
    pub async fn start(folder: &Scratch, name: &str, settings: &[(&str, &str)]) -> Self {
        let mut verifier = Self::start_unready(folder, name, settings);
        verifier.until_ready().await;
        verifier
    }

    /// Starts a verifier without waiting.
    pub fn start_unready(folder: &Scratch, name: &str, settings: &[(&str, &str)]) -> Self {
        let (port, admin) = (free_port(), free_port());
        let (socket, attach) = (folder.file(&format!("{name}.sock")), folder.file(&format!("{name}-attach.sock")));
        let mut all = own(&[
            ("VERIFIER_SOCKET", socket.to_str().expect("UTF-8")),
            ("ATTACH_SOCKET", attach.to_str().expect("UTF-8")),
            ("VERIFIER_LISTEN", &listen(port)),
            ("VERIFIER_ADMIN_LISTEN", &listen(admin)),
            ("JWT_SECRET_KEY", SECRET),
        ]);
        all.extend(own(settings));
        let log = folder.file(&format!("{name}.log"));
        let program = Program::ours("sidegate-verifier", &all, &log);
        let (at, sockets) = (At::Unix(socket), Vec::new());
        Self { program, settings: all, at, tcp: local(port), admin: local(admin), attach, log, sockets }
    }

    /// Starts the verifier again under a service manager, which has opened its two Unix sockets and
    /// keeps them open.
    pub async fn manage(&mut self) {
        assert!(self.program.stop().success());
        let open = |name: &str| UnixListener::bind(&self.settings[name]).expect("the path is free again").into();
        self.sockets = ["VERIFIER_SOCKET", "ATTACH_SOCKET"].map(open).into();
        self.restart().await;
    }

    /// Starts the verifier again with the same settings.
    pub async fn restart(&mut self) {
        self.program = Program::launch("sidegate-verifier", &self.settings, &self.log, &self.sockets);
        self.until_ready().await;
    }

    pub async fn until_ready(&mut self) {
        ready(&mut self.program, &self.admin).await;
    }

    /// `/check` over the Unix socket.
    pub async fn check(&self, access: &str) -> Reply {
        self.at.get("/check").bearer(access).send().await
    }

    /// Waits until the token is denied as revoked.
    pub async fn until_denied(&self, access: &str) -> Reply {
        eventually("the token to be denied", || async {
            let reply = self.check(access).await;
            (reply.status == 401).then_some(reply)
        })
        .await
    }
}

/// The value of a metric of an admin listener, by its name in the text format with labels; 0 if it
/// does not exist yet.
pub async fn metric(admin: &At, name: &str) -> u64 {
    let reply = admin.get("/metrics").send().await;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().expect("a whole number"))
}

const READY_LOOK_EVERY: Duration = Duration::from_millis(10);
const READY_LOOKS_MAX: u32 = 3_000;

async fn ready(program: &mut Program, admin: &At) {
    // Counts fixed waits instead of reading the clock: a long run may be suspended and resumed.
    for _ in 0..READY_LOOKS_MAX {
        assert!(program.running(), "the program ended at start:\n{}", program.output());
        if admin.get("/readyz").try_send().await.is_ok_and(|reply| reply.status == 200) {
            return;
        }
        tokio::time::sleep(READY_LOOK_EVERY).await;
    }
    panic!("not ready:\n{}", program.output());
}

/// One issuer and some verifiers over one store, with `EMAIL` in a SQLite users table.
#[derive(Debug)]
pub struct Stack {
    pub verifiers: Vec<Verifier>,
    pub issuer: Issuer,
    pub redis: Option<Redis>,
    pub folder: Scratch,
}

/// The store of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Embedded,
    Redis,
}

impl Stack {
    /// Starts all programs and waits until they are ready.
    pub async fn start(store: Store, verifiers: usize) -> Self {
        Self::with(store, verifiers, &[], &[]).await
    }

    /// Adds users to the application.
    pub async fn add_users(&self, emails: &[String]) {
        users::add(&self.folder.file("app.db"), emails).await;
    }

    /// As [`Stack::start`], with further settings for the issuer and for each verifier.
    pub async fn with(store: Store, verifiers: usize, issuer: &[(&str, &str)], verifier: &[(&str, &str)]) -> Self {
        let folder = Scratch::new();
        let database = folder.file("app.db");
        users::sqlite(&database, &[EMAIL, "bob@example.org"]).await;
        let database = format!("sqlite://{}", database.display());
        let embedded = format!("sqlite://{}", folder.file("store.db").display());
        let redis = if store == Store::Redis { Some(Redis::start().await) } else { None };
        let url = redis.as_ref().map(Redis::url);
        let mut settings = vec![("DATABASE_URL", database.as_str())];
        match &url {
            Some(url) => settings.push(("REDIS_URL", url)),
            None => settings.push(("STORE_URL", &embedded)),
        }
        settings.extend(issuer);
        let issuer = Issuer::start(&folder, "issuer", &settings).await;
        let mut stack = Self { verifiers: Vec::new(), issuer, redis, folder };
        for _ in 0..verifiers {
            stack.add_verifier(verifier).await;
        }
        stack
    }

    /// Starts one more verifier.
    pub async fn add_verifier(&mut self, settings: &[(&str, &str)]) {
        let name = format!("v{}", self.verifiers.len());
        let (url, feed) = (self.redis.as_ref().map(Redis::url), self.issuer.feed_url());
        let mut all = match &url {
            Some(url) => vec![("REDIS_URL", url.as_str())],
            None => vec![("ISSUER_FEED_URL", feed.as_str())],
        };
        all.extend(settings);
        let verifier = Verifier::start(&self.folder, &name, &all).await;
        self.verifiers.push(verifier);
    }
}
