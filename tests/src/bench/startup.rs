//! Start-up: from exec to "ready" of both programs on a store that is there, beside a redis-server that answers PING.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::row::{Goal, Row};
use crate::http::At;
use crate::program::{Program, free_port};
use crate::scratch::Scratch;
use crate::stack::{Stack, Store};

const PAIRS: usize = 15;
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// Milliseconds, with an empty log.
pub async fn rows() -> Vec<Row> {
    let mut stack = Stack::start(Store::Redis, 1).await;
    let folder = Scratch::new();
    let row = |name, goal| Row::new(name, "ms", "redis-server to PONG", Goal::OursAtMost(goal));
    let mut rows = vec![row("verifier, exec to ready", 50.0), row("issuer, exec to ready", 150.0)];
    for _ in 0..PAIRS {
        let verifier = &mut stack.verifiers[0];
        assert!(verifier.program.stop().success());
        let began = Instant::now();
        verifier.program = Program::ours("sidegate-verifier", &verifier.settings, &folder.file("verifier.log"));
        rows[0].pair(until_ready(began, &verifier.admin).await, redis(&folder));

        let issuer = &mut stack.issuer;
        assert!(issuer.program.stop().success());
        let began = Instant::now();
        issuer.program = Program::ours("sidegate-issuer", &issuer.settings, &folder.file("issuer.log"));
        rows[1].pair(until_ready(began, &issuer.admin).await, redis(&folder));
    }
    rows
}

async fn until_ready(began: Instant, admin: &At) -> f64 {
    while !admin.get("/readyz").try_send().await.is_ok_and(|reply| reply.status == 200) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    began.elapsed().as_secs_f64() * 1e3
}

/// An empty redis-server, from exec to its first answer.
fn redis(folder: &Scratch) -> f64 {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    let began = Instant::now();
    let mut program = Program::start("redis-server", command, &folder.file("redis.log"));
    loop {
        assert!(program.running(), "{}", program.output());
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let mut pong = [0; 7];
            if stream.write_all(b"PING\r\n").and_then(|()| stream.read_exact(&mut pong)).is_ok()
                && pong == *b"+PONG\r\n"
            {
                break;
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    began.elapsed().as_secs_f64() * 1e3
}
