//! Restarts under load: no request is lost except those in flight on a process that was killed.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use sidegate_client::Sidegate;
use sidegate_tests::http::{At, Call, Failure, Kept, Reply};
use sidegate_tests::program::Program;
use sidegate_tests::stack::{EMAIL, Issuer, Stack, Store, Tokens, Verifier, tokens};
use sidegate_tests::users;
use sidegate_tests::wait::eventually;

const ROUNDS: u64 = 4;

/// A request without a response, and when its connection was opened.
#[derive(Clone, Debug)]
struct Lost {
    what: String,
    from: Instant,
    until: Instant,
}

/// When a process was killed: from just before the signal until it had exited.
struct Kill {
    from: Instant,
    gone: Instant,
}

fn kill(program: &mut Program) -> Kill {
    let from = Instant::now();
    program.kill();
    Kill { from, gone: Instant::now() }
}

/// Each lost request was sent over a connection that a process had when it died: none over a later
/// one, and none over one that had ended before. No connection loses two.
fn only_in_flight(lost: &[Lost], kills: &[Kill]) {
    let dying = |lost: &&Lost| kills.iter().any(|kill| lost.from <= kill.gone && lost.until >= kill.from);
    let others: Vec<_> = lost.iter().filter(|lost| !dying(lost)).map(|lost| lost.what.as_str()).collect();
    assert!(others.is_empty(), "lost while no process died: {others:#?}");
}

/// The outcomes of all clients' requests.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    answered: AtomicU64,
    lost: Mutex<Vec<Lost>>,
    wrong: Mutex<Vec<String>>,
    unsent: AtomicU64,
}

impl Tally {
    /// Counts a response, and returns it if its status is the expected one.
    async fn count(
        &self,
        what: &str,
        right: u16,
        request: impl Future<Output = Result<Reply, Failure>>,
    ) -> Option<Reply> {
        match request.await {
            Ok(reply) if reply.status == right => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                return Some(reply);
            }
            Ok(reply) => {
                let said = String::from_utf8_lossy(&reply.body).into_owned();
                self.wrong.lock().unwrap().push(format!("{what}: {} {said}", reply.status));
            }
            Err(Failure::Lost { why, opened }) => {
                let what = format!("{what}: {why}");
                self.lost.lock().unwrap().push(Lost { what, from: opened, until: Instant::now() });
            }
            Err(Failure::NotSent(_)) => {
                self.unsent.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        None
    }

    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Waits until the clients have received this many more responses.
    async fn more(&self, answers: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + answers;
        eventually("the clients to go on", || async { (self.answered.load(Ordering::Relaxed) >= goal).then_some(()) })
            .await;
    }

    fn end(&self) -> (Vec<Lost>, u64) {
        self.stop.store(true, Ordering::Relaxed);
        assert_eq!(*self.wrong.lock().unwrap(), [] as [String; 0], "every answer is the right one");
        (self.lost.lock().unwrap().clone(), self.unsent.load(Ordering::Relaxed))
    }
}

/// Clients of a verifier: half of them keep their connection, half open one for each request.
fn ask(tally: &Arc<Tally>, at: &At, access: &str, clients: usize) -> tokio::task::JoinSet<()> {
    let mut running = tokio::task::JoinSet::new();
    for client in 0..clients {
        let (tally, at, access) = (Arc::clone(tally), at.clone(), access.to_owned());
        running.spawn(async move {
            let mut kept = Kept::default();
            while tally.running() {
                if client % 2 == 0 {
                    kept = Kept::default();
                }
                let _counted = tally.count("check", 200, kept.send(at.get("/check").bearer(&access))).await;
            }
        });
    }
    running
}

/// A thread of an application with a Sidegate client; returns the denials.
fn check_in_process(tally: &Arc<Tally>, verifier: &Verifier, access: &str) -> std::thread::JoinHandle<Vec<String>> {
    let At::Unix(socket) = verifier.at.clone() else { panic!("over a Unix socket") };
    let client = Sidegate::builder().socket(socket).attach_socket(verifier.attach.clone()).connect();
    let (tally, access) = (Arc::clone(tally), access.to_owned());
    std::thread::spawn(move || {
        let mut denied = Vec::new();
        while tally.running() {
            denied.extend(client.check(&access).err().map(|why| format!("{why:?}")));
            std::thread::sleep(Duration::from_micros(200));
        }
        denied
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_activated_verifier_restarts_unnoticed() {
    let mut stack = Stack::start(Store::Redis, 1).await;
    let access = stack.issuer.login(EMAIL).await.access;
    let verifier = &mut stack.verifiers[0];
    verifier.manage().await;
    let tally = Arc::new(Tally::default());
    let clients = ask(&tally, &verifier.at, &access, 6);
    let application = check_in_process(&tally, verifier, &access);
    for _ in 0..ROUNDS {
        tally.more(300).await;
        assert!(verifier.program.stop().success());
        // No process is running: new requests wait in the socket's queue.
        tokio::time::sleep(Duration::from_millis(50)).await;
        verifier.restart().await;
    }
    tally.more(300).await;
    let (lost, unsent) = tally.end();
    clients.join_all().await;
    assert!(lost.is_empty() && unsent == 0, "lost {lost:#?}, not sent {unsent}");
    assert_eq!(application.join().expect("it ran"), [] as [String; 0], "nor does an application notice");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_verifier_loses_only_accepted_requests() {
    let mut stack = Stack::start(Store::Redis, 1).await;
    let access = stack.issuer.login(EMAIL).await.access;
    let verifier = &mut stack.verifiers[0];
    verifier.manage().await;
    let tally = Arc::new(Tally::default());
    let clients = ask(&tally, &verifier.at, &access, 6);
    let application = check_in_process(&tally, verifier, &access);
    let mut kills = Vec::new();
    for _ in 0..ROUNDS {
        tally.more(300).await;
        kills.push(kill(&mut verifier.program));
        verifier.restart().await;
    }
    tally.more(300).await;
    let (lost, unsent) = tally.end();
    clients.join_all().await;
    assert_eq!(unsent, 0, "the socket is never closed");
    only_in_flight(&lost, &kills);
    let denied = application.join().expect("it ran");
    assert!(denied.len() <= ROUNDS as usize, "one a kill at most: {denied:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_verifier_answers_every_accepted_request() {
    let mut stack = Stack::start(Store::Redis, 1).await;
    let access = stack.issuer.login(EMAIL).await.access;
    let verifier = &mut stack.verifiers[0];
    let tally = Arc::new(Tally::default());
    // No 503 before the list is loaded: the clients start afterwards.
    for _ in 0..ROUNDS {
        tally.stop.store(false, Ordering::Relaxed);
        let clients = ask(&tally, &verifier.at, &access, 6);
        tally.more(300).await;
        assert!(verifier.program.stop().success());
        let (lost, _unsent) = tally.end();
        clients.join_all().await;
        assert!(lost.is_empty(), "{lost:#?}");
        verifier.restart().await;
    }
}

/// Two replicas behind a Service: a leaving one gets no new connections, and keeps those it has.
struct Replicas {
    at: [At; 2],
    leaving: AtomicUsize,
}

const NONE: usize = usize::MAX;

/// A client that alternates between the replicas.
struct Client {
    replicas: Arc<Replicas>,
    kept: [Kept; 2],
    turn: usize,
}

impl Client {
    async fn send(&mut self, call: impl Fn(&At) -> Call) -> Result<Reply, Failure> {
        let mut failure = Failure::NotSent("no replica takes connections".to_owned());
        self.turn += 1;
        for replica in [self.turn % 2, (self.turn + 1) % 2] {
            let leaving = self.replicas.leaving.load(Ordering::SeqCst) == replica;
            if leaving && !self.kept[replica].is_open() {
                continue;
            }
            match self.kept[replica].send(call(&self.replicas.at[replica])).await {
                Err(Failure::NotSent(why)) => failure = Failure::NotSent(why),
                answered => return answered,
            }
        }
        Err(failure)
    }

    /// Login, a protected route, refresh, logout; returns the pairs whose logout was acknowledged.
    async fn session(&mut self, tally: &Tally) -> Option<[Tokens; 2]> {
        let body = json!({"email": EMAIL, "password": users::PASSWORD});
        let login = tally.count("login", 200, self.send(|at| at.post("/auth/login").json(&body))).await?;
        let first = tokens(&login);
        tally.count("me", 200, self.send(|at| at.get("/auth/me").bearer(&first.access))).await?;
        let body = json!({"refresh_token": first.refresh});
        let refresh = tally.count("refresh", 200, self.send(|at| at.post("/auth/refresh").json(&body))).await?;
        let second = tokens(&refresh);
        tally.count("logout", 204, self.send(|at| at.post("/auth/logout").bearer(&second.access))).await?;
        Some([first, second])
    }
}

/// Clients of issuers; each returns the access tokens whose logout was acknowledged.
fn use_issuers(tally: &Arc<Tally>, replicas: &Arc<Replicas>, clients: usize) -> tokio::task::JoinSet<Vec<String>> {
    let mut running = tokio::task::JoinSet::new();
    for turn in 0..clients {
        let (tally, replicas) = (Arc::clone(tally), Arc::clone(replicas));
        running.spawn(async move {
            let mut client = Client { replicas, kept: Default::default(), turn };
            let mut dead = Vec::new();
            while tally.running() {
                let ended = client.session(&tally).await;
                dead.extend(ended.into_iter().flatten().map(|pair| pair.access));
            }
            dead
        });
    }
    running
}

/// Checks that all acknowledged logouts still hold.
async fn all_dead(verifier: &Verifier, dead: &[String]) {
    assert!(!dead.is_empty(), "there were logouts");
    for token in dead {
        assert_eq!(verifier.until_denied(token).await.code(), "token_revoked");
    }
}

async fn two_issuers() -> (Stack, Issuer) {
    let stack = Stack::with(Store::Redis, 1, &[("BCRYPT_COST", "6")], &[]).await;
    let url = stack.redis.as_ref().expect("on Redis").url();
    let settings = [("REDIS_URL", url.as_str()), ("DATABASE_URL", &stack.issuer.settings["DATABASE_URL"])];
    let second = Issuer::start(&stack.folder, "issuer2", &settings).await;
    (stack, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_issuers_loses_nothing() {
    let (mut stack, mut second) = two_issuers().await;
    let replicas = Replicas { at: [stack.issuer.at.clone(), second.at.clone()], leaving: NONE.into() };
    let (tally, replicas) = (Arc::new(Tally::default()), Arc::new(replicas));
    let clients = use_issuers(&tally, &replicas, 6);
    for round in 0..ROUNDS as usize {
        tally.more(200).await;
        let (leaving, issuer) = [(0, &mut stack.issuer), (1, &mut second)].into_iter().nth(round % 2).expect("two");
        replicas.leaving.store(leaving, Ordering::SeqCst);
        // `preStop` waits until connections in progress are open.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(issuer.program.stop().success());
        issuer.restart().await;
        replicas.leaving.store(NONE, Ordering::SeqCst);
    }
    tally.more(200).await;
    let (lost, unsent) = tally.end();
    let dead = clients.join_all().await.concat();
    assert!(lost.is_empty() && unsent == 0, "lost {lost:#?}, not sent {unsent}");
    all_dead(&stack.verifiers[0], &dead).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_issuer_loses_only_accepted_requests() {
    let (mut stack, mut second) = two_issuers().await;
    let replicas = Replicas { at: [stack.issuer.at.clone(), second.at.clone()], leaving: NONE.into() };
    let (tally, replicas) = (Arc::new(Tally::default()), Arc::new(replicas));
    let clients = use_issuers(&tally, &replicas, 6);
    let mut kills = Vec::new();
    for round in 0..ROUNDS as usize {
        tally.more(200).await;
        let (killed, issuer) = [(0, &mut stack.issuer), (1, &mut second)].into_iter().nth(round % 2).expect("two");
        kills.push(kill(&mut issuer.program));
        // Not ready: the replica is out of the Service until it is ready.
        replicas.leaving.store(killed, Ordering::SeqCst);
        issuer.restart().await;
        replicas.leaving.store(NONE, Ordering::SeqCst);
    }
    tally.more(200).await;
    let (lost, unsent) = tally.end();
    let dead = clients.join_all().await.concat();
    assert_eq!(unsent, 0, "the other one takes them");
    only_in_flight(&lost, &kills);
    all_dead(&stack.verifiers[0], &dead).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_activated_issuer_restarts_unnoticed() {
    let mut stack = Stack::start(Store::Embedded, 1).await;
    stack.issuer.manage().await;
    let at = stack.issuer.at.clone();
    let replicas = Arc::new(Replicas { at: [at.clone(), at], leaving: NONE.into() });
    let tally = Arc::new(Tally::default());
    let clients = use_issuers(&tally, &replicas, 4);
    for _ in 0..ROUNDS {
        tally.more(100).await;
        assert!(stack.issuer.program.stop().success());
        stack.issuer.restart().await;
    }
    tally.more(100).await;
    let (lost, unsent) = tally.end();
    let dead = clients.join_all().await.concat();
    assert!(lost.is_empty() && unsent == 0, "lost {lost:#?}, not sent {unsent}");
    all_dead(&stack.verifiers[0], &dead).await;
}

/// Waits until the program has sent this notification.
fn until_notified(socket: &UnixDatagram, awaited: &str) {
    let mut message = [0; 256];
    loop {
        let length = socket.recv(&mut message).unwrap_or_else(|error| panic!("no notification {awaited}: {error}"));
        let text = String::from_utf8_lossy(&message[..length]);
        if text.lines().any(|line| line == awaited) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn service_manager_is_notified_of_state_changes() {
    let mut stack = Stack::start(Store::Redis, 1).await;
    let path = stack.folder.file("notify.sock");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(sidegate_tests::wait::WAIT_LIMIT)).expect("set");
    let manager = [("NOTIFY_SOCKET", path.to_str().expect("UTF-8")), ("WATCHDOG_USEC", "100000")];
    let manager: BTreeMap<String, String> = manager.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert!(stack.issuer.program.stop().success());
    assert!(stack.verifiers[0].program.stop().success());
    let log = stack.folder.file("notify.log");
    let programs = [("sidegate-issuer", &stack.issuer.settings), ("sidegate-verifier", &stack.verifiers[0].settings)];
    for (name, settings) in programs {
        let settings = settings.clone().into_iter().chain(manager.clone()).collect();
        let mut program = Program::launch(name, &settings, &log, &[]);
        until_notified(&socket, "READY=1");
        until_notified(&socket, "WATCHDOG=1");
        until_notified(&socket, "WATCHDOG=1");
        program.signal(rustix::process::Signal::TERM);
        until_notified(&socket, "STOPPING=1");
        assert!(program.wait(sidegate_tests::wait::WAIT_LIMIT).success(), "{name}");
    }
}
