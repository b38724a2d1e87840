//! A Cluster whose nodes change roles: a replica named first, a planned failover, a crash with
//! return; for programs that run throughout and for programs that start afterwards.

use std::time::Duration;

use sidegate_common::log_protocol::RedisKeys;
use sidegate_tests::redis_kinds::{Servers, cluster_with_replica};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, Issuer, Verifier, tokens};
use sidegate_tests::users;
use sidegate_tests::wait::within;

/// A failover after a crash takes about two node timeouts.
const FAILOVER_MAX: Duration = Duration::from_secs(90);

/// A login, accepted everywhere, and its logout, denied everywhere; each as soon as the Cluster
/// allows.
async fn serves(issuer: &Issuer, verifiers: &[&Verifier]) {
    let login = serde_json::json!({"email": EMAIL, "password": users::PASSWORD});
    let pair = within(FAILOVER_MAX, "a login", || async {
        let reply = issuer.at.post("/auth/login").json(&login).try_send().await.ok()?;
        (reply.status == 200).then(|| tokens(&reply))
    })
    .await;
    for verifier in verifiers {
        within(FAILOVER_MAX, "the token to be good", || async {
            (verifier.check(&pair.access).await.status == 200).then_some(())
        })
        .await;
    }
    within(FAILOVER_MAX, "the logout", || async {
        (issuer.at.post("/auth/logout").bearer(&pair.access).try_send().await.ok()?.status == 204).then_some(())
    })
    .await;
    for verifier in verifiers {
        within(FAILOVER_MAX, "the token to be denied", || async {
            let reply = verifier.check(&pair.access).await;
            (reply.status == 401 && reply.code() == "token_revoked").then_some(())
        })
        .await;
    }
}

/// Checks with an issuer and a verifier that start now.
async fn serves_fresh(folder: &Scratch, name: &str, database: &str, url: &str) {
    let settings = [("REDIS_URL", url), ("DATABASE_URL", database)];
    let issuer = Issuer::start(folder, &format!("issuer-{name}"), &settings).await;
    let verifier = Verifier::start(folder, &format!("verifier-{name}"), &[("REDIS_URL", url)]).await;
    serves(&issuer, &[&verifier]).await;
}

fn is_master(port: u16) -> bool {
    Servers::ask(port, &["INFO", "replication"]).contains("role:master")
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_follow_role_changes_in_a_cluster() {
    let (mut servers, first, second) = cluster_with_replica(&RedisKeys::new("sidegate", 0).log()).await;
    let folder = Scratch::new();
    let database = folder.file("app.db");
    users::sqlite(&database, &[EMAIL]).await;
    let database = format!("sqlite://{}", database.display());
    // The replica is named first.
    let url = format!("redis+cluster://127.0.0.1:{second},127.0.0.1:{first}");
    let settings = [("REDIS_URL", url.as_str()), ("DATABASE_URL", &database)];
    let issuer = Issuer::start(&folder, "issuer", &settings).await;
    let verifier = Verifier::start(&folder, "verifier", &[("REDIS_URL", &url)]).await;
    serves(&issuer, &[&verifier]).await;
    // Configured with the replica only.
    let alone =
        Verifier::start(&folder, "alone", &[("REDIS_URL", &format!("redis+cluster://127.0.0.1:{second}"))]).await;
    serves(&issuer, &[&verifier, &alone]).await;

    // Planned: the two change roles and both stay.
    let url = format!("redis+cluster://127.0.0.1:{first},127.0.0.1:{second}");
    within(FAILOVER_MAX, "the planned failover", || async {
        if !is_master(second) {
            Servers::ask(second, &["CLUSTER", "FAILOVER"]);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        (is_master(second) && !is_master(first)).then_some(())
    })
    .await;
    serves(&issuer, &[&verifier, &alone]).await;
    serves_fresh(&folder, "planned", &database, &url).await;

    // A crash of the new master, and its return as a replica of the old one.
    servers.until_info(first, "master_link_status:up").await;
    servers.kill(second);
    within(FAILOVER_MAX, "the failover", || async { is_master(first).then_some(()) }).await;
    // `alone` is configured with one node only, which is down.
    serves(&issuer, &[&verifier, &alone]).await;
    servers.restart(second);
    servers.until_info(second, "role:slave").await;
    serves(&issuer, &[&verifier, &alone]).await;
    let url = format!("redis+cluster://127.0.0.1:{second},127.0.0.1:{first}");
    serves_fresh(&folder, "returned", &database, &url).await;
}
