//! Start with a Redis that is down, loading, or requires passwords; and the log lines of an outage.

use std::collections::BTreeMap;

use sidegate_common::log_protocol::RedisKeys;
use sidegate_tests::http::At;
use sidegate_tests::program::{Program, free_port};
use sidegate_tests::redis::Redis;
use sidegate_tests::redis_kinds;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, SECRET, Stack, Store, Verifier};
use sidegate_tests::users;
use sidegate_tests::wait::eventually;

/// An issuer that is not waited for.
struct Waiting {
    program: Program,
    public: At,
    admin: At,
}

fn local(port: u16) -> At {
    At::Tcp(([127, 0, 0, 1], port).into())
}

async fn issuer_unready(folder: &Scratch, settings: &[(&str, &str)]) -> Waiting {
    let database = folder.file("app.db");
    if !database.exists() {
        users::sqlite(&database, &[EMAIL]).await;
    }
    let (public, admin) = (free_port(), free_port());
    let (database, listen) = (format!("sqlite://{}", database.display()), format!("127.0.0.1:{public}"));
    let admin_listen = format!("127.0.0.1:{admin}");
    let own = [
        ("ISSUER_LISTEN", listen.as_str()),
        ("ISSUER_ADMIN_LISTEN", &admin_listen),
        ("DATABASE_URL", &database),
        ("JWT_SECRET_KEY", SECRET),
        ("BCRYPT_COST", "4"),
    ];
    let all: BTreeMap<_, _> =
        own.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let program = Program::ours("sidegate-issuer", &all, &folder.file("issuer.log"));
    Waiting { program, public: local(public), admin: local(admin) }
}

/// Both listeners answer, without promises: not ready, and 503 to a login.
async fn serves_nothing_yet(issuer: &Waiting, verifier: &Verifier) {
    for admin in [&issuer.admin, &verifier.admin] {
        eventually("the admin listener", || async {
            (admin.get("/livez").try_send().await.ok()?.status == 200).then_some(())
        })
        .await;
        assert_eq!(admin.get("/readyz").send().await.status, 503);
    }
    let login = serde_json::json!({"email": EMAIL, "password": users::PASSWORD});
    eventually("the public listener", || async {
        (issuer.public.post("/auth/login").json(&login).try_send().await.ok()?.status == 503).then_some(())
    })
    .await;
    eventually("the verifier's listener", || async {
        (verifier.at.get("/check").bearer("x.y.z").try_send().await.ok()?.status == 503).then_some(())
    })
    .await;
}

async fn until_ready(issuer: &mut Waiting, verifier: &mut Verifier) {
    eventually("the issuer to be ready", || async {
        (issuer.admin.get("/readyz").try_send().await.ok()?.status == 200).then_some(())
    })
    .await;
    assert!(issuer.program.running());
    verifier.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_listen_and_wait_while_redis_is_away_or_loads() {
    let mut redis = Redis::start().await;
    redis.kill();
    let folder = Scratch::new();
    let url = redis.url();
    let mut issuer = issuer_unready(&folder, &[("REDIS_URL", &url)]).await;
    let mut verifier = Verifier::start_unready(&folder, "verifier", &[("REDIS_URL", &url)]);
    serves_nothing_yet(&issuer, &verifier).await;
    // A Redis that answers every command with LOADING.
    redis.restart().await;
    let mut connection = redis.connection().await;
    // Half a minute to load.
    for batch in 0..60 {
        let fill = format!("for i = 1, 1000 do redis.call('SET', 'filler:{batch}:' .. i, 'x') end");
        redis::cmd("EVAL").arg(fill).arg(0).exec_async(&mut connection).await.expect("filled");
    }
    until_ready(&mut issuer, &mut verifier).await;
    assert!(issuer.program.stop().success() && verifier.program.stop().success());
    redis.kill();
    redis.start_loading();
    let mut issuer = issuer_unready(&folder, &[("REDIS_URL", &url)]).await;
    let mut verifier = Verifier::start_unready(&folder, "verifier", &[("REDIS_URL", &url)]);
    serves_nothing_yet(&issuer, &verifier).await;
    eventually("it to say what it waits for", || async { issuer.program.output().contains("LOADING").then_some(()) })
        .await;
    redis.kill();
    redis.restart().await;
    until_ready(&mut issuer, &mut verifier).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_can_have_its_own_password() {
    let (_servers, url) = redis_kinds::behind_a_guarded_sentinel("for-redis", "for-sentinel").await;
    let folder = Scratch::new();
    let mut issuer = issuer_unready(&folder, &[("REDIS_URL", &url)]).await;
    eventually("it to say which server refuses", || async {
        let output = issuer.program.output();
        (output.contains("Sentinel 127.0.0.1:") && output.contains("NOAUTH")).then_some(())
    })
    .await;
    assert!(issuer.program.stop().success());
    let password = folder.file("sentinel-password");
    std::fs::write(&password, "for-sentinel\n").expect("our own folder");
    let file = ("REDIS_SENTINEL_PASSWORD_FILE", password.to_str().expect("UTF-8"));
    let mut issuer = issuer_unready(&folder, &[("REDIS_URL", &url), file]).await;
    let mut verifier = Verifier::start_unready(&folder, "verifier", &[("REDIS_URL", &url), file]);
    until_ready(&mut issuer, &mut verifier).await;
    // An error of the other server is reported as clearly.
    let wrong = url.replace("for-redis", "wrong");
    let other = Verifier::start_unready(&folder, "wrong", &[("REDIS_URL", &wrong), file]);
    eventually("it to say which server refuses", || async {
        let output = other.program.output();
        let said = output.contains("Redis 127.0.0.1:") && !output.contains("Sentinel 127.0.0.1:");
        said.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_survive_killed_connections() {
    let stack = Stack::start(Store::Redis, 0).await;
    let redis = stack.redis.as_ref().expect("over Redis");
    let mut connection = redis.connection().await;
    for _ in 0..30 {
        redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .exec_async(&mut connection)
            .await
            .expect("killed");
        // The end of the connection must reach the issuer; then no request is sent over it.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        stack.issuer.login(EMAIL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_one_line_in_each_log() {
    let mut stack = Stack::start(Store::Redis, 1).await;
    stack.redis.as_mut().expect("over Redis").kill();
    // Long enough for several attempts to connect.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    stack.redis.as_mut().expect("over Redis").restart().await;
    let lines = |output: &str, text: &str| output.lines().filter(|line| line.contains(text)).count();
    for program in [&stack.issuer.program, &stack.verifiers[0].program] {
        eventually("it to follow again", || async {
            (lines(&program.output(), "following the revocation log again") == 1).then_some(())
        })
        .await;
        // One for the end of the connection, one for the unreachable server.
        let warned = lines(&program.output(), "not following the revocation log");
        assert!((1..=2).contains(&warned), "{warned}:\n{}", program.output());
        let since = lines(&program.output(), "the revocation log is complete since this time");
        assert!(since >= 1 && program.output().contains(" GMT"), "{}", program.output());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn min_replicas_is_noted_for_verifiers() {
    let stack = Stack::start(Store::Redis, 0).await;
    let redis = stack.redis.as_ref().expect("over Redis");
    eventually("min_replicas to be noted", || async {
        let mut ask = redis::cmd("HGET");
        ask.arg(RedisKeys::new("sidegate", 0).meta()).arg("min_replicas");
        let noted: Option<String> = ask.query_async(&mut redis.connection().await).await.ok()?;
        (noted.as_deref() == Some("0")).then_some(())
    })
    .await;
}
