//! A real Postgres as a child process.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::program::{Program, free_port};
use crate::scratch::Scratch;
use crate::wait::eventually;

/// A private Postgres on a free port, without durability, which tests do not need.
#[derive(Debug)]
pub struct Postgres {
    program: Option<Program>,
    port: u16,
    folder: Scratch,
}

impl Postgres {
    pub async fn start() -> Self {
        let folder = Scratch::new();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("our own folder");
        let data = folder.file("data");
        let mut initdb = as_other_user(&program("initdb"));
        initdb.args(["--auth=trust", "--username=postgres", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8", "-D"]);
        let made = initdb.arg(&data).output().expect("initdb starts");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut postgres = Self { program: None, port: free_port(), folder };
        postgres.restart().await;
        postgres
    }

    pub fn url(&self) -> String {
        self.url_as("postgres")
    }

    /// The URL for another role.
    pub fn url_as(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/postgres", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn restart(&mut self) {
        let mut command = as_other_user(&program("postgres"));
        command
            .arg("-D")
            .arg(self.folder.file("data"))
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(["-c", "unix_socket_directories=", "-c", "shared_buffers=16MB"]);
        self.program = Some(Program::start("postgres", command, &self.folder.file("postgres.log")));
        let url = self.url();
        eventually("Postgres to answer", || async { sqlx::PgPool::connect(&url).await.ok() }).await.close().await;
    }

    pub async fn pool(&self) -> sqlx::PgPool {
        sqlx::PgPool::connect(&self.url()).await.expect("Postgres answers")
    }

    /// Stops the server at once ("immediate shutdown"), children included.
    pub fn kill(&mut self) {
        if let Some(mut program) = self.program.take() {
            let postmaster = self.folder.file("data/postmaster.pid");
            let pid = std::fs::read_to_string(postmaster).ok().and_then(|text| text.lines().next()?.parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _already_gone = rustix::process::kill_process(pid, Signal::QUIT);
            }
            program.wait(std::time::Duration::from_secs(20));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

/// Postgres refuses to run as root: a session of root runs it as `postgres`.
pub(crate) fn as_other_user(program: &Path) -> Command {
    if rustix::process::getuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}
