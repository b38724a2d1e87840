//! `ROUTES_FILE` with the real program: the daemon decides as `check-config` explains, and reloads
//! the file when it changes and on SIGHUP.

use rustix::process::Signal;
use sidegate_tests::program::run;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{SECRET, Verifier};
use sidegate_tests::wait::eventually;

const ROUTES: &str = r#"
[[route]]
methods = ["GET"]
path = "/public/**"
access = "public"
[[route]]
path = "/reports/*"
scopes = ["reports:read"]
audience = "sidegate"
[[route]]
path = "/account/**"
"#;

const OPEN: &str = "[[route]]\npath = \"/open\"\naccess = \"public\"\n";

/// Method, path, the output of `check-config`, and the daemon's response without a token.
const CASES: [(&str, &str, &str, u16); 9] = [
    ("GET", "/public/a/b?c=d", "public; rule 1 (GET /public/**)", 200),
    ("HEAD", "/public/a", "public; rule 1 (GET /public/**)", 200),
    ("POST", "/public/a", "needs a good token; no rule matches", 401),
    (
        "GET",
        "/reports/7",
        "needs a good token with scope \"reports:read\" for audience \"sidegate\"; rule 2 (/reports/*)",
        401,
    ),
    ("GET", "/reports/7/pages", "needs a good token; no rule matches", 401),
    ("DELETE", "/ACCOUNT/x/", "needs a good token; rule 3 (/account/**)", 401),
    ("GET", "/public/../account", "the path is ambiguous: it holds a dot segment", 401),
    ("GET", "/public/a%2fb", "the path is ambiguous: it holds an encoded slash", 401),
    ("GET", "/", "needs a good token; no rule matches", 401),
];

async fn answered(verifier: &Verifier, method: &str, path: &str) -> u16 {
    let call = verifier.at.get("/forward").header("x-forwarded-method", method).header("x-forwarded-uri", path);
    call.send().await.status.as_u16()
}

/// A daemon without a feed: public routes are public nevertheless, and a missing token is a missing
/// token.
async fn daemon(folder: &Scratch, file: &str) -> Verifier {
    let settings = [("ROUTES_FILE", file), ("ISSUER_FEED_URL", "http://127.0.0.1:1"), ("LOG_LEVEL", "info")];
    let verifier = Verifier::start_unready(folder, "v", &settings);
    eventually("the verifier to listen", || async { verifier.at.get("/check").try_send().await.ok() }).await;
    verifier
}

#[tokio::test]
async fn check_config_predicts_the_daemons_decisions() {
    let folder = Scratch::new();
    let file = folder.file("routes.toml");
    std::fs::write(&file, ROUTES).unwrap();
    let file = file.to_str().unwrap();
    let verifier = daemon(&folder, file).await;
    for (method, path, explained, status) in CASES {
        let question = format!("{method} {path}");
        let settings = [("ROUTES_FILE", file), ("JWT_SECRET_KEY", SECRET)];
        let output = run("sidegate-verifier", &["check-config", "--route", &question], &settings, "");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.starts_with(&format!("{question}: ")), "{question}: {output:?}");
        assert!(said.contains(explained), "{question}: {said}");
        assert_eq!(answered(&verifier, method, path).await, status, "{question}");
    }
}

#[tokio::test]
async fn check_config_answers_several_requests_and_refuses_a_bad_file() {
    let folder = Scratch::new();
    let file = folder.file("routes.toml");
    let ask = || {
        let settings = [("ROUTES_FILE", file.to_str().unwrap()), ("JWT_SECRET_KEY", SECRET)];
        run("sidegate-verifier", &["check-config", "--route", "GET /a", "--route", "GET /open"], &settings, "")
    };
    std::fs::write(&file, OPEN).unwrap();
    let output = ask();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, ["GET /a: needs a good token; no rule matches", "GET /open: public; rule 1 (/open)"]);
    std::fs::write(&file, "[[route]]\npath = \"/a/../b\"\n").unwrap();
    let output = ask();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64));
    assert!(said.contains("ROUTES_FILE") && said.contains("rule 1"), "{said}");
}

#[tokio::test]
async fn the_file_is_read_again_when_it_changes_and_on_sighup() {
    let folder = Scratch::new();
    let file = folder.file("routes.toml");
    std::fs::write(&file, ROUTES).unwrap();
    let verifier = daemon(&folder, file.to_str().unwrap()).await;
    assert_eq!(answered(&verifier, "GET", "/open").await, 401);

    // Replaced by rename, like editors and Kubernetes do, without a signal.
    std::fs::write(folder.file("new"), OPEN).unwrap();
    std::fs::rename(folder.file("new"), &file).unwrap();
    eventually("the changed rules", || async { (answered(&verifier, "GET", "/open").await == 200).then_some(()) })
        .await;
    assert_eq!(answered(&verifier, "GET", "/public/a").await, 401, "the rules before are gone");

    // A malformed file changes nothing and is logged.
    std::fs::write(&file, "not TOML [").unwrap();
    verifier.program.signal(Signal::HUP);
    eventually("the complaint", || async {
        verifier.program.output().contains("routes file reload failed").then_some(())
    })
    .await;
    assert_eq!(answered(&verifier, "GET", "/open").await, 200);

    // SIGHUP reloads even a file of the same inode, length and time.
    std::fs::write(&file, ROUTES).unwrap();
    eventually("the rules", || async { (answered(&verifier, "GET", "/public/a").await == 200).then_some(()) }).await;
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    let other = std::fs::File::options().write(true).open(&file).unwrap();
    std::io::Write::write_all(&mut &other, ROUTES.replace("/public/", "/pirate/").as_bytes()).unwrap();
    other.set_modified(modified).unwrap();
    verifier.program.signal(Signal::HUP);
    eventually("the signal", || async { (answered(&verifier, "GET", "/pirate/a").await == 200).then_some(()) }).await;
    assert_eq!(answered(&verifier, "GET", "/public/a").await, 401);
}
