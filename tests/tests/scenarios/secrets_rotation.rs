//! Replacing secrets, and changing algorithms, without losing a session.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::process::Signal;
use sidegate_issuer::keys::folder::Folder;
use sidegate_issuer::keys::generate::{KeyKind, generate};
use sidegate_tests::http::At;
use sidegate_tests::program::Program;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, Issuer, SECRET, Stack, Store, Tokens, Verifier, tokens};
use sidegate_tests::wait::eventually;

const OLD: &str = "the-old-secret-of-these-tests-of-thirty-two-bytes";
const NEW: &str = "the-new-secret-of-these-tests-of-thirty-two-bytes";

/// A refresh, which must succeed.
async fn refreshed(issuer: &Issuer, pair: &Tokens) -> Tokens {
    let reply = issuer.refresh(&pair.refresh).await;
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    tokens(&reply)
}

fn set(settings: &mut std::collections::BTreeMap<String, String>, changes: &[(&str, &str)]) {
    for (name, value) in changes {
        settings.insert((*name).to_owned(), (*value).to_owned());
    }
}

/// Stops a program cleanly and starts it with other settings.
async fn restarted(issuer: &mut Issuer, changes: &[(&str, &str)]) {
    assert!(issuer.program.stop().success());
    set(&mut issuer.settings, changes);
    issuer.restart().await;
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_from_a_shared_secret_to_private_keys() {
    let mut stack = Stack::start(Store::Redis, 1).await;
    let old = stack.issuer.login(EMAIL).await;

    // Step one: the issuer signs with a private key; the secret only verifies, and still covers
    // refresh tokens.
    let folder = Scratch::new();
    let pem = generate(KeyKind::EdDsa).expect("a key");
    Folder::read(folder.path()).expect("empty").add(&pem).expect("added");
    let At::Tcp(address) = stack.issuer.at else { unreachable!("TCP") };
    let url = format!("http://{address}/.well-known/jwks.json");
    // Verifiers first: they must know the key before it signs, and keep the secret.
    let verifier = &mut stack.verifiers[0];
    assert!(verifier.program.stop().success());
    set(&mut verifier.settings, &[("JWKS_URL", &url), ("JWKS_REFRESH", "1s")]);
    verifier.restart().await;
    restarted(&mut stack.issuer, &[("JWT_KEYS_DIR", text(folder.path())), ("SESSION_SECRET_KEY", NEW)]).await;
    let verifier = &stack.verifiers[0];
    eventually("the verifier to have the key", || async {
        (verifier.admin.get("/readyz").send().await.json()["key_count"] == 2).then_some(())
    })
    .await;
    assert_eq!(verifier.check(&old.access).await.status, 200, "tokens under the secret are still good");
    let moved = refreshed(&stack.issuer, &old).await;
    assert_ne!(old.access.split('.').next(), moved.access.split('.').next(), "under another key now");
    assert_eq!(verifier.check(&moved.access).await.status, 200);
    let fresh = stack.issuer.login(EMAIL).await;

    // Step two: once the last token under the secret has expired, verifiers drop the secret, and
    // the issuer keeps it for refresh tokens only.
    let only = [("JWT_SECRET_KEY", ""), ("SESSION_SECRET_KEY_PREVIOUS", SECRET)];
    restarted(&mut stack.issuer, &only).await;
    let verifier = &mut stack.verifiers[0];
    assert!(verifier.program.stop().success());
    set(&mut verifier.settings, &[("JWT_SECRET_KEY", "")]);
    verifier.restart().await;
    let verifier = &stack.verifiers[0];
    for pair in [&moved, &fresh] {
        assert_eq!(verifier.check(&pair.access).await.status, 200);
        let next = refreshed(&stack.issuer, pair).await;
        assert_eq!(verifier.check(&next.access).await.status, 200);
    }
    assert_eq!(verifier.check(&old.access).await.code(), "token_invalid", "the secret is no longer accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_secret_is_replaced_on_sighup() {
    let folder = Scratch::new();
    let (current, previous) = (folder.file("session"), folder.file("session-previous"));
    std::fs::write(&current, OLD).expect("written");
    // The previous secret is always set: to one that never signed a token.
    std::fs::write(&previous, "a-secret-that-has-never-been-used-by-anybody").expect("written");
    let settings = [("SESSION_SECRET_KEY_FILE", text(&current)), ("SESSION_SECRET_KEY_PREVIOUS_FILE", text(&previous))];
    let stack = Stack::with(Store::Embedded, 0, &settings, &[]).await;
    let old = stack.issuer.login(EMAIL).await;
    std::fs::write(&previous, OLD).expect("written");
    std::fs::write(&current, NEW).expect("written");
    stack.issuer.program.signal(Signal::HUP);
    // A new session uses the new secret once it is in force: bytes 1 to 4 identify the secret.
    let secret_of = |pair: &Tokens| pair.refresh[..6].to_owned();
    let new = eventually("the new secret to be in force", || async {
        let pair = stack.issuer.login(EMAIL).await;
        (secret_of(&pair) != secret_of(&old)).then_some(pair)
    })
    .await;
    let child = refreshed(&stack.issuer, &old).await;
    refreshed(&stack.issuer, &child).await;
    refreshed(&stack.issuer, &new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_issuers_replace_the_session_secret_one_after_the_other() {
    let stack = Stack::with(Store::Redis, 0, &[("SESSION_SECRET_KEY", OLD)], &[]).await;
    let url = stack.redis.as_ref().expect("on Redis").url();
    let database = stack.issuer.settings["DATABASE_URL"].clone();
    let settings = [("REDIS_URL", url.as_str()), ("DATABASE_URL", &database), ("SESSION_SECRET_KEY", OLD)];
    let second = Issuer::start(&stack.folder, "issuer2", &settings).await;
    let Stack { issuer: first, redis: _redis, folder: _folder, .. } = stack;
    let mut issuers = [first, second];
    let mut pairs = vec![issuers[0].login(EMAIL).await, issuers[1].login(EMAIL).await];
    // First both get the new secret as the previous one; then the two are swapped.
    for step in [
        [("SESSION_SECRET_KEY", OLD), ("SESSION_SECRET_KEY_PREVIOUS", NEW)],
        [("SESSION_SECRET_KEY", NEW), ("SESSION_SECRET_KEY_PREVIOUS", OLD)],
    ] {
        for at in 0..2 {
            restarted(&mut issuers[at], &step).await;
            pairs.push(issuers[at].login(EMAIL).await);
            for pair in &mut pairs {
                for issuer in &issuers {
                    *pair = refreshed(issuer, pair).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shared_secret_is_replaced_on_sighup_of_both_programs() {
    let folder = Scratch::new();
    let (current, previous) = (folder.file("jwt"), folder.file("jwt-previous"));
    std::fs::write(&current, OLD).expect("written");
    std::fs::write(&previous, NEW).expect("written");
    let files = [
        ("JWT_SECRET_KEY_FILE", text(&current)),
        ("JWT_SECRET_KEY_PREVIOUS_FILE", text(&previous)),
        ("JWT_SECRET_KEY", ""),
    ];
    let stack = Stack::with(Store::Embedded, 1, &files, &files).await;
    let verifier = &stack.verifiers[0];
    let old = stack.issuer.login(EMAIL).await;
    std::fs::write(&current, NEW).expect("written");
    std::fs::write(&previous, OLD).expect("written");
    for program in [&verifier.program, &stack.issuer.program] {
        program.signal(Signal::HUP);
    }
    let header = |pair: &Tokens| pair.access.split('.').next().map(str::to_owned);
    let new = eventually("the new secret to sign", || async {
        let pair = stack.issuer.login(EMAIL).await;
        (header(&pair) != header(&old)).then_some(pair)
    })
    .await;
    assert_eq!(verifier.check(&new.access).await.status, 200);
    assert_eq!(verifier.check(&old.access).await.status, 200, "the one before still verifies");
    refreshed(&stack.issuer, &old).await;
}

/// The effect of SIGHUP on each secret setting, and the test that shows it.
const ON_SIGHUP: &[(&str, &str, bool)] = &[
    // From `the_shared_secret_is_replaced_on_sighup_of_both_programs` and `the_session_secret_is_replaced_on_sighup`.
    ("sidegate-issuer", "JWT_SECRET_KEY", true),
    ("sidegate-issuer", "JWT_SECRET_KEY_PREVIOUS", true),
    ("sidegate-issuer", "SESSION_SECRET_KEY", true),
    ("sidegate-issuer", "SESSION_SECRET_KEY_PREVIOUS", true),
    ("sidegate-verifier", "JWT_SECRET_KEY", true),
    ("sidegate-verifier", "JWT_SECRET_KEY_PREVIOUS", true),
    // From `tokens_of_both_programs_are_replaced_on_sighup`.
    ("sidegate-issuer", "ADMIN_TOKEN", true),
    ("sidegate-issuer", "FEED_TOKEN", true),
    ("sidegate-verifier", "FEED_TOKEN", true),
    ("sidegate-verifier", "INTROSPECT_TOKEN", true),
    // From `the_password_of_redis_is_replaced_on_sighup`.
    ("sidegate-issuer", "REDIS_URL", true),
    ("sidegate-verifier", "REDIS_URL", true),
    ("sidegate-issuer", "REDIS_SENTINEL_PASSWORD", true),
    ("sidegate-verifier", "REDIS_SENTINEL_PASSWORD", true),
    // From `settings_that_need_a_restart_are_logged`.
    ("sidegate-issuer", "DATABASE_URL", false),
];

#[test]
fn every_secret_setting_has_a_reload_test() {
    let programs = [
        ("sidegate-issuer", sidegate_issuer::config::SETTINGS),
        ("sidegate-verifier", sidegate_verifier::config::SETTINGS),
    ];
    for (program, table) in programs {
        let secrets: BTreeSet<_> = table.iter().filter(|one| one.secret).map(|one| (one.name, one.reloaded)).collect();
        let tested = ON_SIGHUP.iter().filter(|(of, ..)| *of == program).map(|(_, name, reloaded)| (*name, *reloaded));
        assert_eq!(secrets, tested.collect(), "{program}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_both_programs_are_replaced_on_sighup() {
    const BEFORE: &str = "the-token-before-of-these-tests";
    const AFTER: &str = "the-token-after-of-these-tests";
    let folder = Scratch::new();
    let [admin, feed, introspect] = ["admin", "feed", "introspect"].map(|name| folder.file(name));
    let write = |token: &str| {
        for file in [&admin, &feed, &introspect] {
            std::fs::write(file, token).expect("written");
        }
    };
    write(BEFORE);
    let of_issuer = [("ADMIN_TOKEN_FILE", text(&admin)), ("ADMIN_TOKEN", ""), ("FEED_TOKEN_FILE", text(&feed))];
    let of_verifier = [("FEED_TOKEN_FILE", text(&feed)), ("INTROSPECT_TOKEN_FILE", text(&introspect))];
    let mut stack = Stack::with(Store::Embedded, 1, &of_issuer, &of_verifier).await;
    let pair = stack.issuer.login(EMAIL).await;
    let revoke = async |issuer: &Issuer, token: &str| {
        let order = serde_json::json!({"session": "unknown"});
        issuer.admin.post("/admin/revocations").bearer(token).json(&order).send().await.status.as_u16()
    };
    let ask = async |verifier: &Verifier, token: &str| {
        let form = format!("token={}", pair.access);
        verifier.tcp.post("/introspect").bearer(token).form(&form).send().await.status.as_u16()
    };
    assert_eq!((revoke(&stack.issuer, BEFORE).await, revoke(&stack.issuer, AFTER).await), (204, 401));
    assert_eq!((ask(&stack.verifiers[0], BEFORE).await, ask(&stack.verifiers[0], AFTER).await), (200, 401));

    write(AFTER);
    for program in [&stack.issuer.program, &stack.verifiers[0].program] {
        program.signal(Signal::HUP);
        eventually("the reload to be logged", || async { logged(program, "\"message\":\"config reloaded\"") }).await;
    }
    assert_eq!((revoke(&stack.issuer, BEFORE).await, revoke(&stack.issuer, AFTER).await), (401, 204));
    assert_eq!((ask(&stack.verifiers[0], BEFORE).await, ask(&stack.verifiers[0], AFTER).await), (401, 200));
    // The feed requires the new token from new followers, and from existing ones when they
    // reconnect.
    stack.add_verifier(&of_verifier).await;
    assert!(stack.issuer.program.stop().success());
    stack.issuer.restart().await;
    let again = stack.issuer.login(EMAIL).await;
    assert_eq!(stack.issuer.logout(&again.access).await.status, 204);
    for verifier in &stack.verifiers {
        assert_eq!(verifier.until_denied(&again.access).await.code(), "token_revoked");
    }
    // A removed token opens nothing, although the routes stay until a restart.
    std::fs::write(&admin, "short").expect("written");
    stack.issuer.program.signal(Signal::HUP);
    let failed = "config reload failed; keeping the previous config";
    eventually("the wrong token to be refused", || async { logged(&stack.issuer.program, failed) }).await;
    assert_eq!(revoke(&stack.issuer, AFTER).await, 204, "a wrong token changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_of_redis_is_replaced_on_sighup() {
    let folder = Scratch::new();
    let file = folder.file("redis-url");
    let server = sidegate_tests::redis::Redis::start().await;
    let mut connection = server.connection().await;
    let url = |password: &str| format!("redis://app:{password}@127.0.0.1:{}/", server.port());
    let run = async |connection: &mut redis::aio::MultiplexedConnection, command: &str| {
        let mut words = command.split(' ');
        let mut built = redis::cmd(words.next().expect("a command"));
        for word in words {
            built.arg(word);
        }
        built.query_async::<redis::Value>(connection).await.expect("Redis obeys")
    };
    run(&mut connection, "ACL SETUSER app on >before ~* &* +@all").await;
    std::fs::write(&file, url("before")).expect("written");
    let settings = [("REDIS_URL_FILE", text(&file))];
    let mut stack = Stack::with(Store::Embedded, 0, &settings, &[]).await;
    let verifier = Verifier::start(&stack.folder, "v", &settings).await;
    stack.verifiers.push(verifier);
    // A wrong one is tried, refused and not used.
    std::fs::write(&file, url("mistyped")).expect("written");
    stack.issuer.program.signal(Signal::HUP);
    let refused = "the new credentials do not work; keeping the previous ones";
    eventually("the wrong password to be refused", || async { logged(&stack.issuer.program, refused) }).await;
    assert_eq!(stack.issuer.logout(&stack.issuer.login(EMAIL).await.access).await.status, 204);

    run(&mut connection, "ACL SETUSER app >after").await;
    std::fs::write(&file, url("after")).expect("written");
    for program in [&stack.issuer.program, &stack.verifiers[0].program] {
        program.signal(Signal::HUP);
        let taken = "\"taken_up\":\"[\\\"REDIS_URL\\\"]\"";
        eventually("the new password to be applied", || async { logged(program, taken) }).await;
    }
    run(&mut connection, "ACL SETUSER app <before").await;
    for _ in 0..3 {
        run(&mut connection, "CLIENT KILL USER app").await;
        let pair = eventually("a login with the new password", || async {
            let body = serde_json::json!({"email": EMAIL, "password": sidegate_tests::users::PASSWORD});
            let reply = stack.issuer.at.post("/auth/login").json(&body).send().await;
            (reply.status == 200).then(|| tokens(&reply))
        })
        .await;
        eventually("the verifier to be back", || async {
            (stack.verifiers[0].check(&pair.access).await.status == 200).then_some(())
        })
        .await;
        eventually("a logout", || async { (stack.issuer.logout(&pair.access).await.status == 204).then_some(()) })
            .await;
        stack.verifiers[0].until_denied(&pair.access).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_need_a_restart_are_logged() {
    let folder = Scratch::new();
    let (database, config) = (folder.file("database-url"), folder.file("sidegate.toml"));
    let stack = Stack::start(Store::Embedded, 0).await;
    let url = stack.issuer.settings["DATABASE_URL"].clone();
    std::fs::write(&database, &url).expect("written");
    std::fs::write(&config, "access_token_ttl = \"1h\"\n").expect("written");
    let mut settings = stack.issuer.settings.clone();
    let store = format!("sqlite://{}", folder.file("other-store.db").display());
    set(&mut settings, &[("DATABASE_URL_FILE", text(&database)), ("DATABASE_URL", ""), ("STORE_URL", &store)]);
    for name in ["ISSUER_LISTEN", "ISSUER_ADMIN_LISTEN", "ISSUER_FEED_LISTEN"] {
        settings.insert(name.to_owned(), "127.0.0.1:0".to_owned());
    }
    let mut command = std::process::Command::new(sidegate_tests::program::binary("sidegate-issuer"));
    command.args(["--config", text(&config)]).env_clear().envs(&settings);
    let program = Program::start("sidegate-issuer", command, &folder.file("log"));
    eventually("the start", || async { logged(&program, "issuer started") }).await;
    std::fs::write(&database, format!("{url}?mode=ro")).expect("written");
    std::fs::write(&config, "access_token_ttl = \"2h\"\n").expect("written");
    program.signal(Signal::HUP);
    eventually("the settings that need a restart to be logged", || async { logged(&program, "need a restart") }).await;
    let log = program.output();
    let line = log.lines().find(|line| line.contains("need a restart")).expect("the line");
    assert!(
        line.contains("DATABASE_URL") && line.contains("ACCESS_TOKEN_TTL") && !line.contains("STORE_URL"),
        "{line}"
    );
    assert!(line.contains("WARN"), "{line}");
}

/// A folder like a Kubernetes secret mount: `..data` links to the current version, and each name
/// links through it.
struct Mount {
    folder: Scratch,
    version: u32,
}

impl Mount {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let mut mount = Self { folder: Scratch::new(), version: 0 };
        mount.publish(files);
        mount
    }

    /// Writes a new version beside the old one and swaps it in with one rename, like the kubelet.
    fn publish(&mut self, files: &[(&str, &[u8])]) {
        self.version += 1;
        let version = format!("..2026_{}", self.version);
        std::fs::create_dir(self.folder.file(&version)).expect("made");
        for (name, bytes) in files {
            std::fs::write(self.folder.file(&version).join(name), bytes).expect("written");
            let link = self.folder.file(name);
            if !link.is_symlink() {
                symlink(format!("..data/{name}"), link).expect("linked");
            }
        }
        symlink(&version, self.folder.file("..data_tmp")).expect("linked");
        std::fs::rename(self.folder.file("..data_tmp"), self.folder.file("..data")).expect("swapped");
        if self.version > 1 {
            let old = format!("..2026_{}", self.version - 1);
            std::fs::remove_dir_all(self.folder.file(&old)).expect("removed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_swapped_by_kubernetes_is_reloaded() {
    let kept = Scratch::new();
    let first_pem = generate(KeyKind::EdDsa).expect("a key");
    let second_pem = generate(KeyKind::Es256).expect("a key");
    let first = Folder::read(kept.path()).expect("empty").add(&first_pem).expect("added");
    let states =
        |signing: &str, retired: &str| format!("signing = \"{signing}\"\nretired = [{retired}]\n").into_bytes();
    let mut mount = Mount::new(&[("a.pem", &first_pem), ("keys.toml", &states(&first, ""))]);
    let settings = [
        ("JWT_KEYS_DIR", text(mount.folder.path())),
        ("JWT_SECRET_KEY", ""),
        ("SESSION_SECRET_KEY", NEW),
        ("KEY_PREPUBLISH", "2s"),
    ];
    let stack = Stack::with(Store::Embedded, 0, &settings, &[]).await;
    let (At::Tcp(address), feed) = (stack.issuer.at.clone(), stack.issuer.feed_url()) else { unreachable!("TCP") };
    let url = format!("http://{address}/.well-known/jwks.json");
    let follow = [
        ("ISSUER_FEED_URL", feed.as_str()),
        ("JWT_SECRET_KEY", ""),
        ("JWKS_URL", url.as_str()),
        ("JWKS_REFRESH", "1s"),
    ];
    let verifier = Verifier::start(&stack.folder, "v", &follow).await;
    let pair = stack.issuer.login(EMAIL).await;

    // Publishes the second key.
    mount.publish(&[("a.pem", &first_pem), ("b.pem", &second_pem), ("keys.toml", &states(&first, ""))]);
    let keys = eventually("the key to be published", || async {
        let keys = stack.issuer.at.get("/.well-known/jwks.json").send().await.json();
        (keys["keys"].as_array().expect("keys").len() == 2).then_some(keys)
    })
    .await;
    let kids = keys["keys"].as_array().expect("keys").iter().map(|key| key["kid"].as_str().expect("a kid").to_owned());
    let second = kids.into_iter().find(|kid| *kid != first).expect("another one");
    eventually("the verifier to know it", || async {
        (verifier.admin.get("/readyz").send().await.json()["key_count"] == 2).then_some(())
    })
    .await;
    // Activates the second key.
    mount.publish(&[("a.pem", &first_pem), ("b.pem", &second_pem), ("keys.toml", &states(&second, ""))]);
    let new = eventually("it to sign", || async {
        let next = stack.issuer.login(EMAIL).await;
        (next.access.split('.').next() != pair.access.split('.').next()).then_some(next)
    })
    .await;
    assert_eq!(verifier.check(&new.access).await.status, 200);
    assert_eq!(verifier.check(&pair.access).await.status, 200, "the first is still published");
    // Retires the first key.
    let retired = states(&second, &format!("\"{first}\""));
    mount.publish(&[("a.pem", &first_pem), ("b.pem", &second_pem), ("keys.toml", &retired)]);
    // Revoked by the log; or unknown, if the verifier has already read the set again.
    let code = verifier.until_denied(&pair.access).await.code();
    assert!(["token_revoked", "token_invalid"].contains(&code.as_str()), "{code}");
    let kept = "\"event\":\"key_retired\",\"result\":\"ok\"";
    eventually("the log to have the retired key", || async { logged(&stack.issuer.program, kept) }).await;
    assert_eq!(verifier.check(&new.access).await.status, 200);
    // A bad version changes nothing.
    mount.publish(&[("a.pem", b"junk"), ("b.pem", &second_pem), ("keys.toml", &retired)]);
    eventually("the error to be logged", || async { logged(&stack.issuer.program, "signing key reload failed") }).await;
    let last = stack.issuer.login(EMAIL).await;
    assert_eq!(verifier.check(&last.access).await.status, 200);
}

fn logged(program: &Program, what: &str) -> Option<()> {
    program.output().contains(what).then_some(())
}
