//! One request: its token, its route, and what becomes of it.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

use serde::Deserialize;
use sidegate_client::{Denied, Verified, WatchGuard, bearer};
use sidegate_common::claims::Audience;
use sidegate_common::identity_headers::{ABSENT, NAMES, spells_identity};
use sidegate_common::path::canonical;
use sidegate_common::routes::{Access, Requirement};

use crate::abi::check_threads::{Checked, Ticket};
use crate::abi::config::{FilterConfig, RouteConfig};
use crate::abi::{Counter, RequestStatus, Stream};
use crate::answer::Answer;
use crate::hook::{Hook, inject, take_panics};

/// The filter of one request. Envoy may call a hook from within a callback, so nothing is borrowed
/// mutably while one runs.
#[derive(Debug)]
pub struct Filter {
    config: Arc<FilterConfig>,
    /// While the daemon is asked.
    waiting: RefCell<Option<(Ticket, Access)>>,
    /// While it is open with an identity: what has it cut when its token ends.
    open: RefCell<Option<(Ticket, WatchGuard)>>,
    /// Its response has begun.
    responded: Cell<bool>,
    panic_in: Cell<Option<Hook>>,
}

impl Filter {
    /// A filter for a new request.
    pub fn new(config: Arc<FilterConfig>) -> Self {
        inject(config.panic_in, Hook::FilterNew);
        let panic_in = Cell::new(config.panic_in);
        Self { config, waiting: RefCell::default(), open: RefCell::default(), responded: Cell::new(false), panic_in }
    }

    /// The request's headers are complete.
    pub fn request_headers(&self, stream: &mut Stream) -> RequestStatus {
        let panics = take_panics();
        if panics > 0 {
            stream.count(&self.config.counters, Counter::Panics, panics);
        }
        let route = stream.route_config();
        if let Some(route) = &route {
            self.panic_in.set(route.panic_in.or(self.config.panic_in));
        }
        inject(self.panic_in.get(), Hook::RequestHeaders);
        remove_identity(stream);
        let access = access(&self.config, route.as_deref(), stream);
        let checked = match bearer(stream.values("authorization")) {
            Err(denied) => Err(denied),
            Ok(token) => match self.config.checks.try_cached(token) {
                Some(checked) => checked,
                None => match self.ask(stream, token, &access) {
                    Ok(()) => return RequestStatus::Wait,
                    Err(denied) => Err(denied),
                },
            },
        };
        self.finish(stream, &access, checked, None)
    }

    /// Has the daemon asked; [`Filter::scheduled`] gets the result.
    fn ask(&self, stream: &Stream, token: &str, access: &Access) -> Result<(), Denied> {
        stream.count(&self.config.counters, Counter::Asked, 1);
        let ticket = Ticket::new(stream.scheduler());
        self.config.checks.submit(token, ticket.clone())?;
        self.waiting.replace(Some((ticket, access.clone())));
        Ok(())
    }

    /// The response begins.
    pub fn response_headers(&self) {
        if !self.responded.replace(true) {
            inject(self.panic_in.get(), Hook::ResponseHeaders);
        }
    }

    /// The daemon has answered, or the token of an open request has ended.
    pub fn scheduled(&self, stream: &mut Stream) {
        inject(self.panic_in.get(), Hook::Scheduled);
        let Some((ticket, access)) = self.waiting.take() else { return self.cut_if_ended(stream) };
        let Some(checked) = ticket.take() else {
            return stream.respond(&Answer::internal());
        };
        if self.finish(stream, &access, checked, Some(ticket)) == RequestStatus::Continue {
            stream.resume();
        }
    }

    fn cut_if_ended(&self, stream: &mut Stream) {
        let Some(why) = self.open.borrow().as_ref().and_then(|(ticket, _)| ticket.ended()) else { return };
        stream.count(&self.config.counters, Counter::Ended, 1);
        let answer = Answer::denied(&why);
        if self.responded.get() { stream.reset(answer.code) } else { stream.respond(&answer) }
    }

    /// The request has ended.
    pub fn destroyed(&self) {
        if let Some((ticket, guard)) = self.open.take() {
            drop(guard);
            ticket.cancel();
        }
        if let Some((ticket, _)) = self.waiting.take() {
            ticket.cancel();
        }
        inject(self.panic_in.get(), Hook::FilterDestroy);
    }

    /// Lets the request pass with its identity, or answers it.
    fn finish(&self, stream: &mut Stream, access: &Access, checked: Checked, ticket: Option<Ticket>) -> RequestStatus {
        let refusal = match (access, &checked) {
            (Access::Public, Ok(_)) => None,
            (Access::Public, Err(_)) => {
                NAMES.iter().for_each(|name| stream.set(name, ABSENT));
                stream.count(&self.config.counters, Counter::Public, 1);
                return RequestStatus::Continue;
            }
            (Access::Token(requirement), Ok(verified)) => unmet(requirement, verified),
            (Access::Token(_), Err(denied)) => Some(Answer::denied(denied)),
        };
        match (refusal, &checked) {
            (None, Ok(verified)) => {
                set_identity(stream, verified);
                let ticket = ticket.unwrap_or_else(|| Ticket::new(stream.scheduler()));
                let guard = self.config.checks.watch(verified, ticket.clone());
                self.open.replace(guard.map(|guard| (ticket, guard)));
                stream.count(&self.config.counters, Counter::Allowed, 1);
                RequestStatus::Continue
            }
            (refusal, _) => {
                let answer = refusal.unwrap_or_else(Answer::internal);
                let counter = if answer.status == 503 { Counter::Unavailable } else { Counter::Denied };
                stream.count(&self.config.counters, counter, 1);
                stream.respond(&answer);
                RequestStatus::Stop
            }
        }
    }
}

/// What the request needs. A path that two programs could read differently is never public.
fn access<'a>(config: &'a FilterConfig, route: Option<&'a RouteConfig>, stream: &Stream) -> Cow<'a, Access> {
    const PROTECTED: Access = Access::Token(Requirement { scope: String::new(), audiences: Vec::new() });
    let target = || stream.value(":path").unwrap_or_default();
    match (route, &config.routes) {
        (Some(route), _) if route.access == Access::Public && canonical(target()).is_err() => Cow::Owned(PROTECTED),
        (Some(route), _) => Cow::Borrowed(&route.access),
        (None, Some(routes)) => {
            let method = stream.value(":method").and_then(|method| std::str::from_utf8(method).ok());
            Cow::Borrowed(routes.access(method.unwrap_or_default(), target()).0)
        }
        (None, None) => Cow::Owned(PROTECTED),
    }
}

/// Removes what the client says of its identity, in every spelling.
fn remove_identity(stream: &mut Stream) {
    let spelled: Vec<Vec<u8>> =
        stream.names().into_iter().filter(|name| spells_identity(name)).map(<[u8]>::to_vec).collect();
    spelled.iter().for_each(|name| stream.remove(name));
}

fn set_identity(stream: &mut Stream, verified: &Verified) {
    let (scope, expires) = (verified.scope(), verified.expires_at().to_string());
    let values = [
        verified.subject(),
        verified.session(),
        verified.token_id(),
        verified.client_id(),
        if scope.is_empty() { ABSENT } else { scope },
        &expires,
        verified.issuer_name(),
    ];
    NAMES.iter().zip(values).for_each(|(name, value)| stream.set(name, value));
}

fn unmet(requirement: &Requirement, verified: &Verified) -> Option<Answer> {
    #[derive(Deserialize)]
    struct Audiences {
        aud: Audience,
    }
    let names = |audience: &str| {
        let claims: Result<Audiences, _> = serde_json::from_str(verified.claims_json());
        claims.is_ok_and(|claims| claims.aud.names(audience))
    };
    let shortfall = requirement.met_by(Some(verified.scope()), names).err()?;
    Some(Answer::unmet(requirement, shortfall))
}
