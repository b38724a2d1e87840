//! An issuer without sockets: all service methods over a store and users in memory, with the real
//! password pool at the lowest cost.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use sidegate_common::claims::Claims;
use sidegate_common::clock::CheckTime;
use sidegate_common::key::{KeyRing, SigningKey};
use sidegate_common::revocation::{Id, SubjectTag, Target};
use sidegate_common::revocation_state::{OnStale, RevocationState, Staleness};
use sidegate_common::secret::Secret;
use sidegate_common::sync::Sink as _;
use sidegate_common::time::ClockReading;
use sidegate_common::token::{Policy, Rejection, unverified_claims};
use sidegate_common::token_checker::{TokenChecker, TokenError};
use tokio::sync::mpsc;

use super::faulty::{Faults, Faulty};
use super::memory_store::{MemoryStore, TestClock};
use crate::domain::login::{Credentials, LoginError};
use crate::domain::password::COST_MIN;
use crate::domain::refresh_token::RefreshKeys;
use crate::domain::revoke_foreign::KnownIssuers;
use crate::domain::session::{Session, TokenLifetimes};
use crate::domain::token_signer::{Issuing, TokenSigner};
use crate::domain::traits::{Account, DependencyUnavailable, Lookup, Store as _, Users};
use crate::domain::{Auth, ClientInfo, TokenPair};
use crate::password::{PasswordPool, PoolSettings, Rehashed};

pub const LIFETIMES: TokenLifetimes =
    TokenLifetimes { access_ttl: 600, idle_ttl: 3600, absolute_ttl: 7200, retry_window: 30, lifetime_max: 86_400 };
pub const PASSWORD: &str = "correct horse battery staple";
/// The user of most tests: id 1.
pub const ADA: &str = "ada@example.org";
/// A second user: id 2.
pub const BOB: &str = "bob@example.org";

/// Users in memory, by email.
#[derive(Default)]
pub struct MemoryUsers(Mutex<Vec<Row>>);

struct Row {
    id: &'static str,
    email: &'static str,
    account: Account,
}

impl MemoryUsers {
    fn locked(&self) -> MutexGuard<'_, Vec<Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, id: &'static str, email: &'static str, change: impl FnOnce(&mut Account)) {
        static HASH: LazyLock<String> = LazyLock::new(|| bcrypt::hash(PASSWORD, COST_MIN).unwrap());
        let mut account = Account {
            id: id.to_owned(),
            password_hash: Some(HASH.clone()),
            active: true,
            scope: Some("read write".to_owned()),
        };
        change(&mut account);
        self.locked().push(Row { id, email, account });
    }

    pub fn change(&self, id: &str, change: impl FnOnce(&mut Account)) {
        change(&mut self.locked().iter_mut().find(|row| row.id == id).unwrap().account);
    }

    pub fn remove(&self, id: &str) {
        self.locked().retain(|row| row.id != id);
    }
}

impl Users for MemoryUsers {
    async fn find_by_email(&self, email: &str) -> Result<Lookup, DependencyUnavailable> {
        let rows = self.locked();
        let mut found = rows.iter().filter(|row| row.email == email);
        Ok(match (found.next(), found.next()) {
            (None, _) => Lookup::NotFound,
            (Some(row), None) => Lookup::One(row.account.clone()),
            (Some(_), Some(_)) => Lookup::Several,
        })
    }

    async fn read(&self, id: &str) -> Result<Option<Account>, DependencyUnavailable> {
        Ok(self.locked().iter().find(|row| row.id == id).map(|row| row.account.clone()))
    }

    async fn rehash(&self, id: &str, old: &str, new: &str) -> Result<(), DependencyUnavailable> {
        let mut rows = self.locked();
        let row = rows.iter_mut().find(|row| row.id == id && row.account.password_hash.as_deref() == Some(old));
        if let Some(row) = row {
            row.account.password_hash = Some(new.to_owned());
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), DependencyUnavailable> {
        Ok(())
    }
}

pub type TestAuth = Auth<Faulty<MemoryUsers>, Faulty<MemoryStore>, Faulty<PasswordPool>>;

/// The issuer, and the controls that tests use.
pub struct World {
    pub auth: Arc<TestAuth>,
    pub clock: TestClock,
    pub faults: Faults,
    /// New hashes from the pool.
    pub rehashed: mpsc::Receiver<Rehashed>,
}

/// Settings that a test may change.
pub struct Setup {
    pub partitions: u16,
    pub sessions_max: usize,
    pub cost: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Self { partitions: 4, sessions_max: 100, cost: COST_MIN }
    }
}

pub fn refresh_keys(secret: &str) -> RefreshKeys {
    RefreshKeys::new(&Secret::new(secret), &[]).unwrap()
}

impl World {
    pub fn new() -> Self {
        Self::with(&Setup::default())
    }

    pub fn with(setup: &Setup) -> Self {
        let (clock, faults) = (TestClock::default(), Faults::default());
        let users = MemoryUsers::default();
        users.add("1", ADA, |_| {});
        users.add("2", BOB, |_| {});
        let pool =
            PoolSettings { threads: 1, queue_max: 64, cost: setup.cost, rehash: true, truncate: false, argon2: false };
        let (passwords, rehashed) = PasswordPool::start(pool).unwrap();
        let key = SigningKey::hs256(&Secret::new("a secret of these tests, of more than thirty-two bytes")).unwrap();
        let issuing = Issuing {
            issuer: "sidegate".to_owned(),
            audience: "sidegate".to_owned(),
            client_id: "sidegate".to_owned(),
            access_ttl: LIFETIMES.access_ttl,
        };
        let store = MemoryStore::new(clock.clone(), LIFETIMES, setup.partitions, setup.sessions_max);
        let world = Self {
            auth: Arc::new(Auth {
                users: Faulty::new(users, &faults),
                store: Faulty::new(store, &faults),
                passwords: Faulty::new(passwords, &faults),
                tokens: token_checker(setup.partitions, clock.ms(), &key),
                signer: TokenSigner::new(issuing, key),
                refresh_keys: refresh_keys("a session secret of these tests, of more than 32 bytes"),
                issuers: KnownIssuers::default(),
            }),
            clock,
            faults,
            rehashed,
        };
        world.feed();
        world
    }

    pub fn store(&self) -> &MemoryStore {
        &self.auth.store.inner
    }

    pub fn users(&self) -> &MemoryUsers {
        &self.auth.users.inner
    }

    pub fn at(&self) -> CheckTime {
        CheckTime { now: self.clock.now(), monotonic_ms: self.clock.ms() }
    }

    /// Completes the issuer's own feed: its list of revocations is complete as of now.
    pub fn feed(&self) {
        let state = self.auth.tokens.state();
        for partition in 0..self.store().partitions() {
            for (_, revocation) in self.store().log(partition) {
                state.apply(partition, &revocation);
            }
            state.fresh(partition, readings(self.clock.ms()), 0);
        }
    }

    pub async fn login(&self, email: &str) -> TokenPair {
        self.try_login(email, PASSWORD).await.unwrap()
    }

    pub async fn try_login(&self, email: &str, password: &str) -> Result<TokenPair, LoginError> {
        let credentials = Credentials { email: email.to_owned(), password: Secret::new(password) };
        let client = ClientInfo { address: "192.0.2.7".to_owned(), agent: "a browser".to_owned() };
        self.auth.login(&credentials, &client).await
    }

    /// The rejection of an access token once the feed is current; `None` if it is valid.
    pub fn denied(&self, access_token: &str) -> Option<Rejection> {
        self.feed();
        match self.auth.tokens.check(access_token, self.at()) {
            Ok(_) => None,
            Err(TokenError::Rejected(rejection)) => Some(rejection),
            Err(TokenError::Unavailable(why)) => panic!("{why}"),
        }
    }

    /// The record of a session.
    pub fn session(&self, pair: &TokenPair) -> Option<Session> {
        self.store().session(&pair.sub, &sid(pair))
    }
}

/// Both clocks of a test read the same time.
const fn readings(ms: u64) -> ClockReading {
    ClockReading { wall_ms: ms, monotonic_ms: ms }
}

fn token_checker(partitions: u16, now_ms: u64, key: &SigningKey) -> TokenChecker {
    let policy = Policy {
        issuer: "sidegate".to_owned(),
        audiences: vec!["sidegate".to_owned()],
        leeway_seconds: 5,
        lifetime_max_seconds: LIFETIMES.lifetime_max,
    };
    let staleness = Staleness { max_ms: 30_000, policy: OnStale::Deny };
    let state = RevocationState::new(staleness, readings(now_ms), None);
    state.begin(partitions);
    let tokens = TokenChecker::new(policy, Arc::new(state));
    tokens.set_keys(KeyRing::new(vec![key.verifying().clone()]).unwrap());
    tokens
}

pub fn sid(pair: &TokenPair) -> Id {
    Id::parse(&pair.sid).unwrap()
}

pub fn claims(pair: &TokenPair) -> Claims {
    unverified_claims(&pair.access_token).unwrap()
}

/// The log entry of this session's end.
pub fn ended(pair: &TokenPair) -> Target {
    Target::Session { sid: sid(pair), subject: Some(SubjectTag::of(&pair.sub)) }
}
