//! The output of `sidegate-verifier check`, `status` and `health` for a running daemon, and without
//! one.

use std::process::Output;

use sidegate_tests::program::{free_port, run};
use sidegate_tests::stack::{EMAIL, Stack, Store};

/// Runs a command with only the daemon's addresses set: no keys, no feed.
fn command(arguments: &[&str], stack: &Stack, input: &str) -> Output {
    let all = &stack.verifiers[0].settings;
    let only = ["VERIFIER_SOCKET", "VERIFIER_ADMIN_LISTEN"].map(|name| (name, all[name].as_str()));
    run("sidegate-verifier", arguments, &only, input)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_query_the_running_daemon_without_keys() {
    let stack = Stack::start(Store::Embedded, 1).await;
    let access = stack.issuer.login(EMAIL).await.access;

    let good = command(&["check", &access], &stack, "");
    assert_eq!(good.status.code(), Some(0), "{}", said(&good));
    assert!(said(&good).starts_with("good\n") && said(&good).contains("\"sub\": \"1\""), "{}", said(&good));
    let piped = command(&["check", "-"], &stack, &format!("{access}\n"));
    assert_eq!(piped.status.code(), Some(0), "{}", said(&piped));
    let status = command(&["status"], &stack, "");
    assert_eq!(status.status.code(), Some(0), "{}", said(&status));
    assert!(said(&status).contains("ready:        yes"), "{}", said(&status));
    assert_eq!(command(&["health"], &stack, "").status.code(), Some(0));

    assert_eq!(stack.issuer.logout(&access).await.status, 204);
    stack.verifiers[0].until_denied(&access).await;
    let dead = command(&["check", &access], &stack, "");
    assert_eq!(dead.status.code(), Some(1));
    assert!(said(&dead).contains("token_revoked"), "{}", said(&dead));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_daemon_is_reported_as_down() {
    let admin = format!("127.0.0.1:{}", free_port());
    let nowhere = [("VERIFIER_SOCKET", "/nonexistent/verifier.sock"), ("VERIFIER_ADMIN_LISTEN", admin.as_str())];
    let check = run("sidegate-verifier", &["check", "x"], &nowhere, "");
    assert_eq!(check.status.code(), Some(69), "{}", said(&check));
    let health = run("sidegate-verifier", &["health"], &nowhere, "");
    assert_eq!(health.status.code(), Some(1));
    assert!(said(&health).contains("does not answer"), "{}", said(&health));
    assert_eq!(run("sidegate-verifier", &["status"], &nowhere, "").status.code(), Some(1));
    let off = run("sidegate-verifier", &["health"], &[("VERIFIER_ADMIN_LISTEN", "off")], "");
    assert_eq!(off.status.code(), Some(64), "{}", said(&off));
}
