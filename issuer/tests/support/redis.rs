//! A real redis-server of one's own.

use std::process::{Child, Command, Stdio};

use redis::aio::MultiplexedConnection;

use super::{Scratch, eventually, free_port};

pub struct RedisServer {
    child: Child,
    port: u16,
    extra: Vec<String>,
    folder: Scratch,
}

impl RedisServer {
    pub async fn start(extra: &[&str]) -> Self {
        let folder = Scratch::new("redis");
        let port = free_port();
        let extra: Vec<String> = extra.iter().map(|word| (*word).to_owned()).collect();
        let child = spawn(port, &folder, &extra);
        let server = Self { child, port, extra, folder };
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

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub async fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.extra);
        self.wait().await;
    }

    async fn wait(&self) {
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

fn spawn(port: u16, folder: &Scratch, extra: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
        .args(["--dir", folder.path().to_str().unwrap(), "--loglevel", "warning"])
        .args(extra)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}
