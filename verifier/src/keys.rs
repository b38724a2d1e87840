//! The verification keys: secrets given outright, and a JWK set that is read again and again. Keys once read stay in
//! force while their source is down.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidegate_common::jwks;
use sidegate_common::key::{KeyRing, VerifyingKey};
use sidegate_common::token::unverified_kid;
use sidegate_runtime::clock::monotonic_ms;

use crate::config::{JwksSource, KeyConfig};
use crate::jwks_http;
use crate::list::List;
use crate::metrics::Metrics;

/// However many tokens with unknown kids come, the set is read for them once in this time.
const COOLDOWN: Duration = Duration::from_secs(30);
/// How many kids that turned out to be unknown are remembered.
const UNKNOWN_KIDS_MAX: u64 = 10_000;
/// How soon a read that failed is tried again; doubled each time, up to the usual interval.
const RETRY: Duration = Duration::from_secs(1);

/// The keys and where they come from.
#[derive(Debug)]
pub struct Keys {
    source: Option<JwksSource>,
    refresh: Duration,
    held: Mutex<Held>,
    /// Kids that were not in the set when it was last read for their sake: losing one costs a read.
    unknown: moka::sync::Cache<String, ()>,
    reading: tokio::sync::Mutex<()>,
    busy: AtomicBool,
    read_ms: AtomicU64,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Held {
    secrets: Vec<VerifyingKey>,
    public: Vec<VerifyingKey>,
    document: Vec<u8>,
    list: Option<Arc<List>>,
}

impl Held {
    fn ring(&self) -> KeyRing {
        let all: Vec<VerifyingKey> = self.secrets.iter().chain(&self.public).cloned().collect();
        // A set that claims a secret's kid must not displace the secret, nor take the other keys down with it.
        KeyRing::new(all).or_else(|_| KeyRing::new(self.secrets.clone())).unwrap_or_default()
    }

    fn put_in_force(&self) {
        if let Some(list) = &self.list {
            list.set_keys(self.ring());
        }
    }
}

/// Why a JWK set could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// The issuer does not answer as it should.
    #[error("{0}")]
    Http(#[from] jwks_http::FetchError),
    /// What came is not a set of keys that may be used.
    #[error("{0}")]
    Jwks(#[from] jwks::JwksError),
}

impl Keys {
    /// The keys of a configuration; public ones are not read yet.
    pub fn new(config: KeyConfig, metrics: Arc<Metrics>) -> Self {
        let unknown = moka::sync::Cache::builder().max_capacity(UNKNOWN_KIDS_MAX).time_to_live(config.refresh).build();
        Self {
            source: config.jwks,
            refresh: config.refresh,
            held: Mutex::new(Held { secrets: config.secrets, ..Held::default() }),
            unknown,
            reading: tokio::sync::Mutex::new(()),
            busy: AtomicBool::new(false),
            read_ms: AtomicU64::new(0),
            metrics,
        }
    }

    /// Keeps the judge of `list`, and its readers, supplied with keys from now on.
    pub fn serve(&self, list: Arc<List>) {
        let mut held = self.held();
        held.list = Some(list);
        held.put_in_force();
    }

    /// True once there is a key.
    pub fn loaded(&self) -> bool {
        let held = self.held();
        !held.secrets.is_empty() || !held.public.is_empty()
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        let held = self.held();
        held.secrets.len() + held.public.len()
    }

    /// Puts other secrets in force.
    pub fn set_secrets(&self, secrets: Vec<VerifyingKey>) {
        let mut held = self.held();
        let kids = |keys: &[VerifyingKey]| keys.iter().map(|key| key.kid().to_owned()).collect::<Vec<_>>();
        if kids(&held.secrets) != kids(&secrets) {
            held.secrets = secrets;
            held.put_in_force();
        }
    }

    /// The kid of a token whose key is unknown, if it is worth reading the set for it: there is a set, it has not just
    /// been read, and the kid was not found missing before.
    pub fn worth_fetching(&self, token: &str) -> Option<String> {
        self.source.as_ref()?;
        let rested = monotonic_ms().saturating_sub(self.read_ms.load(Ordering::Acquire)) >= COOLDOWN.as_millis() as u64;
        if !rested && !self.busy.load(Ordering::Acquire) {
            return None;
        }
        let kid = unverified_kid(token)?;
        (!self.unknown.contains_key(&kid)).then_some(kid)
    }

    /// Reads the set, unless somebody just did, and remembers if `kid` is not in it.
    pub async fn fetch_for(&self, kid: String) {
        let asked_ms = monotonic_ms();
        let _one_at_a_time = self.reading.lock().await;
        let read_ms = self.read_ms.load(Ordering::Acquire);
        if read_ms < asked_ms && monotonic_ms().saturating_sub(read_ms) >= COOLDOWN.as_millis() as u64 {
            self.read_now().await;
        }
        if !self.held().ring().knows(&kid) {
            self.unknown.insert(kid, ());
        }
    }

    /// Reads the set now and then, and at once when `again` changes. Never returns.
    pub async fn keep_reading(&self, mut again: tokio::sync::watch::Receiver<u64>) {
        let mut retry = RETRY;
        loop {
            let read = {
                let _one_at_a_time = self.reading.lock().await;
                self.read_now().await
            };
            retry = if read { RETRY } else { (retry * 2).min(self.refresh) };
            let pause = if read { self.refresh } else { retry };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = again.changed() => if changed.is_err() { std::future::pending().await },
            }
        }
    }

    async fn read_now(&self) -> bool {
        self.busy.store(true, Ordering::Release);
        let read = self.read().await;
        self.read_ms.store(monotonic_ms(), Ordering::Release);
        self.busy.store(false, Ordering::Release);
        self.metrics.jwks_read(read.is_ok());
        match read {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, held = self.count(), "cannot read the public keys; those held stay in force");
                false
            }
        }
    }

    async fn read(&self) -> Result<(), ReadError> {
        let document = match &self.source {
            None => return Ok(()),
            Some(JwksSource::File(path)) => read_file(path).await?,
            Some(JwksSource::Url(url)) => jwks_http::fetch(url).await?,
        };
        let public = jwks::parse(&document)?.keys().to_vec();
        let mut held = self.held();
        if held.document != document {
            let kids: Vec<_> = public.iter().map(VerifyingKey::kid).collect();
            tracing::info!(?kids, "public keys read");
            held.public = public;
            held.document = document;
            held.put_in_force();
        }
        Ok(())
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_file(path: &Path) -> Result<Vec<u8>, ReadError> {
    use tokio::io::AsyncReadExt as _;
    let mut document = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    // One more than is taken, so that a larger file is seen to be one.
    file.take(jwks::JWKS_BYTES_MAX as u64 + 1).read_to_end(&mut document).await?;
    Ok(document)
}
