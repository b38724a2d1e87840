//! Everything a request needs, in one place: the checker, the routes, the time, the keys, the counters.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use sidegate_common::index::Index;
use sidegate_common::secret::LiveSecret;
use sidegate_common::time::{Instants, UnixTime};
use sidegate_common::token::Rejection;
use sidegate_common::verdict::{Freshness, Judge, Moment, Unknown};
use sidegate_runtime::clock::{instants, monotonic_ms};
use sidegate_runtime::trace;

use crate::config::Config;
use crate::domain::check::{Checked, Checker};
use crate::domain::decide::{Decision, Denial, Presented, decide};
use crate::domain::refusals::{self, Finding, Refusals};
use crate::domain::routes::{Access, Requirement, Routes};
use crate::domain::timekeeper::Timekeeper;
use crate::keys::{KeyLookup, Keys};
use crate::list::List;
use crate::metrics::Metrics;
use crate::wire::answer::Identity;

/// What all listeners share.
#[derive(Debug)]
pub struct Gate {
    /// In force once the feed has said how many partitions there are; until then `nobody` answers.
    held: OnceLock<Held>,
    nobody: Checker<Identity>,
    any_token: Access,
    routes: Option<RwLock<Arc<Routes>>>,
    time: Timekeeper,
    keys: Arc<Keys>,
    metrics: Arc<Metrics>,
    refusals: Refusals,
    token_cookie: Option<String>,
    introspect_token: LiveSecret,
    cache_entries: usize,
}

/// What answers once the list is there.
#[derive(Debug)]
struct Held {
    checker: Checker<Identity>,
    list: Arc<List>,
}

impl Gate {
    /// A gate that cannot judge yet.
    pub fn new(config: &Config, routes: Option<Routes>, keys: Arc<Keys>, metrics: Arc<Metrics>) -> Self {
        let (index, freshness) = (Arc::new(Index::new(1)), Arc::new(Freshness::new(1)));
        let nobody = Judge::new(config.policy.clone(), config.staleness, index, freshness);
        Self {
            held: OnceLock::new(),
            nobody: Checker::new(Arc::new(nobody), 0, Identity::of),
            any_token: Access::Token(Requirement::default()),
            routes: routes.map(|routes| RwLock::new(Arc::new(routes))),
            time: Timekeeper::new(instants()),
            keys,
            metrics,
            refusals: Refusals::default(),
            token_cookie: config.token_cookie.clone(),
            introspect_token: LiveSecret::new(config.introspect_token.clone()),
            cache_entries: config.token_cache_entries,
        }
    }

    /// Puts a list and its judge in force, with the keys known now and all that come. Only the first one counts.
    pub fn install(&self, list: Arc<List>) {
        let judge = Arc::clone(list.judge());
        self.keys.serve(Arc::clone(&list));
        let _only_the_first =
            self.held.set(Held { checker: Checker::new(judge, self.cache_entries, Identity::of), list });
    }

    fn checker(&self) -> &Checker<Identity> {
        self.held.get().map_or(&self.nobody, |held| &held.checker)
    }

    /// The list, once it is there.
    pub fn list(&self) -> Option<&Arc<List>> {
        self.held.get().map(|held| &held.list)
    }

    /// The judge in force.
    pub fn judge(&self) -> &Arc<Judge> {
        self.checker().judge()
    }

    /// The moment it is now.
    pub fn moment(&self) -> Moment {
        self.time.moment(monotonic_ms(), instants)
    }

    /// Takes the store's time ([`Timekeeper::confirm`]).
    pub fn confirm_time(&self, store: UnixTime, now: Instants, before_lowering: impl FnOnce()) -> u64 {
        self.time.confirm(store, now, before_lowering)
    }

    /// Does something only if the time has gone back just so often ([`Timekeeper::while_lowered`]).
    pub fn while_lowered(&self, lowered: u64, act: impl FnOnce()) {
        self.time.while_lowered(lowered, act);
    }

    /// Drops what has expired, by a time that does not go back meanwhile.
    pub fn sweep(&self, drop_expired: impl FnOnce(Moment)) {
        self.time.sweep(|| drop_expired(self.moment()));
    }

    /// Whether any token could be judged good.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn ready(&self) -> Result<Option<u64>, Unknown> {
        self.judge().ready(self.moment())
    }

    /// Decides on a request whose route is not known.
    pub fn decide(&self, presented: Presented<'_>, also: Option<&Requirement>) -> Decision<Identity> {
        decide(self.checker(), presented, &self.any_token, also, self.moment())
    }

    /// Decides on a request to a route. Without a routes file every route needs a good token.
    pub fn decide_route(
        &self,
        presented: Presented<'_>,
        method: &str,
        target: &[u8],
        also: Option<&Requirement>,
    ) -> Decision<Identity> {
        let Some(routes) = &self.routes else { return self.decide(presented, also) };
        let routes = Arc::clone(&routes.read().unwrap_or_else(PoisonError::into_inner));
        let (access, _) = routes.access(method, target);
        decide(self.checker(), presented, access, also, self.moment())
    }

    /// Checks a token; if its key is unknown and might be new, after looking for new keys.
    pub async fn check_waiting(&self, token: &str) -> Checked<Identity> {
        let checked = self.check_with_key(token).await;
        if let Checked::Denied(rejection) = &checked {
            self.refused(*rejection, token);
        }
        checked
    }

    /// Counts a refused token by its reason, for [`Gate::look_at_refusals`].
    fn refused(&self, rejection: Rejection, token: &str) {
        let Some(reason) = refusals::reason(rejection) else { return };
        self.metrics.refused(reason);
        let difference = || {
            let kids: Vec<String> = self.judge().keys().keys().iter().map(|key| key.kid().to_owned()).collect();
            refusals::difference(rejection, token, self.judge().policy(), &kids, self.moment().now)
        };
        self.refusals.note(reason, monotonic_ms(), || self.metrics.good(), difference);
    }

    /// The same for a decision.
    pub fn note_refusal(&self, decision: &Decision<Identity>, presented: Presented<'_>) {
        if let (Decision::Deny(Denial::Token(rejection)), Presented::Token(token)) = (decision, presented) {
            self.refused(*rejection, token);
        }
    }

    /// Logs it if all tokens of the last minute were refused alike.
    pub fn look_at_refusals(&self) {
        match self.refusals.look(monotonic_ms(), self.metrics.good()) {
            None => {}
            Some(Finding::AllAlike(reason, difference, tokens)) => {
                let refusals::Difference { setting, ours, theirs } = difference;
                tracing::warn!(
                    reason,
                    setting,
                    ours,
                    theirs,
                    tokens,
                    "every token of the last minute was refused alike: issuer and verifier seem to differ"
                );
            }
            Some(Finding::Over) => tracing::info!("tokens are accepted again"),
        }
    }

    async fn check_with_key(&self, token: &str) -> Checked<Identity> {
        let checked = self.checker().check(token, self.moment());
        if !matches!(checked, Checked::Denied(Rejection::UnknownKey)) {
            return checked;
        }
        let found = match self.keys.look_up(token) {
            KeyLookup::Due(kid) => self.keys.fetch_for(kid).await,
            found => found,
        };
        match found {
            KeyLookup::Held => self.checker().check(token, self.moment()),
            KeyLookup::Failed => Checked::CannotJudge(Unknown::KeyLookupFailed),
            KeyLookup::Absent | KeyLookup::Due(_) => checked,
        }
    }

    /// What is known of the key that a request was denied for, if it was denied because no key held has its name.
    pub fn missing_key(&self, decision: &Decision<Identity>, presented: Presented<'_>) -> Option<KeyLookup> {
        match (decision, presented) {
            (Decision::Deny(Denial::Token(Rejection::UnknownKey)), Presented::Token(token)) => {
                Some(self.keys.look_up(token))
            }
            _ => None,
        }
    }

    /// The decision on a request whose token's key was unknown: made `again` if the key is held now.
    pub async fn with_key(&self, found: KeyLookup, again: impl FnOnce() -> Decision<Identity>) -> Decision<Identity> {
        let found = match found {
            KeyLookup::Due(kid) => self.keys.fetch_for(kid).await,
            found => found,
        };
        match found {
            KeyLookup::Held => again(),
            KeyLookup::Failed => Decision::CannotJudge(Unknown::KeyLookupFailed),
            KeyLookup::Absent | KeyLookup::Due(_) => Decision::Deny(Denial::Token(Rejection::UnknownKey)),
        }
    }

    /// Drops expired tokens from the memory of those verified.
    pub fn expire_tokens(&self) {
        self.checker().expire(self.moment().now);
    }

    /// True if there is a routes file.
    pub const fn has_routes(&self) -> bool {
        self.routes.is_some()
    }

    /// Puts other routes in force.
    pub fn set_routes(&self, routes: Routes) {
        if let Some(held) = &self.routes {
            *held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
        }
    }

    /// The keys.
    pub const fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Counts an answer, and tells the request's span, where there is one.
    pub fn answered(&self, interface: &'static str, outcome: &'static str) {
        self.metrics.count(interface, outcome);
        trace::outcome(outcome);
    }

    /// The counters.
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// `TOKEN_COOKIE`.
    pub fn token_cookie(&self) -> Option<&str> {
        self.token_cookie.as_deref()
    }

    /// `INTROSPECT_TOKEN`.
    pub const fn introspect_token(&self) -> &LiveSecret {
        &self.introspect_token
    }

    /// The shared-memory segment that readers should use, 0 if there is none.
    pub fn segment(&self) -> u64 {
        self.list().map_or(0, |list| list.segment())
    }

    /// Changes whenever clients must ask again about tokens they hold to be good.
    pub fn key_epoch(&self) -> u64 {
        self.judge().key_epoch()
    }
}
