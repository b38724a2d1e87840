//! Keys that are added and removed at the real daemon while processes with the real client check
//! tokens: a retired key's token is never accepted in process once the daemon has refused one, a
//! new key's is accepted at once.
//!
//! The binary starts itself once more for each reader.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use sidegate_client::{Denied, Sidegate};
use sidegate_common::claims::Claims;
use sidegate_common::key::SigningKey;
use sidegate_common::secret::Secret;
use sidegate_common::token;
use sidegate_issuer::keys::generate::{KeyKind, generate};
use sidegate_tests::daemon::claims;
use sidegate_tests::http::At;
use sidegate_tests::jwks_server::{JwksServer, jwk_set};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{Stack, Store, Verifier};
use sidegate_tests::wait::eventually;

const ROLE: &str = "SIDEGATE_CHECKS_TOKENS_OF";
const READERS: usize = 2;
const KEYS: usize = 40;
const TOKENS: usize = 4;
/// A placeholder where a secret is required, while none is in force.
const UNUSED: &str = "a-secret-that-nothing-is-ever-signed-with-here";

/// The precise clock, shared by all processes.
fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A refusal that comes later than this after the previous one begins a new run: a reader delayed
/// by a busy machine has seen nothing in between.
const GAP_NS: u64 = 5_000_000;

/// Consecutive checks of one token with the same outcome: when the first had ended, and when the
/// last began.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Run {
    good: bool,
    first_ns: u64,
    last_ns: u64,
    in_process: u64,
}

/// The body of the readers; does nothing unless started by the test below: checks the tokens of the
/// keys around the newest one continuously.
#[test]
fn reader() {
    let Some(folder) = std::env::var_os(ROLE).map(std::path::PathBuf::from) else { return };
    let tokens: Vec<Vec<String>> = serde_json::from_slice(&std::fs::read(folder.join("tokens")).unwrap()).unwrap();
    let sidegate =
        Sidegate::builder().socket(folder.join("v.sock")).attach_socket(folder.join("v-attach.sock")).connect();
    let ended = Arc::new(AtomicBool::new(false));
    let at_end = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _until_it_is_closed = std::io::stdin().read_line(&mut String::new());
        at_end.store(true, Ordering::Release);
    });
    let mut seen: Vec<Vec<Vec<Run>>> = tokens.iter().map(|of_key| vec![Vec::new(); of_key.len()]).collect();
    let mut newest: usize = 0;
    while !ended.load(Ordering::Acquire) {
        for key in newest.saturating_sub(2)..(newest + 2).min(tokens.len()) {
            for (token, runs) in tokens[key].iter().zip(&mut seen[key]) {
                if look(&sidegate, token, runs) {
                    newest = newest.max(key);
                }
            }
        }
    }
    println!("outcome {}", serde_json::to_string(&seen).unwrap());
}

/// One check; true if the token was accepted.
fn look(sidegate: &Sidegate, token: &str, runs: &mut Vec<Run>) -> bool {
    let began = now_ns();
    let in_process = u64::from(sidegate.try_cached(token).is_some());
    let good = match sidegate.check(token) {
        Ok(_) => true,
        Err(Denied::Revoked | Denied::Invalid { .. }) => false,
        // On a busy machine the daemon may not answer in time.
        Err(Denied::Unavailable(_)) => return false,
        Err(other) => panic!("{other}"),
    };
    match runs.last_mut() {
        Some(run) if run.good == good && (good || began.saturating_sub(run.last_ns) < GAP_NS) => {
            run.last_ns = began;
            run.in_process += in_process;
        }
        _ => runs.push(Run { good, first_ns: now_ns(), last_ns: began, in_process }),
    }
    good
}

fn start_reader(folder: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "key_changes::reader", "--nocapture"]).env(ROLE, folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// The results of a reader: for each key, for each token.
fn outcome(mut reader: Child) -> Vec<Vec<Vec<Run>>> {
    drop(reader.stdin.take());
    let output = reader.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.split_once("outcome ")).unwrap_or_else(|| panic!("{said}")).1;
    serde_json::from_str(line).unwrap()
}

/// The ways in which a key is added and removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The key is in the set, and then removed.
    Set,
    /// The key is in the set, and its retirement is in the log.
    Log,
    /// The key is the shared secret, and then replaced.
    Secret,
}

/// A future key, and the tokens signed with it.
struct Coming {
    way: Way,
    secret: String,
    key: SigningKey,
    tokens: Vec<String>,
}

impl Coming {
    fn new(n: usize, iat: u64) -> Self {
        let way = [Way::Set, Way::Log, Way::Secret][n % 3];
        let secret = format!("the-secret-number-{n}-of-this-test-of-thirty-two-bytes");
        let key = match way {
            Way::Secret => SigningKey::hs256(&Secret::new(&*secret)),
            Way::Set | Way::Log => SigningKey::from_pem(&generate(KeyKind::EdDsa).unwrap()),
        };
        let key = key.unwrap();
        let sign = |token: usize| {
            let claims = Claims { iat, exp: iat + 3600, ..claims(&format!("user-{token}-of-{n}")) };
            token::sign(&key, &claims).unwrap()
        };
        let tokens = (0..TOKENS).map(sign).collect();
        Self { way, secret, key, tokens }
    }
}

/// Puts exactly these keys in force, as far as that does not depend on the log.
fn publish(folder: &Scratch, verifier: &Verifier, keys: &[Coming]) {
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.file("new"), bytes).unwrap();
        std::fs::rename(folder.file("new"), folder.file(name)).unwrap();
    };
    let public: Vec<&SigningKey> = keys.iter().filter(|key| key.way != Way::Secret).map(|key| &key.key).collect();
    let secret = keys.iter().rfind(|key| key.way == Way::Secret);
    write("secret", secret.map_or(UNUSED, |key| &key.secret).as_bytes());
    write("keys.json", jwk_set(&public).to_string().as_bytes());
    verifier.program.signal(Signal::HUP);
}

/// Waits for this status of `/check`, and returns when it was received.
async fn until(verifier: &Verifier, token: &str, status: u16) -> u64 {
    eventually("the daemon to apply the change", || async {
        (verifier.check(token).await.status == status).then(now_ns)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn retired_key_is_refused_in_process_once_the_daemon_refuses_it() {
    // On a busy machine readers need longer to see a key: half of the tokens must have been answered in process.
    for times_longer in [1, 5, 25] {
        let (kept, all) = retire_keys(times_longer).await;
        println!("{kept} of {all} were answered in process before their key was retired");
        if kept * 2 > all {
            return;
        }
    }
    panic!("too few were answered in process for a conclusion");
}

/// Retires one key after the other under the readers' eyes. Says how many tokens were answered in process before, and of how
/// many.
async fn retire_keys(times_longer: u64) -> (usize, usize) {
    let stack = Stack::start(Store::Embedded, 0).await;
    let folder = &stack.folder;
    let iat = sidegate_runtime::clock::unix_now().0;
    let keys: Vec<Coming> = (0..KEYS).map(|n| Coming::new(n, iat)).collect();
    let tokens: Vec<&[String]> = keys.iter().map(|key| &*key.tokens).collect();
    std::fs::write(folder.file("tokens"), serde_json::to_vec(&tokens).unwrap()).unwrap();
    std::fs::write(folder.file("secret"), UNUSED).unwrap();
    std::fs::write(folder.file("keys.json"), jwk_set(&[&keys[0].key]).to_string()).unwrap();
    let (set, secret) = (folder.file("keys.json"), folder.file("secret"));
    let feed = stack.issuer.feed_url();
    let settings = [
        ("ISSUER_FEED_URL", feed.as_str()),
        ("JWT_SECRET_KEY", ""),
        ("JWT_SECRET_KEY_FILE", secret.to_str().unwrap()),
        ("JWKS_FILE", set.to_str().unwrap()),
    ];
    let verifier = Verifier::start(folder, "v", &settings).await;
    let readers: Vec<Child> = (0..READERS).map(|_| start_reader(folder.path())).collect();
    // For each key: when the daemon had accepted it, when its removal began, and when the daemon
    // had refused it.
    let mut lives = Vec::new();
    let mut accepted = until(&verifier, &keys[0].tokens[0], 200).await;
    for n in 0..KEYS - 1 {
        publish(folder, &verifier, &keys[n..n + 2]);
        let next = until(&verifier, &keys[n + 1].tokens[0], 200).await;
        // The readers get to know both keys, for a varying time.
        tokio::time::sleep(Duration::from_millis(n as u64 * 7 % 45 * times_longer)).await;
        let ending = now_ns();
        if keys[n].way == Way::Log {
            let entry = serde_json::json!({ "key": keys[n].key.verifying().kid() });
            assert_eq!(stack.issuer.revoke(&entry).await.status, 204);
        } else {
            publish(folder, &verifier, &keys[n + 1..n + 2]);
        }
        let refused = until(&verifier, &keys[n].tokens[0], 401).await;
        lives.push((accepted, ending, refused));
        accepted = next;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    judge(&lives, &readers.into_iter().map(outcome).collect::<Vec<_>>())
}

fn judge(lives: &[(u64, u64, u64)], seen: &[Vec<Vec<Vec<Run>>>]) -> (usize, usize) {
    let mut kept = 0;
    for (n, (accepted, ending, refused)) in lives.iter().enumerate() {
        for run in seen.iter().flat_map(|reader| &reader[n]).flatten() {
            let late = run.last_ns.saturating_sub(*refused) / 1000;
            assert!(!run.good || late == 0, "key {n}: good {late} us after the daemon had refused it");
            let outside = run.last_ns < *accepted || run.first_ns > *ending;
            let short = ending.saturating_sub(*accepted) < GAP_NS;
            assert!(
                run.good || outside || short,
                "key {n} was refused while it was in force: {run:?}, {accepted} to {ending}"
            );
            kept += usize::from(run.good && run.in_process > 0);
        }
    }
    (kept, lives.len() * TOKENS * seen.len())
}

/// The key epoch in the daemon's response to a valid token.
async fn epoch_of(at: At, token: String) -> u64 {
    let reply = at.post("/verify").body(token).send().await;
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    reply.json()["epoch"].as_u64().unwrap()
}

/// The race between verification and caching, made wide: the keys change between the request's
/// arrival and its response.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answer_has_the_key_epoch_from_before_verification() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let iat = sidegate_runtime::clock::unix_now().0;
    let mut held = Coming::new(0, iat);
    let server = JwksServer::start(&jwk_set(&[&held.key])).await;
    let feed = stack.issuer.feed_url();
    let settings = [("ISSUER_FEED_URL", feed.as_str()), ("JWT_SECRET_KEY", ""), ("JWKS_URL", server.url())];
    let verifier = Verifier::start(&stack.folder, "v", &settings).await;
    until(&verifier, &held.tokens[0], 200).await;
    // The time until a request arrives is unknown: on a busy machine the test gets several
    // attempts.
    for wait_ms in [100, 500, 2500] {
        let new = Coming::new(0, iat);
        server.serve(&jwk_set(&[&held.key, &new.key]));
        let (closed, asked) = (server.hold().await, server.asked());
        verifier.program.signal(Signal::HUP);
        eventually("the set to be read", || async { (server.asked() > asked).then_some(()) }).await;
        let question = tokio::spawn(epoch_of(verifier.at.clone(), new.tokens[0].clone()));
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        drop(closed);
        let first = question.await.unwrap();
        if first < epoch_of(verifier.at.clone(), new.tokens[0].clone()).await {
            return;
        }
        held = new;
    }
    panic!("a token was verified with new keys, but the answer has their epoch as well");
}
