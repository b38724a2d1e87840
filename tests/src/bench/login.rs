//! Logins: the effect of a login storm on other requests, timing differences between refusals, and
//! the cost of a refresh.

use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;

use super::load::{Stream, check_request, run};
use super::row::{Goal, Row, median_of, quantile};
use crate::http::At;
use crate::program::Program;
use crate::stack::{EMAIL, Stack, Store};
use crate::users::PASSWORD;

fn post(path: &str, body: &serde_json::Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

fn row(name: impl Into<String>, unit: &'static str, peer: &'static str, goal: Goal) -> Row {
    Row { name: name.into(), unit, peer, ours: Vec::new(), theirs: Vec::new(), goal }
}

pub async fn rows() -> Vec<Row> {
    let mut rows = storm().await;
    rows.extend(refresh().await);
    rows.extend(refusals().await);
    rows
}

/// p99 of refresh, health and checks with fifty clients that log in at cost 12 continuously,
/// compared with p99 without them.
async fn storm() -> Vec<Row> {
    let quiet = ("RUST_LOG", "error");
    let stack = Stack::with(Store::Redis, 1, &[("BCRYPT_COST", "12"), quiet], &[quiet]).await;
    let peer = "the same without the storm";
    let mut rows = ["/auth/refresh", "/livez", "/check"]
        .map(|what| row(format!("{what} p99 in a login storm"), "us", peer, Goal::AtMost(2.0)));
    let pair = stack.issuer.login(EMAIL).await;
    for _ in 0..5 {
        let calm = everything_else(&stack, &pair).await;
        let wrong = post("/auth/login", &json!({"email": EMAIL, "password": "wrong"}));
        let until = Instant::now() + Duration::from_secs(4);
        let clients: Vec<_> = (0..50)
            .map(|_| {
                let (at, wrong) = (stack.issuer.at.clone(), wrong.clone());
                tokio::spawn(async move {
                    let mut stream = Stream::connect(&at).await;
                    while Instant::now() < until {
                        let status = stream.ask(&wrong).await;
                        assert!(status == 401 || status == 503, "{status}");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let stormy = everything_else(&stack, &pair).await;
        for client in clients {
            client.await.expect("a client succeeds");
        }
        for (row, (with, without)) in rows.iter_mut().zip(stormy.into_iter().zip(calm)) {
            row.ours.push(with);
            row.theirs.push(without);
        }
    }
    rows.into()
}

/// p99 in microseconds of a paced stream of each other kind of request.
async fn everything_else(stack: &Stack, pair: &crate::stack::Tokens) -> [f64; 3] {
    let mut issuer = Stream::connect(&stack.issuer.at).await;
    let mut admin = Stream::connect(&stack.issuer.admin).await;
    let mut verifier = Stream::connect(&stack.verifiers[0].at).await;
    let livez = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
    let check = check_request(&pair.access);
    let mut refresh = stack.issuer.login(EMAIL).await.refresh;
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..300 {
        let refreshing = post("/auth/refresh", &json!({"refresh_token": refresh}));
        for (index, (stream, request)) in
            [(&mut issuer, &refreshing), (&mut admin, &livez), (&mut verifier, &check)].into_iter().enumerate()
        {
            let sent = Instant::now();
            assert_eq!(stream.ask(request).await, 200);
            times[index].push(sent.elapsed().as_secs_f64() * 1e6);
        }
        let body: serde_json::Value = serde_json::from_slice(issuer.body()).expect("JSON");
        refresh = body["refresh_token"].as_str().expect("a token").to_owned();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times.map(|mut times| quantile(&mut times, 0.99))
}

/// Refreshes per second, compared with a bare server that runs one Redis script per request.
async fn refresh() -> Vec<Row> {
    let stack = Stack::with(Store::Redis, 0, &[("RUST_LOG", "error")], &[]).await;
    let redis = stack.redis.as_ref().expect("on Redis").url();
    let (_bare, bare) = bare_script_server(&stack, &redis).await;
    let mut row = row("refresh, 8 conn.", "/s", "bare server, one script", Goal::None);
    let request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".to_vec();
    for _ in 0..5 {
        let time = Duration::from_secs(1);
        let clients: Vec<_> = futures(&stack, time).await;
        let mut count = 0;
        for client in clients {
            count += client.await.expect("a client succeeds");
        }
        row.ours.push(f64::from(count) / time.as_secs_f64());
        row.theirs.push(run(&bare, std::slice::from_ref(&request), 8, time).await.per_second);
    }
    vec![row]
}

async fn futures(stack: &Stack, time: Duration) -> Vec<tokio::task::JoinHandle<u32>> {
    let mut clients = Vec::new();
    for _ in 0..8 {
        let (at, mut refresh) = (stack.issuer.at.clone(), stack.issuer.login(EMAIL).await.refresh);
        clients.push(tokio::spawn(async move {
            let mut stream = Stream::connect(&at).await;
            let until = Instant::now() + time;
            let mut count = 0;
            while Instant::now() < until {
                assert_eq!(stream.ask(&post("/auth/refresh", &json!({"refresh_token": refresh}))).await, 200);
                let body: serde_json::Value = serde_json::from_slice(stream.body()).expect("JSON");
                refresh = body["refresh_token"].as_str().expect("a token").to_owned();
                count += 1;
            }
            count
        }));
    }
    clients
}

/// Serves until killed: each request runs one script that reads the clock and writes a hash. See
/// [`bare_script_server`].
pub fn serve_script(socket: &Path, redis: &str) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = redis::Client::open(redis).expect("a URL");
        let connection = client.get_multiplexed_async_connection().await.expect("Redis answers");
        let listener = tokio::net::UnixListener::bind(socket).expect("the socket is free");
        let script = "local t = redis.call('TIME') redis.call('HSET', KEYS[1], 'gen', t[1], 'at', t[2]) return t";
        let script: &'static redis::Script = Box::leak(Box::new(redis::Script::new(script)));
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let connection = connection.clone();
            tokio::spawn(async move {
                let answer = service_fn(move |_| {
                    let mut connection = connection.clone();
                    async move {
                        let reply: Vec<u64> = script.key("bare").invoke_async(&mut connection).await.expect("a reply");
                        let body = http_body_util::Full::new(bytes::Bytes::from(format!("{reply:?}")));
                        Ok::<_, Infallible>(http::Response::new(body))
                    }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let _client_gone = builder.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
}

async fn bare_script_server(stack: &Stack, redis: &str) -> (Program, At) {
    let socket = stack.folder.file("bare-script.sock");
    let mut command = std::process::Command::new(std::env::current_exe().expect("our own path"));
    command.arg("--bare-script-server").arg(&socket).arg(redis);
    let program = Program::start("bare script server", command, &stack.folder.file("bare-script.log"));
    crate::wait::eventually("the bare server", || async { tokio::net::UnixStream::connect(&socket).await.ok() }).await;
    (program, At::Unix(socket))
}

/// Samples of each class of refusal.
const SAMPLES: usize = 32;

/// Median time of each class of refusal, compared with a wrong password, and Welch's t of the two
/// samples. Stored costs are mixed, 10 and 12; the higher one determines the cost of all.
async fn refusals() -> Vec<Row> {
    let settings = [("BCRYPT_COST", "10"), ("RUST_LOG", "error")];
    let stack = Stack::with(Store::Embedded, 0, &settings, &[]).await;
    let pool = sqlx::SqlitePool::connect(&stack.issuer.settings["DATABASE_URL"]).await.expect("the users");
    let cost10 = bcrypt::hash(PASSWORD, 10).expect("bcrypt");
    let cost12 = bcrypt::hash(PASSWORD, 12).expect("bcrypt");
    for (email, hash, active) in [
        ("cost10@example.org", Some(cost10.clone()), true),
        ("cost12@example.org", Some(cost12), true),
        ("disabled@example.org", Some(cost10), false),
        ("nopassword@example.org", None, true),
        ("malformed@example.org", Some("$2b$10$short".to_owned()), true),
    ] {
        let insert = "INSERT INTO users (email, password_hash, active) VALUES ($1, $2, $3)";
        sqlx::query(insert).bind(email).bind(hash).bind(active).execute(&pool).await.expect("a user");
    }
    let long = "x".repeat(73);
    let classes = [
        ("wrong password, cost 10", "cost10@example.org", "wrong"),
        ("wrong password, cost 12", "cost12@example.org", "wrong"),
        ("unknown user", "unknown@example.org", PASSWORD),
        ("disabled user", "disabled@example.org", PASSWORD),
        ("no password", "nopassword@example.org", PASSWORD),
        ("malformed hash", "malformed@example.org", PASSWORD),
        ("73 bytes", "cost10@example.org", long.as_str()),
        ("NUL byte", "cost10@example.org", "a\0b"),
    ];
    let mut stream = Stream::connect(&stack.issuer.at).await;
    let mark = post("/auth/login", &json!({"email": "cost12@example.org", "password": PASSWORD}));
    assert_eq!(stream.ask(&mark).await, 200);
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); classes.len()];
    for _ in 0..SAMPLES {
        for (class, (_, email, password)) in classes.iter().enumerate() {
            let request = post("/auth/login", &json!({"email": email, "password": password}));
            let sent = Instant::now();
            assert_eq!(stream.ask(&request).await, 401);
            times[class].push(sent.elapsed().as_secs_f64() * 1e6);
        }
    }
    let mut rows = Vec::new();
    for (class, (name, ..)) in classes.iter().enumerate().skip(1) {
        let t = welch(&times[class], &times[0]);
        let mut row = row(format!("refusal: {name} (t {t:+.1})"), "us", "wrong password, cost 10", Goal::None);
        row.ours.push(median_of(&times[class]));
        row.theirs.push(median_of(&times[0]));
        rows.push(row);
    }
    rows
}

/// Welch's t of two samples: the distance of their means in standard errors.
fn welch(a: &[f64], b: &[f64]) -> f64 {
    let moments = |values: &[f64]| {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((mean_a, error_a), (mean_b, error_b)) = (moments(a), moments(b));
    (mean_a - mean_b) / (error_a + error_b).sqrt()
}
