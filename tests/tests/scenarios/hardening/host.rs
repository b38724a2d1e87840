//! The programs on a hostile host: no privileges, no writable paths, no memory visible to other
//! processes, protected sockets.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use sidegate_client::Sidegate;
use sidegate_tests::http::At;
use sidegate_tests::program::{Program, binary, free_port, run};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, SECRET, Stack, Store, Verifier};
use sidegate_tests::users::{self, PASSWORD};
use sidegate_tests::wait::eventually;

/// The user `nobody` where it exists.
const NOBODY: &str = "65534";

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root can become another user");
    }
    root
}

/// A command as another user without any privilege.
fn as_nobody() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs"]);
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
    command
}

fn proc_line(pid: u32, file: &str, start: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("a running process");
    let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {text}"));
    line[start.len()..].split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One of our programs, without any privilege and with a read-only root except for `folder`, which
/// holds its copy.
fn confined(folder: &Scratch, name: &str, settings: &BTreeMap<String, String>) -> Program {
    let copy = folder.file(name);
    std::fs::copy(binary(name), &copy).expect("a copy");
    let script = r#"mount --bind "$1" "$1" && mount -o remount,bind,ro / && cd / && shift && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]).arg(folder.path());
    command.arg("setpriv").args(as_nobody().get_args()).arg(&copy);
    command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).envs(settings);
    Program::start(name, command, &folder.file(&format!("{name}.log")))
}

fn own(pairs: &[(&str, String)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn local(port: u16) -> (String, At) {
    let address = format!("127.0.0.1:{port}");
    let at = At::Tcp(address.parse().expect("an address"));
    (address, at)
}

async fn until_ready(program: &mut Program, admin: &At) {
    eventually("the program to be ready", || async {
        admin.get("/readyz").try_send().await.ok().filter(|reply| reply.status == 200)
    })
    .await;
    assert!(program.running(), "{}", program.output());
}

/// Checks in /proc that a process cannot regain privileges.
fn is_harmless(pid: u32, folder: &Path) {
    assert_eq!(proc_line(pid, "status", "Uid:"), [NOBODY; 4].join(" "));
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"] {
        assert_eq!(proc_line(pid, "status", set), "0000000000000000", "{set}");
    }
    assert_eq!(proc_line(pid, "status", "NoNewPrivs:"), "1");
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts");
    let options = |at: &str| {
        let of = |line: &&str| line.split(' ').nth(4) == Some(at);
        mounts.lines().rfind(of).and_then(|line| line.split(' ').nth(5)).map(str::to_owned)
    };
    assert!(options("/").is_some_and(|options| options.split(',').any(|word| word == "ro")), "{mounts}");
    assert!(options(folder.to_str().expect("UTF-8")).is_some(), "{mounts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_run_unprivileged_and_write_only_to_their_folder() {
    if !is_root() {
        return;
    }
    let folder = Scratch::new();
    let app = folder.file("app.db");
    users::sqlite(&app, &[EMAIL]).await;
    let nobody = Some(65_534);
    [folder.path(), app.as_path()].iter().for_each(|path| chown(path, nobody, nobody).expect("root may"));
    let file = |name: &str| folder.file(name).display().to_string();
    let ((listen, issuer_at), (admin, issuer_admin)) = (local(free_port()), local(free_port()));
    let ((feed, _), (verifier_admin, verifier_ready)) = (local(free_port()), local(free_port()));
    let mut issuer = confined(
        &folder,
        "sidegate-issuer",
        &own(&[
            ("ISSUER_LISTEN", listen),
            ("ISSUER_ADMIN_LISTEN", admin),
            ("ISSUER_FEED_LISTEN", feed.clone()),
            ("JWT_SECRET_KEY", SECRET.to_owned()),
            ("BCRYPT_COST", "4".to_owned()),
            ("DATABASE_URL", format!("sqlite://{}", app.display())),
            ("STORE_URL", format!("sqlite://{}", file("store.db"))),
        ]),
    );
    until_ready(&mut issuer, &issuer_admin).await;
    let mut verifier = confined(
        &folder,
        "sidegate-verifier",
        &own(&[
            ("VERIFIER_SOCKET", file("v.sock")),
            ("ATTACH_SOCKET", file("attach.sock")),
            ("VERIFIER_ADMIN_LISTEN", verifier_admin),
            ("JWT_SECRET_KEY", SECRET.to_owned()),
            ("ISSUER_FEED_URL", format!("http://{feed}")),
        ]),
    );
    until_ready(&mut verifier, &verifier_ready).await;
    let login = issuer_at.post("/auth/login").json(&json!({"email": EMAIL, "password": PASSWORD})).send().await;
    let access = login.json()["access_token"].as_str().expect("a token").to_owned();
    let at = At::Unix(folder.file("v.sock"));
    assert_eq!(at.get("/check").bearer(&access).send().await.status, 200);
    let client = Sidegate::builder().socket(folder.file("v.sock")).attach_socket(folder.file("attach.sock")).connect();
    eventually("the client to attach", || async { client.segment() }).await;
    assert_eq!(issuer_at.post("/auth/logout").bearer(&access).send().await.status, 204);
    eventually("the token to be denied", || async {
        (at.get("/check").bearer(&access).send().await.status == 401).then_some(())
    })
    .await;
    for program in [&issuer, &verifier] {
        is_harmless(program.pid(), folder.path());
    }
    assert!(issuer.stop().success() && verifier.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_processes_see_no_memory_and_no_core() {
    let stack = Stack::start(Store::Embedded, 1).await;
    for program in [&stack.issuer.program, &stack.verifiers[0].program] {
        assert_eq!(proc_line(program.pid(), "limits", "Max core file size"), "0 0 bytes");
    }
    if !is_root() {
        return;
    }
    // The same user may read the memory of the user's own processes unless they opt out.
    let folder = Scratch::new();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("ours");
    let copy = folder.file("sidegate-verifier");
    std::fs::copy(binary("sidegate-verifier"), &copy).expect("a copy");
    let (admin, ready) = local(free_port());
    let mut ours = as_nobody();
    ours.arg(&copy).env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).envs(own(&[
        ("VERIFIER_SOCKET", folder.file("v.sock").display().to_string()),
        ("ATTACH_SOCKET", "off".to_owned()),
        ("VERIFIER_ADMIN_LISTEN", admin),
        ("JWT_SECRET_KEY", SECRET.to_owned()),
        ("ISSUER_FEED_URL", stack.issuer.feed_url()),
    ]));
    let mut ours = Program::start("verifier", ours, &folder.file("v.log"));
    until_ready(&mut ours, &ready).await;
    let mut other = as_nobody();
    other.args(["sleep", "60"]);
    let other = Program::start("sleep", other, &folder.file("s.log"));
    let peek = |pid: u32, file: &str| -> Output {
        as_nobody().args(["head", "-c", "1"]).arg(format!("/proc/{pid}/{file}")).output().expect("head")
    };
    eventually("sleep to belong to the other user", || async {
        peek(other.pid(), "environ").status.success().then_some(())
    })
    .await;
    for file in ["environ", "maps", "mem"] {
        let denied = peek(ours.pid(), file);
        let why = String::from_utf8_lossy(&denied.stderr).into_owned();
        assert!(!denied.status.success() && why.contains("Permission denied"), "{file}: {why}");
    }
    assert_eq!(std::fs::metadata(format!("/proc/{}/environ", ours.pid())).expect("running").uid(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_have_the_configured_mode() {
    let mut stack = Stack::start(Store::Embedded, 1).await;
    let socket = std::path::PathBuf::from(&stack.verifiers[0].settings["VERIFIER_SOCKET"]);
    let mode = |path: &Path| std::fs::metadata(path).expect("a socket").permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o660);
    assert_eq!(mode(&stack.verifiers[0].attach), 0o660);
    let access = stack.issuer.login(EMAIL).await.access;
    if is_root() {
        let copy = stack.folder.file("sidegate-verifier");
        std::fs::copy(binary("sidegate-verifier"), &copy).expect("a copy");
        let ask = |mut command: Command| {
            let output = command.args(["check", &access]).env("VERIFIER_SOCKET", &socket).output().expect("it runs");
            (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        };
        assert!(ask(Command::new(&copy)).0);
        let mut stranger = as_nobody();
        stranger.arg(&copy);
        let (asked, why) = ask(stranger);
        assert!(!asked && why.contains("ermission denied"), "{why}");
    }
    // A second verifier does not take the socket of a running one ...
    let mut settings = stack.verifiers[0].settings.clone();
    settings.extend(own(&[("VERIFIER_ADMIN_LISTEN", local(free_port()).0), ("VERIFIER_LISTEN", String::new())]));
    let log = stack.folder.file("thief.log");
    let mut thief = Program::ours("sidegate-verifier", &settings, &log);
    assert_eq!(thief.wait(sidegate_tests::wait::WAIT_LIMIT).code(), Some(1), "{}", thief.output());
    assert!(thief.output().contains("another process answers there"), "{}", thief.output());
    assert_eq!(stack.verifiers[0].check(&access).await.status, 200);
    // ... and replaces the socket left by a killed one.
    stack.verifiers[0].program.kill();
    assert!(socket.exists());
    stack.verifiers[0].restart().await;
    assert_eq!(stack.verifiers[0].check(&access).await.status, 200);
    assert!(stack.verifiers[0].program.stop().success());
    assert!(!socket.exists(), "a clean stop removes the socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_users_attach() {
    let stack = Stack::start(Store::Embedded, 0).await;
    let access = stack.issuer.login(EMAIL).await.access;
    let us = rustix::process::geteuid().as_raw().to_string();
    for (uids, let_in) in [("4294967294", false), (us.as_str(), true)] {
        let settings = [("ISSUER_FEED_URL", stack.issuer.feed_url()), ("ATTACH_ALLOW_UIDS", uids.to_owned())];
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let verifier = Verifier::start(&stack.folder, &format!("u{uids}"), &settings).await;
        let At::Unix(socket) = &verifier.at else { panic!("a Unix socket") };
        let client = Sidegate::builder().socket(socket).attach_socket(&verifier.attach).connect();
        let ask = || async {
            let client = client.clone();
            let access = access.clone();
            tokio::task::spawn_blocking(move || client.check(&access).is_ok()).await.expect("asked")
        };
        if let_in {
            eventually("the client to attach", || async { client.segment() }).await;
        }
        assert!(ask().await && ask().await, "the plain socket admits every user that its mode allows");
        assert_eq!(client.segment().is_some(), let_in, "ATTACH_ALLOW_UIDS={uids}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_files_reach_the_hard_limit() {
    let mut stack = Stack::start(Store::Embedded, 1).await;
    let verifier = &mut stack.verifiers[0];
    assert!(verifier.program.stop().success());
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 256 && exec \"$0\""]).arg(binary("sidegate-verifier"));
    command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).envs(&verifier.settings);
    verifier.program = Program::start("verifier", command, &stack.folder.file("few.log"));
    verifier.until_ready().await;
    let limits = proc_line(verifier.program.pid(), "limits", "Max open files");
    let (soft, hard) = limits.split_once(' ').expect("two limits");
    assert!(hard.starts_with(soft) && soft != "256", "{limits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn passed_socket_that_no_setting_names_is_refused() {
    let mut stack = Stack::start(Store::Embedded, 1).await;
    let stray = stack.folder.file("stray.sock");
    let listener = std::os::unix::net::UnixListener::bind(&stray).expect("bound");
    let verifier = &mut stack.verifiers[0];
    assert!(verifier.program.stop().success());
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = tcp.local_addr().expect("an address").to_string();
    let sockets = [listener.into(), tcp.into()];
    for (name, settings, setting) in [
        ("sidegate-verifier", &verifier.settings, "VERIFIER_SOCKET"),
        ("sidegate-issuer", &stack.issuer.settings, "ISSUER_LISTEN"),
    ] {
        let mut settings = settings.clone();
        if name == "sidegate-issuer" {
            let free = || local(free_port()).0;
            let listens = ["ISSUER_LISTEN", "ISSUER_ADMIN_LISTEN", "ISSUER_FEED_LISTEN"];
            settings.extend(listens.map(|name| (name.to_owned(), free())));
            settings.insert("STORE_URL".into(), format!("sqlite://{}", stack.folder.file("other.db").display()));
        }
        let log = stack.folder.file(&format!("{name}-stray.log"));
        let mut program = Program::launch(name, &settings, &log, &sockets);
        assert_eq!(program.wait(sidegate_tests::wait::WAIT_LIMIT).code(), Some(1), "{}", program.output());
        let printed = program.output();
        assert!(printed.contains(stray.to_str().expect("UTF-8")) && printed.contains(&address), "{printed}");
        assert!(printed.contains(setting), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_in_files_have_no_colour_codes() {
    let text = [("LOG_FORMAT", "text")];
    let stack = Stack::with(Store::Embedded, 1, &text, &text).await;
    for program in [&stack.issuer.program, &stack.verifiers[0].program] {
        let output = program.output();
        assert!(output.contains("started") && !output.contains('\u{1b}'), "{output:?}");
    }
}

/// Some published secrets of sufficient length; sidegate-common's own test tries all of them.
fn published() -> Vec<String> {
    let folder = std::env::var("SIDEGATE_VECTORS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").to_owned());
    let list = std::fs::read(format!("{folder}/weak-secrets/jwt.secrets.list")).unwrap_or_default();
    let list = String::from_utf8_lossy(&list);
    let fit = |line: &&str| line.len() >= 32 && line.bytes().all(|byte| byte.is_ascii_alphanumeric());
    list.lines().filter(fit).step_by(20).take(10).map(str::to_owned).collect()
}

#[test]
fn weak_secrets_are_refused_even_from_files() {
    let folder = Scratch::new();
    let database = format!("sqlite://{}?mode=rwc", folder.file("app.db").display());
    let secret = folder.file("secret");
    for program in ["sidegate-issuer", "sidegate-verifier"] {
        let mut texts = vec![(SECRET.to_owned(), true), ("ab".repeat(30), false)];
        texts.extend(published().into_iter().map(|text| (text, false)));
        for (text, right) in texts {
            let text = text.as_str();
            std::fs::write(&secret, format!("{text}\n")).expect("written");
            let file = secret.to_str().expect("UTF-8");
            let by_file =
                run(program, &["check-config"], &[("JWT_SECRET_KEY_FILE", file), ("DATABASE_URL", &database)], "");
            let plain = run(program, &["check-config"], &[("JWT_SECRET_KEY", text), ("DATABASE_URL", &database)], "");
            for output in [by_file, plain] {
                let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                assert_eq!(output.status.code(), Some(if right { 0 } else { 64 }), "{program}: {text}: {printed}");
                assert!(!printed.contains(text) && printed.contains("JWT_SECRET_KEY"), "{printed}");
            }
        }
    }
}
