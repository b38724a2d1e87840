//! No token makes a program open a connection: strace lists every connect() of both programs while
//! the corpus is checked.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use sidegate_hostile::{Expected, Forge, KeyKind, Setting, corpus};
use sidegate_runtime::clock::unix_now;
use sidegate_tests::program::{Program, binary};
use sidegate_tests::stack::{Stack, Store};
use sidegate_tests::wait::eventually;
use tokio::net::TcpListener;

/// A program started under strace, which writes every call that could reach another host to
/// `calls`.
fn traced(stack: &Stack, name: &str, settings: &std::collections::BTreeMap<String, String>, calls: &Path) -> Program {
    let mut command = Command::new("strace");
    // -D: the program is our child, and strace the grandchild.
    command.args([
        "-D",
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-e",
        "trace=connect,sendto,sendmsg,sendmmsg",
        "-e",
        "signal=none",
        "-o",
    ]);
    command.arg(calls).arg(binary(name));
    command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).envs(settings);
    Program::start(name, command, &stack.folder.file(&format!("{name}-traced.log")))
}

/// Every address used, by connect() or by a datagram.
fn called(calls: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(calls).expect("strace writes");
    let port = |line: &str| {
        let (_, rest) = line.split_once("sin_port=htons(").or_else(|| line.split_once("sin6_port=htons("))?;
        let address = rest.split_once("inet_addr(\"").or_else(|| rest.split_once("AF_INET6, \"")).map(|(_, rest)| rest);
        Some(format!("{}:{}", address?.split('"').next()?, rest.split(')').next()?))
    };
    text.lines()
        .filter(|line| line.contains("AF_INET"))
        .map(|line| port(line).unwrap_or_else(|| line.to_owned()))
        .collect()
}

/// A server that must not be called; counts its connections.
async fn canary() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, calls)
}

/// Tokens whose headers and claims name the canary in every way that a verifier might follow.
fn luring(forge: &Forge, canary: SocketAddr) -> Vec<String> {
    let now = unix_now().0;
    let url = format!("http://{canary}/key");
    let claims = json!({
        "iss": url, "aud": "sidegate", "sub": url, "client_id": url, "iat": now - 60, "exp": now + 600,
        "jti": url, "sid": "s", "jku": url, "_claim_sources": {"a": {"endpoint": url}},
    });
    let header = json!({"alg": forge.kind().alg(), "typ": "at+jwt", "kid": forge.kid()});
    let mut tokens = vec![forge.token(header.to_string().as_bytes(), claims.to_string().as_bytes())];
    for member in ["jku", "x5u", "jwk", "kid", "x5c", "url", "iss", "crit"] {
        for value in [json!(url), json!([url]), json!({"url": url}), Value::Null] {
            let mut header = header.clone();
            header[member] = value;
            tokens.push(forge.token(header.to_string().as_bytes(), claims.to_string().as_bytes()));
        }
    }
    tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_makes_a_program_connect_anywhere() {
    let forge = Forge::generate(KeyKind::EdDsa);
    let mut stack = Stack::start(Store::Embedded, 0).await;
    let keys = stack.folder.file("keys");
    std::fs::create_dir(&keys).expect("a folder");
    std::fs::write(keys.join("a.pem"), forge.private_pem().expect("a private key")).expect("written");
    std::fs::write(keys.join("keys.toml"), format!("signing = \"{}\"\n", forge.kid())).expect("written");
    // The issuer checks tokens as well: it signs and verifies with the forge's key.
    let mut settings = stack.issuer.settings.clone();
    settings.insert("JWT_KEYS_DIR".into(), keys.display().to_string());
    settings.insert("SESSION_SECRET_KEY".into(), "a-session-secret-of-the-tests-of-32-bytes+".into());
    settings.remove("JWT_SECRET_KEY");
    stack.issuer.program.stop();
    let (by_issuer, by_verifier) = (stack.folder.file("issuer.calls"), stack.folder.file("verifier.calls"));
    stack.issuer.program = traced(&stack, "sidegate-issuer", &settings, &by_issuer);
    let admin = stack.issuer.admin.clone();
    eventually("the issuer", || async {
        admin.get("/readyz").try_send().await.ok().filter(|reply| reply.status == 200)
    })
    .await;
    let jwks = format!("http://{}/.well-known/jwks.json", settings["ISSUER_LISTEN"]);
    let more = [("JWT_SECRET_KEY", ""), ("JWKS_URL", jwks.as_str())];
    stack.add_verifier(&more).await;
    let settings = stack.verifiers[0].settings.clone();
    stack.verifiers[0].program.stop();
    stack.verifiers[0].program = traced(&stack, "sidegate-verifier", &settings, &by_verifier);
    stack.verifiers[0].until_ready().await;

    let (address, calls) = canary().await;
    let mut tokens = luring(&forge, address);
    let cases = corpus(&forge, &Setting::at(unix_now().0));
    let luring_only = tokens.len();
    tokens.extend(cases.iter().filter(|case| case.token.len() < 8192).map(|case| case.token.clone()));
    for (number, token) in tokens.iter().enumerate() {
        let reply = stack.verifiers[0].at.post("/verify").body(token.clone()).send().await;
        assert!(number >= luring_only || reply.status == 401, "{token}");
        if token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let me = stack.issuer.at.get("/auth/me").bearer(token).send().await;
            assert_eq!(me.status == 200, reply.status == 200, "{token}");
        }
    }
    assert!(cases.iter().any(|case| case.category == "key from an address" && case.expected == Expected::Invalid));
    let allowed = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let feed = settings["ISSUER_FEED_URL"].trim_start_matches("http://");
    let issuer = stack.issuer.settings["ISSUER_LISTEN"].as_str();
    let (from_issuer, from_verifier) = (called(&by_issuer), called(&by_verifier));
    println!("{} tokens; the verifier called {from_verifier:?}, the issuer {from_issuer:?}", tokens.len());
    assert!(from_verifier.contains(feed), "strace sees calls at all");
    assert!(from_verifier.is_subset(&allowed(&[feed, issuer])), "{from_verifier:?}");
    assert_eq!(from_issuer, BTreeSet::new());
    assert_eq!(calls.load(Ordering::Relaxed), 0, "the canary was called");
}
