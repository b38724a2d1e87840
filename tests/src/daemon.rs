//! A verifier in the test's own process, whose list of revocations the test fills by hand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use sidegate_common::claims::{Audience, Claims};
use sidegate_common::key::SigningKey;
use sidegate_common::revocation::{Id, Revocation, Target};
use sidegate_common::revocation_state::RevocationState;
use sidegate_common::secret::Secret;
use sidegate_common::sync::Sink as _;
use sidegate_common::time::UnixTime;
use sidegate_common::token;
use sidegate_runtime::clock::{reading, unix_now};
use sidegate_runtime::program::Signals;
use sidegate_runtime::settings::Settings;
use sidegate_verifier::app::{self, App};
use sidegate_verifier::config::{Config, SETTINGS};
use sidegate_verifier::source::Source;
use sidegate_verifier::verifier::Verifier;
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
    pub core: Arc<Verifier>,
    pub state: Arc<RevocationState>,
    pub folder: Scratch,
    pub reload: watch::Sender<u64>,
    pub stop: watch::Sender<bool>,
    pub task: Option<tokio::task::JoinHandle<()>>,
}

impl Daemon {
    /// Starts a daemon with these settings over the defaults of a test. Its list is empty and just
    /// proven complete.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let daemon = Self::start_unproven(settings).await;
        daemon.prove();
        daemon
    }

    /// Starts a daemon that has never had a complete list.
    pub async fn start_unproven(settings: &[(&str, &str)]) -> Self {
        Self::start_in(Scratch::new(), settings)
    }

    /// Starts a daemon in a folder with files for it.
    pub fn start_in(folder: Scratch, settings: &[(&str, &str)]) -> Self {
        let Launched { at, tcp, admin, socket, core, folder, reload, stop, task } = Launched::start(folder, settings);
        let state = Arc::clone(core.state());
        state.begin(1);
        Self { at, tcp, admin, socket, core, state, folder, reload, stop, task }
    }

    /// Starts a daemon with a segment, offered at the returned path. Its list is just proven
    /// complete.
    pub async fn start_shared(settings: &[(&str, &str)]) -> (Self, PathBuf) {
        let folder = Scratch::new();
        let attach = folder.file("attach.sock");
        let settings: Vec<_> =
            settings.iter().copied().chain([("ATTACH_SOCKET", attach.to_str().expect("UTF-8"))]).collect();
        let daemon = Self::start_in(folder, &settings);
        daemon.prove();
        (daemon, attach)
    }

    /// Marks the list as complete as of now.
    pub fn prove(&self) {
        self.state.fresh(0, reading(), 0);
    }

    /// Revokes a session.
    pub fn revoke_session(&self, sid: &str) {
        let target = Target::Session { sid: Id::parse(sid).expect("an id"), subject: None };
        self.state.apply(0, &Revocation { target, expires_at: UnixTime(u64::from(u32::MAX)) });
    }
}

/// A complete verifier in the test's own process, which follows a real feed.
#[derive(Debug)]
pub struct Launched {
    pub at: At,
    pub tcp: At,
    pub admin: At,
    pub socket: PathBuf,
    pub core: Arc<Verifier>,
    pub folder: Scratch,
    pub reload: watch::Sender<u64>,
    pub stop: watch::Sender<bool>,
    pub task: Option<tokio::task::JoinHandle<()>>,
}

impl Launched {
    /// Starts a verifier with these settings over the defaults of a test, without waiting.
    pub fn start(folder: Scratch, settings: &[(&str, &str)]) -> Self {
        Self::start_with_file(folder, settings, None)
    }

    /// Starts a verifier with a configuration file, which a reload reads again.
    pub fn start_with_file(folder: Scratch, settings: &[(&str, &str)], file: Option<PathBuf>) -> Self {
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
        let app = App::start(config, routes, Source { file }).expect("free addresses");
        let core = Arc::clone(app.verifier());
        let address = |text: &str| At::Tcp(text.parse().expect("an address"));
        let tcp = address(&app.addresses()[1]);
        let admin = At::Tcp(app.admin_address().expect("an admin address"));
        let (stop, stopped) = watch::channel(false);
        let (reload, reloads) = watch::channel(0);
        let task = Some(tokio::spawn(app.run(Signals { stop: stopped, reload: reloads })));
        Self { at: At::Unix(socket.clone()), tcp, admin, socket, core, folder, reload, stop, task }
    }
}

/// Claims of a token that is valid now.
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

/// A token that is valid now.
pub fn good(sub: &str) -> String {
    sign(&claims(sub))
}
