//! Clients without credentials that cost memory: the programs stay within their limits, serve
//! others meanwhile, and close.

use std::process::Command;

use sidegate_tests::bench::memory::rss_mb;
use sidegate_tests::hostile_clients::{Attack, at_most, start};
use sidegate_tests::program::{Program, binary, run};
use sidegate_tests::stack::{EMAIL, SECRET, Stack, Store};
use sidegate_tests::wait::eventually;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::hardening::support::{Site, sites};

/// So little that a few hundred connections reach the limit.
const SETTING: (&str, &str) = ("CONNECTION_MEMORY", "4");
/// Limit of the memory cost of an attack, in MB: the setting, the allocator's share, and the
/// legitimate clients beside it.
const GROWTH_MB: f64 = 20.0;

async fn small() -> Stack {
    Stack::with(Store::Embedded, 1, &[SETTING], &[SETTING]).await
}

/// The public TCP listeners, where clients are strangers.
fn public(stack: &Stack) -> Vec<Site<'_>> {
    sites(stack).into_iter().filter(|site| ["the issuer", "the verifier over TCP"].contains(&site.name)).collect()
}

/// Attacks with this many connections at once; other clients are served meanwhile, and memory stays
/// bounded. Returns the connections still open.
async fn attack(site: &Site<'_>, path: &str, attack: Attack, connections: usize) -> Vec<TcpStream> {
    // The first requests allocate memory that does not count.
    site.serves().await;
    let before = rss_mb(site.program.pid());
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    let mut most = 0.0_f64;
    for number in 0..connections {
        let (at, path) = (site.at.clone(), path.to_owned());
        opening.spawn(async move { start(&at, &path, attack).await });
        if number % 50 == 49 {
            while let Some(started) = opening.join_next().await {
                open.extend(started.expect("started"));
            }
            site.serves().await;
            most = most.max(rss_mb(site.program.pid()) - before);
        }
    }
    while let Some(started) = opening.join_next().await {
        open.extend(started.expect("started"));
    }
    site.serves().await;
    most = most.max(rss_mb(site.program.pid()) - before);
    println!("{}: {attack:?} by {connections}: {most:.1} MB more", site.name);
    assert!(most < GROWTH_MB, "{}: {attack:?} by {connections}: {most:.1} MB more", site.name);
    open
}

#[tokio::test(flavor = "multi_thread")]
async fn half_heads_stay_within_connection_memory() {
    let stack = small().await;
    for site in public(&stack) {
        let _open = attack(&site, site.path, Attack::HalfHead, at_most(3000)).await;
    }
    stack.issuer.login(EMAIL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_requests_without_bodies_stay_within_connection_memory() {
    let stack = small().await;
    for (site, path) in public(&stack).iter().zip(["/auth/login", "/verify"]) {
        let _open = attack(site, path, Attack::Posts(100), 50).await;
    }
    stack.issuer.login(EMAIL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_watches_stay_within_connection_memory() {
    let stack = small().await;
    let site = public(&stack).remove(1);
    let _open = attack(&site, site.path, Attack::Watches(100), 100).await;
    let access = stack.issuer.login(EMAIL).await.access;
    assert_eq!(stack.verifiers[0].check(&access).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_are_closed() {
    let stack = small().await;
    let mut open = Vec::new();
    let files = |site: &Site<'_>| {
        std::fs::read_dir(format!("/proc/{}/fd", site.program.pid())).map_or(usize::MAX, Iterator::count)
    };
    let sites = public(&stack);
    let before: Vec<usize> = sites.iter().map(files).collect();
    for (site, path) in sites.iter().zip(["/openapi.json", "/check"]) {
        for attacks in [Attack::NoWindow(100), Attack::NeverReads(4000)] {
            open.extend(attack(site, path, attacks, 20).await);
        }
        assert!(files(site) > 20, "{}: the connections are open at first", site.name);
    }
    // These connections neither read nor close.
    for (site, before) in sites.iter().zip(before) {
        eventually("unread connections to be closed", || async { (files(site) <= before + 10).then_some(()) }).await;
    }
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_comes_back_after_an_attack() {
    let stack = small().await;
    for (site, path) in public(&stack).iter().zip(["/auth/login", "/verify"]) {
        drop(attack(site, path, Attack::Posts(100), 30).await);
        drop(attack(site, path, Attack::HalfHead, at_most(1000)).await);
        let before = rss_mb(site.program.pid());
        // Returned memory is used again: the same attack costs nothing more.
        drop(attack(site, path, Attack::Posts(100), 30).await);
        let after = rss_mb(site.program.pid());
        assert!(after < before + GROWTH_MB / 2.0, "{}: {before:.1} MB, then {after:.1} MB", site.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn few_descriptors_leave_probes_and_feed_alone() {
    const FILES: usize = 512;
    let mut stack = Stack::start(Store::Embedded, 1).await;
    let verifier = &mut stack.verifiers[0];
    assert!(verifier.program.stop().success());
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {FILES} && exec \"$0\"")).arg(binary("sidegate-verifier"));
    command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).envs(&verifier.settings);
    verifier.program = Program::start("verifier", command, &stack.folder.file("few.log"));
    verifier.until_ready().await;
    let verifier = &stack.verifiers[0];
    let mut idle = Vec::new();
    for _ in 0..FILES + 100 {
        idle.extend(start(&verifier.tcp, "/check", Attack::HalfHead).await);
    }
    assert_eq!(verifier.admin.get("/readyz").send().await.status, 200);
    stack.issuer.program.kill();
    stack.issuer.restart().await;
    let access = stack.issuer.login(EMAIL).await.access;
    assert_eq!(stack.issuer.logout(&access).await.status, 204);
    // The feed was connected again although all client connections are in use.
    let verifier = &stack.verifiers[0];
    for _ in 0..FILES {
        idle.extend(start(&verifier.tcp, "/check", Attack::HalfHead).await);
    }
    verifier.until_denied(&access).await;
    eventually("the verifier to be ready", || async {
        (verifier.admin.get("/readyz").send().await.status == 200).then_some(())
    })
    .await;
    let failures = verifier.program.output().matches("accept failed").count();
    assert!(failures <= 1, "{failures} lines for one state");
}

/// `memory: 128Mi` of a container's limits.
fn shipped_limit(file: &str) -> u64 {
    let path = format!("{}/../deploy/k8s/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let limits = text.split("limits:").nth(1).expect("limits");
    let value = limits.lines().find_map(|line| line.trim().strip_prefix("memory: ")).expect("a limit of memory");
    value.strip_suffix("Mi").expect("in MiB").parse().expect("a number")
}

#[test]
fn default_connection_memory_fits_shipped_limits() {
    let programs = [
        ("sidegate-verifier", sidegate_verifier::config::SETTINGS, "sidecar/patch.yaml"),
        ("sidegate-issuer", sidegate_issuer::config::SETTINGS, "issuer/deployment.yaml"),
    ];
    for (name, settings, file) in programs {
        let setting = settings.iter().find(|setting| setting.name == "CONNECTION_MEMORY").expect("the setting");
        let default: u64 = setting.default.parse().expect("a number");
        // Half is for everything else: the program, its list, its caches.
        assert!(default * 2 <= shipped_limit(file), "{name}: {default} MiB of {}", shipped_limit(file));
    }
    let refused =
        run("sidegate-verifier", &["check-config"], &[("CONNECTION_MEMORY", "0"), ("JWT_SECRET_KEY", SECRET)], "");
    let printed = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(64) && printed.contains("CONNECTION_MEMORY"), "{printed}");
}
