//! The composition root: binds, connects, serves, reloads, drains.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sidegate_common::routes::Routes;
use sidegate_runtime::bind_error;
use sidegate_runtime::connection_budget::ConnectionBudget;
use sidegate_runtime::feed::status::Status;
use sidegate_runtime::file_stamp::FileStamp;
use sidegate_runtime::program::{Signals, connections_max, stopped};
use sidegate_runtime::serve::{Limits, serve};
use sidegate_runtime::settings::{ConfigError, Settings};
use sidegate_runtime::socket::Listener;
use sidegate_runtime::systemd;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::{Config, ListenConfig};
use crate::feed_task::{AttachListener, follow, readers_max};
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::source::Source;
use crate::verifier::Verifier;
use crate::wire::admin::Admin;
use crate::wire::grpc::{AUTHORIZATION, Grpc};
use crate::wire::http::CheckService;

/// File descriptors reserved for the feed, files, keys, 64 connections of the admin listener, and
/// the libraries.
const RESERVED_FILES: usize = 192;

/// How often files and readiness are checked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The timeout for writing the last snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

/// A verifier with its sockets bound.
#[derive(Debug)]
pub struct App {
    config: Config,
    source: Source,
    verifier: Arc<Verifier>,
    listeners: Vec<Listener>,
    admin: Option<Listener>,
    attach: Option<AttachListener>,
    feed: Arc<Status>,
}

/// Reads `ROUTES_FILE`, if it is set.
///
/// # Errors
/// The file cannot be read, or a rule is invalid.
pub fn read_routes(config: &Config) -> Result<Option<Routes>, ConfigError> {
    let Some(path) = &config.routes_file else { return Ok(None) };
    let refused = |why: String| ConfigError::new("ROUTES_FILE", format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    Routes::parse(&text, &config.policy.audiences).map(Some).map_err(|error| refused(error.to_string()))
}

impl App {
    /// Binds every socket. `source` is the source of the configuration, which is read again on
    /// SIGHUP.
    ///
    /// # Errors
    /// A socket cannot be bound.
    pub fn start(config: Config, routes: Option<Routes>, source: Source) -> io::Result<Self> {
        let ListenConfig { socket, socket_mode, socket_group, tcp, admin, .. } = &config.listen;
        let mut listeners = Vec::new();
        if let Some(path) = socket {
            let bound = Listener::unix(path, *socket_mode, *socket_group);
            listeners.push(bound.map_err(|error| bind_error::unix("VERIFIER_SOCKET", path, &error))?);
        }
        if let Some(address) = tcp {
            listeners.push(Listener::tcp(*address).map_err(|error| bind_error::tcp("VERIFIER_LISTEN", &error))?);
        }
        let admin = admin.map(Listener::tcp).transpose();
        let admin = admin.map_err(|error| bind_error::tcp("VERIFIER_ADMIN_LISTEN", &error))?;
        let attach = AttachListener::open(&config)?;
        systemd::refuse_unserved("VERIFIER_SOCKET, VERIFIER_LISTEN, VERIFIER_ADMIN_LISTEN, ATTACH_SOCKET")?;
        let metrics = Arc::new(Metrics::new());
        let feed = Arc::new(Status::default());
        metrics.register(|registry| registry.register_collector(Box::new(Arc::clone(&feed))));
        let offer = attach.as_ref().map(|attach| Arc::clone(attach.offer()));
        let verifier = Arc::new(Verifier::new(&config, routes, metrics, offer));
        Ok(Self { config, source, verifier, listeners, admin, attach, feed })
    }

    /// The verifier that the listeners share.
    pub const fn verifier(&self) -> &Arc<Verifier> {
        &self.verifier
    }

    /// The addresses for checks, for people.
    pub fn addresses(&self) -> Vec<String> {
        self.listeners.iter().map(Listener::describe).collect()
    }

    /// The address of the admin listener.
    pub fn admin_address(&self) -> Option<std::net::SocketAddr> {
        self.admin.as_ref().and_then(Listener::tcp_address)
    }

    /// Serves until the stop signal, then drains.
    pub async fn run(self, signals: Signals) {
        let Self { config, source, verifier, listeners, admin, attach, feed } = self;
        let listening: Vec<String> = listeners.iter().map(Listener::describe).collect();
        let admin_at = admin.as_ref().map(Listener::describe).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        tracing::info!(version, ?listening, admin = admin_at, workers = config.worker_threads, "verifier started");
        let grace = config.listen.grace;
        let budget =
            ConnectionBudget::new(config.listen.connection_memory, connections_max(RESERVED_FILES + readers_max()));
        let limits = Limits::new(budget, grace);
        let health = HealthReporter::new();
        let service = CheckService::new(Arc::clone(&verifier), Grpc::new(Arc::clone(&verifier), health.clone()));
        let mut background = JoinSet::new();
        background.spawn({
            let (verifier, again) = (Arc::clone(&verifier), signals.reload.clone());
            async move { verifier.keys().keep_reading(again).await }
        });
        background.spawn(reload(config.clone(), source, Arc::clone(&verifier), signals.reload.clone()));
        // The list is updated until the last response is sent.
        let (last_answer, answered) = watch::channel(false);
        let following = tokio::spawn(follow(config.clone(), Arc::clone(&verifier), Arc::clone(&feed), answered));
        background.spawn(look_at_refusals(Arc::clone(&verifier)));
        background.spawn(report_health(Arc::clone(&verifier), health.clone()));
        let mut serving = JoinSet::new();
        for listener in listeners {
            let (service, verifier, stop) = (service.clone(), Arc::clone(&verifier), signals.stop.clone());
            let limits = limits.clone();
            serving.spawn(async move {
                listener.defer_accept(|| verifier.ready().is_ok()).await;
                serve(listener, limits, stop, move |peer| service.connection(peer)).await;
            });
        }
        if let Some(listener) = admin {
            let admin = Admin::new(Arc::clone(&verifier), Arc::clone(&feed));
            let limits = Limits::new(ConnectionBudget::admin(), grace);
            serving.spawn(serve(listener, limits, signals.stop.clone(), move |_| admin.clone()));
        }
        background.spawn(systemd::feed_watchdog());
        systemd::notify_ready();
        let mut stop = signals.stop.clone();
        stopped(&mut stop).await;
        systemd::notify_stopping();
        tracing::info!("stopping: finishing what is in flight");
        mark_not_serving(health).await;
        while serving.join_next().await.is_some() {}
        last_answer.send_replace(true);
        let _it_has_logged = tokio::time::timeout(SNAPSHOT_TIMEOUT, following).await;
        background.shutdown().await;
        drop(attach);
        tracing::info!("stopped");
    }
}

/// Reports "not serving" to health probes. Clearing ends the streams of watching clients, which
/// would otherwise stay open.
async fn mark_not_serving(mut health: HealthReporter) {
    for service in ["", AUTHORIZATION] {
        health.set_service_status(service, ServingStatus::NotServing).await;
        health.clear_service_status(service).await;
    }
}

/// Logs when all tokens are rejected for the same reason. Never returns.
async fn look_at_refusals(verifier: Arc<Verifier>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        verifier.look_at_refusals();
    }
}

/// Reports to the standard gRPC health service whether tokens can be checked. Never returns.
async fn report_health(verifier: Arc<Verifier>, health: HealthReporter) {
    let mut reported = None;
    loop {
        let status = if verifier.ready().is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing };
        if reported != Some(status) {
            for service in ["", AUTHORIZATION] {
                health.set_service_status(service, status).await;
            }
            reported = Some(status);
        }
        tokio::time::sleep(LOOK_EVERY / 10).await;
    }
}

/// Reloads routes when their file changes; and routes, secrets and the feed's credentials on
/// SIGHUP. Never returns.
async fn reload(config: Config, source: Source, verifier: Arc<Verifier>, mut again: watch::Receiver<u64>) {
    let mut held = source.settings().ok();
    let mut seen = config.routes_file.as_ref().and_then(FileStamp::of);
    let issuers_file = || config.issuers.as_ref().and_then(|issuers| FileStamp::of(&issuers.path));
    let mut issuers_seen = issuers_file();
    let mut reading = KeyReaders::default();
    reading.follow(&verifier, &again);
    loop {
        let asked = tokio::select! {
            changed = again.changed() => match changed {
                Ok(()) => true,
                Err(_) => std::future::pending().await,
            },
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        let now = config.routes_file.as_ref().and_then(FileStamp::of);
        if asked || now != seen {
            seen = now;
            reload_routes(&config, &verifier);
        }
        if asked {
            reload_settings(&config, &source, &verifier, &mut held);
        }
        let issuers_now = issuers_file();
        if asked || issuers_now != issuers_seen {
            issuers_seen = issuers_now;
            reload_issuers(&config, &source, &verifier);
            reading.follow(&verifier, &again);
        }
    }
}

/// The tasks that fetch the keys of the issuers of `ISSUERS_FILE`; they end with it.
#[derive(Default)]
struct KeyReaders {
    tasks: JoinSet<()>,
    following: Vec<(Arc<Keys>, AbortHandle)>,
}

impl KeyReaders {
    /// Starts a task for each issuer that has none, and ends those of issuers that are gone.
    fn follow(&mut self, verifier: &Verifier, again: &watch::Receiver<u64>) {
        let wanted = verifier.issuer_keys();
        self.following.retain(|(keys, task)| {
            let keep = wanted.iter().any(|wanted| Arc::ptr_eq(wanted, keys));
            if !keep {
                task.abort();
            }
            keep
        });
        for keys in wanted {
            if !self.following.iter().any(|(followed, _)| Arc::ptr_eq(followed, &keys)) {
                let (reader, again) = (Arc::clone(&keys), again.clone());
                let task = self.tasks.spawn(async move { reader.keep_reading(again).await });
                self.following.push((keys, task));
            }
        }
    }
}

fn reload_issuers(config: &Config, source: &Source, verifier: &Verifier) {
    if config.issuers.is_none() {
        return;
    }
    let reread = source.read().map(|(_, fresh)| fresh.issuers);
    verifier.metrics().issuers_file_refused(!matches!(reread, Ok(Some(_))));
    match reread {
        Ok(Some(fresh)) => {
            let names: Vec<_> = fresh.issuers.iter().map(|issuer| issuer.entry.name.as_str()).collect();
            tracing::info!(?names, "issuers reloaded");
            verifier.set_issuers(&fresh.issuers);
        }
        Ok(None) => tracing::error!("ISSUERS_FILE is unset now, which needs a restart; keeping the previous issuers"),
        Err(error) => tracing::error!(%error, "issuers file reload failed; keeping the previous issuers"),
    }
}

/// Applies changed settings where possible, and logs those that need a restart.
fn reload_settings(config: &Config, source: &Source, verifier: &Verifier, held: &mut Option<Settings>) {
    let (settings, fresh) = match source.read() {
        Ok(read) => read,
        Err(error) => {
            tracing::error!(%error, "config reload failed; keeping the previous config");
            return;
        }
    };
    verifier.keys().set_secrets(fresh.keys.secrets);
    verifier.introspect_token().replace(fresh.introspect_token);
    let mut unable = Vec::new();
    if !config.feed.source.renew(&fresh.feed.source) {
        unable.push("REDIS_URL");
    }
    if config.issuers.is_some() != fresh.issuers.is_some() {
        unable.push("ISSUERS_FILE");
    }
    held.get_or_insert_with(|| settings.clone()).take_up(&settings, &unable).log();
}

fn reload_routes(config: &Config, verifier: &Verifier) {
    match read_routes(config) {
        Ok(None) => {}
        Ok(Some(routes)) => {
            tracing::info!(rules = routes.len(), "routes reloaded");
            verifier.set_routes(routes);
        }
        Err(error) => tracing::error!(%error, "routes file reload failed; keeping the previous rules"),
    }
}
