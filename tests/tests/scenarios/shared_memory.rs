//! The segment of the real daemon in other processes: permission to attach, read-only access, growth
//! while it is read, the output of `status`.
//!
//! The binary starts itself once more, as another user, for each attempt.

use std::io::{BufRead as _, BufReader, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use memmap2::MmapOptions;
use rustix::fs::{FallocateFlags, SealFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, Signal, kill_process};
use sidegate_client::{Denied, Sidegate};
use sidegate_shm::{AttachError, Attachment};
use sidegate_tests::client::{connect, until_kept};
use sidegate_tests::program::run;
use sidegate_tests::stack::{EMAIL, Stack, Store, Verifier};
use sidegate_tests::wait::eventually;

const ROLE: &str = "SIDEGATE_ATTACH_AS_OTHER";
const SLEEPER: &str = "SIDEGATE_SLEEPER";
/// User and group of `nobody`.
const NOBODY: &str = "65534";
const WAIT: Duration = Duration::from_secs(20);

fn am_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs [`other_user`] as another user, with the attach socket to try.
fn as_nobody(attach: &Path) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "shared_memory::other_user", "--nocapture"]);
    command.env(ROLE, attach).output().expect("setpriv runs")
}

/// The body of the other user; does nothing unless started by the tests below: prints the result,
/// and tries to do damage.
#[test]
fn other_user() {
    let Some(attach) = std::env::var_os(ROLE) else { return };
    match Attachment::connect(Path::new(&attach), WAIT) {
        Err(AttachError::Refused) => println!("outcome refused"),
        Err(AttachError::Io(error)) => println!("outcome {:?}", error.kind()),
        Err(other) => panic!("{other}"),
        Ok((_link, reader)) => {
            let given = descriptor(Path::new(&attach));
            let again = format!("/proc/self/fd/{}", given.as_raw_fd());
            let again = std::fs::File::options().read(true).write(true).open(again).map(OwnedFd::from);
            let mut done = damage(&given);
            done.extend(again.iter().flat_map(damage));
            println!("outcome attached to {:016x}, damage {done:?}", reader.id());
        }
    }
}

/// The segment's descriptor, as an attacker would get it.
fn descriptor(attach: &Path) -> OwnedFd {
    let stream = std::os::unix::net::UnixStream::connect(attach).unwrap();
    let mut bytes = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).unwrap();
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.expect("a descriptor came")
}

/// The successful attempts to harm the daemon or other readers.
fn damage(fd: &OwnedFd) -> Vec<&'static str> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let writable = MmapOptions::new().len(4096).map_raw(fd.as_raw_fd());
    let tries = [
        ("written", rustix::io::pwrite(fd, &[0; 8], 0).is_ok()),
        ("truncated", rustix::fs::ftruncate(fd, 0).is_ok()),
        ("grown", rustix::fs::ftruncate(fd, 1 << 30).is_ok()),
        ("punched", rustix::fs::fallocate(fd, hole, 0, 4096).is_ok()),
        ("mapped writable", writable.is_ok()),
        ("sealed against the daemon", rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE).is_ok()),
    ];
    tries.into_iter().filter(|(_, harmed)| *harmed).map(|(what, _)| what).collect()
}

fn outcome(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.split_once("outcome ")).map(|(_, outcome)| outcome.to_owned());
    line.unwrap_or_else(|| panic!("{said}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// Lets all users reach the sockets, whatever their modes allow.
fn open_folder(stack: &Stack) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(stack.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn other_users_get_a_read_only_segment() {
    if !am_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let settings: [&[(&str, &str)]; 4] = [
        &[("VERIFIER_SOCKET_MODE", "0600")],
        &[("VERIFIER_SOCKET_MODE", "0666"), ("ATTACH_ALLOW_UIDS", "0")],
        &[("VERIFIER_SOCKET_MODE", "0666"), ("ATTACH_ALLOW_UIDS", NOBODY)],
        &[("VERIFIER_SOCKET_MODE", "0666")],
    ];
    let mut stack = Stack::start(Store::Embedded, 0).await;
    for extra in settings {
        stack.add_verifier(extra).await;
    }
    open_folder(&stack);
    let tried: Vec<String> = stack.verifiers.iter().map(|verifier| outcome(&as_nobody(&verifier.attach))).collect();
    assert_eq!(tried[0], "PermissionDenied", "the socket's mode");
    assert_eq!(tried[1], "refused", "the peer's credentials");
    for attached in &tried[2..] {
        assert!(attached.starts_with("attached to ") && attached.ends_with(", damage []"), "{attached}");
    }
    // After these attempts the segment still has the daemon's data.
    let access = stack.issuer.login(EMAIL).await.access;
    let sidegate = connect(&stack.verifiers[3]);
    let asked = tokio::task::spawn_blocking(move || {
        until_kept(&sidegate, &access);
    });
    asked.await.unwrap();
}

/// The output of `sidegate-verifier status`.
fn status(verifier: &Verifier) -> String {
    let settings: Vec<_> = verifier.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    String::from_utf8(run("sidegate-verifier", &["status"], &settings, "").stdout).unwrap()
}

fn paths(verifier: &Verifier) -> (String, String) {
    (verifier.settings["VERIFIER_SOCKET"].clone(), verifier.settings["ATTACH_SOCKET"].clone())
}

/// The body of the sleeper; does nothing unless started by the test below: checks a token, and
/// again on request.
#[test]
fn sleeper() {
    let Ok(paths) = std::env::var(SLEEPER) else { return };
    let mut paths = paths.split(' ');
    let mut next = || paths.next().unwrap().to_owned();
    let (socket, attach, token) = (next(), next(), next());
    let sidegate = Sidegate::builder().socket(socket).attach_socket(attach).connect();
    until_kept(&sidegate, &token);
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let cached = sidegate.try_cached(&token).is_some();
    println!("outcome in memory {cached}, {:?}", sidegate.check(&token).map(|_| ()));
}

/// The whole process is suspended, as in a suspended machine or a stopped container, while its
/// segment is replaced: by a larger one, or by that of a new daemon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspended_reader_sees_a_logout_in_a_replaced_segment() {
    for restart in [false, true] {
        let mut stack = Stack::start(Store::Embedded, 1).await;
        let access = stack.issuer.login(EMAIL).await.access;
        let (socket, attach) = paths(&stack.verifiers[0]);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "shared_memory::sleeper", "--nocapture"])
            .env(SLEEPER, format!("{socket} {attach} {access}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("ready"))), "the reader did not start");
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        assert_eq!(stack.issuer.logout(&access).await.status, 204);
        if restart {
            stack.verifiers[0].program.kill();
            stack.verifiers[0].restart().await;
            // The killed daemon may not have received the logout, and its segment is valid for a
            // second.
            tokio::time::sleep(Duration::from_millis(1100)).await;
        } else {
            for n in 0..900 {
                let entry = serde_json::json!({ "user": format!("user-{n}") });
                assert_eq!(stack.issuer.revoke(&entry).await.status, 204);
            }
        }
        stack.verifiers[0].until_denied(&access).await;
        kill_process(pid, Signal::CONT).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let outcome =
            lines.find_map(|line| line.unwrap().split_once("outcome ").map(|(_, outcome)| outcome.to_owned()));
        assert!(child.wait().unwrap().success());
        let outcome = outcome.expect("an outcome");
        assert!(outcome.ends_with("Err(Revoked)"), "{outcome}");
        assert!(outcome.starts_with("in memory false"), "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_the_segment_as_it_grows_under_readers() {
    let stack = Stack::start(Store::Embedded, 1).await;
    let verifier = &stack.verifiers[0];
    let status = || status(verifier);
    let sidegate = connect(verifier);
    let first = sidegate.segment().expect("attached");
    let text = status();
    assert!(text.contains(&format!("segment:      {first:016x}")), "{text}");
    assert!(text.contains("  holds:      0 entries, 0 of 1024 words used (0 %), 12 KiB"), "{text}");
    let counted = || async { status().contains("  readers:    1 attached").then_some(()) };
    eventually("the reader is counted", counted).await;

    let (stays, goes) = (stack.issuer.login(EMAIL).await.access, stack.issuer.login(EMAIL).await.access);
    let (client, tokens) = (sidegate.clone(), [stays, goes]);
    let checks = move |tokens: [String; 2]| {
        let client = client.clone();
        tokio::task::spawn_blocking(move || tokens.map(|token| client.check(&token).map(|_| ())))
    };
    assert_eq!(checks(tokens.clone()).await.unwrap(), [Ok(()), Ok(())]);
    assert_eq!(stack.issuer.logout(&tokens[1]).await.status, 204);
    verifier.until_denied(&tokens[1]).await;
    for n in 0..900 {
        let entry = serde_json::json!({ "user": format!("user-{n}") });
        assert_eq!(stack.issuer.revoke(&entry).await.status, 204);
        if n % 30 == 0 {
            assert_eq!(checks(tokens.clone()).await.unwrap(), [Ok(()), Err(Denied::Revoked)]);
        }
    }
    eventually("the successor is in use", || async { (sidegate.segment() != Some(first)).then_some(()) }).await;
    assert_eq!(checks(tokens.clone()).await.unwrap(), [Ok(()), Err(Denied::Revoked)]);
    assert!(sidegate.try_cached(&tokens[0]).is_some(), "kept for the new segment");
    assert!(sidegate.try_cached(&tokens[1]).is_none());
    eventually("status shows it", || async { status().contains("  holds:      901 entries").then_some(()) }).await;
}

/// At most seventeen words of the table are spent on one user: tokens of that user are then checked
/// by the daemon, however new, and other users' are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_with_many_logouts_is_checked_by_the_daemon() {
    let stack = Stack::start(Store::Redis, 1).await;
    let verifier = &stack.verifiers[0];
    let (sidegate, other) = (connect(verifier), stack.issuer.login("bob@example.org").await.access);
    let mut before: Option<String> = None;
    for logouts in 0..40 {
        let access = stack.issuer.login(EMAIL).await.access;
        let (client, token, other) = (sidegate.clone(), access.clone(), other.clone());
        let look = move || {
            until_kept(&client, &other);
            (client.check(&token).map(|_| ()), client.try_cached(&token).is_some())
        };
        let (checked, in_process) = tokio::task::spawn_blocking(look).await.unwrap();
        assert_eq!(checked, Ok(()), "after {logouts} logouts");
        assert_eq!(in_process, logouts < 17, "after {logouts} logouts");
        assert_eq!(stack.issuer.logout(&access).await.status, 204);
        verifier.until_denied(&access).await;
        // The segment gets an entry shortly after the list.
        for gone in before.replace(access).iter() {
            assert!(sidegate.try_cached(gone).is_none(), "after {logouts} logouts");
        }
    }
    let text = status(verifier);
    assert!(text.contains("  holds:      40 entries, 17 of 1024 words used"), "{text}");
    assert!(
        text.contains("  always ask: clients ask over the socket about 1 users (too many entries) and 0 full lines"),
        "{text}"
    );
}
