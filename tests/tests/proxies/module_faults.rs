//! Sidegate's module in Envoy while its verifier hangs, dies, lies, or is asked too much at once.

#[path = "../../../clients/rust/tests/suite/lies.rs"]
mod lies;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use sidegate_tests::daemon::{Daemon, good};
use sidegate_tests::envoy_file::{shipped, with_admin, with_members};
use sidegate_tests::http::{At, Kept};
use sidegate_tests::program::{Program, free_port};
use sidegate_tests::proxies::{Kind, Proxy};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, Stack, Store};
use sidegate_tests::wait::eventually;
use tokio::task::JoinSet;

const MODULE: Kind = Kind::EnvoyModule("1.40.0", 2);
const CONNECTIONS: usize = 64;
/// For how long a verifier without a feed may pass what has ended.
const MAX_STALENESS: Duration = Duration::from_secs(5);

/// A real verifier, and Envoy with the module's configuration `text`.
async fn beside(stack: &Stack, kind: Kind, text: &str) -> Option<Proxy> {
    let attach = format!(": {}", stack.verifiers[0].attach.display());
    let At::Unix(socket) = &stack.verifiers[0].at else { panic!("the verifier listens on a socket") };
    kind.start_with(text, stack.folder.path(), socket, &[(": ATTACH_SOCKET", &attach)]).await
}

/// SIGSTOP, until no thread runs any more.
async fn pause(program: &Program) {
    program.signal(Signal::STOP);
    let threads = format!("/proc/{}/task", program.pid());
    eventually("every thread to stop", || async {
        let mut threads = std::fs::read_dir(&threads).unwrap();
        let stopped = |thread: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        };
        threads.all(stopped).then_some(())
    })
    .await;
}

/// One of the module's counters.
async fn counter(admin: &At, name: &str) -> u64 {
    let stats = admin.get("/stats?filter=sidegate").send().await;
    let text = String::from_utf8(stats.body.to_vec()).unwrap();
    let value = text.lines().find_map(|line| line.split_once(&format!("sidegate.{name}: ")));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).1.parse().unwrap()
}

/// What the clients of a load run share.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    /// The second session has ended, and every promise made before is over.
    ended: AtomicBool,
    /// Requests since the start that passed, and that were answered 503.
    passed: AtomicU64,
    unavailable: AtomicU64,
}

impl Load {
    /// One connection: a good token, one of a session that ends during the run, and a dead one.
    async fn client(self: Arc<Self>, at: At, [good, ending, dead]: [String; 3]) -> BTreeMap<u16, u64> {
        let (mut kept, mut statuses) = (Kept::default(), BTreeMap::new());
        while !self.stop.load(Ordering::SeqCst) {
            for (token, passes) in [(&good, true), (&ending, !self.ended.load(Ordering::SeqCst)), (&dead, false)] {
                let reply = kept.send(at.get("/a").bearer(token)).await.expect("no request is left hanging");
                let status = reply.status.as_u16();
                let right: &[u16] = match (passes, token == &good) {
                    (true, true) => &[200, 503],
                    (true, false) => &[200, 401, 503],
                    (false, _) => &[401, 503],
                };
                assert!(right.contains(&status), "{status} where one of {right:?} is right");
                let counter = if status == 503 { &self.unavailable } else { &self.passed };
                if status == 503 || status == 200 {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
                *statuses.entry(status).or_insert(0) += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        statuses
    }

    /// Waits until as many requests in a row as there are connections have this outcome.
    async fn until(&self, what: &str, outcome: &AtomicU64) {
        let both = [&self.passed, &self.unavailable];
        let other = both.into_iter().find(|other| !std::ptr::eq(*other, outcome)).unwrap();
        let counts = || (outcome.load(Ordering::SeqCst), other.load(Ordering::SeqCst));
        let since = std::cell::Cell::new(counts());
        eventually(what, || async {
            let (now, others) = counts();
            if others != since.get().1 {
                since.set((now, others));
            }
            (now >= since.get().0 + CONNECTIONS as u64).then_some(())
        })
        .await;
    }
}

async fn hangs_and_dies(kind: Kind) {
    let staleness = format!("{}s", MAX_STALENESS.as_secs());
    let mut stack = Stack::with(Store::Embedded, 1, &[], &[("MAX_STALENESS", &staleness)]).await;
    let Some(proxy) = beside(&stack, kind, &shipped()).await else { return };
    let login = async || stack.issuer.login(EMAIL).await.access;
    let tokens = [login().await, login().await, login().await];
    stack.issuer.logout(&tokens[2]).await;
    stack.verifiers[0].until_denied(&tokens[2]).await;
    let (load, mut clients) = (Arc::new(Load::default()), JoinSet::new());
    for _ in 0..CONNECTIONS {
        clients.spawn(Arc::clone(&load).client(proxy.at.clone(), tokens.clone()));
    }
    let Load { passed, unavailable, .. } = &*load;
    load.until("requests to pass", passed).await;
    for round in 0..2 {
        pause(&stack.verifiers[0].program).await;
        load.until("503 of a verifier that hangs", unavailable).await;
        if round == 0 {
            assert_eq!(stack.issuer.logout(&tokens[1]).await.status, 204);
            // It wakes up without knowing, and must know how little that is.
            tokio::time::sleep(MAX_STALENESS + Duration::from_secs(1)).await;
            load.ended.store(true, Ordering::SeqCst);
        }
        stack.verifiers[0].program.signal(Signal::CONT);
        eventually("requests to pass again", || async {
            (proxy.at.get("/a").bearer(&tokens[0]).send().await.status == 200).then_some(())
        })
        .await;
        stack.verifiers[0].program.kill();
        load.until("503 of a verifier that is dead", unavailable).await;
        let reached = proxy.app.count();
        assert_eq!(proxy.at.get("/a").bearer(&tokens[0]).send().await.status, 503);
        assert_eq!(proxy.app.count(), reached, "nothing passes without a verifier");
        stack.verifiers[0].restart().await;
        load.until("requests to pass again", passed).await;
    }
    load.stop.store(true, Ordering::SeqCst);
    let statuses = clients.join_all().await;
    println!(
        "{kind:?}: {:?}",
        statuses.iter().flatten().fold(BTreeMap::new(), |mut all, (status, count)| {
            *all.entry(status).or_insert(0) += count;
            all
        })
    );
    assert_eq!(statuses.len(), CONNECTIONS);
    assert!(statuses.iter().all(|of| [200, 401, 503].iter().all(|status| of.contains_key(status))));
    let said = proxy.program.output();
    assert!(said.contains("the verifier cannot be reached"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verifier_that_hangs_or_dies_under_load_is_503_until_it_is_back() {
    hangs_and_dies(Kind::EnvoyModule("1.40.0", 4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifier_that_hangs_or_dies_under_load_is_503_in_the_oldest_envoy_too() {
    hangs_and_dies(Kind::EnvoyModule("1.38.3", 1)).await;
}

/// One thread asks, one request waits for it: the rest are answered while these two wait.
#[tokio::test(flavor = "multi_thread")]
async fn full_queue_is_503_at_once_and_counted() {
    let stack = Stack::start(Store::Embedded, 1).await;
    let admin = free_port();
    let members = "socket: VERIFIER_SOCKET\n                          attach_socket: ATTACH_SOCKET\n                          \
                   threads: 1\n                          queue: 1\n                          timeout: 60s";
    let text = with_admin(&with_members(members), admin);
    let Some(proxy) = beside(&stack, MODULE, &text).await else { return };
    let admin = At::Tcp(([127, 0, 0, 1], admin).into());
    let ask = |user: String| {
        let call = proxy.at.get("/a").bearer(&good(&user)).within(Duration::from_secs(120));
        async move { call.send().await.status.as_u16() }
    };
    eventually("a good token", || async { (ask("alice".to_owned()).await == 200).then_some(()) }).await;
    let before = counter(&admin, "unavailable").await;
    pause(&stack.verifiers[0].program).await;
    let mut asking: JoinSet<u16> = (0..CONNECTIONS).map(|user| ask(format!("new{user}"))).collect();
    for answered in 0..CONNECTIONS - 2 {
        let status = asking.join_next().await.unwrap().unwrap();
        assert_eq!(status, 503, "number {answered}, while the verifier hangs");
    }
    let refused = counter(&admin, "unavailable").await - before;
    assert!(refused >= CONNECTIONS as u64 - 2, "{refused}");
    stack.verifiers[0].program.signal(Signal::CONT);
    let waited = asking.join_all().await;
    println!("the last two: {waited:?}");
    assert!(waited.contains(&200), "{waited:?}");
    eventually("new tokens to pass", || async { (ask("newer".to_owned()).await == 200).then_some(()) }).await;
}

/// Whatever the attach socket hands out, the daemon's own socket decides.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_segment_leaves_only_the_socket() {
    let every = lies::messages().into_iter().chain(lies::segments()).map(|(lie, _)| (lie, true));
    let noisy = lies::noisy().into_iter().map(|(lie, _)| (lie, false));
    let folder = Scratch::new();
    let daemon = Daemon::start_in(folder, &[]);
    daemon.prove();
    for (number, (lie, is_refused)) in every.chain(noisy).enumerate() {
        lies::serve(&daemon.folder.file("attach.sock"), Arc::new(lie));
        let admin = free_port();
        let text = with_admin(&shipped(), admin);
        let started = MODULE.start_with(&text, daemon.folder.path(), &daemon.socket, &[]).await;
        let Some(mut proxy) = started else { return };
        let (user, gone) = (format!("user{number}"), format!("gone{number}"));
        daemon.revoke_session(&format!("sid-of-{gone}"));
        let check = async |user: &str, status: u16| {
            let reply = proxy.at.get("/a").bearer(&good(user)).send().await;
            assert_eq!(reply.status, status, "lie {number}: {user}");
            assert!(status == 200 || reply.code() == "token_revoked", "lie {number}: {user}");
        };
        for _ in 0..3 {
            check(&user, 200).await;
            check(&gone, 401).await;
        }
        daemon.revoke_session(&format!("sid-of-{user}"));
        check(&user, 401).await;
        let asked = counter(&At::Tcp(([127, 0, 0, 1], admin).into()), "asked").await;
        assert!(asked == 7 || !is_refused, "lie {number}: {asked} of 7 were asked over the socket");
        assert!(proxy.program.stop().success(), "lie {number}: {}", proxy.program.output());
    }
}
