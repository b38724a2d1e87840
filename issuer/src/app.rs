//! The only place that knows all parts: opens stores, builds [`Auth`], binds, serves, drains.

mod readiness;
mod reload;
mod rotation;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;
use sidegate_common::revocation_state::RevocationState;
use sidegate_common::secret::LiveSecret;
use sidegate_common::token_checker::TokenChecker;
use sidegate_runtime::bind_error;
use sidegate_runtime::clock;
use sidegate_runtime::connection_budget::ConnectionBudget;
use sidegate_runtime::feed::redis::RedisSource;
use sidegate_runtime::feed::status::Status;
use sidegate_runtime::program::{Signals, connections_max, stopped};
use sidegate_runtime::redis_url::RedisUrl;
use sidegate_runtime::serve::{Limits, serve};
use sidegate_runtime::settings::{ConfigError, Settings, mask_credentials};
use sidegate_runtime::socket::Listener;
use sidegate_runtime::systemd;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::config::{Config, StoreConfig};
use crate::domain::Auth;
use crate::domain::password::COST_ADVISED;
use crate::domain::refresh_token::RefreshKeys;
use crate::domain::revoke_foreign::KnownIssuers;
use crate::domain::token_signer::TokenSigner;
use crate::domain::traits::{Store as _, Users as _};
use crate::feed::local::LocalSource;
use crate::feed::own::{OwnSource, keep};
use crate::feed::server::FeedService;
use crate::http::api::{Api, ClockFn};
use crate::http::readiness::Readiness;
use crate::http::{admin, router};
use crate::keys::set::{KeySet, KeySetError};
use crate::metrics::Metrics;
use crate::password::{PasswordPool, Rehashed};
use crate::store::backend::AnyStore;
use crate::store::redis::{OpenError, OwnFeed, RedisRequirements, RedisStore, ReplicaAckSettings, StoreLink};
use crate::store::sqlite::EmbeddedStore;
use crate::store::users::{CheckError, SchemaError, SqlUsers};

pub use reload::Reread;
use reload::{Reloader, issuers_stamp};

/// Open files reserved for the stores, the feed and its followers, 64 connections of the admin
/// listener, and what the libraries open.
const RESERVED_FILES: usize = 256;
/// Memory and number of connections for verifiers that follow the embedded store's feed.
const FEED_MEMORY: usize = 16 * 1024 * 1024;
const FEEDS_MAX: usize = 64;

/// The state that the issuer's handlers share.
pub type IssuerApi = Api<SqlUsers, AnyStore, PasswordPool>;

/// Why the issuer did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that turned out to be wrong when it was used.
    #[error("configuration error: {0}")]
    Config(#[from] ConfigError),
    /// The embedded store.
    #[error(transparent)]
    Embedded(#[from] crate::store::sqlite::OpenError),
    /// Redis.
    #[error(transparent)]
    Redis(#[from] OpenError),
    /// The users table does not match the settings.
    #[error(transparent)]
    Users(#[from] SchemaError),
    /// Sockets, threads.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// An issuer with its stores open and its sockets bound.
pub struct App {
    api: Arc<IssuerApi>,
    source: OwnSource,
    feed_status: Arc<Status>,
    config: Config,
    public: Listener,
    admin: Listener,
    feed: Option<Listener>,
    rehashed: mpsc::Receiver<Rehashed>,
    reloader: Reloader,
}

impl App {
    /// Opens stores and binds sockets. `config` was read from `settings`; `reread` reads both again
    /// on SIGHUP.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config, settings: Settings, reread: Reread) -> Result<Self, StartError> {
        // A wrong setting, or an address that cannot be bound, is found before anything is written.
        let Parts { users, keys, refresh_keys, redis } = parts(&config)?;
        let listen = |setting, address| Listener::tcp(address).map_err(|error| bind_error::tcp(setting, &error));
        let public = listen("ISSUER_LISTEN", config.listen.public)?;
        let admin = listen("ISSUER_ADMIN_LISTEN", config.listen.admin)?;
        let feed = match &config.store {
            StoreConfig::Embedded { .. } => Some(listen("ISSUER_FEED_LISTEN", config.listen.feed)?),
            StoreConfig::Redis { .. } => None,
        };
        systemd::refuse_unserved("ISSUER_LISTEN, ISSUER_ADMIN_LISTEN, ISSUER_FEED_LISTEN")?;
        let (passwords, rehashed) = PasswordPool::start(config.passwords)?;
        check_users(&users, &passwords).await?;
        let (store, source) = open_store(&config, redis).await?;
        let state = Arc::new(RevocationState::new(config.staleness, clock::reading(), store.observer()));
        state.begin(store.partitions());
        let feed_status = Arc::new(Status::default());
        if let AnyStore::Redis(store) = &store {
            let restoring = Arc::clone(&state);
            store.recall(move |partition, revocation| restoring.restore(partition, revocation)).await?;
            store.follow(OwnFeed { state: Arc::clone(&state), status: Arc::clone(&feed_status) });
        }
        let tokens = TokenChecker::new(config.policy.clone(), Arc::clone(&state));
        tokens.set_keys(keys.ring);
        let metrics = Metrics::new(passwords.counts(), users.wrong_rows(), &store.counts(), Arc::clone(&feed_status));
        let api = Arc::new(Api {
            auth: Auth {
                users,
                store,
                passwords,
                signer: TokenSigner::new(config.issuing.clone(), keys.signing),
                refresh_keys,
                tokens,
                issuers: KnownIssuers::new(config.issuers.clone().unwrap_or_default(), config.foreign_entries),
            },
            clock: clock_of(state),
            metrics,
            readiness: Readiness::default(),
            public_keys: std::sync::RwLock::new(Arc::new(keys.public)),
            proxies: config.proxies.clone(),
            cors: config.cors.clone(),
            admin_token: LiveSecret::new(config.admin_token.clone()),
        });
        let reloader = Reloader {
            api: Arc::clone(&api),
            issuers_seen: issuers_stamp(&settings),
            settings,
            reread,
            feed_token: LiveSecret::new(match &config.store {
                StoreConfig::Embedded { feed_token, .. } => feed_token.clone(),
                StoreConfig::Redis { .. } => None,
            }),
            source: match &source {
                OwnSource::Redis(source) => Some((**source).clone()),
                OwnSource::Local(_) => None,
            },
        };
        Ok(Self { api, source, feed_status, config, public, admin, feed, rehashed, reloader })
    }

    /// The handlers' shared state, for tests.
    pub const fn api(&self) -> &Arc<IssuerApi> {
        &self.api
    }

    /// Address of the public listener.
    pub fn public_address(&self) -> Option<std::net::SocketAddr> {
        self.public.tcp_address()
    }

    /// Address of the admin listener.
    pub fn admin_address(&self) -> Option<std::net::SocketAddr> {
        self.admin.tcp_address()
    }

    /// Serves until a signal stops it, then drains. Waits for Redis in the background.
    ///
    /// # Errors
    /// Redis is reachable but must not be used: serving stops.
    pub async fn run(self, signals: Signals) -> Result<(), StartError> {
        let Self { api, source, feed_status, config, public, admin: admin_listener, feed, rehashed, reloader } = self;
        let feed_token = reloader.feed_token.clone();
        let addresses = (public.describe(), admin_listener.describe());
        let feed_at = feed.as_ref().map(Listener::describe).unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        let store = describe_store(&config.store);
        tracing::info!(version, listening = addresses.0, admin = addresses.1, feed = feed_at, store, "issuer started");
        warn_of_weaknesses(&config);
        let mut background = JoinSet::new();
        let state = api.auth.tokens.state();
        // The issuer's own list is kept current until the last response is sent.
        let (_last_answer, answered) = watch::channel(false);
        background.spawn(keep(source, Arc::clone(state), config.probe_interval, feed_status, answered));
        background.spawn(inspect_users(Arc::clone(&api)));
        background.spawn(store_rehashed(Arc::clone(&api), rehashed));
        background.spawn(readiness::watch(Arc::clone(&api)));
        background.spawn(rotation::watch(Arc::clone(&api), config.keys.clone(), reloader, signals.reload.clone()));
        let (refuse, mut refused) = tokio::sync::oneshot::channel();
        if let (AnyStore::Redis(store), StoreConfig::Redis { requirements, wait, .. }) =
            (&api.auth.store, &config.store)
        {
            let state = Arc::clone(state);
            let proven = move || state.proven();
            background.spawn(keep_redis(store.clone(), *requirements, *wait, proven, refuse));
        }
        let grace = config.listen.grace;
        let budget = ConnectionBudget::new(config.listen.connection_memory, connections_max(RESERVED_FILES));
        let limits = Limits::new(budget, grace);
        let mut serving = JoinSet::new();
        let shared = Arc::clone(&api);
        let (router, stop) = (router::public(&api), signals.stop.clone());
        serving.spawn(async move {
            public.defer_accept(|| shared.auth.tokens.ensure_ready((shared.clock)()).is_ok()).await;
            serve_router(public, limits, stop, router).await;
        });
        serving.spawn(serve_router(
            admin_listener,
            Limits::new(ConnectionBudget::admin(), grace),
            signals.stop.clone(),
            admin::admin(&api),
        ));
        if let (Some(listener), AnyStore::Embedded(store)) = (feed, &api.auth.store) {
            let service = FeedService::server(store.feed(), feed_token, signals.stop.clone());
            let router = tonic::service::Routes::new(service).into_axum_router();
            // Separate limits, so that the users' clients cannot displace verifiers.
            let limits = Limits::new(ConnectionBudget::new(FEED_MEMORY, FEEDS_MAX), grace);
            serving.spawn(serve_router(listener, limits, signals.stop.clone(), router));
        }
        background.spawn(systemd::feed_watchdog());
        systemd::notify_ready();
        let mut stop = signals.stop.clone();
        tokio::select! {
            () = stopped(&mut stop) => {}
            Ok(error) = &mut refused => return Err(error.into()),
        }
        systemd::notify_stopping();
        tracing::info!("stopping: finishing what is in flight");
        while serving.join_next().await.is_some() {}
        background.shutdown().await;
        if let AnyStore::Redis(store) = &api.auth.store {
            store.leave().await;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Waits for Redis, then reconciles its log. Sends an error if Redis must not be used.
async fn keep_redis(
    store: RedisStore,
    requirements: RedisRequirements,
    wait: ReplicaAckSettings,
    proven: impl Fn() -> Option<u64> + Send,
    refuse: tokio::sync::oneshot::Sender<OpenError>,
) {
    if let Err(error) = store.open(requirements, wait).await {
        let _receiver_gone = refuse.send(error);
        return;
    }
    tokio::join!(store.clone().equip_masters(), store.watch(requirements, proven));
}

/// Serves a router and adds the peer's address to each request.
async fn serve_router(listener: Listener, limits: Limits, stop: watch::Receiver<bool>, router: Router) {
    serve(listener, limits, stop, move |peer| {
        let service = router.clone().map_request(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request
        });
        TowerToHyperService::new(service)
    })
    .await;
}

/// The parts that follow from the settings alone: nothing is opened or written.
struct Parts {
    users: SqlUsers,
    keys: KeySet,
    refresh_keys: RefreshKeys,
    redis: Option<(StoreLink, RedisSource)>,
}

fn parts(config: &Config) -> Result<Parts, ConfigError> {
    let users = SqlUsers::new(&config.users.url, config.users.table.clone(), config.users.options);
    let refused = |error: KeySetError| ConfigError::new("JWT_KEYS_DIR", error.to_string());
    let redis = match &config.store {
        StoreConfig::Embedded { .. } => None,
        StoreConfig::Redis { server, prefix, .. } => {
            Some((StoreLink::to(RedisUrl::clone(server)), RedisSource::at(RedisUrl::clone(server), prefix)))
        }
    };
    Ok(Parts { users, keys: config.keys.key_set().map_err(refused)?, refresh_keys: config.keys.refresh_keys()?, redis })
}

/// Checks a configuration by the same steps as [`App::start`], without opening or writing anything.
///
/// # Errors
/// The first setting that is wrong.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    // The database pool needs a runtime to be built, although it does not connect yet.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| ConfigError::new("WORKER_THREADS", format!("starting the runtime failed: {error}")))?;
    runtime.block_on(async { parts(config).map(drop) })
}

/// Location of sessions and log, for the log line at start.
fn describe_store(store: &StoreConfig) -> String {
    match store {
        StoreConfig::Embedded { url, .. } => url.clone(),
        StoreConfig::Redis { url, .. } => mask_credentials(url.expose_str().unwrap_or_default()),
    }
}

async fn open_store(
    config: &Config,
    redis: Option<(StoreLink, RedisSource)>,
) -> Result<(AnyStore, OwnSource), StartError> {
    match &config.store {
        StoreConfig::Embedded { url, .. } => {
            let store =
                EmbeddedStore::open_limited(url, config.lifetimes, config.sessions_max, Arc::new(clock::wall_ms))
                    .await?;
            let source = OwnSource::Local(LocalSource(store.feed()));
            Ok((AnyStore::Embedded(store), source))
        }
        StoreConfig::Redis { prefix, partitions, wait, journal, .. } => {
            let (link, source) = redis.ok_or_else(|| ConfigError::new("REDIS_URL", "is not set"))?;
            let store = RedisStore::new(link, prefix, *partitions, config.lifetimes).limiting(config.sessions_max);
            let mut store = store.closed();
            if let Some(journal) = journal {
                store = store.journaling(journal)?;
            }
            if wait.is_needed() {
                let link = store.sibling_link();
                store = store.waiting(link, *wait);
            }
            Ok((AnyStore::Redis(store), OwnSource::Redis(Box::new(source))))
        }
    }
}

/// The clock for token checks: it never goes backwards.
fn clock_of(state: Arc<RevocationState>) -> ClockFn {
    Arc::new(move || state.clock().check_time(clock::monotonic_ms(), clock::reading))
}

fn warn_of_weaknesses(config: &Config) {
    if config.keys.session.is_none() {
        tracing::warn!(
            "SESSION_SECRET_KEY is not set: the key of refresh tokens is derived from JWT_SECRET_KEY, so every verifier \
             could forge them; set SESSION_SECRET_KEY"
        );
    }
    if config.passwords.cost < COST_ADVISED {
        tracing::warn!(cost = config.passwords.cost, "BCRYPT_COST is below 10: fit for tests only");
    }
}

/// Retry interval while the users database is down at start.
const USERS_RETRY: Duration = Duration::from_secs(1);

/// Fails if the users table does not match the settings; waits for a database that is down.
async fn check_users(users: &SqlUsers, passwords: &PasswordPool) -> Result<(), SchemaError> {
    match users.check().await {
        Ok(()) => learn_costs(users, passwords).await,
        Err(CheckError::Schema(error)) => return Err(error),
        Err(CheckError::Unavailable(error)) => tracing::warn!(%error, "waiting for the users database"),
    }
    Ok(())
}

/// Reads the costs of the stored hashes, so that the first refusal costs as much as any later one.
async fn learn_costs(users: &SqlUsers, passwords: &PasswordPool) {
    match users.hash_parameters().await {
        Ok(parameters) => passwords.learn(parameters.iter().map(String::as_str)),
        Err(error) => {
            tracing::warn!(%error, "reading the costs of the stored hashes failed; set BCRYPT_COST to the highest")
        }
    }
}

/// Reads costs and indexes of the users table once the database answers, even if it was down at
/// start.
async fn inspect_users(api: Arc<IssuerApi>) {
    let (users, passwords) = (&api.auth.users, &api.auth.passwords);
    let mut waited = false;
    let mut said = None;
    while let Err(error) = users.check().await {
        waited = true;
        if said.replace(error.to_string()) != Some(error.to_string()) {
            tracing::error!(%error, "the users table is not usable");
        }
        tokio::time::sleep(USERS_RETRY).await;
    }
    if waited {
        learn_costs(users, passwords).await;
    }
    match users.missing_index().await {
        Ok(Some(problem)) => tracing::warn!("{problem}"),
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "reading the indexes of the users table failed"),
    }
}

/// Stores new hashes, one after the other. Best effort: a failure does not affect the login.
async fn store_rehashed(api: Arc<IssuerApi>, mut rehashed: mpsc::Receiver<Rehashed>) {
    while let Some(Rehashed { id, old, new }) = rehashed.recv().await {
        let (old, new) = (old.expose_str().unwrap_or_default(), new.expose_str().unwrap_or_default());
        if let Err(error) = api.auth.users.rehash(&id, old, new).await {
            tracing::warn!(sub = id, %error, "storing the password's new hash failed");
        }
    }
}
