//! Hot restarts and drains of Envoys with Sidegate's module, with requests all the time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidegate_tests::daemon::{Daemon, good};
use sidegate_tests::envoy_file::{shipped, with_admin, with_tls};
use sidegate_tests::http::{At, Failure, Kept, Reply};
use sidegate_tests::program::{Program, free_port};
use sidegate_tests::proxies::{EchoApp, Kind, envoy_version, module_folder};
use sidegate_tests::wait::{WAIT_LIMIT, eventually};
use tokio::task::JoinSet;

const CLIENTS: usize = 12;
const IDLE: usize = 8;
const DRAIN: [&str; 4] = ["--drain-time-s", "3", "--parent-shutdown-time-s", "10"];

/// The Envoys of one base id, one after the other; their responses have their own name.
struct Site {
    version: &'static str,
    workers: u8,
    daemon: Daemon,
    app: EchoApp,
    ways: Vec<At>,
    admin: At,
    text: String,
}

impl Site {
    async fn new(version: &'static str, workers: u8) -> Self {
        let (daemon, _) = Daemon::start_shared(&[]).await;
        let [port, tls, admin] = [free_port(), free_port(), free_port()];
        let app = EchoApp::start().await;
        let text = with_admin(&with_tls(&shipped(), daemon.folder.path(), tls), admin);
        let kind = Kind::EnvoyModule(version, workers);
        let text = kind.filled(&text, daemon.folder.path(), &daemon.socket, &app, port);
        let [port, tls, admin] = [port, tls, admin].map(|port| ([127, 0, 0, 1], port).into());
        let ways = vec![At::Tcp(port), At::H2(port), At::Tls(tls), At::TlsH2(tls)];
        Self { version, workers, daemon, app, ways, admin: At::Tcp(admin), text }
    }

    fn launch(&self, envoy: &Path, name: &str, arguments: &[&str]) -> Program {
        let file = self.daemon.folder.file(&format!("{name}.yaml"));
        let named = format!("stat_prefix: web\n                server_name: {name}");
        std::fs::write(&file, self.text.replace("stat_prefix: web", &named)).unwrap();
        let mut command = Command::new(envoy);
        command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", module_folder());
        command.args(["--concurrency", &self.workers.to_string(), "--log-level", "warn"]);
        command.args(DRAIN).args(arguments).arg("-c").arg(file);
        Program::start(name, command, &self.daemon.folder.file(&format!("{name}.log")))
    }

    /// Waits until new connections reach the Envoy of that name.
    async fn until_reached(&self, name: &str, program: &mut Program) {
        for at in &self.ways {
            eventually(&format!("{name} at {at:?}"), || {
                assert!(program.running(), "{}: {}", self.version, program.output());
                async {
                    let reply = at.get("/a").try_send().await.ok()?;
                    (reply.header("server") == Some(name)).then_some(())
                }
            })
            .await;
        }
    }

    /// Connections that have been used once, and then nothing is sent.
    async fn idle(&self) -> Vec<(At, Kept)> {
        let mut idle = Vec::new();
        for at in self.ways.iter().filter(|at| !at.is_h2()).cycle().take(IDLE) {
            let mut kept = Kept::default();
            let reply = kept.send(at.get("/a").bearer(&good("alice"))).await.unwrap();
            assert_eq!(reply.status, 200);
            idle.push((at.clone(), kept));
        }
        idle
    }
}

/// The file that a base id leaves behind.
struct BaseId(String);

impl Drop for BaseId {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(format!("/dev/shm/envoy_shared_memory_{}0", self.0));
    }
}

/// Requests all the time, each judged by its token.
struct Traffic {
    revoked: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<BTreeMap<String, u64>>,
}

impl Traffic {
    fn start(site: &Site) -> Self {
        site.daemon.revoke_session("sid-of-dead");
        let [revoked, stop] = [Arc::default(), Arc::default()];
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let at = site.ways[client % site.ways.len()].clone();
            clients.spawn(run(client, at, Arc::clone(&revoked), Arc::clone(&stop)));
        }
        Self { revoked, stop, clients }
    }

    /// Ends `victim`'s session: from now on no request may pass as `victim`.
    fn revoke(&self, site: &Site) {
        site.daemon.revoke_session("sid-of-victim");
        self.revoked.store(true, Ordering::SeqCst);
    }

    /// How many requests had which outcome.
    async fn end(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = BTreeMap::new();
        for (outcome, count) in self.clients.join_all().await.into_iter().flatten() {
            *all.entry(outcome).or_insert(0) += count;
        }
        all
    }
}

async fn run(client: usize, at: At, revoked: Arc<AtomicBool>, stop: Arc<AtomicBool>) -> BTreeMap<String, u64> {
    let (mut kept, mut outcomes) = (Kept::default(), BTreeMap::new());
    for turn in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let user = ["alice", "dead", "victim", &format!("new{client}-{turn}")][turn % 4].to_owned();
        let was_revoked = user == "dead" || (user == "victim" && revoked.load(Ordering::SeqCst));
        let call = at.get("/a").bearer(&good(&user));
        let sent = if at.is_h2() {
            call.try_send().await.map_err(|why| Failure::NotSent(why.0))
        } else {
            kept.send(call).await
        };
        let outcome = match sent {
            Ok(reply) => {
                let right: &[u16] = match user.as_str() {
                    "victim" if !was_revoked => &[200, 401, 503],
                    _ if was_revoked => &[401, 503],
                    _ => &[200, 503],
                };
                let status = reply.status.as_u16();
                assert!(right.contains(&status), "{at:?}: {user}: {status} {reply:?}");
                format!("{} {status}", server(&reply))
            }
            Err(Failure::NotSent(_)) => "refused".to_owned(),
            Err(Failure::Lost { .. }) => "lost".to_owned(),
        };
        *outcomes.entry(outcome).or_insert(0) += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    outcomes
}

fn server(reply: &Reply) -> String {
    reply.header("server").unwrap_or_default().to_owned()
}

/// The outcomes as they should be on the whole.
fn judge(what: &str, outcomes: &BTreeMap<String, u64>, servers: &[&str]) {
    println!("{what}: {outcomes:?}");
    for answer in servers.iter().flat_map(|server| [format!("{server} 200"), format!("{server} 401")]) {
        assert!(outcomes.contains_key(&answer), "{what}: {answer} of {outcomes:?}");
    }
}

fn clean(name: &str, program: &Program) {
    let said = program.output();
    assert!(!["panic", "critical", "assert"].iter().any(|word| said.contains(word)), "{name}: {said}");
}

async fn hot_restart(version: &'static str, workers: u8) {
    let Some(envoy) = envoy_version(version) else { return println!("skipped: no Envoy {version}") };
    let site = Site::new(version, workers).await;
    let base: PathBuf = site.daemon.folder.file("base");
    let path = base.to_str().unwrap();
    let mut parent = site.launch(&envoy, "first", &["--use-dynamic-base-id", "--base-id-path", path]);
    site.until_reached("first", &mut parent).await;
    let base = BaseId(std::fs::read_to_string(&base).unwrap().trim().to_owned());
    let mut idle = site.idle().await;
    let traffic = Traffic::start(&site);
    let mut child = site.launch(&envoy, "second", &["--base-id", &base.0, "--restart-epoch", "1"]);
    site.until_reached("second", &mut child).await;
    traffic.revoke(&site);
    let mut by_parent = 0;
    for (at, kept) in &mut idle {
        for (user, status) in [("victim", 401), ("alice", 200), ("victim", 401)] {
            let reply = kept.send(at.get("/a").bearer(&good(user))).await.expect("an answer");
            assert_eq!(reply.status, status, "{version}: {at:?}: {user}");
            by_parent += u32::from(user == "victim" && server(&reply) == "first");
        }
    }
    assert!(by_parent >= IDLE as u32 / 2, "{version}: {by_parent} answers of the parent after the revocation");
    for at in &site.ways {
        let reply = at.get("/a").bearer(&good("victim")).send().await;
        assert_eq!((reply.status.as_u16(), server(&reply).as_str()), (401, "second"), "{version}: {at:?}");
    }
    assert!(parent.wait(WAIT_LIMIT).success(), "{version}: {}", parent.output());
    let alone = site.app.count();
    eventually("requests after the parent", || async { (site.app.count() > alone + 100).then_some(()) }).await;
    judge(&format!("hot restart of {version}"), &traffic.end().await, &["first", "second"]);
    assert!(child.stop().success(), "{version}: {}", child.output());
    clean("first", &parent);
    clean("second", &child);
}

async fn drain(version: &'static str, workers: u8) {
    let Some(envoy) = envoy_version(version) else { return println!("skipped: no Envoy {version}") };
    let site = Site::new(version, workers).await;
    let mut program = site.launch(&envoy, "only", &["--disable-hot-restart"]);
    site.until_reached("only", &mut program).await;
    let mut idle = site.idle().await;
    let traffic = Traffic::start(&site);
    let drained = site.admin.post("/drain_listeners?graceful").send().await;
    assert_eq!(drained.status, 200, "{version}");
    traffic.revoke(&site);
    for (at, kept) in &mut idle {
        let reply = kept.send(at.get("/a").bearer(&good("victim"))).await.expect("an answer");
        assert_eq!(reply.status, 401, "{version}: {at:?}");
    }
    eventually("the listeners to be gone", || async {
        site.ways[0].get("/a").bearer(&good("alice")).try_send().await.err()
    })
    .await;
    assert!(program.stop().success(), "{version}: {}", program.output());
    judge(&format!("drain of {version}"), &traffic.end().await, &["only"]);
    clean("only", &program);
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_restarts_pass_no_revoked_token() {
    for (version, workers) in [("1.38.3", 1), ("1.38.3", 4), ("1.39.3", 1), ("1.39.3", 4), ("1.40.0", 1), ("1.40.0", 4)]
    {
        hot_restart(version, workers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drains_pass_no_revoked_token() {
    for (version, workers) in [("1.38.3", 4), ("1.39.3", 4), ("1.40.0", 1), ("1.40.0", 4)] {
        drain(version, workers).await;
    }
}
