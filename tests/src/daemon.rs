//! A verifier in the test's own process, whose list of revocations the test feeds by hand.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sidegate_common::claims::{Audience, Claims};
use sidegate_common::key::SigningKey;
use sidegate_common::revocation::{Id, Revocation, Target};
use sidegate_common::secret::Secret;
use sidegate_common::time::UnixTime;
use sidegate_common::token;
use sidegate_runtime::clock::{instants, unix_now};
use sidegate_runtime::program::Signals;
use sidegate_runtime::settings::Settings;
use sidegate_shm::attach::{Allow, AttachServer, Board};
use sidegate_verifier::app::{self, App};
use sidegate_verifier::commands::Source;
use sidegate_verifier::config::{Config, SETTINGS};
use sidegate_verifier::gate::Gate;
use sidegate_verifier::list::List;
use tokio::sync::watch;

use crate::http::At;
use crate::scratch::Scratch;
use crate::stack::SECRET;

/// A running verifier.
#[derive(Debug)]
pub struct Daemon {
    pub at: At,
    pub tcp: At,
    pub admin: At,
    pub socket: PathBuf,
    pub gate: Arc<Gate>,
    pub list: Arc<List>,
    pub folder: Scratch,
    pub reload: watch::Sender<u64>,
    pub stop: watch::Sender<bool>,
    pub task: Option<tokio::task::JoinHandle<()>>,
}

impl Daemon {
    /// Starts one with these settings over the defaults of a test. Its list is empty and just proven complete.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let daemon = Self::start_unproven(settings).await;
        daemon.prove();
        daemon
    }

    /// Starts one that has never had a complete list.
    pub async fn start_unproven(settings: &[(&str, &str)]) -> Self {
        Self::start_in(Scratch::new(), settings)
    }

    /// Starts one in a folder that holds files for it.
    pub fn start_in(folder: Scratch, settings: &[(&str, &str)]) -> Self {
        Self::start_with(folder, settings, None)
    }

    /// Starts one with a segment, and a thread that keeps it current and hands it out. Its list is just proven complete.
    pub async fn start_shared(settings: &[(&str, &str)]) -> (Self, Segment) {
        let board = Board::new().expect("a board");
        let daemon = Self::start_with(Scratch::new(), settings, Some(Arc::clone(&board)));
        daemon.prove();
        let segment = Segment::start(&daemon, board);
        (daemon, segment)
    }

    fn start_with(folder: Scratch, settings: &[(&str, &str)], board: Option<Arc<Board>>) -> Self {
        let (launched, config) = Launched::start(folder, settings);
        let list = app::make_list(&config, 1, board);
        launched.gate.install(Arc::clone(&list));
        let Launched { at, tcp, admin, socket, gate, folder, reload, stop, task } = launched;
        Self { at, tcp, admin, socket, gate, list, folder, reload, stop, task }
    }

    /// The list is complete as of now.
    pub fn prove(&self) {
        self.list.fresh(0, instants());
    }

    /// Ends a session.
    pub fn revoke_session(&self, sid: &str) {
        let target = Target::Session { sid: Id::parse(sid).expect("an id"), subject: None };
        self.list.apply(0, &Revocation { target, expires_at: UnixTime(u64::from(u32::MAX)) });
    }
}

/// A verifier in the test's own process, all of it, that follows a real feed.
#[derive(Debug)]
pub struct Launched {
    pub at: At,
    pub tcp: At,
    pub admin: At,
    pub socket: PathBuf,
    pub gate: Arc<Gate>,
    pub folder: Scratch,
    pub reload: watch::Sender<u64>,
    pub stop: watch::Sender<bool>,
    pub task: Option<tokio::task::JoinHandle<()>>,
}

impl Launched {
    /// Starts one with these settings over the defaults of a test, and does not wait.
    pub fn start(folder: Scratch, settings: &[(&str, &str)]) -> (Self, Config) {
        Self::start_with_file(folder, settings, None)
    }

    /// Starts one with a configuration file, which a reload reads again.
    pub fn start_with_file(folder: Scratch, settings: &[(&str, &str)], file: Option<PathBuf>) -> (Self, Config) {
        let socket = folder.file("v.sock");
        let mut environment: BTreeMap<String, String> = [
            ("VERIFIER_SOCKET", socket.to_str().expect("UTF-8")),
            ("VERIFIER_LISTEN", "127.0.0.1:0"),
            ("VERIFIER_ADMIN_LISTEN", "127.0.0.1:0"),
            ("ATTACH_SOCKET", "off"),
            ("JWT_SECRET_KEY", SECRET),
            ("ISSUER_FEED_URL", "http://127.0.0.1:1"),
            ("MAX_STALENESS", "1h"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let settings = Settings::load(SETTINGS, &environment, file.as_deref()).expect("settings");
        let config = Config::read(&settings).expect("a configuration");
        let routes = app::read_routes(&config).expect("routes");
        let app = App::start(config.clone(), routes, Source { file }).expect("free addresses");
        let gate = Arc::clone(app.gate());
        let address = |text: &str| At::Tcp(text.parse().expect("an address"));
        let tcp = address(&app.addresses()[1]);
        let admin = At::Tcp(app.admin_address().expect("an admin address"));
        let (stop, stopped) = watch::channel(false);
        let (reload, reloads) = watch::channel(0);
        let task = Some(tokio::spawn(app.run(Signals { stop: stopped, reload: reloads })));
        (Self { at: At::Unix(socket.clone()), tcp, admin, socket, gate, folder, reload, stop, task }, config)
    }
}

/// The threads behind a segment; they end when it is dropped.
#[derive(Debug)]
pub struct Segment {
    pub attach: PathBuf,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Segment {
    fn start(daemon: &Daemon, board: Arc<Board>) -> Self {
        let attach = daemon.folder.file("attach.sock");
        let listener = UnixListener::bind(&attach).expect("a free socket");
        let mut server = AttachServer::new(listener, Allow::default(), board).expect("a server");
        let stop = Arc::new(AtomicBool::new(false));
        let (list, gate) = (Arc::clone(&daemon.list), Arc::clone(&daemon.gate));
        list.tick(gate.moment());
        let (serving, ticking) = (Arc::clone(&stop), Arc::clone(&stop));
        let tick = move || {
            while !ticking.load(Ordering::Acquire) {
                list.tick(gate.moment());
                list.resize(gate.moment()).expect("memory");
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        let serve = move || server.run(&serving).expect("poll");
        Self { attach, stop, threads: vec![std::thread::spawn(tick), std::thread::spawn(serve)] }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _it_has_said_why = thread.join();
        }
    }
}

/// Claims of a token that is good now.
pub fn claims(sub: &str) -> Claims {
    let now = unix_now().0;
    Claims {
        iss: "sidegate".into(),
        aud: Audience::One("sidegate".into()),
        sub: sub.into(),
        client_id: "sidegate".into(),
        iat: now - 1,
        exp: now + 3600,
        nbf: None,
        jti: format!("jti-of-{sub}"),
        sid: format!("sid-of-{sub}"),
        scope: Some("read write".into()),
    }
}

/// Signs claims with the key of every test.
pub fn sign(claims: &Claims) -> String {
    let key = SigningKey::hs256(&Secret::new(SECRET)).expect("a key");
    token::sign(&key, claims).expect("fit claims")
}

/// A token that is good now.
pub fn good(sub: &str) -> String {
    sign(&claims(sub))
}
