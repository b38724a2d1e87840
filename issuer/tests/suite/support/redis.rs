//! A private redis-server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal, kill_process};
use sidegate_common::log_protocol::{Position, RedisKeys};
use sidegate_common::revocation::{Revocation, Target};

use super::{Scratch, eventually, free_port};

/// The key prefix of the tests.
pub const PREFIX: &str = "test";

/// An entry of a stream: its id, its fields and their values.
type StreamEntry = (String, Vec<(String, Vec<u8>)>);

pub struct RedisServer {
    child: Child,
    port: u16,
    extra: Vec<String>,
    folder: Scratch,
    program: PathBuf,
}

impl RedisServer {
    pub async fn start(extra: &[&str]) -> Self {
        Self::start_as(PathBuf::from("redis-server"), extra).await
    }

    /// A server of version 7.2 or later, if `tests/run` has installed one: Debian's Redis is 7.0.
    pub async fn start_newer(extra: &[&str]) -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/valkey/lib");
        let mut folders: Vec<PathBuf> = vec![folder];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_name() == "valkey-server" && entry.path().is_file() {
                    return Some(Self::start_as(entry.path(), extra).await);
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        None
    }

    pub async fn start_as(program: PathBuf, extra: &[&str]) -> Self {
        let folder = Scratch::new("redis");
        let port = free_port();
        let extra: Vec<String> = extra.iter().map(|word| (*word).to_owned()).collect();
        let child = spawn(&program, port, &folder, &extra);
        let server = Self { child, port, extra, folder, program };
        server.wait().await;
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub async fn connect(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Sends a command on a new connection.
    pub async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_command(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub async fn try_command<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connect().await).await
    }

    /// A partition's log, under the tests' prefix.
    pub async fn log(&self, partition: u16) -> Vec<(Position, Revocation)> {
        let key = RedisKeys::new(PREFIX, partition).log();
        let entries: Vec<StreamEntry> = self.command(&["XRANGE", &key, "-", "+"]).await;
        let read = |(id, fields): StreamEntry| {
            assert_eq!(fields.len(), 1);
            assert_eq!(fields[0].0, "r");
            (Position::parse(&id).unwrap(), Revocation::from_bytes(&fields[0].1).unwrap())
        };
        entries.into_iter().map(read).collect()
    }

    /// How many entries of the log revoke `target`.
    pub async fn times(&self, target: &Target) -> usize {
        self.log(0).await.iter().filter(|(_, revocation)| revocation.target == *target).count()
    }

    /// All keys with their values as bytes.
    pub async fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let keys: Vec<String> = self.command(&["KEYS", "*"]).await;
        let mut contents = BTreeMap::new();
        for key in keys {
            contents.insert(key.clone(), self.command(&["DUMP", &key]).await);
        }
        contents
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.file(name)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again with further options, without waiting.
    pub fn spawn_again(&mut self, options: &[&str]) {
        let mut all = self.extra.clone();
        all.extend(options.iter().map(|word| (*word).to_owned()));
        self.child = spawn(&self.program, self.port, &self.folder, &all);
    }

    pub async fn restart(&mut self) {
        self.child = spawn(&self.program, self.port, &self.folder, &self.extra);
        self.wait().await;
    }

    pub async fn wait(&self) {
        let client = redis::Client::open(self.url()).unwrap();
        eventually("redis answers", async || match client.get_multiplexed_async_connection().await {
            Ok(mut connection) => redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok(),
            Err(_) => false,
        })
        .await;
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn spawn(program: &Path, port: u16, folder: &Scratch, extra: &[String]) -> Child {
    Command::new(program)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
        .args(["--dir", folder.path().to_str().unwrap(), "--loglevel", "warning"])
        .args(extra)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}
