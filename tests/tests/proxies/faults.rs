//! A verifier that does not answer, and requests that an authorization filter may break: large
//! bodies and web sockets.

use sidegate_tests::daemon::{Daemon, good};
use sidegate_tests::http::{At, Duplex};
use sidegate_tests::proxies::Kind;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::wait::WAIT_LIMIT;
use std::os::unix::fs::PermissionsExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

/// 100 MB, in pieces.
const PIECE: usize = 1 << 20;
const PIECES: usize = 100;

/// The check has a timeout, after which the response is 503.
pub async fn a_hanging_verifier_is_503(kind: Kind) {
    let folder = Scratch::new();
    let socket = folder.file("v.sock");
    let listener = UnixListener::bind(&socket).expect("a free socket");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("ours");
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let Some((proxy, ways)) = kind.start_every_way(folder.path(), &socket).await else { return };
    for at in &ways {
        let reply = at.get("/a").bearer(&good("alice")).send().await;
        assert_eq!(reply.status, 503, "{kind:?}: {at:?}: {}", proxy.program.output());
        is_problem(kind, &reply, "temporarily_unavailable");
    }
    silent.abort();
    std::fs::remove_file(&socket).expect("ours");
    for at in &ways {
        let reply = at.get("/a").bearer(&good("alice")).send().await;
        assert_eq!(reply.status, 503, "{kind:?}: {at:?}: no server listens");
        is_problem(kind, &reply, "temporarily_unavailable");
    }
    assert_eq!(proxy.app.count(), 0, "{kind:?}");
}

/// Envoy's own 503 has no body.
fn is_problem(kind: Kind, reply: &sidegate_tests::http::Reply, code: &str) {
    if !matches!(kind, Kind::EnvoyGrpc | Kind::EnvoyHttp) {
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{kind:?}");
        assert_eq!((reply.code().as_str(), reply.json()["status"].as_u64()), (code, Some(503)), "{kind:?}");
        assert_eq!(reply.header("retry-after"), Some("1"), "{kind:?}");
    }
}

pub async fn large_bodies_and_web_sockets_pass(kind: Kind) {
    let daemon = Daemon::start_in(Scratch::new(), &[("VERIFIER_SOCKET_MODE", "0666")]);
    daemon.prove();
    let started = kind.start_every_way(daemon.folder.path(), &daemon.socket).await;
    let Some((_proxy, ways)) = started else { return };
    let token = good("alice");
    for at in &ways {
        let refusals = [(None, 401, "token_missing"), (Some("a.b.c".to_owned()), 401, "token_invalid")];
        for (token, status, code) in refusals {
            let call = at.get("/a");
            let reply = token.iter().fold(call, |call, token| call.bearer(token)).send().await;
            assert_eq!((reply.status.as_u16(), reply.code().as_str()), (status, code), "{kind:?}: {at:?}");
            assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{kind:?}: {at:?}");
            assert_eq!(reply.headers.get_all("www-authenticate").iter().count(), 1, "{kind:?}: {at:?}");
        }
        large_body(kind, at, &token).await;
        // The shipped file has no extended CONNECT (RFC 8441).
        if !at.is_h2() {
            web_socket(kind, at, &token).await;
        }
    }
}

async fn connect(at: &At) -> Box<dyn Duplex> {
    at.connect().await.expect("the proxy listens")
}

/// Reads until a response head is complete, and returns the bytes read.
async fn read_head(stream: &mut Box<dyn Duplex>) -> String {
    let mut read = Vec::new();
    while !read.windows(4).any(|four| four == b"\r\n\r\n") {
        let byte = stream.read_u8().await.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&read)));
        read.push(byte);
    }
    String::from_utf8(read).expect("a head is text")
}

async fn large_body(kind: Kind, at: &At, token: &str) {
    let length = PIECE * PIECES;
    if at.is_h2() {
        let reply = at.post("/sink").bearer(token).body(vec![b'x'; length]).within(WAIT_LIMIT).send().await;
        assert_eq!((reply.status.as_u16(), reply.body.as_ref()), (200, length.to_string().as_bytes()), "{kind:?}");
        return;
    }
    let mut stream = connect(at).await;
    let head = format!(
        "POST /sink HTTP/1.1\r\nHost: app\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let piece = vec![b'x'; PIECE];
    for _ in 0..PIECES {
        stream.write_all(&piece).await.unwrap_or_else(|error| panic!("{kind:?}: 100 MB: {error}"));
    }
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{kind:?}: {head}");
    let mut body = String::new();
    let _closed = stream.read_to_string(&mut body).await;
    assert!(body.contains(&length.to_string()), "{kind:?}: the application got all of it: {body}");
}

async fn web_socket(kind: Kind, at: &At, token: &str) {
    let handshake = |authorization: &str| {
        format!(
            "GET /ws HTTP/1.1\r\nHost: app\r\n{authorization}Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let mut stream = connect(at).await;
    stream.write_all(handshake("").as_bytes()).await.expect("sent");
    let refused = read_head(&mut stream).await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{kind:?}: {refused}");
    let mut stream = connect(at).await;
    stream.write_all(handshake(&format!("Authorization: Bearer {token}\r\n")).as_bytes()).await.expect("sent");
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{kind:?}: {head}");
    for message in [b"first", b"other"] {
        stream.write_all(message).await.expect("sent");
        let mut echoed = [0; 5];
        stream.read_exact(&mut echoed).await.expect("echoed");
        assert_eq!(&echoed, message, "{kind:?}");
    }
}

/// A server at the verifier's socket that answers 200 to everything, but is not the verifier.
pub async fn an_answer_without_proof_is_503(kind: Kind) {
    let folder = Scratch::new();
    let socket = folder.file("v.sock");
    let listener = UnixListener::bind(&socket).expect("a free socket");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("ours");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 16 * 1024];
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let Some(proxy) = kind.start_at(folder.path(), &socket).await else { return };
    let reply = proxy.at.get("/a").bearer(&good("alice")).send().await;
    assert_eq!((reply.status.as_u16(), proxy.app.count()), (503, 0), "{kind:?}");
}
