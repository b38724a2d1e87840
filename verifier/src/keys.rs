//! The verification keys: configured secrets, and a JWK set that is fetched periodically. Keys stay
//! in use while their source is down; a key counts as unknown only after a successful fetch without
//! it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidegate_common::foreign::file::KeysFrom;
use sidegate_common::foreign::issuer::ForeignIssuer;
use sidegate_common::jwks;
use sidegate_common::key::{Algorithm, KeyRing, VerifyingKey};
use sidegate_common::token::unverified_key;
use sidegate_common::token_checker::TokenChecker;
use sidegate_runtime::clock::monotonic_ms;
use sidegate_runtime::settings::mask_if_url;

use crate::config::{JwksSource, KeyConfig};
use crate::metrics::Metrics;
use crate::{issuer_metadata, jwks_http};

/// However many tokens have unknown kids, the set is fetched for them at most once in this time.
const COOLDOWN: Duration = Duration::from_secs(30);
/// How many unknown kids are cached.
const UNKNOWN_KIDS_MAX: u64 = 10_000;
/// The first retry interval after a failed fetch; doubled each time, up to `COOLDOWN` or the
/// refresh interval.
const RETRY: Duration = Duration::from_secs(1);

/// The keys and their source.
#[derive(Debug)]
pub struct Keys {
    source: Option<JwksSource>,
    refresh: Duration,
    held: Mutex<Held>,
    /// The checker that uses the keys.
    tokens: Arc<TokenChecker>,
    /// Whose keys they are; `None` for the home issuer.
    issuer: Option<Arc<ForeignIssuer>>,
    /// Kids that were not in the set when it was fetched for them; an evicted kid costs another
    /// fetch.
    unknown: moka::sync::Cache<String, ()>,
    reading: tokio::sync::Mutex<()>,
    busy: AtomicBool,
    reads: Mutex<Reads>,
    metrics: Arc<Metrics>,
}

/// The result of the last fetch, and when a token may cause the next one (monotonic milliseconds).
#[derive(Clone, Copy, Debug)]
struct Reads {
    ok: bool,
    retry: Duration,
    next_ms: u64,
}

/// The result of a look-up for the key of a token that no current key verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLookup {
    /// The set was fetched and lacks the key, or no set can have it.
    Absent,
    /// The set could not be fetched, so the key may exist.
    Failed,
    /// The key is available now: check the token again.
    Held,
    /// The set should be fetched for it: [`Keys::fetch_for`]. Has the token's `kid`, if it names
    /// one.
    Due(Option<String>),
}

#[derive(Debug, Default)]
struct Held {
    secrets: Vec<VerifyingKey>,
    public: Vec<VerifyingKey>,
    document: Vec<u8>,
}

impl Held {
    fn ring(&self) -> KeyRing {
        let all: Vec<VerifyingKey> = self.secrets.iter().chain(&self.public).cloned().collect();
        // A set with a secret's kid must neither displace the secret nor make the other keys
        // unusable.
        KeyRing::new(all).or_else(|_| KeyRing::new(self.secrets.clone())).unwrap_or_default()
    }
}

/// Why a JWK set could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// The HTTP request failed.
    #[error("{0}")]
    Http(#[from] jwks_http::FetchError),
    /// The issuer's metadata do not lead to its keys.
    #[error("{0}")]
    Metadata(#[from] issuer_metadata::MetadataError),
    /// The document is not an acceptable key set.
    #[error("{0}")]
    Jwks(#[from] jwks::JwksError),
}

impl Keys {
    /// The configured keys, for `tokens`; public keys are not fetched yet.
    pub fn new(config: KeyConfig, tokens: Arc<TokenChecker>, metrics: Arc<Metrics>) -> Self {
        Self::of(None, config, tokens, metrics)
    }

    /// The keys of an issuer of `ISSUERS_FILE`; `secret` is the content of its `secret_file`.
    pub fn of_issuer(
        issuer: Arc<ForeignIssuer>,
        secret: Option<VerifyingKey>,
        refresh: Duration,
        tokens: Arc<TokenChecker>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let jwks = match &issuer.entry().keys {
            KeysFrom::Secret(_) => None,
            KeysFrom::File(path) => Some(JwksSource::File(path.clone())),
            // The file was checked: a URL that no request can be made of only fails to be fetched.
            KeysFrom::Url(url) => Some(url.parse().map_or(JwksSource::Metadata(url.clone()), JwksSource::Url)),
            KeysFrom::Discovery => Some(JwksSource::Metadata(issuer.entry().iss.clone())),
        };
        let config = KeyConfig { secrets: secret.into_iter().collect(), jwks, refresh };
        Self::of(Some(issuer), config, tokens, metrics)
    }

    fn of(
        issuer: Option<Arc<ForeignIssuer>>,
        config: KeyConfig,
        tokens: Arc<TokenChecker>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let unknown = moka::sync::Cache::builder().max_capacity(UNKNOWN_KIDS_MAX).time_to_live(config.refresh).build();
        let held = Held { secrets: config.secrets, ..Held::default() };
        use_keys(&tokens, issuer.as_deref(), held.ring());
        Self {
            issuer,
            source: config.jwks,
            refresh: config.refresh,
            held: Mutex::new(held),
            tokens,
            unknown,
            reading: tokio::sync::Mutex::new(()),
            busy: AtomicBool::new(false),
            reads: Mutex::new(Reads { ok: false, retry: RETRY, next_ms: 0 }),
            metrics,
        }
    }

    /// The issuer of `ISSUERS_FILE` whose keys they are; `None` for the home issuer.
    pub const fn issuer(&self) -> Option<&Arc<ForeignIssuer>> {
        self.issuer.as_ref()
    }

    /// True if the same secret, or none, was configured.
    pub fn has_secret(&self, secret: Option<&VerifyingKey>) -> bool {
        self.held().secrets.first().map(VerifyingKey::kid) == secret.map(VerifyingKey::kid)
    }

    /// True once there is a key.
    pub fn loaded(&self) -> bool {
        let held = self.held();
        !held.secrets.is_empty() || !held.public.is_empty()
    }

    /// The number of keys.
    pub fn count(&self) -> usize {
        let held = self.held();
        held.secrets.len() + held.public.len()
    }

    /// Replaces the secrets.
    pub fn set_secrets(&self, secrets: Vec<VerifyingKey>) {
        let mut held = self.held();
        let kids = |keys: &[VerifyingKey]| keys.iter().map(|key| key.kid().to_owned()).collect::<Vec<_>>();
        if kids(&held.secrets) != kids(&secrets) {
            held.secrets = secrets;
            use_keys(&self.tokens, self.issuer.as_deref(), held.ring());
        }
    }

    /// Looks up the key of a token that was rejected because no key has its `kid` and algorithm.
    pub fn look_up(&self, token: &str) -> KeyLookup {
        let (Some(_), Some(key)) = (&self.source, unverified_key(token)) else { return KeyLookup::Absent };
        let asymmetric: &[Algorithm] = match &self.issuer {
            None => &[Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256],
            Some(issuer) => &issuer.entry().algorithms,
        };
        let Some(algorithm) = asymmetric.iter().copied().find(|known| known.is_named(&key.algorithm)) else {
            return KeyLookup::Absent;
        };
        if key.kid.as_ref().is_some_and(|kid| self.unknown.contains_key(kid)) {
            return KeyLookup::Absent;
        }
        if self.conflicts(key.kid.as_deref(), algorithm) {
            return KeyLookup::Absent;
        }
        let reads = *self.reads();
        let due = monotonic_ms() >= reads.next_ms || self.busy.load(Ordering::Acquire);
        match (reads.ok, due) {
            // Without a kid there is nothing to look for in the set.
            (true, true) if key.kid.is_some() => KeyLookup::Due(key.kid),
            (true, _) => KeyLookup::Absent,
            (false, true) => KeyLookup::Due(key.kid),
            (false, false) => KeyLookup::Failed,
        }
    }

    /// True if the current keys show that the token's key is wrong: its `kid` belongs to another
    /// algorithm, or it has no `kid` and several keys fit.
    fn conflicts(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        let held = self.held();
        let mut all = held.secrets.iter().chain(&held.public);
        match kid {
            Some(kid) => all.any(|key| key.kid() == kid && key.algorithm() != algorithm),
            None => all.filter(|key| key.algorithm() == algorithm).count() > 1,
        }
    }

    /// Fetches the set, unless that was just done, and caches `kid` as unknown if the set lacks it.
    /// A failed fetch only schedules a retry.
    pub async fn fetch_for(&self, kid: Option<String>) -> KeyLookup {
        let _one_at_a_time = self.reading.lock().await;
        let next_ms = self.reads().next_ms;
        if monotonic_ms() >= next_ms {
            self.read_now().await;
        }
        if kid.as_ref().is_some_and(|kid| self.held().ring().knows(kid)) {
            return KeyLookup::Held;
        }
        if !self.reads().ok {
            return KeyLookup::Failed;
        }
        match kid {
            None => KeyLookup::Held,
            Some(kid) => {
                self.unknown.insert(kid, ());
                KeyLookup::Absent
            }
        }
    }

    /// Fetches the set periodically, and at once when `again` changes. Never returns.
    pub async fn keep_reading(&self, mut again: tokio::sync::watch::Receiver<u64>) {
        loop {
            let pause = {
                let _one_at_a_time = self.reading.lock().await;
                self.read_now().await
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = again.changed() => if changed.is_err() { std::future::pending().await },
            }
        }
    }

    /// Fetches the set; returns the wait until the next fetch.
    async fn read_now(&self) -> Duration {
        self.busy.store(true, Ordering::Release);
        let read = self.read().await;
        let mut reads = self.reads();
        let was = *reads;
        let pause = if read.is_ok() { COOLDOWN } else { was.retry };
        let retry = if read.is_ok() { RETRY } else { (was.retry * 2).min(COOLDOWN) };
        let next_ms = monotonic_ms().saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        *reads = Reads { ok: read.is_ok(), retry, next_ms };
        drop(reads);
        self.busy.store(false, Ordering::Release);
        match &self.issuer {
            None => self.metrics.jwks_read(read.is_ok()),
            Some(issuer) => self.metrics.issuer_jwks_read(&issuer.entry().name, read.is_ok()),
        }
        match read {
            Ok(()) => {
                if was.retry > RETRY {
                    tracing::info!(issuer = self.issuer_name(), keys = self.count(), "JWKS fetch works again");
                }
                self.refresh
            }
            Err(error) => {
                // One line per outage: the metric counts every attempt.
                if was.ok || was.retry == RETRY {
                    let (setting, source) = self.source_name();
                    tracing::warn!(
                        %error, issuer = self.issuer_name(), setting, source, held = self.count(),
                        "JWKS fetch failed; keeping the previous keys, tokens under other keys are answered 503"
                    );
                } else {
                    tracing::debug!(%error, issuer = self.issuer_name(), "JWKS fetch still failing");
                }
                pause.min(self.refresh)
            }
        }
    }

    /// The setting that names the set, and its location; in a URL the password is masked.
    fn source_name(&self) -> (&'static str, String) {
        let foreign = self.issuer.is_some();
        let setting = |home| if foreign { "ISSUERS_FILE" } else { home };
        match &self.source {
            None => (setting("JWKS_URL"), String::new()),
            Some(JwksSource::File(path)) => (setting("JWKS_FILE"), path.display().to_string()),
            Some(JwksSource::Url(url)) => (setting("JWKS_URL"), mask_if_url(&url.to_string())),
            Some(JwksSource::Metadata(iss)) => ("ISSUERS_FILE", mask_if_url(iss)),
        }
    }

    fn issuer_name(&self) -> &str {
        self.issuer.as_ref().map_or("home", |issuer| issuer.entry().name.as_str())
    }

    async fn read(&self) -> Result<(), ReadError> {
        let document = match &self.source {
            None => return Ok(()),
            Some(JwksSource::File(path)) => read_file(path).await?,
            Some(JwksSource::Url(url)) if self.issuer.is_some() => jwks_http::fetch_json(url).await?,
            Some(JwksSource::Url(url)) => jwks_http::fetch(url).await?,
            Some(JwksSource::Metadata(iss)) => issuer_metadata::fetch_keys(iss).await?,
        };
        let ring = match &self.issuer {
            None => jwks::parse(&document)?,
            Some(issuer) => jwks::parse_for(&document, &issuer.entry().algorithms)?,
        };
        let public = ring.keys().to_vec();
        let mut held = self.held();
        if held.document != document {
            let kids: Vec<_> = public.iter().map(VerifyingKey::kid).collect();
            tracing::info!(issuer = self.issuer_name(), ?kids, "public keys read");
            held.public = public;
            held.document = document;
            use_keys(&self.tokens, self.issuer.as_deref(), held.ring());
        }
        Ok(())
    }

    fn reads(&self) -> std::sync::MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn use_keys(tokens: &TokenChecker, issuer: Option<&ForeignIssuer>, ring: KeyRing) {
    match issuer {
        None => tokens.set_keys(ring),
        Some(issuer) => tokens.set_keys_of(issuer, ring),
    }
}

async fn read_file(path: &Path) -> Result<Vec<u8>, ReadError> {
    use tokio::io::AsyncReadExt as _;
    let mut document = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    // One byte more than the limit, so that a larger file is detected.
    file.take(jwks::JWKS_BYTES_MAX as u64 + 1).read_to_end(&mut document).await?;
    Ok(document)
}
