//! Tokens of other issuers (`ISSUERS_FILE`): accepted behind the verifier beside the home issuer's,
//! and revoked through the admin API by user, session, token, key, claim and all at once.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use sidegate_hostile::{Forge, KeyKind};
use sidegate_runtime::clock::unix_now;
use sidegate_tests::http::At;
use sidegate_tests::jwks_server::JwksServer;
use sidegate_tests::program::run;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{ADMIN_TOKEN, EMAIL, Stack, Store};
use sidegate_tests::wait::eventually;

/// A provider: its key, and the server of its JWK set.
struct Provider {
    name: &'static str,
    key: Forge,
    keys: JwksServer,
}

impl Provider {
    async fn start(name: &'static str) -> Self {
        let key = Forge::generate(KeyKind::Rs256);
        let keys = JwksServer::start(&json!({ "keys": [key.jwk().expect("a public key")] })).await;
        Self { name, key, keys }
    }

    fn iss(&self) -> String {
        format!("https://{}.example/realms/x", self.name)
    }

    fn entry(&self) -> String {
        format!(
            "[[issuer]]\nname = \"{}\"\niss = \"{}\"\npreset = \"keycloak\"\naudiences = [\"orders\"]\njwks_url = \"{}\"\n\
             [issuer.claims]\nrevocable = [\"azp\"]\n",
            self.name,
            self.iss(),
            self.keys.url()
        )
    }

    /// A token of Keycloak's shape, issued a while after the log was made.
    fn token(&self, jti: &str, changed: &[(&str, Value)]) -> String {
        let iat = unix_now().0;
        let mut payload = json!({ "iss": self.iss(), "aud": ["orders", "account"], "typ": "Bearer", "sub": "ada",
            "azp": "shop", "sid": "s1", "jti": jti, "iat": iat, "exp": iat + 600, "scope": "openid read",
            "realm_access": { "roles": ["user"] } });
        for (name, value) in changed {
            payload[*name] = value.clone();
        }
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.key.kid() });
        self.key.token(header.to_string().as_bytes(), payload.to_string().as_bytes())
    }
}

struct Bench {
    stack: Stack,
    file: PathBuf,
    corp: Provider,
    other: Provider,
    _folder: Scratch,
}

impl Bench {
    async fn start(store: Store) -> Self {
        let (corp, other) = (Provider::start("corp").await, Provider::start("other").await);
        let folder = Scratch::new();
        let file = folder.file("issuers.toml");
        std::fs::write(&file, format!("{}{}", corp.entry(), other.entry())).expect("written");
        let path = file.to_str().expect("UTF-8").to_owned();
        let settings = [("ISSUERS_FILE", path.as_str()), ("FOREIGN_ENTRIES", "on")];
        let stack = Stack::with(store, 1, &settings, &settings[..1]).await;
        Self { stack, file, corp, other, _folder: folder }
    }

    async fn status(&self, token: &str) -> u16 {
        self.stack.verifiers[0].check(token).await.status.as_u16()
    }

    /// Revokes, and waits until `dead` is refused; `alive` must stay good.
    async fn revoke(&self, what: Value, dead: &str, alive: &[&str]) {
        assert_eq!(self.status(dead).await, 200, "before {what}");
        let reply = self.stack.issuer.revoke(&what).await;
        assert_eq!(reply.status, 204, "{what}: {}", String::from_utf8_lossy(&reply.body));
        let refused = self.stack.verifiers[0].until_denied(dead).await;
        assert_eq!(refused.json()["code"], "token_revoked", "{what}");
        for token in alive {
            assert_eq!(self.status(token).await, 200, "after {what}");
        }
    }
}

async fn tokens_are_accepted_and_revoked(store: Store) {
    let bench = Bench::start(store).await;
    let home = bench.stack.issuer.login(EMAIL).await.access;
    let token = bench.corp.token("j0", &[]);
    let good = bench.stack.verifiers[0].check(&token).await;
    assert_eq!(good.status, 200, "{}", String::from_utf8_lossy(&good.body));
    for (name, value) in [
        ("x-auth-subject", "corp:ada"),
        ("x-auth-session", "s1"),
        ("x-auth-token-id", "j0"),
        ("x-auth-client", "shop"),
        ("x-auth-scope", "openid read"),
        ("x-auth-issuer", "corp"),
    ] {
        assert_eq!(good.header(name), Some(value), "{name}");
    }
    assert_eq!(bench.stack.verifiers[0].check(&home).await.header("x-auth-issuer"), Some("home"));
    let unknown = bench.corp.token("j", &[("iss", json!("https://elsewhere"))]);
    let fetched = bench.corp.keys.asked();
    assert_eq!(bench.status(&unknown).await, 401);
    assert_eq!(bench.corp.keys.asked(), fetched, "an unknown issuer costs no fetch");

    let other = bench.other.token("j0", &[]);
    let alive = [other.as_str(), home.as_str()];
    bench.revoke(json!({ "issuer": "corp", "token": "j0" }), &token, &alive).await;
    let by_jwt = bench.corp.token("j1", &[]);
    bench.revoke(json!({ "issuer": "corp", "token": &by_jwt }), &by_jwt, &alive).await;
    let session = bench.corp.token("j2", &[]);
    bench.revoke(json!({ "issuer": "corp", "session": "s1" }), &session, &alive).await;
    let of_user = bench.corp.token("j3", &[("sid", json!("s2"))]);
    let bob = bench.corp.token("j4", &[("sid", json!("s3")), ("sub", json!("bob"))]);
    bench.revoke(json!({ "issuer": "corp", "user": "ada" }), &of_user, &[&bob, &other, &home]).await;
    let other_client = bench.corp.token("j5", &[("sid", json!("s3")), ("sub", json!("bob")), ("azp", json!("till"))]);
    bench.revoke(json!({ "issuer": "corp", "claim": { "azp": "shop" } }), &bob, &[&other_client, &other, &home]).await;
    bench.revoke(json!({ "issuer": "corp", "key": bench.corp.key.kid() }), &other_client, &alive).await;
    bench.revoke(json!({ "all": true }), &home, &[&other]).await;
    bench.revoke(json!({ "issuer": "other", "all": true }), &other, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_accepted_and_revoked_embedded() {
    tokens_are_accepted_and_revoked(Store::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_accepted_and_revoked_on_redis() {
    tokens_are_accepted_and_revoked(Store::Redis).await;
}

/// A moment as TOML has it.
fn date(seconds: u64) -> String {
    let made =
        Command::new("date").args(["-u", "+%FT%TZ", "-d"]).arg(format!("@{seconds}")).output().expect("date runs");
    String::from_utf8(made.stdout).expect("text").trim().to_owned()
}

/// The first day: the provider has run for long, so its living tokens are older than the log.
#[tokio::test(flavor = "multi_thread")]
async fn living_tokens_pass_from_the_enrolment_on_but_not_after_a_loss() {
    let mut bench = Bench::start(Store::Redis).await;
    let living = |sub: &str, sid: &str| {
        let iat = json!(unix_now().0 - 1000);
        let exp = json!(unix_now().0 + 2000);
        bench.corp.token(sid, &[("iat", iat), ("exp", exp), ("sub", json!(sub)), ("sid", json!(sid))])
    };
    let (ada, bob) = (living("ada", "s1"), living("bob", "s2"));
    let refused = bench.stack.verifiers[0].check(&ada).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (401, "token_revoked"));
    assert!(refused.json()["detail"].as_str().unwrap_or_default().contains("enrolled_at"), "{}", refused.json());
    let said = bench.stack.verifiers[0].program.output();
    assert!(said.contains("enrolled_at") && said.contains("corp"), "{said}");

    let enrolled_at = unix_now().0;
    let entry =
        bench.corp.entry().replace("[issuer.claims]", &format!("enrolled_at = {}\n[issuer.claims]", date(enrolled_at)));
    std::fs::write(&bench.file, format!("{entry}{}", bench.other.entry())).expect("written");
    eventually("both pass", || async {
        (bench.status(&ada).await == 200 && bench.status(&bob).await == 200).then_some(())
    })
    .await;
    bench.revoke(json!({ "issuer": "corp", "user": "ada" }), &ada, &[&bob]).await;

    // A log says that it is complete since the second before it was made.
    while unix_now().0 <= enrolled_at + 1 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let mut redis = bench.stack.redis.as_ref().expect("Redis").connection().await;
    redis::cmd("FLUSHALL").query_async::<String>(&mut redis).await.expect("flushed");
    bench.stack.verifiers[0].restart().await;
    let fresh = eventually("a new token passes", || async {
        let fresh = bench.corp.token("fresh", &[("iat", json!(unix_now().0)), ("sub", json!("eve"))]);
        (bench.status(&fresh).await == 200).then_some(fresh)
    })
    .await;
    let refused = bench.stack.verifiers[0].check(&bob).await;
    assert_eq!(refused.status, 401, "its revocation may have been lost with the data");
    assert!(refused.json()["detail"].as_str().unwrap_or_default().contains("enrolled_at"));
    assert_eq!(bench.status(&ada).await, 401);
    assert_eq!(bench.status(&fresh).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_ask_about_every_token_of_another_issuer() {
    let bench = Bench::start(Store::Embedded).await;
    let verify = |token: String| bench.stack.verifiers[0].at.post("/verify").body(token).send();
    let answer = verify(bench.corp.token("j", &[])).await.json();
    assert_eq!((&answer["issuer"], &answer["claims"]["sub"]), (&json!("corp"), &json!("corp:ada")));
    assert_eq!((&answer["segment"], &answer["epoch"]), (&json!("0000000000000000"), &json!(0)));
    let answer = verify(bench.stack.issuer.login(EMAIL).await.access).await.json();
    assert_eq!(answer["issuer"], "home");
    assert_ne!(answer["epoch"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_jwks_leaves_known_keys_and_other_issuers_alone() {
    let bench = Bench::start(Store::Embedded).await;
    let home = bench.stack.issuer.login(EMAIL).await.access;
    assert_eq!(bench.status(&bench.corp.token("j", &[])).await, 200);
    bench.corp.keys.set_broken(true);
    assert_eq!(bench.status(&bench.corp.token("k", &[])).await, 200, "known keys stay in use");
    assert_eq!(bench.status(&bench.other.token("j", &[])).await, 200);
    assert_eq!(bench.status(&home).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_issuer_is_refused_and_a_mistake_changes_nothing() {
    let bench = Bench::start(Store::Embedded).await;
    let (corp, other) = (bench.corp.token("j", &[]), bench.other.token("j", &[]));
    assert_eq!((bench.status(&corp).await, bench.status(&other).await), (200, 200));
    std::fs::write(&bench.file, format!("{}{}x = 1\n", bench.corp.entry(), bench.other.entry())).expect("written");
    eventually("the metric", || async {
        let reply = bench.stack.verifiers[0].admin.get("/metrics").send().await;
        String::from_utf8_lossy(&reply.body).contains("sidegate_verifier_issuers_file_refused 1").then_some(())
    })
    .await;
    assert_eq!(bench.status(&corp).await, 200, "the previous issuers stay");
    std::fs::write(&bench.file, bench.other.entry()).expect("written");
    bench.stack.verifiers[0].until_denied(&corp).await;
    assert_eq!(bench.status(&other).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_match_a_token_are_refused() {
    let bench = Bench::start(Store::Embedded).await;
    for (what, detail) in [
        (json!({ "issuer": "nowhere", "user": "ada" }), "not one of ISSUERS_FILE"),
        (json!({ "user": "corp:ada" }), "give issuer"),
        (json!({ "issuer": "corp", "claim": { "sub": "ada" } }), "not listed as revocable"),
        (json!({ "issuer": "corp", "user": "ada", "sessions": "keep" }), "sessions"),
        (json!({ "issuer": "corp", "user": "ada", "all": true }), "exactly one"),
        (json!({ "issuer": "corp", "token": bench.other.token("j", &[]) }), "not of this issuer"),
    ] {
        let reply = bench.stack.issuer.revoke(&what).await;
        assert_eq!(reply.status, 400, "{what}");
        let said = reply.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(said.contains(detail), "{what}: {said}");
    }
    let token = bench.corp.token("j", &[]);
    assert_eq!(bench.status(&token).await, 200);
    let At::Tcp(admin) = bench.stack.issuer.admin else { unreachable!("TCP") };
    let admin = admin.to_string();
    let settings = [("ISSUER_ADMIN_LISTEN", admin.as_str()), ("ADMIN_TOKEN", ADMIN_TOKEN)];
    let command = ["revoke", "--issuer", "corp", "claim", "azp", "--value", "shop"];
    let output = run("sidegate-issuer", &command, &settings, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bench.stack.verifiers[0].until_denied(&token).await;
}
