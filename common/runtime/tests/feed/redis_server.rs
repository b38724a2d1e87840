//! A real redis-server as a child process, in its own folder and on a free port, and an issuer's
//! writes to it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use sidegate_common::log_protocol::RedisKeys;

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running redis-server; killed, and its folder removed, when dropped.
pub struct RedisServer {
    child: Child,
    port: u16,
    folder: PathBuf,
    options: Vec<String>,
}

impl RedisServer {
    /// Starts a server with an append-only file, and further `options` (`--name value`).
    pub fn start(options: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let name = format!("sidegate-redis-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let child = spawn(port, &folder, &options);
        let server = Self { child, port, folder, options };
        server.wait_until_it_answers();
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub async fn connection(&self) -> MultiplexedConnection {
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _already_dead = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same port and data.
    pub fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.options);
        self.wait_until_it_answers();
    }

    /// Deletes its data, after a kill.
    pub fn wipe(&self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
        std::fs::create_dir_all(&self.folder).unwrap();
    }

    fn wait_until_it_answers(&self) {
        let started = Instant::now();
        let client = redis::Client::open(self.url()).unwrap();
        let wait = Duration::from_millis(500);
        loop {
            let mut connection = client.get_connection_with_timeout(wait);
            let answer = connection.as_mut().map(|up| redis::cmd("PING").query::<String>(up));
            if matches!(answer, Ok(Ok(_))) {
                return;
            }
            assert!(started.elapsed() < START_TIMEOUT, "redis-server does not answer on port {}", self.port);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _leftover = std::fs::remove_dir_all(&self.folder);
    }
}

fn spawn(port: u16, folder: &Path, options: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
        .args(["--appendfsync", "no", "--loglevel", "warning", "--dir"])
        .arg(folder)
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

/// An issuer's script that creates the data set. ARGV: epoch, partitions.
pub const CREATE: &str = "
redis.call('HSET', KEYS[1], 'v', '1', 'epoch', ARGV[1], 'partitions', ARGV[2], 'last', '0-0',
  'since', redis.call('TIME')[1] - 1)";

/// ARGV: channel, push (1 or 0), then entries.
pub const APPEND: &str = "
local row = redis.call('HMGET', KEYS[1], 'epoch', 'last')
if not row[1] then return redis.error_reply('NOEPOCH') end
local last = row[2]
for i = 3, #ARGV do
  local id = redis.call('XADD', KEYS[2], '*', 'r', ARGV[i])
  redis.call('HSET', KEYS[1], 'last', id)
  if ARGV[2] == '1' then
    redis.call('SPUBLISH', ARGV[1], '1 ' .. row[1] .. ' ' .. last .. ' ' .. id .. ' ' .. ARGV[i])
  end
  last = id
end
return last";

/// Creates the data set with `partitions`.
pub async fn create(connection: &mut MultiplexedConnection, prefix: &str, epoch: &str, partitions: u16) {
    for partition in 0..partitions {
        let keys = RedisKeys::new(prefix, partition);
        let mut command = redis::cmd("EVAL");
        command.arg(CREATE).arg(2).arg(keys.meta()).arg(keys.log()).arg(epoch).arg(partitions);
        command.exec_async(connection).await.unwrap();
    }
}

/// Appends entries in one atomic step and pushes them if `pushed`; returns the last position.
pub async fn append(
    connection: &mut MultiplexedConnection,
    prefix: &str,
    partition: u16,
    entries: &[Vec<u8>],
    pushed: bool,
) -> redis::RedisResult<String> {
    let keys = RedisKeys::new(prefix, partition);
    let mut command = redis::cmd("EVAL");
    command.arg(APPEND).arg(2).arg(keys.meta()).arg(keys.log()).arg(keys.channel()).arg(i32::from(pushed));
    command.arg(entries);
    command.query_async(connection).await
}
