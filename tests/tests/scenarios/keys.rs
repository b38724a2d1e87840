//! The life cycle of keys: rotation under load, retirement, floods of unknown kids.

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::Signal;
use serde_json::json;
use sidegate_common::claims::Claims;
use sidegate_common::key::SigningKey;
use sidegate_common::secret::Secret;
use sidegate_common::token;
use sidegate_issuer::keys::generate::{KeyKind, generate};
use sidegate_tests::daemon::claims;
use sidegate_tests::grpc_check;
use sidegate_tests::http::At;
use sidegate_tests::jwks_server::{JwksServer, jwk_set};
use sidegate_tests::program::run;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, Issuer, Stack, Store, Tokens, Verifier, metric, tokens};
use sidegate_tests::wait::{eventually, within};

const SESSION_SECRET: &str = "a-session-secret-for-the-tests-of-thirty-two-bytes";

/// `sidegate-issuer keys …` on a folder.
fn keys(folder: &Path, arguments: &[&str]) -> Output {
    let folder = folder.to_str().expect("UTF-8");
    let settings = [("JWT_KEYS_DIR", folder), ("KEY_PREPUBLISH", "2s")];
    run("sidegate-issuer", &[&["keys"], arguments].concat(), &settings, "")
}

/// As [`keys`], which must succeed; returns the output.
fn keys_done(folder: &Path, arguments: &[&str]) -> String {
    let output = keys(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// The `kid` in a token's header.
fn kid_of(token: &str) -> String {
    let header = token.split('.').next().expect("a header");
    let header = URL_SAFE_NO_PAD.decode(header).expect("base64url");
    let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
    header["kid"].as_str().expect("a kid").to_owned()
}

/// A stack whose issuer signs with keys in a folder, and whose verifiers hold no secret.
struct Asymmetric {
    stack: Stack,
    folder: Scratch,
    first: String,
}

impl Asymmetric {
    async fn start(store: Store, verifiers: usize) -> Self {
        let folder = Scratch::new();
        let first = keys_done(folder.path(), &["generate"]);
        let path = folder.path().to_str().expect("UTF-8").to_owned();
        let settings = [
            ("JWT_KEYS_DIR", path.as_str()),
            ("JWT_SECRET_KEY", ""),
            ("SESSION_SECRET_KEY", SESSION_SECRET),
            ("KEY_PREPUBLISH", "2s"),
        ];
        let mut stack = Stack::with(store, 0, &settings, &[]).await;
        for _ in 0..verifiers {
            add_verifier(&mut stack).await;
        }
        Self { stack, folder, first }
    }

    /// Generates a key, waits until all programs know it, and signs with it.
    async fn rotate(&self, algorithm: &str) -> String {
        let new = keys_done(self.folder.path(), &["generate", "--algorithm", algorithm]);
        let list = keys_done(self.folder.path(), &["list"]);
        let count = list.lines().filter(|line| !line.ends_with("retired")).count();
        for verifier in &self.stack.verifiers {
            eventually("the verifier to know the new key", || async {
                (verifier.admin.get("/readyz").send().await.json()["key_count"] == count).then_some(())
            })
            .await;
        }
        eventually("the key to have been published for long enough", || async {
            keys(self.folder.path(), &["activate", &new]).status.success().then_some(())
        })
        .await;
        new
    }
}

async fn add_verifier(stack: &mut Stack) {
    let At::Tcp(address) = stack.issuer.at else { unreachable!("TCP") };
    let url = format!("http://{address}/.well-known/jwks.json");
    stack.add_verifier(&[("JWT_SECRET_KEY", ""), ("JWKS_URL", &url), ("JWKS_REFRESH", "1s")]).await;
}

/// A client that refreshes from time to time and checks its newest token at every verifier
/// continuously.
struct Client {
    pair: Mutex<Tokens>,
}

async fn busy(client: Arc<Client>, issuer: At, verifiers: Vec<At>, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    let mut round = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let pair = client.pair.lock().expect("not poisoned").clone();
        for verifier in &verifiers {
            let reply = verifier.get("/check").bearer(&pair.access).send().await;
            assert_eq!(reply.status, 200, "check: {}", String::from_utf8_lossy(&reply.body));
        }
        let me = issuer.get("/auth/me").bearer(&pair.access).send().await;
        assert_eq!(me.status, 200, "me: {}", String::from_utf8_lossy(&me.body));
        if round.is_multiple_of(5) {
            let body = json!({"refresh_token": pair.refresh});
            let reply = issuer.post("/auth/refresh").json(&body).send().await;
            assert_eq!(reply.status, 200, "refresh: {}", String::from_utf8_lossy(&reply.body));
            *client.pair.lock().expect("not poisoned") = tokens(&reply);
        }
        round += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_under_load_loses_no_request() {
    let it = Asymmetric::start(Store::Redis, 2).await;
    let stack = &it.stack;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = Vec::new();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let client = Arc::new(Client { pair: Mutex::new(stack.issuer.login(EMAIL).await) });
        let verifiers = stack.verifiers.iter().map(|verifier| verifier.at.clone()).collect();
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        tasks.push(tokio::spawn(busy(Arc::clone(&client), stack.issuer.at.clone(), verifiers, stop, done)));
        clients.push(client);
    }
    let all_under = async |kid: &str| {
        eventually("every client to have a token under the new key", || async {
            let pairs = clients.iter().map(|client| client.pair.lock().expect("not poisoned").access.clone());
            pairs.map(|access| kid_of(&access)).all(|found| found == kid).then_some(())
        })
        .await;
        // And until they no longer use the previous key.
        let seen = done.load(Ordering::Relaxed);
        eventually("every client's next round", || async { (done.load(Ordering::Relaxed) > seen + 12).then_some(()) })
            .await;
    };
    let witness = stack.issuer.login(EMAIL).await;
    assert_eq!(kid_of(&witness.access), it.first);
    let mut old = it.first.clone();
    for algorithm in ["es256", "rs256", "eddsa"] {
        let new = it.rotate(algorithm).await;
        all_under(&new).await;
        keys_done(it.folder.path(), &["retire", &old]);
        for verifier in &stack.verifiers {
            eventually("the verifier to drop the retired key", || async {
                (verifier.admin.get("/readyz").send().await.json()["key_count"] == 1).then_some(())
            })
            .await;
            if old == it.first {
                // Revoked by the log; or unknown, if the verifier has already read the set again.
                let code = verifier.until_denied(&witness.access).await.code();
                assert!(["token_revoked", "token_invalid"].contains(&code.as_str()), "{code}");
            }
        }
        old = new;
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("not one request failed");
    }
    assert!(done.load(Ordering::Relaxed) > 50, "{} rounds", done.load(Ordering::Relaxed));
    let next = tokens(&stack.issuer.refresh(&witness.refresh).await);
    assert_eq!(kid_of(&next.access), old, "the session of a token under a retired key continues");
    assert_eq!(stack.verifiers[0].check(&next.access).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn retired_key_is_refused_although_the_verifier_holds_it() {
    let it = Asymmetric::start(Store::Embedded, 0).await;
    let published = it.stack.issuer.at.get("/.well-known/jwks.json").send().await;
    let file = it.folder.file("public.json");
    std::fs::write(&file, &published.body).expect("written");
    let (feed, path) = (it.stack.issuer.feed_url(), file.to_str().expect("UTF-8").to_owned());
    let settings = [("ISSUER_FEED_URL", feed.as_str()), ("JWT_SECRET_KEY", ""), ("JWKS_FILE", &path)];
    let verifier = Verifier::start(&it.stack.folder, "v", &settings).await;
    let pair = it.stack.issuer.login(EMAIL).await;
    assert_eq!(verifier.check(&pair.access).await.status, 200);
    let new = it.rotate("eddsa").await;
    keys_done(it.folder.path(), &["retire", &it.first]);
    assert_eq!(verifier.until_denied(&pair.access).await.code(), "token_revoked");
    let keys = it.stack.issuer.at.get("/.well-known/jwks.json").send().await.json();
    let kids: Vec<_> = keys["keys"].as_array().expect("keys").iter().map(|key| key["kid"].clone()).collect();
    assert_eq!(kids, [json!(new)], "and it is no longer published");
    assert_eq!(it.stack.issuer.at.get("/auth/me").bearer(&pair.access).send().await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_commands_enforce_the_life_cycle() {
    let folder = Scratch::new();
    let refused = |arguments: &[&str], says: &str| {
        let output = keys(folder.path(), arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(says), "{arguments:?}: {text}");
    };
    refused(&["generate", "--algorithm", "hs256"], "hs256");
    let first = keys_done(folder.path(), &["generate"]);
    let second = keys_done(folder.path(), &["generate", "--algorithm", "es256"]);
    let list = keys_done(folder.path(), &["list"]);
    assert!(list.contains(&format!("{first} EdDSA signing")), "{list}");
    assert!(list.contains(&format!("{second} ES256 published")), "{list}");
    refused(&["activate", &second], "may not know it yet");
    refused(&["retire", &first], "activate another key first");
    refused(&["activate", "unknown"], "no key");
    keys_done(folder.path(), &["activate", &second, "--now"]);
    keys_done(folder.path(), &["retire", &first]);
    refused(&["activate", &first], "retired");
    refused(&["activate", "--now", &first], "retired");
    refused(&["activate", "-begins-with-a-dash"], "no key -begins-with-a-dash");
    refused(&["activate", "--now", "-begins-with-a-dash"], "no key -begins-with-a-dash");
    let list = keys_done(folder.path(), &["list"]);
    assert!(list.contains(&format!("{first} EdDSA retired")), "{list}");
    assert!(list.contains(&format!("{second} ES256 signing")), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jwks_is_public_briefly_cacheable_and_never_symmetric() {
    let it = Asymmetric::start(Store::Embedded, 0).await;
    let reply = it.stack.issuer.at.get("/.well-known/jwks.json").send().await;
    assert_eq!(reply.header("cache-control"), Some("public, max-age=1"), "half of KEY_PREPUBLISH");
    for key in reply.json()["keys"].as_array().expect("keys") {
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(key.get(private).is_none(), "{private} in {key}");
        }
        assert_eq!(key["use"], "sig");
    }
    let symmetric = Stack::start(Store::Embedded, 0).await;
    let reply = symmetric.issuer.at.get("/.well-known/jwks.json").send().await;
    assert_eq!(reply.json(), json!({"keys": []}));
}

/// A token that is valid except for its unknown key.
fn under(key: &SigningKey) -> String {
    let now = sidegate_runtime::clock::unix_now().0;
    // Not older than the store: tokens issued before its creation cannot be checked.
    token::sign(key, &Claims { iat: now, exp: now + 3600, ..claims("1") }).expect("fit claims")
}

fn new_key() -> SigningKey {
    SigningKey::from_pem(&generate(KeyKind::EdDsa).expect("a key")).expect("a key")
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_of_unknown_kids_costs_one_fetch_per_cooldown() {
    let (known, coming) = (new_key(), new_key());
    let server = JwksServer::start(&jwk_set(&[&known])).await;
    let stack = Stack::start(Store::Embedded, 0).await;
    let feed = stack.issuer.feed_url();
    let settings = [
        ("ISSUER_FEED_URL", feed.as_str()),
        ("JWT_SECRET_KEY", ""),
        ("JWKS_URL", server.url()),
        ("JWKS_REFRESH", "1h"),
    ];
    let started = Instant::now();
    let verifier = Verifier::start(&stack.folder, "v", &settings).await;
    assert_eq!((verifier.check(&under(&known)).await.status.as_u16(), server.asked()), (200, 1));
    let at_most = |elapsed: Duration| 2 + elapsed.as_secs() / 30;

    let strangers: Vec<_> = (0..200).map(|_| under(&new_key())).collect();
    let flood = || async {
        let checks = strangers.iter().map(|token| tokio::spawn(verifier.at.get("/check").bearer(token).send()));
        for check in checks.collect::<Vec<_>>() {
            assert_eq!(check.await.expect("an answer").code(), "token_invalid");
        }
    };
    flood().await;
    flood().await;
    assert!(server.asked() <= at_most(started.elapsed()), "{} fetches", server.asked());

    // During the flood, a new key is found once the cooldown is over.
    server.serve(&jwk_set(&[&known, &coming]));
    let new = under(&coming);
    within(Duration::from_secs(120), "the new key to be fetched", || async {
        flood().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        (verifier.check(&new).await.status == 200).then_some(())
    })
    .await;
    flood().await;
    assert!(server.asked() >= 2 && server.asked() <= at_most(started.elapsed()), "{} fetches", server.asked());
    assert_eq!(verifier.check(&under(&known)).await.status, 200);
}

/// Status and code for `token` at every interface; an inactive introspection has the code
/// `inactive`.
async fn every_interface(verifier: &Verifier, token: &str) -> Vec<(&'static str, u16, String)> {
    let proxied = |path: &str| {
        let call = verifier.at.get(path).bearer(token);
        let call = call.header("x-original-uri", "/a").header("x-original-method", "GET");
        call.header("x-forwarded-uri", "/a").header("x-forwarded-method", "GET")
    };
    let calls = [
        ("check", verifier.at.get("/check").bearer(token)),
        ("envoy", proxied("/envoy/a")),
        ("nginx", proxied("/nginx")),
        ("forward", proxied("/forward")),
        ("haproxy", proxied("/haproxy")),
        ("verify", verifier.at.post("/verify").body(token.to_owned())),
        ("introspect", verifier.at.post("/introspect").form(&format!("token={token}"))),
    ];
    let mut answers = Vec::new();
    for (interface, call) in calls {
        let reply = call.send().await;
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let code = if body["active"] == false { "inactive" } else { body["code"].as_str().unwrap_or_default() };
        answers.push((interface, reply.status.as_u16(), code.to_owned()));
    }
    let At::Unix(socket) = &verifier.at else { unreachable!("a Unix socket") };
    let attributes = grpc_check::attributes("GET", "/a", &[("authorization", &format!("Bearer {token}"))]);
    let response = grpc_check::check(&grpc_check::channel(socket).await, Some(attributes), &[]).await;
    let status = match response.status.expect("a status").code {
        0 => 200,
        14 => 503,
        _ => 401,
    };
    answers.push(("grpc", status, String::new()));
    answers
}

fn all_answer(answers: &[(&'static str, u16, String)], status: u16) {
    for (interface, answered, code) in answers {
        assert_eq!(*answered, status, "{interface}: {code}");
        assert!(status != 503 || *interface == "grpc" || code == "temporarily_unavailable", "{interface}: {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_key_fetch_is_503_and_retried() {
    let (known, coming) = (new_key(), new_key());
    let server = JwksServer::start(&jwk_set(&[&known])).await;
    server.set_broken(true);
    let stack = Stack::start(Store::Embedded, 0).await;
    let feed = stack.issuer.feed_url();
    let settings = [("ISSUER_FEED_URL", feed.as_str()), ("JWKS_URL", server.url()), ("JWKS_REFRESH", "1h")];
    // The secret beside the set makes the verifier ready; the set has never been read.
    let verifier = Verifier::start(&stack.folder, "v", &settings).await;
    let token = under(&known);
    for _ in 0..3 {
        all_answer(&every_interface(&verifier, &token).await, 503);
    }
    let pair = stack.issuer.login(EMAIL).await;
    assert_eq!(verifier.check(&pair.access).await.status, 200, "held keys continue to work");
    assert_eq!(verifier.check(&forged_hs256()).await.code(), "token_invalid", "no set can hold an HS256 key");
    server.set_broken(false);
    eventually("the key to be fetched again", || async { (verifier.check(&token).await.status == 200).then_some(()) })
        .await;
    all_answer(&every_interface(&verifier, &token).await, 200);

    // A set that was read once and cannot be read now may contain new keys.
    server.set_broken(true);
    let failed = "sidegate_verifier_jwks_reads_total{result=\"failed\"}";
    let failures = metric(&verifier.admin, failed).await;
    verifier.program.signal(Signal::HUP);
    eventually("the fetch of the set to fail", || async {
        (metric(&verifier.admin, failed).await > failures).then_some(())
    })
    .await;
    let (new, junk) = (under(&coming), under(&new_key()));
    all_answer(&every_interface(&verifier, &new).await, 503);
    all_answer(&every_interface(&verifier, &token).await, 200);
    server.serve(&jwk_set(&[&known, &coming]));
    server.set_broken(false);
    eventually("the new key to be found", || async { (verifier.check(&new).await.status == 200).then_some(()) }).await;
    let refused = every_interface(&verifier, &junk).await;
    for (interface, status, code) in &refused {
        let denied = if *interface == "introspect" { *status == 200 && code == "inactive" } else { *status == 401 };
        assert!(denied, "{interface}: {status} {code}: a set that was read and lacks the key is an answer");
    }
    // One line per outage, not per attempt.
    let log = verifier.program.output();
    assert_eq!(log.matches("JWKS fetch failed;").count(), 2, "{log}");
    assert!(log.contains("\"setting\":\"JWKS_URL\"") && log.contains("status 500"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_all_fail_alike_are_logged_with_both_values() {
    let stack = Stack::with(Store::Embedded, 0, &[("JWT_ISSUER", "https://issuer.example")], &[]).await;
    let feed = stack.issuer.feed_url();
    let verifier = Verifier::start(&stack.folder, "v", &[("ISSUER_FEED_URL", feed.as_str())]).await;
    let pair = stack.issuer.login(EMAIL).await;
    for _ in 0..5 {
        assert_eq!(verifier.check(&pair.access).await.code(), "token_invalid");
    }
    assert_eq!(metric(&verifier.admin, "sidegate_verifier_refusals_total{reason=\"issuer\"}").await, 5);
    let message = "all tokens of the last minute were refused for the same reason";
    within(Duration::from_secs(150), "the difference to be logged", || async {
        verifier.program.output().contains(message).then_some(())
    })
    .await;
    let log = verifier.program.output();
    let line = log.lines().find(|line| line.contains(message)).expect("the line");
    for part in ["WARN", "\"setting\":\"JWT_ISSUER\"", "\"ours\":\"sidegate\"", "\"theirs\":\"https://issuer.example\""]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
}

/// A token under an unconfigured secret.
fn forged_hs256() -> String {
    under(&SigningKey::hs256(&Secret::new("another-secret-for-the-tests-of-thirty-two-bytes")).expect("a key"))
}

#[tokio::test(flavor = "multi_thread")]
async fn verifier_keeps_keys_while_the_issuer_is_down() {
    let mut it = Asymmetric::start(Store::Redis, 1).await;
    let pair = it.stack.issuer.login(EMAIL).await;
    it.stack.issuer.program.kill();
    let failed = "sidegate_verifier_jwks_reads_total{result=\"failed\"}";
    let verifier = &it.stack.verifiers[0];
    eventually("the verifier's fetch to fail", || async { (metric(&verifier.admin, failed).await > 0).then_some(()) })
        .await;
    assert_eq!(verifier.check(&pair.access).await.status, 200, "all issuers may be down");
}

/// A second issuer on the same Redis and keys.
async fn second_issuer(stack: &Stack, settings: &[(&str, &str)]) -> Issuer {
    let mut all: Vec<(&str, &str)> =
        stack.issuer.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    all.retain(|(name, _)| !name.ends_with("_LISTEN"));
    all.extend(settings);
    Issuer::start(&stack.folder, "issuer2", &all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_issuer_reloads_its_key_folder() {
    let it = Asymmetric::start(Store::Redis, 1).await;
    let second = second_issuer(&it.stack, &[]).await;
    let new = it.rotate("es256").await;
    for issuer in [&it.stack.issuer, &second] {
        let pair = eventually("the issuer to sign with the new key", || async {
            let pair = issuer.login(EMAIL).await;
            (kid_of(&pair.access) == new).then_some(pair)
        })
        .await;
        assert_eq!(it.stack.verifiers[0].check(&pair.access).await.status, 200);
    }
}
