//! A real redis-server as a child process.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use crate::program::{Program, free_port};
use crate::scratch::Scratch;
use crate::wait::eventually;

/// A private Redis on a free port, with append-only persistence and noeviction.
#[derive(Debug)]
pub struct Redis {
    program: Option<Program>,
    port: u16,
    folder: Scratch,
    options: Vec<String>,
}

impl Redis {
    pub async fn start() -> Self {
        // Not everysec: a write may be delayed by a running fsync, and kill -9 then loses
        // acknowledged data.
        Self::with(&["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    /// A server with further command line options.
    pub async fn with(options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut redis = Self { program: None, port: free_port(), folder: Scratch::new(), options };
        redis.restart().await;
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.program.as_ref().map_or(0, Program::pid)
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    fn log(&self) -> PathBuf {
        self.folder.file("redis.log")
    }

    /// Starts the server again, on the same port with the same data.
    pub async fn restart(&mut self) {
        self.program = Some(Program::start("redis-server", self.command(&[]), &self.log()));
        let client = self.client();
        eventually("Redis to answer", || async {
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            redis::cmd("PING").query_async::<String>(&mut connection).await.ok()
        })
        .await;
    }

    /// Starts the server again, without waiting, so that each key takes half a millisecond to load.
    /// Until then it answers LOADING, checked every 1,024 keys.
    pub fn start_loading(&mut self) {
        let slow = ["--key-load-delay", "500"];
        self.program = Some(Program::start("redis-server", self.command(&slow), &self.log()));
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
            .args(["--dir", self.folder.path().to_str().expect("UTF-8"), "--protected-mode", "no"])
            .args(&self.options)
            .args(options);
        command
    }

    pub fn client(&self) -> redis::Client {
        redis::Client::open(self.url()).expect("a Redis URL")
    }

    /// A new connection without timeouts.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let patient = redis::AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        self.client().get_multiplexed_async_connection_with_config(&patient).await.expect("Redis answers")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.program = None;
    }

    /// Deletes the server's data; to be called while it is stopped.
    pub fn wipe(&self) {
        for entry in std::fs::read_dir(self.folder.path()).expect("its folder").flatten() {
            let path = entry.path();
            let _gone = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }

    /// One field of `INFO`.
    pub async fn info(&self, section: &str, name: &str) -> Option<String> {
        let text: String = redis::cmd("INFO").arg(section).query_async(&mut self.connection().await).await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
    }

    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(program) = &self.program {
            program.signal(signal);
        }
    }
}
