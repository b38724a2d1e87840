//! The threads that ask the daemon about tokens that are not cached, so that no worker of Envoy
//! waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use sidegate_client::{DaemonError, Denied, Sidegate, Verified, WatchGuard};

use crate::abi::Scheduler;
use crate::hook::note_panic;

/// The result of a check.
pub type Checked = Result<Verified, Denied>;

/// What they are made of; filters with the same settings share them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckThreadsSettings {
    pub socket: PathBuf,
    pub attach: Option<PathBuf>,
    pub timeout: Duration,
    pub threads: usize,
    pub queue: usize,
    pub tokens: usize,
    /// How long an open request is kept whose token cannot be checked; `None` for ever.
    pub grace: Option<Duration>,
}

/// The connection to a daemon, and the queue of its threads, which end with it.
#[derive(Debug)]
pub struct CheckThreads {
    sidegate: Arc<OnceLock<Sidegate>>,
    jobs: SyncSender<Job>,
    timeout: Duration,
}

/// A token to check, and the request that waits for the result.
#[derive(Debug)]
struct Job {
    token: Box<str>,
    deadline: Instant,
    ticket: Ticket,
}

/// What a waiting request shares with the thread that checks its token.
#[derive(Clone, Debug)]
pub struct Ticket(Arc<Mutex<Pending>>);

#[derive(Debug)]
struct Pending {
    /// Removed when the request ends: nothing is scheduled for it after that.
    scheduler: Option<Scheduler>,
    /// `None` after a panic.
    checked: Option<Checked>,
    /// Why its token has ended since.
    ended: Option<Denied>,
}

impl CheckThreads {
    /// The threads with these settings.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn shared(settings: CheckThreadsSettings) -> Result<Arc<Self>, String> {
        static STARTED: Mutex<Vec<(CheckThreadsSettings, Weak<CheckThreads>)>> = Mutex::new(Vec::new());
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        started.retain(|(_, threads)| threads.strong_count() > 0);
        let same = started.iter().find(|(known, _)| *known == settings).and_then(|(_, threads)| threads.upgrade());
        if let Some(threads) = same {
            return Ok(threads);
        }
        let threads = Arc::new(Self::start(&settings)?);
        started.push((settings, Arc::downgrade(&threads)));
        Ok(threads)
    }

    fn start(settings: &CheckThreadsSettings) -> Result<Self, String> {
        let (jobs, waiting) = sync_channel(settings.queue);
        let (sidegate, waiting) = (Arc::new(OnceLock::new()), Arc::new(Mutex::new(waiting)));
        for index in 0..settings.threads {
            let (settings, sidegate, waiting) = (settings.clone(), Arc::clone(&sidegate), Arc::clone(&waiting));
            let thread = std::thread::Builder::new().name(format!("sidegate:{index}"));
            thread
                .spawn(move || run(sidegate.get_or_init(|| connect(settings)), &waiting))
                .map_err(|error| format!("threads: cannot start a thread: {error}"))?;
        }
        Ok(Self { sidegate, jobs, timeout: settings.timeout })
    }

    /// The result, if the daemon is not needed. Never blocks.
    pub fn try_cached(&self, token: &str) -> Option<Checked> {
        self.sidegate.get()?.try_cached(token)
    }

    /// Has `ticket`'s request scheduled when its token ends.
    pub fn watch(&self, token: &Verified, ticket: Ticket) -> Option<WatchGuard> {
        Some(self.sidegate.get()?.watch_with(token, move |why| ticket.end(why)))
    }

    /// Has the token checked by a thread, which then schedules the request.
    ///
    /// # Errors
    /// Too many requests wait already.
    pub fn submit(&self, token: &str, ticket: Ticket) -> Result<(), Denied> {
        let job = Job { token: token.into(), deadline: Instant::now() + self.timeout, ticket };
        self.jobs.try_send(job).map_err(|_| Denied::Unavailable(DaemonError::Timeout))
    }
}

/// On a thread of the module: attaching to shared memory may take a second.
fn connect(settings: CheckThreadsSettings) -> Sidegate {
    let CheckThreadsSettings { socket, attach, timeout, tokens, grace, .. } = settings;
    let builder = Sidegate::builder().socket(socket).timeout(timeout).tokens(tokens).watch_grace(grace);
    match attach {
        Some(attach) => builder.attach_socket(attach),
        None => builder.socket_only(),
    }
    .connect()
}

fn run(sidegate: &Sidegate, waiting: &Mutex<Receiver<Job>>) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { token, deadline, ticket }) = next else { return };
        let check = || {
            // While the daemon hangs, the requests that wait must not wait for each other.
            if Instant::now() >= deadline {
                return Err(Denied::Unavailable(DaemonError::Timeout));
            }
            sidegate.check(&token)
        };
        let checked = catch_unwind(AssertUnwindSafe(check));
        if checked.is_err() {
            note_panic("a check");
        }
        ticket.deliver(checked.ok());
    }
}

impl Ticket {
    /// For the request that `scheduler` belongs to.
    pub fn new(scheduler: Scheduler) -> Self {
        Self(Arc::new(Mutex::new(Pending { scheduler: Some(scheduler), checked: None, ended: None })))
    }

    fn deliver(&self, checked: Option<Checked>) {
        self.schedule(|pending| pending.checked = checked);
    }

    fn end(&self, why: Denied) {
        self.schedule(|pending| pending.ended = Some(why));
    }

    fn schedule(&self, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.locked();
        change(&mut pending);
        // Under the lock: the request cannot end meanwhile.
        if let Some(scheduler) = &pending.scheduler {
            scheduler.commit();
        }
    }

    fn locked(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The result, on the worker; `None` after a panic.
    pub fn take(&self) -> Option<Checked> {
        self.locked().checked.take()
    }

    /// Why the token has ended, on the worker.
    pub fn ended(&self) -> Option<Denied> {
        self.locked().ended.take()
    }

    /// The request ends.
    pub fn cancel(&self) {
        let scheduler = self.locked().scheduler.take();
        drop(scheduler);
    }
}
