//! The main job on every kind of Redis: TLS under a private CA, a Cluster, a master replaced by
//! Sentinels.

mod acl;
mod cluster_failover;
mod start;

use std::collections::BTreeMap;

use serde_json::json;
use sidegate_tests::program::Program;
use sidegate_tests::redis_kinds::{self, Authority};
use sidegate_tests::scenario::{OTHER, life_of_a_session};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, Issuer, SECRET, Stack, Verifier, tokens};
use sidegate_tests::users;
use sidegate_tests::wait::{eventually, within};

/// An issuer and two verifiers on the Redis at `url`.
async fn stack_over(url: &str, settings: &[(&str, &str)]) -> Stack {
    let folder = Scratch::new();
    let database = folder.file("app.db");
    users::sqlite(&database, &[EMAIL, OTHER, "carol@example.org", "dave@example.org"]).await;
    let database = format!("sqlite://{}", database.display());
    let mut all = vec![("REDIS_URL", url), ("DATABASE_URL", &database)];
    all.extend(settings);
    let issuer = Issuer::start(&folder, "issuer", &all).await;
    let mut both = vec![("REDIS_URL", url)];
    both.extend(settings.iter().filter(|(name, _)| *name == "SSL_CERT_FILE"));
    let verifiers = vec![Verifier::start(&folder, "v0", &both).await, Verifier::start(&folder, "v1", &both).await];
    Stack { verifiers, issuer, redis: None, folder }
}

/// Revocations of every kind arrive, including those that go to every partition.
async fn everything_is_revoked(stack: &Stack) {
    for email in [EMAIL, OTHER, "carol@example.org", "dave@example.org"] {
        let pair = stack.issuer.login(email).await;
        let me = stack.issuer.at.get("/auth/me").bearer(&pair.access).send().await.json();
        for (what, dies) in [
            (json!({"session": me["sid"]}), "a session is found in whatever partition"),
            (json!({"user": me["sub"]}), "a user"),
            (json!({"all": true}), "everybody, in every partition"),
        ] {
            let pair = if what["session"].is_null() { stack.issuer.login(email).await } else { pair.clone() };
            assert_eq!(stack.issuer.revoke(&what).await.status, 204, "{dies}");
            for verifier in &stack.verifiers {
                assert_eq!(verifier.until_denied(&pair.access).await.code(), "token_revoked", "{dies}: {email}");
            }
            assert_eq!(stack.issuer.refresh(&pair.refresh).await.code(), "invalid_grant", "{dies}: {email}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_under_a_private_authority() {
    let authority = Authority::new();
    let (_servers, url) = redis_kinds::over_tls(&authority).await;
    let ca = authority.ca();
    let trust = [("SSL_CERT_FILE", ca.to_str().expect("UTF-8"))];
    let stack = stack_over(&url, &trust).await;
    life_of_a_session(&stack).await;

    // A certificate of another authority is refused.
    let stranger = Authority::new();
    let stranger = stranger.ca();
    let (database, port) = (stack.issuer.settings["DATABASE_URL"].clone(), sidegate_tests::program::free_port());
    let listen = format!("127.0.0.1:{port}");
    let settings = [
        ("REDIS_URL", url.as_str()),
        ("DATABASE_URL", &database),
        ("JWT_SECRET_KEY", SECRET),
        ("ISSUER_LISTEN", &listen),
        ("ISSUER_ADMIN_LISTEN", "127.0.0.1:0"),
        ("SSL_CERT_FILE", stranger.to_str().expect("UTF-8")),
    ];
    let settings: BTreeMap<_, _> = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let mut waiting = Program::ours("sidegate-issuer", &settings, &stack.folder.file("stranger.log"));
    eventually("it to say why it does not connect", || async { waiting.output().contains("ertificate").then_some(()) })
        .await;
    assert!(waiting.running(), "it goes on waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_of_three_masters() {
    let (_servers, url) = redis_kinds::cluster(None).await;
    let stack = stack_over(&url, &[("REVOCATION_PARTITIONS", "5")]).await;
    life_of_a_session(&stack).await;
    everything_is_revoked(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_over_tls() {
    let authority = Authority::new();
    let (_servers, url) = redis_kinds::cluster(Some(&authority)).await;
    let ca = authority.ca();
    let settings = [("REVOCATION_PARTITIONS", "3"), ("SSL_CERT_FILE", ca.to_str().expect("UTF-8"))];
    let stack = stack_over(&url, &settings).await;
    life_of_a_session(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_sentinels_through_a_failover() {
    let (mut servers, url) = redis_kinds::behind_sentinels().await;
    let stack = stack_over(&url, &[]).await;
    life_of_a_session(&stack).await;
    let dead = stack.issuer.login(EMAIL).await;
    let alive = stack.issuer.login(OTHER).await;
    assert_eq!(stack.issuer.logout(&dead.access).await.status, 204);
    // A push that dies with the master is replayed, within MAX_STALENESS; what a verifier has, it keeps.
    for verifier in &stack.verifiers {
        verifier.until_denied(&dead.access).await;
    }
    servers.kill_first();
    let limit = std::time::Duration::from_secs(90);
    let next = within(limit, "the new master to be found", || async {
        let refresh = json!({"refresh_token": alive.refresh});
        let reply = stack.issuer.at.post("/auth/refresh").json(&refresh).try_send().await.ok()?;
        (reply.status == 200).then(|| tokens(&reply))
    })
    .await;
    let refused = stack.issuer.refresh(&dead.refresh).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (401, "invalid_grant".into()), "its session stays ended");
    for verifier in &stack.verifiers {
        // No answer, or "unavailable", is not a verdict.
        let verdict = eventually("a verdict", || async {
            let reply = verifier.at.get("/check").bearer(&dead.access).try_send().await.ok()?;
            (reply.status != 503).then_some(reply)
        })
        .await;
        assert_eq!(verdict.status, 401, "what was acknowledged stays");
        assert_eq!(verdict.code(), "token_revoked");
        eventually("the verifier to follow the new master", || async {
            (verifier.check(&next.access).await.status == 200).then_some(())
        })
        .await;
    }
    assert_eq!(stack.issuer.logout(&next.access).await.status, 204);
    for verifier in &stack.verifiers {
        assert_eq!(verifier.until_denied(&next.access).await.code(), "token_revoked");
    }
}
