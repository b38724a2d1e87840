//! Bad configuration exits 64 and names the setting; help lists the settings; secrets stay masked.

use sidegate_tests::program::run;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::SECRET;

const PROGRAMS: [&str; 2] = ["sidegate-issuer", "sidegate-verifier"];

fn refused(program: &str, settings: &[(&str, &str)], named: &str) {
    let folder = Scratch::new();
    let database = format!("sqlite://{}?mode=rwc", folder.file("app.db").display());
    let mut all = vec![("JWT_SECRET_KEY", SECRET), ("DATABASE_URL", database.as_str())];
    for (name, value) in settings {
        all.retain(|(earlier, _)| earlier != name);
        if !value.is_empty() {
            all.push((name, value));
        }
    }
    for command in [&["check-config"][..], &[]] {
        let output = run(program, command, &all, "");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{program} {command:?} {settings:?}: {text}");
        assert!(text.contains(named), "{program} {settings:?}: {text}");
    }
}

#[test]
fn errors_name_the_wrong_setting() {
    for (settings, named) in [
        (&[("JWT_SECRET_KEY", "short")][..], "JWT_SECRET_KEY"),
        (&[("JWT_SECRET_KEY", "")], "JWT_SECRET_KEY"),
        (&[("LOG_FORMAT", "xml")], "LOG_FORMAT"),
        (&[("SHUTDOWN_GRACE", "soon")], "SHUTDOWN_GRACE"),
        (&[("MAX_TOKEN_LIFETIME", "-1s")], "MAX_TOKEN_LIFETIME"),
        (&[("JWT_SECRET_KEY_FILE", "/nonexistent/secret"), ("JWT_SECRET_KEY", "")], "JWT_SECRET_KEY_FILE"),
    ] {
        for program in PROGRAMS {
            refused(program, settings, named);
        }
    }
    for (settings, named) in [
        (&[("DATABASE_URL", "")][..], "DATABASE_URL"),
        (&[("DATABASE_URL", "mysql://x")], "DATABASE_URL"),
        (&[("ISSUER_LISTEN", "nowhere")], "ISSUER_LISTEN"),
        (&[("ACCESS_TOKEN_TTL", "25h")], "ACCESS_TOKEN_TTL"),
        (&[("BCRYPT_COST", "99")], "BCRYPT_COST"),
        (&[("USERS_TABLE", "users; DROP TABLE users")], "USERS_TABLE"),
        (&[("USERS_EMAIL_MATCH", "fuzzy")], "USERS_EMAIL_MATCH"),
        (&[("ISSUER_FEED_LISTEN", "0.0.0.0:1")], "FEED_TOKEN"),
        (&[("REDIS_URL", "http://x")], "REDIS_URL"),
        (&[("JWT_CLIENT_ID", "a b")], "JWT_CLIENT_ID"),
    ] {
        refused("sidegate-issuer", settings, named);
    }
    for (settings, named) in [
        (&[("LEEWAY", "61s")][..], "LEEWAY"),
        (&[("ON_STALE", "maybe")], "ON_STALE"),
        (&[("VERIFIER_LISTEN", "nowhere")], "VERIFIER_LISTEN"),
        (&[("JWKS_URL", "ftp://x")], "JWKS_URL"),
        (&[("ROUTES_FILE", "/nonexistent/routes.toml")], "ROUTES_FILE"),
        (&[("REDIS_URL", "http://x")], "REDIS_URL"),
    ] {
        refused("sidegate-verifier", settings, named);
    }
}

#[test]
fn help_lists_every_setting_and_check_config_masks_secrets() {
    let folder = Scratch::new();
    let database = format!("sqlite://{}?mode=rwc", folder.file("app.db").display());
    for program in PROGRAMS {
        let help = run(program, &["--help"], &[], "");
        let text = String::from_utf8_lossy(&help.stdout);
        assert!(help.status.success() && text.contains("JWT_SECRET_KEY") && text.contains("SHUTDOWN_GRACE"), "{text}");
        let settings =
            [("JWT_SECRET_KEY", SECRET), ("DATABASE_URL", &database), ("REDIS_URL", "redis://u:canary@127.0.0.1:1/")];
        let checked = run(program, &["check-config"], &settings, "");
        let text = String::from_utf8_lossy(&checked.stdout);
        assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));
        assert!(text.contains("JWT_SECRET_KEY") && !text.contains(SECRET) && !text.contains("canary"), "{text}");
    }
}

#[test]
fn a_configuration_file_is_read_and_a_wrong_key_in_it_named() {
    let folder = Scratch::new();
    let file = folder.file("sidegate.toml");
    std::fs::write(&file, "jwt_secret_kee = \"x\"\n").unwrap();
    for program in PROGRAMS {
        let output =
            run(program, &["check-config", "--config", file.to_str().unwrap()], &[("JWT_SECRET_KEY", SECRET)], "");
        assert_eq!(output.status.code(), Some(64));
        assert!(String::from_utf8_lossy(&output.stderr).contains("jwt_secret_kee"));
    }
}

#[test]
fn hash_password_prints_the_hash_and_nothing_else() {
    let output = run("sidegate-issuer", &["hash-password"], &[("BCRYPT_COST", "4")], "correct horse\n");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), 1);
    assert!(bcrypt::verify("correct horse", text.trim_end()).unwrap());
    let long = run("sidegate-issuer", &["hash-password"], &[], &format!("{}\n", "x".repeat(73)));
    assert!(!long.status.success() && long.stdout.is_empty(), "a password that bcrypt would truncate is refused");
}

#[tokio::test]
async fn demo_user_is_created_only_in_marked_databases() {
    let folder = Scratch::new();
    let (ours, theirs) = (folder.file("demo.db"), folder.file("app.db"));
    let make = |path: &std::path::Path| {
        let url = format!("sqlite://{}", path.display());
        let settings = [("DATABASE_URL", url.as_str()), ("BCRYPT_COST", "4")];
        run("sidegate-issuer", &["demo-user", "--email", "demo@example.org"], &settings, "a password\n")
    };
    for _ in 0..2 {
        let output = make(&ours);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1", "again is the same user");
    }
    sidegate_tests::users::sqlite(&theirs, &["alice@example.org"]).await;
    let before = std::fs::read(&theirs).unwrap();
    let output = make(&theirs);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not created by Sidegate"));
    assert_eq!(std::fs::read(&theirs).unwrap(), before, "not a byte is changed");
}

#[test]
fn programs_print_their_version() {
    for program in PROGRAMS {
        let output = run(program, &["--version"], &[], "");
        assert!(String::from_utf8_lossy(&output.stdout).contains(env!("CARGO_PKG_VERSION")));
    }
}
