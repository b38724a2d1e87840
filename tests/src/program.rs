//! A child process with captured output, killed when dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> u16 {
    // The system may return the same port again before a server listens there.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        if GIVEN.lock().expect("no test panics here").insert(port) {
            return port;
        }
    }
}

/// The path of a built program: beside the test binary, or in `SIDEGATE_BIN_DIR`.
pub fn binary(name: &str) -> PathBuf {
    if let Ok(folder) = std::env::var("SIDEGATE_BIN_DIR") {
        return Path::new(&folder).join(name);
    }
    let ours = std::env::current_exe().expect("a program knows its own path");
    // A test is in target/PROFILE/deps, a benchmark in target/PROFILE.
    let mut beside = ours.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    beside
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not built: run cargo build --release --bins first"))
}

/// A running program.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `command`, with its output appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("the log can be written");
        let err = out.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Starts one of our programs with exactly these settings.
    pub fn ours(name: &str, settings: &BTreeMap<String, String>, log: &Path) -> Self {
        let mut command = Command::new(binary(name));
        command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).envs(settings);
        Self::start(name, command, log)
    }

    /// Starts one of our programs, with sockets that a service manager has opened, if any.
    pub fn launch(name: &str, settings: &BTreeMap<String, String>, log: &Path, sockets: &[OwnedFd]) -> Self {
        if sockets.is_empty() { Self::ours(name, settings, log) } else { Self::activated(name, settings, log, sockets) }
    }

    /// Starts one of our programs like a service manager that has opened these sockets
    /// (sd_listen_fds(3)).
    fn activated(name: &str, settings: &BTreeMap<String, String>, log: &Path, sockets: &[OwnedFd]) -> Self {
        // The shell receives the sockets as its standard handles and moves them to the expected
        // descriptors.
        const MOVES: [&str; 3] = ["3<&0", "4<&1", "5<&2"];
        let count = sockets.len();
        let script = format!(
            "exec {} </dev/null >>\"$2\" 2>&1; export LISTEN_PID=$$ LISTEN_FDS={count}; exec \"$1\"",
            MOVES[..count].join(" ")
        );
        let mut handles = sockets.iter().map(|socket| Stdio::from(socket.try_clone().expect("a second handle")));
        let mut handle = || handles.next().unwrap_or_else(Stdio::null);
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg("sh").arg(binary(name)).arg(log);
        command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).envs(settings);
        command.stdin(handle()).stdout(handle()).stderr(handle());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a child has a process id");
        let _already_gone = kill_process(pid, signal);
    }

    /// kill -9, and waits for the exit.
    pub fn kill(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// SIGTERM, and waits for a clean exit.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(Duration::from_secs(20))
    }

    /// Waits for the exit.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(started.elapsed() < limit, "{} did not end in {limit:?}:\n{}", self.name, self.output());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// The output so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let tail: Vec<_> = output.lines().rev().take(40).collect();
            println!("--- {} printed at last:", self.name);
            tail.iter().rev().for_each(|line| println!("{line}"));
        }
    }
}

/// Runs one of our programs to its exit with `input` on its standard input.
pub fn run(name: &str, arguments: &[&str], settings: &[(&str, &str)], input: &str) -> std::process::Output {
    use std::io::Write as _;
    let mut command = Command::new(binary(name));
    command.args(arguments).env_clear().envs(settings.iter().copied());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let _closed_early = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}
