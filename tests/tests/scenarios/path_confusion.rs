//! A corpus of spellings of one protected path, with each proxy protocol: none of them is ever
//! public.

use sidegate_tests::daemon::Daemon;
use sidegate_tests::grpc_check::{attributes, channel, check};
use sidegate_tests::http::raw;
use sidegate_tests::path_corpus::{NOT_PATHS, ROUTES, corpus};
use sidegate_tests::scratch::Scratch;
use std::time::Duration;

fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no answer: {text:?}"))
}

async fn daemon() -> Daemon {
    let folder = Scratch::new();
    let file = folder.file("routes.toml");
    std::fs::write(&file, ROUTES).unwrap();
    let daemon = Daemon::start_in(folder, &[("ROUTES_FILE", file.to_str().unwrap())]);
    daemon.prove();
    daemon
}

#[tokio::test]
async fn no_spelling_of_a_protected_path_is_public_for_any_proxy() {
    let daemon = daemon().await;
    let corpus = corpus();
    assert!(corpus.len() >= 200, "{}", corpus.len());
    let ask = async |request: String| {
        let request = format!("{request}Host: localhost\r\nConnection: close\r\n\r\n");
        status(&raw(&daemon.at, request.as_bytes(), Duration::from_secs(20)).await)
    };
    let (mut faults, mut asked_as_envoy) = (Vec::new(), 0);
    for target in corpus.iter().map(String::as_str).chain(NOT_PATHS) {
        let original = format!("X-Original-URI: {target}\r\nX-Original-Method: GET\r\n");
        let forwarded = format!("X-Forwarded-Uri: {target}\r\nX-Forwarded-Method: GET\r\n");
        for (dialect, request) in [
            ("nginx", format!("GET /nginx HTTP/1.0\r\n{original}")),
            ("haproxy", format!("HEAD /haproxy HTTP/1.1\r\n{original}")),
            ("forward", format!("GET /forward HTTP/1.1\r\n{forwarded}")),
        ] {
            let status = ask(request).await;
            if status != 401 && status != 400 {
                faults.push(format!("{dialect}: {target:?} gave {status}"));
            }
        }
        // Targets that are not paths never reach the verifier.
        if target.starts_with('/') {
            asked_as_envoy += 1;
            let status = ask(format!("GET /envoy{target} HTTP/1.1\r\n")).await;
            if status != 401 && status != 400 {
                faults.push(format!("envoy: {target:?} gave {status}"));
            }
        }
    }
    assert!(asked_as_envoy >= 200, "{asked_as_envoy}");
    assert!(faults.is_empty(), "{faults:#?}");
}

/// With any bytes between a public folder and a way out of it, no protocol treats the path as
/// public.
#[tokio::test]
async fn no_byte_hides_a_way_out_of_a_public_folder() {
    let daemon = daemon().await;
    let ends_the_line = [b'\r', b'\n'];
    let mut faults = Vec::new();
    for byte in (1..=u8::MAX).filter(|byte| !ends_the_line.contains(byte)) {
        for between in [vec![byte], format!("%{byte:02x}").into_bytes()] {
            // A query or a further field may contain anything.
            if between == b"?" || between == b" " {
                continue;
            }
            let target = [b"/public/x".as_slice(), &between, b"/../../admin"].concat();
            let original = [b"X-Original-URI: ", target.as_slice(), b"\r\nX-Original-Method: GET\r\n"].concat();
            let forwarded = [b"X-Forwarded-Uri: ", target.as_slice(), b"\r\nX-Forwarded-Method: GET\r\n"].concat();
            for (dialect, start) in [
                ("nginx", [b"GET /nginx HTTP/1.1\r\n".as_slice(), &original].concat()),
                ("haproxy", [b"HEAD /haproxy HTTP/1.1\r\n".as_slice(), &original].concat()),
                ("forward", [b"GET /forward HTTP/1.1\r\n".as_slice(), &forwarded].concat()),
                ("envoy", [b"GET /envoy".as_slice(), &target, b" HTTP/1.1\r\n"].concat()),
                ("envoy, whole URI", [b"GET http://h/envoy".as_slice(), &target, b" HTTP/1.1\r\n"].concat()),
            ] {
                let request = [start.as_slice(), b"Host: localhost\r\nConnection: close\r\n\r\n"].concat();
                let status = status(&raw(&daemon.at, &request, Duration::from_secs(20)).await);
                // 400: not HTTP.
                if ![400, 401].contains(&status) || (byte == b'#' && status != 401) {
                    faults.push(format!("{dialect}: {:?} gave {status}", String::from_utf8_lossy(&target)));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn no_spelling_is_public_over_grpc() {
    let daemon = daemon().await;
    let channel = channel(&daemon.socket).await;
    let mut faults = Vec::new();
    assert!(corpus().len() >= 200);
    for target in corpus().iter().map(String::as_str).chain(NOT_PATHS) {
        let code = check(&channel, Some(attributes("GET", target, &[])), &[]).await.status.expect("a status").code;
        if code == 0 {
            faults.push(target.to_owned());
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn plain_public_paths_stay_public() {
    let daemon = daemon().await;
    for target in
        ["/", "/public/a", "/administrator", "/public/admin", "/a%20b", "/%C3%BCber/x?y=%2f..", "/.well-known/x"]
    {
        let forward = daemon.at.get("/forward").header("x-forwarded-method", "GET").header("x-forwarded-uri", target);
        assert_eq!(forward.send().await.status, 200, "{target}");
        let envoy = daemon.at.get(&format!("/envoy{target}")).send().await;
        assert_eq!(envoy.status, 200, "{target}");
    }
}
