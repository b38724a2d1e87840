//! Sidegate's module inside Envoy, beyond what every proxy does: versions, configurations, panics.

use std::process::{Command, Output};
use std::time::Duration;

use sidegate_tests::daemon::{Daemon, good, sign};
use sidegate_tests::envoy_file::{ROUTE, shipped, with_members};
use sidegate_tests::http::{At, raw};
use sidegate_tests::path_corpus::{ROUTES, corpus};
use sidegate_tests::program::free_port;
use sidegate_tests::proxies::{Kind, Proxy, envoy_version, module_folder};
use sidegate_tests::scratch::Scratch;

use crate::scenario::reached;

const MODULE: Kind = Kind::EnvoyModule("1.40.0", 2);

/// The shipped file with further routes before its own: path prefix and configuration.
fn with_routes(routes: &[(&str, &str)]) -> String {
    let indent = " ".repeat(24);
    let lines = routes.iter().map(|(prefix, config)| {
        format!(
            "{indent}- match: {{ prefix: {prefix} }}\n{indent}  route: {{ cluster: app }}\n{indent}  typed_per_filter_config:\n\
             {indent}    sidegate:\n\
             {indent}      \"@type\": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute\n\
             {indent}      dynamic_module_config: {{ name: sidegate_envoy, do_not_close: true }}\n\
             {indent}      per_route_config_name: sidegate\n\
             {indent}      filter_config: {{ \"@type\": type.googleapis.com/google.protobuf.Struct, value: {config} }}\n"
        )
    });
    let text = shipped();
    assert!(text.contains(ROUTE));
    text.replace(ROUTE, &(lines.collect::<String>() + ROUTE))
}

async fn start(kind: Kind, daemon: &Daemon, text: &str) -> Option<Proxy> {
    kind.start_with(text, daemon.folder.path(), &daemon.socket, &[]).await
}

/// Envoy's exit code and output for a file that it should refuse.
fn validate(version: &str, text: &str) -> Option<(Output, String)> {
    let folder = Scratch::new();
    let text = text.replace("VERIFIER_SOCKET", "/nowhere/v.sock").replace("ATTACH_SOCKET", "/nowhere/a.sock");
    let text = text.replace("ENVOY_PORT", &free_port().to_string()).replace("APP_PORT", "1");
    let file = folder.file("envoy.yaml");
    std::fs::write(&file, text).expect("written");
    let mut command = Command::new(envoy_version(version)?);
    command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", module_folder()).args(["--mode", "validate", "-c"]).arg(file);
    let output = command.output().expect("Envoy runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    Some((output, said))
}

#[test]
fn envoy_1_37_refuses_the_module() {
    let Some((output, said)) = validate("1.37.0", &shipped()) else { return };
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Failed to load dynamic module"), "{said}");
    let (output, said) = validate("1.38.3", &shipped()).expect("installed with the other");
    assert!(output.status.success(), "{said}");
}

#[test]
fn wrong_configuration_is_refused_by_its_member() {
    let long = format!("socket: /{}", "x".repeat(110));
    let cases = [
        ("sokcet: /run/v.sock", "unknown field `sokcet`"),
        ("socket: run/v.sock", "socket: run/v.sock is not an absolute path"),
        (&long, "is longer than 107 bytes"),
        ("socket: /etc/passwd", "socket: /etc/passwd is not a socket"),
        ("attach_socket: /etc", "attach_socket: /etc is not a socket"),
        ("timeout: soon", "timeout: "),
        ("timeout: 2h", "timeout: \"2h\" is not from 1s to 60s"),
        ("threads: 0", "threads: 0 is not from 1 to 64"),
        ("queue: many", "invalid type: string \"many\""),
        ("routes_file: /nowhere/routes.toml", "routes_file: /nowhere/routes.toml: "),
        ("panic_in: config_new", "panic in ConfigNew"),
    ];
    for (members, expected) in cases {
        let Some((output, said)) = validate("1.40.0", &with_members(members)) else { return };
        assert_eq!(output.status.code(), Some(1), "{members}: {said}");
        assert!(said.contains(expected), "{members}: {said}");
    }
    for (config, expected) in [
        ("{ acces: public }", "unknown field `acces`"),
        ("{ access: open }", "is not public or authenticated"),
        ("{ access: public, scopes: [a] }", "cannot require scopes"),
        ("{ panic_in: route_config_new }", "panic in RouteConfigNew"),
    ] {
        let (output, said) = validate("1.40.0", &with_routes(&[("/a", config)])).expect("installed with the other");
        assert_eq!(output.status.code(), Some(1), "{config}: {said}");
        assert!(said.contains(expected), "{config}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_envoy_require_scopes_and_audiences() {
    let (daemon, _) = Daemon::start_shared(&[("JWT_AUDIENCE", "sidegate,billing")]).await;
    let text = with_routes(&[
        ("/open", "{ access: public }"),
        ("/admin", "{ scopes: [admin] }"),
        ("/read", "{ scopes: [read, write] }"),
        ("/billing", "{ audience: billing }"),
    ]);
    let Some(proxy) = start(MODULE, &daemon, &text).await else { return };
    let token = good("alice");
    let mut claims = sidegate_tests::daemon::claims("bob");
    claims.aud = sidegate_common::claims::Audience::Many(vec!["billing".into(), "sidegate".into()]);
    let billed = sign(&claims);
    let get = |path: &str, token: &str| {
        let call = proxy.at.get(path);
        if token.is_empty() { call } else { call.bearer(token) }
    };
    for _ in 0..2 {
        let open = get("/open/a", "").send().await;
        assert_eq!((open.status.as_u16(), reached(&open, "x-auth-subject")), (200, vec!["-".to_owned()]));
        let named = get("/open/a", &token).send().await;
        assert_eq!((named.status.as_u16(), reached(&named, "x-auth-subject")), (200, vec!["alice".to_owned()]));
        assert_eq!(reached(&get("/open/a", "a.b.c").send().await, "x-auth-subject"), ["-"]);
        assert_eq!(get("/open/a;b", "").send().await.status, 401, "an ambiguous path is never public");
        let admin = get("/admin/a", &token).send().await;
        assert_eq!((admin.status.as_u16(), admin.code().as_str()), (403, "insufficient_scope"));
        assert!(admin.header("www-authenticate").unwrap_or_default().contains("scope=\"admin\""));
        assert_eq!(get("/read/a", &token).send().await.status, 200);
        let audience = get("/billing/a", &token).send().await;
        assert_eq!((audience.status.as_u16(), audience.code().as_str()), (401, "token_invalid"));
        assert_eq!(get("/billing/a", &billed).send().await.status, 200);
        assert_eq!(get("/other", "").send().await.status, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_protected_path_is_public() {
    let folder = Scratch::new();
    std::fs::write(folder.file("routes.toml"), ROUTES).expect("written");
    let daemon = Daemon::start_in(folder, &[]);
    daemon.prove();
    // Envoy hands every path on as it is.
    let untouched = ["normalize_path: true", "merge_slashes: true", "path_with_escaped_slashes_action: REJECT_REQUEST"];
    let text = untouched.iter().fold(shipped(), |text, line| text.replace(line, "# as it is"));
    // A connection ends with its answer, not a second later.
    let text = text.replace("stat_prefix: web", "stat_prefix: web\n                delayed_close_timeout: 0s");
    let Some(proxy) = start(MODULE, &daemon, &text).await else { return };
    assert_eq!(proxy.at.get("/public/a").send().await.status, 200);
    let before = proxy.app.count();
    let mut faults = Vec::new();
    for target in corpus().iter().filter(|target| target.starts_with('/')) {
        let line = format!("GET {target} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
        let answer = raw(&proxy.at, line.as_bytes(), Duration::from_secs(20)).await;
        let text = String::from_utf8_lossy(&answer);
        if !["400", "401"].iter().any(|status| text.starts_with(&format!("HTTP/1.1 {status}"))) {
            faults.push(format!("{target:?}: {}", text.lines().next().unwrap_or_default()));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert_eq!(proxy.app.count(), before, "no such request reached the application");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_500_and_counted() {
    let (daemon, _) = Daemon::start_shared(&[]).await;
    let admin = At::Tcp(([127, 0, 0, 1], free_port()).into());
    let At::Tcp(address) = admin else { unreachable!("just made") };
    let head = format!(
        "admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }}\n",
        address.port()
    );
    let hooks = ["request_headers", "scheduled", "filter_destroy", "route_config_destroy"];
    let routes: Vec<_> = hooks.iter().map(|hook| (format!("/{hook}"), format!("{{ panic_in: {hook} }}"))).collect();
    let routes: Vec<_> = routes.iter().map(|(path, config)| (path.as_str(), config.as_str())).collect();
    for version in ["1.39.3", "1.40.0"] {
        let kind = Kind::EnvoyModule(version, 1);
        let text = head.clone() + &with_routes(&routes);
        let Some(mut proxy) = start(kind, &daemon, &text).await else { return };
        let token = good(&format!("fresh-in-{version}"));
        let panics = async |path: &str| {
            let reply = proxy.at.get(path).bearer(&token).send().await;
            assert_eq!((reply.status.as_u16(), reply.code().as_str()), (500, "internal"), "{path}");
        };
        panics("/scheduled").await;
        panics("/request_headers").await;
        assert_eq!(proxy.at.get("/filter_destroy").bearer(&token).send().await.status, 200);
        assert_eq!(proxy.at.get("/a").bearer(&token).send().await.status, 200, "Envoy lives");
        let stats = admin.get("/stats?filter=sidegate").send().await;
        let text = String::from_utf8_lossy(&stats.body).into_owned();
        assert!(text.contains("sidegate.panics: 3"), "{text}");
        assert!(text.contains("sidegate.asked: ") && text.contains("sidegate.allowed: "), "{text}");
        let stopped = proxy.program.stop();
        assert!(stopped.success(), "{version}: a panic when a configuration goes ends nothing: {stopped}");
    }
    let token = good("fresh");
    for version in ["1.38.3", "1.39.3", "1.40.0"] {
        let kind = Kind::EnvoyModule(version, 1);
        for hook in ["filter_new", "config_destroy"] {
            let text = with_members(&format!("panic_in: {hook}"));
            let mut proxy = start(kind, &daemon, &text).await.expect("installed");
            let reply = proxy.at.get("/a").bearer(&token).send().await;
            let expected = if hook == "filter_new" { 500 } else { 503 };
            assert_eq!(reply.status, expected, "{version} {hook}");
            assert!(proxy.program.stop().success(), "{version} {hook}: {}", proxy.program.output());
        }
    }
}
