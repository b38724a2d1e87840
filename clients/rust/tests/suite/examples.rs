//! Runs the examples unchanged, each as its own process, against a real segment and real sockets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::fake_daemon::{Claims, Daemon, Scratch, claims};

/// A running example with its standard input and output; stopped when dropped.
struct Example(Child);

impl Example {
    fn start(name: &str, scratch: &Scratch) -> Self {
        let ours = std::env::current_exe().unwrap();
        let program = ours.parent().unwrap().parent().unwrap().join("examples").join(name);
        assert!(program.exists(), "{} is not built: run cargo build --release --examples first", program.display());
        let mut command = Command::new(program);
        command
            .env("VERIFIER_SOCKET", scratch.0.join("verifier.sock"))
            .env("ATTACH_SOCKET", scratch.0.join("attach.sock"))
            .env("LISTEN", "127.0.0.1:0");
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn lines(&mut self) -> impl Iterator<Item = String> {
        BufReader::new(self.0.stdout.take().unwrap()).lines().map(Result::unwrap)
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn check_checks_the_tokens_on_standard_input() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.0);
    let (good, bad) = (claims(1), claims(2));
    daemon.revoke_session(&bad);
    let mut example = Example::start("check", &scratch);
    let mut input = example.0.stdin.take().unwrap();
    write!(input, "{}\n{}\n{}\nnonsense\n", good.token(), good.token(), bad.token()).unwrap();
    drop(input);
    let lines: Vec<String> = example.lines().collect();
    let begins = [format!("good: {} until", good.sub), format!("good: {} until", good.sub)];
    for (line, begin) in lines.iter().zip(begins.iter().map(String::as_str).chain(["token_revoked:", "token_invalid:"]))
    {
        assert!(line.starts_with(begin), "{line}");
    }
    assert_eq!((lines.len(), daemon.asked()), (4, 2), "the second was checked in process");
    assert!(example.0.wait().unwrap().success());
}

#[test]
fn axum_app_protects_its_routes() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.0);
    let mut example = Example::start("axum_app", &scratch);
    let mut lines = example.lines();
    let address = lines.next().unwrap().strip_prefix("listening on ").unwrap().to_owned();
    let get = |path: &str, token: Option<&str>| {
        let mut stream = TcpStream::connect(&address).unwrap();
        let header = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer[9..12].to_owned(), answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
    };
    let status = |path: &str, token: Option<&str>| get(path, token).0;
    let mine = claims(1);
    let manager = Claims { scope: "reports:read".into(), ..claims(2) };
    let (mine_token, manager_token) = (mine.token(), manager.token());
    assert_eq!(get("/", None), ("200".into(), "open to everyone\n".into()));
    assert_eq!(status("/hello", None), "401");
    assert_eq!(get("/hello", Some(&mine_token)), ("200".into(), format!("hello {}\n", mine.sub)));
    assert_eq!(status("/reports", Some(&mine_token)), "403");
    assert!(get("/reports", Some(&manager_token)).1.contains("who may: reports:read"));
    daemon.revoke_session(&mine);
    assert_eq!(status("/hello", Some(&mine_token)), "401");
    assert_eq!(status("/reports", Some(&manager_token)), "200");
}

#[tokio::test]
async fn tonic_app_protects_calls_and_ends_streams() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.0);
    let mut example = Example::start("tonic_app", &scratch);
    let address = example.lines().next().unwrap().strip_prefix("listening on ").unwrap().to_owned();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut client = HealthClient::new(channel);
    let call = |tokens: &[&str]| {
        let mut request = Request::new(HealthCheckRequest::default());
        for token in tokens {
            request.metadata_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    };
    let (mine, other) = (claims(1), claims(2));
    let (mine_token, other_token) = (mine.token(), other.token());
    let response = client.check(call(&[&mine_token])).await.unwrap();
    assert_eq!(response.metadata().get("x-caller").unwrap(), mine.sub.as_str());
    for bad in [&[][..], &["nonsense"], &[&mine_token, &mine_token]] {
        assert_eq!(client.check(call(bad)).await.unwrap_err().code(), Code::Unauthenticated, "{bad:?}");
        assert_eq!(client.watch(call(bad)).await.unwrap_err().code(), Code::Unauthenticated, "{bad:?}");
    }
    let mut cut = client.watch(call(&[&mine_token])).await.unwrap().into_inner();
    let mut stays = client.watch(call(&[&other_token])).await.unwrap().into_inner();
    assert!(cut.message().await.unwrap().is_some() && stays.message().await.unwrap().is_some());
    daemon.revoke_session(&mine);
    let end = loop {
        match cut.message().await {
            Ok(event) => assert!(event.is_some(), "it ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!((end.code(), end.message()), (Code::Unauthenticated, "token_revoked"));
    for _ in 0..3 {
        assert!(stays.message().await.unwrap().is_some());
    }
    assert_eq!(client.check(call(&[&mine_token])).await.unwrap_err().message(), "token_revoked");
    assert_eq!(
        client.check(call(&[&other_token])).await.unwrap().metadata().get("x-caller").unwrap(),
        other.sub.as_str()
    );
}
