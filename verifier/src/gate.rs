//! Everything a request needs, in one place: the checker, the routes, the time, the keys, the counters.

use std::sync::{Arc, PoisonError, RwLock};

use sidegate_common::clock::Moment;
use sidegate_common::revocation_state::{Observer, RevocationState, Unavailable};
use sidegate_common::secret::LiveSecret;
use sidegate_common::token::Rejection;
use sidegate_common::token_checker::TokenChecker;
use sidegate_runtime::clock::{instants, monotonic_ms};
use sidegate_runtime::trace;
use sidegate_shm::attach::Board;

use crate::config::Config;
use crate::domain::check::{Checked, Checker};
use crate::domain::decide::{Decision, Denial, Presented, decide};
use crate::domain::refusals::{self, Finding, Refusals};
use crate::domain::routes::{Access, Requirement, Routes};
use crate::keys::{KeyLookup, Keys};
use crate::metrics::Metrics;
use crate::segment::SharedSegment;
use crate::wire::answer::Identity;

/// What all listeners share.
#[derive(Debug)]
pub struct Gate {
    checker: Checker<Identity>,
    segment: Option<Arc<SharedSegment>>,
    any_token: Access,
    routes: Option<RwLock<Arc<Routes>>>,
    keys: Arc<Keys>,
    metrics: Arc<Metrics>,
    refusals: Refusals,
    token_cookie: Option<String>,
    introspect_token: LiveSecret,
}

impl Gate {
    /// A gate that has not loaded any revocations yet; its segment, if there is a `board`, is on offer at once.
    pub fn new(config: &Config, routes: Option<Routes>, metrics: Arc<Metrics>, board: Option<Arc<Board>>) -> Self {
        let segment = board.and_then(|board| {
            let made = SharedSegment::new(board);
            made.inspect_err(|error| tracing::error!(%error, "no shared memory: every check is asked over the socket"))
                .ok()
                .map(Arc::new)
        });
        let observer = segment.clone().map(|segment| segment as Arc<dyn Observer>);
        let state = Arc::new(RevocationState::new(config.staleness, instants(), observer));
        let tokens = Arc::new(TokenChecker::new(config.policy.clone(), state));
        Self {
            checker: Checker::new(Arc::clone(&tokens), config.token_cache_entries, Identity::of),
            segment,
            any_token: Access::Token(Requirement::default()),
            routes: routes.map(|routes| RwLock::new(Arc::new(routes))),
            keys: Arc::new(Keys::new(config.keys.clone(), tokens, Arc::clone(&metrics))),
            metrics,
            refusals: Refusals::default(),
            token_cookie: config.token_cookie.clone(),
            introspect_token: LiveSecret::new(config.introspect_token.clone()),
        }
    }

    /// Checks tokens alone.
    pub fn tokens(&self) -> &TokenChecker {
        self.checker.tokens()
    }

    /// The revocations held.
    pub fn state(&self) -> &Arc<RevocationState> {
        self.tokens().state()
    }

    /// The shared-memory segment, if there is one.
    pub const fn segment(&self) -> Option<&Arc<SharedSegment>> {
        self.segment.as_ref()
    }

    /// The moment it is now.
    pub fn moment(&self) -> Moment {
        self.state().clock().moment(monotonic_ms(), instants)
    }

    /// Whether any token could be judged good.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn ready(&self) -> Result<Option<u64>, Unavailable> {
        self.tokens().ensure_ready(self.moment())
    }

    /// Decides on a request whose route is not known.
    pub fn decide(&self, presented: Presented<'_>, also: Option<&Requirement>) -> Decision<Identity> {
        decide(&self.checker, presented, &self.any_token, also, self.moment())
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
        decide(&self.checker, presented, access, also, self.moment())
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
            let kids: Vec<String> =
                self.tokens().issuer().keys().keys().iter().map(|key| key.kid().to_owned()).collect();
            refusals::difference(rejection, token, self.tokens().issuer().policy(), &kids, self.moment().now)
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
        let checked = self.checker.check(token, self.moment());
        if !matches!(checked, Checked::Denied(Rejection::UnknownKey)) {
            return checked;
        }
        let found = match self.keys.look_up(token) {
            KeyLookup::Due(kid) => self.keys.fetch_for(kid).await,
            found => found,
        };
        match found {
            KeyLookup::Held => self.checker.check(token, self.moment()),
            KeyLookup::Failed => Checked::CannotJudge(Unavailable::KeyLookupFailed),
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
            KeyLookup::Failed => Decision::CannotJudge(Unavailable::KeyLookupFailed),
            KeyLookup::Absent | KeyLookup::Due(_) => Decision::Deny(Denial::Token(Rejection::UnknownKey)),
        }
    }

    /// Drops what has expired: revocations, by a time that does not go back meanwhile, and tokens verified before.
    pub fn expire(&self) {
        self.state().clock().sweep(|| match &self.segment {
            Some(segment) => segment.expire(self.tokens(), self.moment()),
            None => drop(self.state().index().expire(self.moment().now)),
        });
        self.checker.expire(self.moment().now);
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
    pub fn segment_id(&self) -> u64 {
        self.segment.as_ref().map_or(0, |segment| segment.id())
    }

    /// Changes whenever clients must ask again about tokens they hold to be good.
    pub fn key_epoch(&self) -> u64 {
        self.state().key_epoch()
    }
}
