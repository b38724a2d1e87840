//! The rights in deploy/redis/users.conf, tried by a client with a verifier's password: what it can
//! read, and how long it can block the server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redis::Value;
use redis::aio::MultiplexedConnection;
use sidegate_common::log_protocol::RedisKeys;
use sidegate_tests::redis::Redis;
use sidegate_tests::scenario::life_of_a_session;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, Issuer, Stack, Verifier};
use sidegate_tests::users;
use sidegate_tests::wait::eventually;

const USERS: &str = include_str!("../../../../deploy/redis/users.conf");
/// A verifier's user with the right to `MULTI` instead of functions.
const WITHOUT_FUNCTIONS: [&str; 4] = ["-fcall_ro", "+multi", "+exec", "+ping"];

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/redis").join(name)
}

/// The rules of a role, one word each.
fn rules(role: &str) -> Vec<&'static str> {
    let line =
        USERS.lines().find(|line| line.starts_with(&format!("user sidegate-{role} "))).expect("a line of its own");
    line.split(' ').skip(4).collect()
}

/// A Redis with the shipped settings and users, and an issuer and a verifier under their roles.
async fn stack() -> (Redis, Stack) {
    let settings = deploy("sidegate.conf");
    let redis = Redis::with(&["--include", settings.to_str().expect("UTF-8")]).await;
    let mut admin = redis.connection().await;
    for role in ["issuer", "verifier"] {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(format!("sidegate-{role}")).arg("on").arg(">secret").arg(rules(role));
        command.exec_async(&mut admin).await.expect("valid rules");
    }
    let folder = Scratch::new();
    let database = folder.file("app.db");
    users::sqlite(&database, &[EMAIL, "bob@example.org"]).await;
    let database = format!("sqlite://{}", database.display());
    let url = |role: &str| format!("redis://sidegate-{role}:secret@127.0.0.1:{}/", redis.port());
    let issuer = Issuer::start(&folder, "issuer", &[("REDIS_URL", &url("issuer")), ("DATABASE_URL", &database)]).await;
    let verifier = Verifier::start(&folder, "verifier", &[("REDIS_URL", &url("verifier"))]).await;
    (redis, Stack { verifiers: vec![verifier], issuer, redis: None, folder })
}

async fn as_verifier(redis: &Redis) -> MultiplexedConnection {
    let url = format!("redis://sidegate-verifier:secret@127.0.0.1:{}/", redis.port());
    let client = redis::Client::open(url).expect("a URL");
    client.get_multiplexed_async_connection().await.expect("a login")
}

async fn say(connection: &mut MultiplexedConnection, words: &[&str]) -> Result<Value, String> {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(connection).await.map_err(|error| error.to_string())
}

/// Redis checks the commands of scripts against the rights of their caller.
#[test]
fn issuer_role_allows_every_command_of_its_scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../issuer/src/store/redis/scripts");
    let mut found = 0;
    for file in std::fs::read_dir(folder).expect("the scripts").flatten() {
        let text = std::fs::read_to_string(file.path()).expect("a script");
        for call in text.split("redis.call('").skip(1) {
            let command = call.split('\'').next().unwrap_or_default().to_lowercase();
            found += 1;
            assert!(rules("issuer").contains(&format!("+{command}").as_str()), "{command} in {:?}", file.path());
        }
    }
    assert!(found > 20, "only {found} calls found: has their spelling changed?");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_suffice_and_a_verifier_only_reads_the_log() {
    let (redis, stack) = stack().await;
    life_of_a_session(&stack).await;
    let keys = RedisKeys::new("sidegate", 0);
    let sid = redis::cmd("KEYS").arg("*:session:*").query_async::<Vec<String>>(&mut redis.connection().await).await;
    let sid = sid.expect("sessions").pop().expect("a session");
    let mut thief = as_verifier(&redis).await;
    let (meta, log, feed) = (keys.meta(), keys.log(), keys.channel());
    for allowed in [
        &["HMGET", &meta, "epoch"][..],
        &["XRANGE", &log, "-", "+", "COUNT", "1000"],
        &["FCALL_RO", "sidegate1_probe", "2", &meta, &log],
        &["INFO", "replication"],
    ] {
        say(&mut thief, allowed).await.unwrap_or_else(|error| panic!("{allowed:?}: {error}"));
    }
    let endless = "while true do end";
    for refused in [
        &["HGETALL", &sid][..],
        &["HMGET", &sid, "sub"],
        &["FCALL_RO", "sidegate1_probe", "2", &sid, &log],
        &["HMGET", "{other:0}:meta", "epoch"],
        &["XRANGE", "{other:0}:log", "-", "+"],
        &["XADD", &log, "*", "r", "x"],
        &["HSET", &meta, "last", "0-0"],
        &["DEL", &log],
        &["EVAL_RO", endless, "0"],
        &["EVAL", endless, "0"],
        &["EVALSHA_RO", "0000000000000000000000000000000000000000", "0"],
        &["FCALL", "sidegate1_probe", "2", &meta, &log],
        &["FUNCTION", "LOAD", "REPLACE", "#!lua name=sidegate1\n"],
        &["SCRIPT", "LOAD", endless],
        &["MULTI"],
        &["INFO"],
        &["INFO", "server"],
        &["CONFIG", "GET", "masterauth"],
        &["SPUBLISH", &feed, "x"],
        &["PUBLISH", &feed, "x"],
        &["SSUBSCRIBE", "{other:0}:feed"],
        &["SUBSCRIBE", "other"],
        &["KEYS", "*"],
        &["SCAN", "0"],
        &["ACL", "LIST"],
        &["CLIENT", "LIST"],
        &["MONITOR"],
        &["REPLICAOF", "127.0.0.1", "1"],
        &["FLUSHALL"],
        &["SHUTDOWN"],
    ] {
        let answer = say(&mut thief, refused).await;
        assert!(answer.as_ref().is_err_and(|error| error.to_lowercase().contains("perm")), "{refused:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verifier_follows_without_redis_functions() {
    let (redis, mut stack) = stack().await;
    let mut admin = redis.connection().await;
    redis::cmd("ACL")
        .arg("SETUSER")
        .arg("sidegate-verifier")
        .arg(&WITHOUT_FUNCTIONS)
        .exec_async(&mut admin)
        .await
        .expect("rules");
    stack.verifiers[0].restart().await;
    life_of_a_session(&stack).await;
    // If the server's functions are flushed, an issuer loads them again.
    redis::cmd("FUNCTION").arg("FLUSH").exec_async(&mut admin).await.expect("flushed");
    life_of_a_session(&stack).await;
    eventually("an issuer to load the functions", || async {
        let (mut admin, meta) = (redis.connection().await, RedisKeys::new("sidegate", 0).meta());
        say(&mut admin, &["FCALL_RO", "sidegate1_probe", "2", &meta, &meta.replace("meta", "log")]).await.ok()
    })
    .await;
}

/// The longest time that another client waited for a response while `attack` ran over a connection
/// of a verifier's user.
fn held_up(port: u16, attack: &[u8]) -> Duration {
    let connect = || {
        let connection = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        connection.set_nodelay(true).expect("a socket");
        connection
    };
    let mut attacker = connect();
    attacker.write_all(b"AUTH sidegate-verifier secret\r\n").expect("sent");
    let mut answer = [0; 5];
    attacker.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"+OK\r\n");
    let mut other = connect();
    let mut ping = || {
        let began = Instant::now();
        other.write_all(b"PING\r\n").expect("sent");
        let mut pong = [0; 7];
        other.read_exact(&mut pong).expect("an answer");
        began.elapsed()
    };
    ping();
    let _cut_off = attacker.write_all(attack);
    (0..300).map(|_| ping()).max().unwrap_or_default()
}

/// As much as Redis reads from a connection before it turns to another one.
fn filling(command: &str) -> Vec<u8> {
    format!("{command}\r\n").repeat((16 << 10) / (command.len() + 2)).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn verifier_cannot_block_the_redis_server() {
    const LIMIT: Duration = Duration::from_millis(50);
    let (redis, stack) = stack().await;
    let keys = RedisKeys::new("sidegate", 0);
    let fill = "for i = 1, 20000 do redis.call('XADD', KEYS[1], '*', 'r', string.rep('x', 27)) end";
    let mut admin = redis.connection().await;
    drop(stack);
    redis::cmd("EVAL").arg(fill).arg(1).arg(keys.log()).exec_async(&mut admin).await.expect("filled");
    let (meta, log) = (keys.meta(), keys.log());
    let whole = filling(&format!("XRANGE {log} - +"));
    let subscribed = [format!("SSUBSCRIBE {}\r\n", keys.channel()).into_bytes(), whole.clone()].concat();
    for (what, attack) in [
        ("an endless script", b"EVAL_RO \"while true do end\" 0\r\n".to_vec()),
        ("a function", filling(&format!("FCALL_RO sidegate1_probe 2 {meta} {log}"))),
        ("the whole log", whole),
        ("the whole log, subscribed", subscribed),
        ("pages", filling(&format!("XRANGE {log} - + COUNT 1000"))),
        (
            "a transaction",
            [b"MULTI\r\n".to_vec(), filling("INFO replication").repeat(50), b"EXEC\r\n".to_vec()].concat(),
        ),
    ] {
        // A busy machine delays responses as well: one undisturbed attempt is proof.
        let port = redis.port();
        let tries = (0..20).map(|_| held_up(port, &attack));
        let best = tries.scan(false, |done, wait| {
            let go_on = !*done;
            *done = wait <= LIMIT;
            go_on.then_some(wait)
        });
        let best = best.min().expect("at least one");
        assert!(best <= LIMIT, "{what} blocks the server for {best:?}");
    }
}
