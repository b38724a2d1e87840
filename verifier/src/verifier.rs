//! The verifier's core: one entry point for every interface, from a request to a verdict.

use std::cell::LazyCell;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sidegate_common::clock::CheckTime;
use sidegate_common::foreign::issuer::ForeignIssuer;
use sidegate_common::foreign::set::ForeignIssuers;
use sidegate_common::revocation_state::{Observer, RevocationState, Unavailable};
use sidegate_common::secret::LiveSecret;
use sidegate_common::time::LEEWAY_MAX_SECONDS;
use sidegate_common::token::Rejection;
use sidegate_common::token_checker::{GoodToken, TokenChecker, TokenError};
use sidegate_runtime::clock::{monotonic_ms, reading};
use sidegate_runtime::fault_log::FaultLog;
use sidegate_runtime::trace;
use sidegate_shm::attach::SegmentOffer;

use crate::config::{Config, ConfiguredIssuer};
use crate::domain::refusals::{self, RefusalTrend, Refusals};
use crate::domain::request::{CheckRequest, Denial, Presented};
use crate::keys::{KeyLookup, Keys};
use crate::metrics::Metrics;
use crate::segment::SharedSegment;
use crate::token_cache::{CachedToken, TokenCache};
use sidegate_common::routes::{Access, Routes};

/// The verdict on a request.
#[derive(Debug)]
pub enum Verdict {
    /// Allowed, with the token's identity.
    Allow(GoodToken, Arc<CachedToken>),
    /// Allowed without an identity.
    Public,
    /// Denied.
    Deny(Denial),
    /// Cannot be checked now.
    Unavailable(Unavailable),
}

/// A key that must be looked up before the token can be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingKey {
    kid: Option<String>,
    /// The `iss` of the issuer whose key it is; `None` for the home issuer.
    iss: Option<String>,
}

/// The state that all listeners share.
#[derive(Debug)]
pub struct Verifier {
    tokens: Arc<TokenChecker>,
    cache: TokenCache,
    segment: Option<Arc<SharedSegment>>,
    routes: Option<RwLock<Arc<Routes>>>,
    keys: Keys,
    issuer_keys: RwLock<Vec<Arc<Keys>>>,
    has_home: bool,
    jwks_refresh: Duration,
    metrics: Arc<Metrics>,
    refusals: Refusals,
    older_than_log: FaultLog,
    token_cookie: Option<String>,
    introspect_token: LiveSecret,
}

impl Verifier {
    /// A verifier without revocations yet; its segment, if configured, is offered at once.
    pub fn new(
        config: &Config,
        routes: Option<Routes>,
        metrics: Arc<Metrics>,
        offer: Option<Arc<SegmentOffer>>,
    ) -> Self {
        let segment = offer.and_then(|offer| {
            let made = SharedSegment::new(offer);
            made.inspect_err(|error| tracing::error!(%error, "creating the shared memory segment failed; clients check every token over the socket"))
                .ok()
                .map(Arc::new)
        });
        let observer = segment.clone().map(|segment| segment as Arc<dyn Observer>);
        let state = Arc::new(RevocationState::new(config.staleness, reading(), observer));
        let tokens = Arc::new(TokenChecker::new(config.policy.clone(), state));
        let verifier = Self {
            tokens: Arc::clone(&tokens),
            cache: TokenCache::new(config.token_cache_entries),
            segment,
            routes: routes.map(|routes| RwLock::new(Arc::new(routes))),
            keys: Keys::new(config.keys.clone(), tokens, Arc::clone(&metrics)),
            issuer_keys: RwLock::default(),
            has_home: config.keys.is_given(),
            jwks_refresh: config.keys.refresh,
            metrics,
            refusals: Refusals::default(),
            older_than_log: FaultLog::new(),
            token_cookie: config.token_cookie.clone(),
            introspect_token: LiveSecret::new(config.introspect_token.clone()),
        };
        if let Some(issuers) = &config.issuers {
            verifier.set_issuers(&issuers.issuers);
        }
        verifier
    }

    /// Replaces the issuers of `ISSUERS_FILE`. One whose entry is unchanged keeps its keys.
    pub fn set_issuers(&self, configured: &[ConfiguredIssuer]) {
        let mut held = self.issuer_keys.write().unwrap_or_else(PoisonError::into_inner);
        let same = |keys: &Keys, new: &ConfiguredIssuer| {
            keys.issuer().is_some_and(|issuer| *issuer.entry() == new.entry) && keys.has_secret(new.secret.as_ref())
        };
        let make = |new: &ConfiguredIssuer| {
            let issuer = Arc::new(ForeignIssuer::new(new.entry.clone()));
            let (tokens, metrics) = (Arc::clone(&self.tokens), Arc::clone(&self.metrics));
            Arc::new(Keys::of_issuer(issuer, new.secret.clone(), self.jwks_refresh, tokens, metrics))
        };
        let next: Vec<Arc<Keys>> = configured
            .iter()
            .map(|new| held.iter().find(|keys| same(keys, new)).map_or_else(|| make(new), Arc::clone))
            .collect();
        let unchanged = next.len() == held.len() && next.iter().zip(&*held).all(|(new, old)| Arc::ptr_eq(new, old));
        if unchanged && self.state().foreign().is_some() {
            return;
        }
        *held = next;
        configured.iter().for_each(|issuer| self.metrics.issuer_known(&issuer.entry.name));
        let issuers = held.iter().filter_map(|keys| keys.issuer().map(Arc::clone)).collect();
        self.state().set_foreign(Arc::new(ForeignIssuers::new(issuers, self.has_home)));
    }

    /// The keys of the issuers of `ISSUERS_FILE`.
    pub fn issuer_keys(&self) -> Vec<Arc<Keys>> {
        self.issuer_keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys of the issuer with this `iss`, if it still is one of `ISSUERS_FILE`.
    fn keys_of(&self, iss: &str) -> Option<Arc<Keys>> {
        let named = |keys: &&Arc<Keys>| keys.issuer().is_some_and(|issuer| issuer.entry().iss == iss);
        self.issuer_keys.read().unwrap_or_else(PoisonError::into_inner).iter().find(named).map(Arc::clone)
    }

    /// The token checker.
    pub fn tokens(&self) -> &TokenChecker {
        &self.tokens
    }

    /// The revocations.
    pub fn state(&self) -> &Arc<RevocationState> {
        self.tokens.state()
    }

    /// The shared-memory segment, if there is one.
    pub const fn segment(&self) -> Option<&Arc<SharedSegment>> {
        self.segment.as_ref()
    }

    /// The current time for checks.
    pub fn check_time(&self) -> CheckTime {
        self.state().clock().check_time(monotonic_ms(), reading)
    }

    /// Whether any token could pass.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<Option<u64>, Unavailable> {
        self.tokens.ensure_ready(self.check_time())
    }

    /// Checks a request: the entry point of every interface. A key that might be new is fetched
    /// first.
    pub async fn check(&self, request: &CheckRequest<'_>) -> Verdict {
        let missing = match self.check_at_once(request) {
            Ok(verdict) => return verdict,
            Err(missing) => missing,
        };
        let found = match missing.iss {
            None => self.keys.fetch_for(missing.kid).await,
            Some(iss) => match self.keys_of(&iss) {
                Some(keys) => keys.fetch_for(missing.kid).await,
                None => KeyLookup::Absent,
            },
        };
        let verdict = match found {
            KeyLookup::Held => self.decide(request, self.check_time()),
            KeyLookup::Failed => Verdict::Unavailable(Unavailable::KeyLookupFailed),
            KeyLookup::Absent | KeyLookup::Due(_) => Verdict::Deny(Denial::Token(Rejection::UnknownKey)),
        };
        self.noted(verdict, request, || self.issuer_named_by(request))
    }

    /// The synchronous part of [`Verifier::check`], which nearly always suffices.
    ///
    /// # Errors
    /// The token's key must be looked up first, which may take a while.
    pub fn check_at_once(&self, request: &CheckRequest<'_>) -> Result<Verdict, MissingKey> {
        let mut verdict = self.decide(request, self.check_time());
        // Read from a refused token, and at most once.
        let issuer = LazyCell::new(|| self.issuer_named_by(request));
        if let (Verdict::Deny(Denial::Token(Rejection::UnknownKey)), Presented::Token(token)) =
            (&verdict, request.token)
        {
            let iss = issuer.as_ref().map(|issuer| issuer.entry().iss.as_str());
            let found = match iss {
                None => self.keys.look_up(token),
                Some(iss) => self.keys_of(iss).map_or(KeyLookup::Absent, |keys| keys.look_up(token)),
            };
            match found {
                KeyLookup::Due(kid) => return Err(MissingKey { kid, iss: iss.map(str::to_owned) }),
                KeyLookup::Failed => verdict = Verdict::Unavailable(Unavailable::KeyLookupFailed),
                KeyLookup::Held | KeyLookup::Absent => {}
            }
        }
        Ok(self.noted(verdict, request, || issuer.clone()))
    }

    /// The issuer of `ISSUERS_FILE` that a request's token names, unverified.
    fn issuer_named_by(&self, request: &CheckRequest<'_>) -> Option<Arc<ForeignIssuer>> {
        let Presented::Token(token) = request.token else { return None };
        self.state().foreign()?.of_token(token).map(Arc::clone)
    }

    /// Combines the route's requirement and the token's verdict.
    pub(crate) fn decide(&self, request: &CheckRequest<'_>, at: CheckTime) -> Verdict {
        let routes = self.routes.as_ref().filter(|_| request.target.is_some());
        let routes = routes.map(|routes| Arc::clone(&routes.read().unwrap_or_else(PoisonError::into_inner)));
        let needed = match (&routes, request.target) {
            (Some(routes), Some(target)) => match routes.access(request.method, target).0 {
                Access::Public if request.requirement.is_none() => return self.public(request.token, at),
                Access::Public => None,
                Access::Token(requirement) => Some(requirement),
            },
            _ => None,
        };
        match self.token(request.token, at) {
            Verdict::Allow(good, cached) => {
                let mut needed = needed.into_iter().chain(request.requirement);
                match needed.find_map(|requirement| Denial::unmet(requirement, good.claims())) {
                    Some(denial) => Verdict::Deny(denial),
                    None => Verdict::Allow(good, cached),
                }
            }
            other => other,
        }
    }

    /// Every request may pass; one with a good token passes with its identity.
    fn public(&self, presented: Presented<'_>, at: CheckTime) -> Verdict {
        match self.token(presented, at) {
            Verdict::Allow(good, cached) => Verdict::Allow(good, cached),
            _ => Verdict::Public,
        }
    }

    /// Checks the token alone: from the cache if possible, otherwise completely.
    fn token(&self, presented: Presented<'_>, at: CheckTime) -> Verdict {
        let token = match presented {
            Presented::Nothing => return Verdict::Deny(Denial::Token(Rejection::Missing)),
            Presented::Refused(what) => return Verdict::Deny(Denial::NotOneToken(what)),
            Presented::Token(token) => token,
        };
        // Read before the keys are: a token verified during a change is cached under the old epoch,
        // and so not used.
        let key_epoch = self.key_epoch();
        let cached = self.cache.find(token, key_epoch);
        let checked = match &cached {
            Some(cached) => self.tokens.recheck(cached.verified(), at),
            None => self.tokens.check(token, at),
        };
        match checked {
            Ok(good) => {
                if good.is_foreign() {
                    self.metrics.issuer_token(good.issuer_name(), true);
                }
                let cached = cached.unwrap_or_else(|| self.cache.keep(token, key_epoch, Arc::clone(good.token())));
                Verdict::Allow(good, cached)
            }
            Err(TokenError::Rejected(rejection)) => Verdict::Deny(Denial::Token(rejection)),
            Err(TokenError::Unavailable(why)) => Verdict::Unavailable(why),
        }
    }

    /// Records a rejected token.
    fn noted(
        &self,
        verdict: Verdict,
        request: &CheckRequest<'_>,
        issuer: impl FnOnce() -> Option<Arc<ForeignIssuer>>,
    ) -> Verdict {
        if let (Verdict::Deny(Denial::Token(rejection)), Presented::Token(token)) = (&verdict, request.token) {
            self.refused(*rejection, token, issuer);
        }
        verdict
    }

    /// Counts a rejected token by its reason, for [`Verifier::look_at_refusals`].
    fn refused(&self, rejection: Rejection, token: &str, issuer: impl FnOnce() -> Option<Arc<ForeignIssuer>>) {
        let Some(reason) = refusals::reason(rejection) else { return };
        self.metrics.refused(reason);
        if let Some(issuer) = issuer() {
            let name = &issuer.entry().name;
            if rejection == Rejection::OlderThanLog
                && let Some(repeated) = self.older_than_log.happened(name)
            {
                tracing::warn!(issuer = %name, setting = "enrolled_at", repeated, "refusing tokens that are older than the log of revocations; the issuer's enrolled_at in ISSUERS_FILE does not cover them");
            }
            return self.metrics.issuer_token(name, false);
        }
        let difference = || {
            let kids: Vec<String> = self.tokens.issuer().keys().keys().iter().map(|key| key.kid().to_owned()).collect();
            refusals::difference(rejection, token, self.tokens.issuer().policy(), &kids, self.check_time().now)
        };
        self.refusals.note(reason, monotonic_ms(), || self.metrics.good(), difference);
    }

    /// Logs if all tokens of the last minute were rejected for the same reason.
    pub fn look_at_refusals(&self) {
        match self.refusals.evaluate(monotonic_ms(), self.metrics.good()) {
            None => {}
            Some(RefusalTrend::AllAlike(reason, difference, tokens)) => {
                let refusals::Difference { setting, ours, theirs } = difference;
                tracing::warn!(
                    reason,
                    setting,
                    ours,
                    theirs,
                    tokens,
                    "all tokens of the last minute were refused for the same reason; this setting seems to differ from the issuer's"
                );
            }
            Some(RefusalTrend::Over) => tracing::info!("tokens are accepted again"),
        }
    }

    /// Drops expired revocations, by a time that does not go back meanwhile, and expired cached
    /// tokens.
    pub fn expire(&self) {
        self.state().clock().sweep(|| match &self.segment {
            Some(segment) => segment.expire(&self.tokens, self.check_time()),
            None => drop(self.state().index().expire(self.check_time().now)),
        });
        self.state().look_for_unlisted_claims();
        self.metrics.unlisted_claim(self.state().has_unlisted_claim());
        self.cache.expire(self.check_time().now, LEEWAY_MAX_SECONDS, self.key_epoch());
    }

    /// True if there is a routes file.
    pub const fn has_routes(&self) -> bool {
        self.routes.is_some()
    }

    /// Replaces the routes.
    pub fn set_routes(&self, routes: Routes) {
        if let Some(held) = &self.routes {
            *held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
        }
    }

    /// The keys.
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Counts a response, and sets the outcome of the request's span.
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

    /// The current shared-memory segment; 0 if it is disabled.
    pub fn segment_id(&self) -> u64 {
        self.segment.as_ref().map_or(0, |segment| segment.id())
    }

    /// Changes whenever clients must ask again about tokens they have cached.
    pub fn key_epoch(&self) -> u64 {
        self.state().key_epoch()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, AT};
    use sidegate_common::routes::Requirement;

    const ROUTES: &str = r#"
        [[route]]
        path = "/public"
        access = "public"
        [[route]]
        path = "/read"
        scopes = ["read"]
        [[route]]
        path = "/admin"
        scopes = ["admin"]
    "#;

    fn shown(verdict: Verdict) -> String {
        match verdict {
            Verdict::Public => "public".to_owned(),
            Verdict::Allow(good, _) => good.claims().sub.clone(),
            Verdict::Deny(denial) => denial.code().name().to_owned(),
            Verdict::Unavailable(why) => why.to_string(),
        }
    }

    fn ask(token: Presented<'_>, target: &str, requirement: Option<&Requirement>) -> String {
        let verifier = testing::verifier("deny", Some(ROUTES));
        let request = CheckRequest { token, method: "GET", target: Some(target.as_bytes()), requirement };
        shown(verifier.decide(&request, AT))
    }

    fn needs(scope: &str, audiences: &[&str]) -> Requirement {
        Requirement { scope: scope.into(), audiences: audiences.iter().map(|a| (*a).to_owned()).collect() }
    }

    #[test]
    fn protected_route_needs_one_good_token() {
        let (token, _) = testing::verified("one");
        assert_eq!(ask(Presented::Token(&token), "/any", None), "42");
        assert_eq!(ask(Presented::Nothing, "/any", None), "token_missing");
        assert_eq!(ask(Presented::Refused("x"), "/any", None), "token_invalid");
        assert_eq!(ask(Presented::Token("a.b.c"), "/any", None), "token_invalid");
    }

    #[test]
    fn public_route_reports_a_good_tokens_identity() {
        let (token, _) = testing::verified("one");
        assert_eq!(ask(Presented::Token(&token), "/public", None), "42");
        for presented in [Presented::Nothing, Presented::Refused("x"), Presented::Token("a.b.c")] {
            assert_eq!(ask(presented, "/public", None), "public");
        }
    }

    #[test]
    fn requirements_of_route_and_caller_add_up() {
        let (token, _) = testing::verified("one");
        let with = |target, also: Requirement| ask(Presented::Token(&token), target, Some(&also));
        assert_eq!(ask(Presented::Token(&token), "/read", None), "42");
        assert_eq!(ask(Presented::Token(&token), "/admin", None), "insufficient_scope");
        assert_eq!(with("/read", needs("read", &["elsewhere"])), "token_invalid");
        assert_eq!(with("/read", needs("write", &["sidegate"])), "42");
        assert_eq!(with("/read", needs("admin", &[])), "insufficient_scope");
        assert_eq!(ask(Presented::Nothing, "/public", Some(&needs("", &[]))), "token_missing");
    }

    #[test]
    fn cached_token_is_checked_each_time() {
        let verifier = testing::verifier("deny", None);
        let (token, verified) = testing::verified("one");
        let ask = |at| shown(verifier.decide(&CheckRequest::of_token(&token), at));
        assert_eq!(ask(AT), "42");
        assert!(verifier.cache.find(&token, verifier.key_epoch()).is_some());
        let late = CheckTime { monotonic_ms: AT.monotonic_ms + 1_000_000, ..AT };
        assert!(ask(late).contains("1000 s ago"));
        assert_eq!(ask(CheckTime { now: verified.claims().expires_at().plus(60), ..AT }), "token_expired");
        testing::revoke_session(verifier.tokens(), &verified.claims().sid);
        assert_eq!(ask(AT), "token_revoked");
    }

    #[test]
    fn replaced_keys_void_cached_tokens() {
        let verifier = testing::verifier("deny", None);
        let (token, _) = testing::verified("one");
        let ask = || verifier.check_at_once(&CheckRequest::of_token(&token));
        assert_eq!(shown(verifier.decide(&CheckRequest::of_token(&token), AT)), "42");
        verifier.tokens().set_keys(testing::other_keys());
        let denied = Verdict::Deny(Denial::Token(Rejection::UnknownKey));
        assert_eq!(format!("{:?}", verifier.decide(&CheckRequest::of_token(&token), AT)), format!("{denied:?}"));
        assert!(ask().is_ok(), "there is no set to look for the key in");
    }
}
