//! Monitoring: docs/metrics.md matches `/metrics`, and Prometheus can evaluate the dashboard and
//! the alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sidegate_tests::http::At;
use sidegate_tests::program::{Program, free_port};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{EMAIL, Stack, Store, tokens};
use sidegate_tests::wait::{eventually, within};

/// How a metric is documented or shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    kind: String,
    labels: BTreeSet<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The rows of docs/metrics.md, by their heading.
fn documented() -> BTreeMap<String, BTreeMap<String, Shape>> {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).expect("the page");
    let mut sections: BTreeMap<String, BTreeMap<String, Shape>> = BTreeMap::new();
    let mut heading = String::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut heading);
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Some(name) = cells[0].strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        let [_, kind, labels, meaning] = cells[..] else { panic!("{name} has type, labels and meaning") };
        assert!(!meaning.is_empty(), "{name} has a meaning");
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let shape = Shape { kind: kind.to_owned(), labels: labels.filter(|label| label != "–").collect() };
        let before = sections.entry(heading.clone()).or_default().insert(name.to_owned(), shape);
        assert_eq!(before, None, "{name} is documented once");
    }
    sections
}

/// The metrics of a live program, by their names in Prometheus.
async fn shown(admin: &At) -> BTreeMap<String, Shape> {
    let reply = admin.get("/metrics").send().await;
    assert_eq!(reply.status, 200);
    let text = String::from_utf8(reply.body.to_vec()).expect("UTF-8");
    let mut metrics = BTreeMap::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').expect("a type");
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let shape = Shape { kind: kind.to_owned(), labels: BTreeSet::new() };
            metrics.insert(format!("{name}{suffix}"), shape);
        } else if let Some((name, rest)) = line.split_once('{')
            && let Some(shape) = metrics.get_mut(name.trim_end_matches("_bucket"))
        {
            let labels = rest.split_once('}').expect("labels end").0.split("\",");
            let names = labels.map(|label| label.split_once('=').expect("a label").0.to_owned());
            shape.labels.extend(names.filter(|label| label != "le"));
        }
    }
    metrics
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_their_documentation_agree() {
    let folder = Scratch::new();
    let issuers = folder.file("issuers.toml");
    std::fs::write(&issuers, "[[issuer]]\nname = \"a\"\niss = \"a\"\naudiences = [\"a\"]\njwks_file = \"/none\"")
        .expect("written");
    let issuers = issuers.to_str().expect("UTF-8");
    let stack = Stack::with(Store::Redis, 1, &[], &[("ISSUERS_FILE", issuers)]).await;
    let documented = documented();
    for (program, admin) in [("Issuer", &stack.issuer.admin), ("Verifier", &stack.verifiers[0].admin)] {
        let mut promised = documented["Both programs"].clone();
        promised.extend(documented[program].clone());
        let shown = shown(admin).await;
        let names = |metrics: &BTreeMap<String, Shape>| metrics.keys().cloned().collect::<BTreeSet<_>>();
        let undocumented: Vec<_> = names(&shown).difference(&names(&promised)).cloned().collect();
        let missing: Vec<_> = names(&promised).difference(&names(&shown)).cloned().collect();
        assert_eq!((undocumented, missing), (vec![], vec![]), "{program}: not in docs/metrics.md, not in /metrics");
        assert_eq!(shown, promised, "{program}");
    }
}

/// The number of scripts with write access that Redis has run.
async fn scripts_run(stack: &Stack) -> u64 {
    let redis = stack.redis.as_ref().expect("on Redis");
    let field = redis.info("commandstats", "cmdstat_evalsha").await.unwrap_or_default();
    let calls = field.split(',').find_map(|part| part.strip_prefix("calls="));
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_scrapes_do_not_query_stores() {
    let stack = Stack::start(Store::Redis, 0).await;
    let before = scripts_run(&stack).await;
    for _ in 0..200 {
        for path in ["/readyz", "/metrics"] {
            assert_eq!(stack.issuer.admin.get(path).send().await.status, 200, "{path}");
        }
    }
    let during = scripts_run(&stack).await - before;
    assert!(during < 200, "{during} scripts during 400 probes and scrapes: only the background may query");
}

/// Runs one command of the default user.
async fn command(stack: &Stack, command: &[&str]) {
    let mut connection = stack.redis.as_ref().expect("on Redis").connection().await;
    let mut built = redis::cmd(command[0]);
    for word in &command[1..] {
        built.arg(word);
    }
    built.query_async::<redis::Value>(&mut connection).await.expect("Redis obeys");
}

#[tokio::test(flavor = "multi_thread")]
async fn issuer_with_a_stale_own_feed_is_ready_and_reports_it() {
    let mut stack = Stack::start(Store::Redis, 0).await;
    command(&stack, &["ACL", "SETUSER", "app", "on", ">password", "~*", "&*", "+@all"]).await;
    let url = stack.redis.as_ref().expect("on Redis").url().replace("redis://", "redis://app:password@");
    assert!(stack.issuer.program.stop().success());
    stack.issuer.settings.insert("REDIS_URL".into(), url);
    stack.issuer.settings.insert("MAX_STALENESS".into(), "1s".into());
    stack.issuer.restart().await;
    let pair = stack.issuer.login(EMAIL).await;
    command(&stack, &["ACL", "SETUSER", "app", "-ssubscribe"]).await;
    command(&stack, &["CLIENT", "KILL", "USER", "app"]).await;
    eventually("the feed to be stale", || async {
        let ready = stack.issuer.admin.get("/readyz").send().await;
        let body = ready.json();
        let stale = body["feed"].as_str().is_some_and(|feed| feed.contains("last known complete"));
        (ready.status == 200 && stale && body["store"] == "ok").then_some(())
    })
    .await;
    assert_eq!(stack.issuer.at.get("/auth/me").bearer(&pair.access).send().await.code(), "stale");
    assert_eq!(stack.issuer.refresh(&pair.refresh).await.status, 200);
    let other = stack.issuer.login(EMAIL).await;
    assert_eq!(stack.issuer.logout(&other.access).await.status, 204);
}

/// A small file system; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Option<Self> {
        std::fs::create_dir(&path).expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=256k", "sidegate-test"]).arg(&path);
        mount.status().is_ok_and(|status| status.success()).then_some(Self(path))
    }

    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.join("filler")).expect("made");
        while file.write_all(&[0; 512]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _busy = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn journal_on_a_full_disk_is_not_ready_until_there_is_space() {
    let folder = Scratch::new();
    let Some(disk) = SmallDisk::mount(folder.file("disk")) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let journal = disk.0.join("journal").display().to_string();
    let stack = Stack::with(Store::Redis, 0, &[("REVOCATION_JOURNAL", journal.as_str())], &[]).await;
    assert_eq!(stack.issuer.logout(&stack.issuer.login(EMAIL).await.access).await.status, 204);
    disk.fill();
    eventually("a logout to be refused", || async {
        let pair = stack.issuer.login(EMAIL).await;
        (stack.issuer.logout(&pair.access).await.status == 503).then_some(())
    })
    .await;
    eventually("the issuer not to be ready", || async {
        let ready = stack.issuer.admin.get("/readyz").send().await;
        let named = ready.json()["store"].as_str().is_some_and(|store| store.contains("REVOCATION_JOURNAL"));
        (ready.status == 503 && named).then_some(())
    })
    .await;
    for _ in 0..20 {
        let pair = stack.issuer.login(EMAIL).await;
        let _refused = stack.issuer.logout(&pair.access).await;
    }
    let log = stack.issuer.program.output();
    let failures = log.matches("journal write failed").count() + log.matches("no room for the journal").count();
    // The rest of a block may hold a small record in between, which is a change of state.
    let again = log.matches("journal writes work again").count();
    assert_eq!(failures, again + 1, "one line for as long as it lasts: {log}");
    disk.empty();
    eventually("the issuer to be ready again", || async {
        (stack.issuer.admin.get("/readyz").send().await.status == 200).then_some(())
    })
    .await;
    assert_eq!(stack.issuer.logout(&stack.issuer.login(EMAIL).await.access).await.status, 204);
    let log = stack.issuer.program.output();
    assert!(log.matches("journal writes work again").count() > again, "{log}");
    drop(stack);
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_on_a_full_disk_is_logged_at_once_and_only_once() {
    let folder = Scratch::new();
    let Some(disk) = SmallDisk::mount(folder.file("disk")) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    disk.fill();
    let snapshot = disk.0.join("list").display().to_string();
    let stack = Stack::with(Store::Embedded, 1, &[], &[("SNAPSHOT_FILE", snapshot.as_str())]).await;
    let verifier = &stack.verifiers[0].program;
    let count = |what: &str| verifier.output().matches(what).count();
    // Well before the first regular write, which happens after a minute.
    within(Duration::from_secs(20), "the full disk to be logged", || async {
        (count("snapshot write failed; keeping the previous one") == 1).then_some(())
    })
    .await;
    disk.empty();
    eventually("the snapshot to be written", || async {
        (count("snapshot writes work again") == 1 && disk.0.join("list").exists()).then_some(())
    })
    .await;
    assert_eq!(count("snapshot write failed"), 1, "{}", verifier.output());
    drop(stack);
}

/// Prometheus on an issuer and a verifier, with the rules as shipped.
struct Prometheus {
    at: At,
    _program: Program,
}

impl Prometheus {
    async fn start(stack: &Stack) -> Self {
        let port = free_port();
        let address = |at: &At| match at {
            At::Tcp(address) => address.to_string(),
            _ => panic!("Prometheus asks over TCP"),
        };
        let rules = root().join("deploy/prometheus/sidegate.rules.yaml");
        let config = format!(
            "global: {{ scrape_interval: 500ms, evaluation_interval: 500ms }}\n\
             rule_files: [{}]\n\
             scrape_configs:\n\
             - {{ job_name: sidegate-issuer, static_configs: [{{ targets: ['{}'] }}] }}\n\
             - {{ job_name: sidegate-verifier, static_configs: [{{ targets: ['{}'] }}] }}\n",
            rules.canonicalize().expect("the rules").display(),
            address(&stack.issuer.admin),
            address(&stack.verifiers[0].admin),
        );
        let file = stack.folder.file("prometheus.yaml");
        std::fs::write(&file, config).expect("written");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", stack.folder.file("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let program = Program::start("prometheus", command, &stack.folder.file("prometheus.log"));
        let at = At::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        eventually("Prometheus to be ready", || async {
            at.get("/-/ready").try_send().await.is_ok_and(|reply| reply.status == 200).then_some(())
        })
        .await;
        Self { at, _program: program }
    }

    /// The number of series of an expression that have a numeric value.
    ///
    /// # Panics
    /// Prometheus cannot parse the expression.
    async fn series(&self, expression: &str) -> usize {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let reply = self.at.post("/api/v1/query").form(&format!("query={encoded}")).send().await;
        let answer = reply.json();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let series = answer["data"]["result"].as_array().expect("a vector");
        series.iter().filter(|one| one["value"][1] != "NaN").count()
    }

    async fn until_it_has(&self, what: &str, expression: &str) {
        eventually(&format!("{what}: {expression}"), || async { (self.series(expression).await > 0).then_some(()) })
            .await;
    }
}

/// Generates load until dropped, by users and attackers, so that every figure changes.
async fn live(stack: &Stack) {
    loop {
        let login = json!({"email": EMAIL, "password": "wrong"});
        let _refused = stack.issuer.at.post("/auth/login").json(&login).send().await;
        let first = stack.issuer.login(EMAIL).await;
        let _good = stack.verifiers[0].check(&first.access).await;
        let second = tokens(&stack.issuer.refresh(&first.refresh).await);
        let _denied = stack.issuer.refresh(&second.refresh).await;
        let _reused = stack.issuer.refresh(&first.refresh).await;
        let other = stack.issuer.login(EMAIL).await;
        assert_eq!(stack.issuer.logout(&other.access).await.status, 204);
        assert_eq!(stack.issuer.revoke(&json!({"token": first.access})).await.status, 204);
        let _denied = stack.verifiers[0].check(&first.access).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Every expression of the dashboard, with Grafana's variables replaced.
fn panels() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("deploy/grafana/sidegate.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let mut panels = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression").replace("$__rate_interval", "10s");
            panels.push((panel["title"].as_str().expect("a title").to_owned(), expression));
        }
    }
    panels
}

/// The selectors in an expression: names of metrics with their labels.
fn selectors(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        let name: String = rest[start..].chars().take_while(|character| is_name(*character)).collect();
        rest = &rest[start + name.len()..];
        let labels = if rest.starts_with('{') { &rest[..=rest.find('}').expect("labels end")] } else { "" };
        if name == "up" || name.starts_with("sidegate_") {
            found.push(format!("{name}{labels}"));
        }
        rest = &rest[labels.len()..];
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_can_evaluate_every_panel_and_every_alert() {
    let stack = Stack::with(Store::Redis, 1, &[("REFRESH_RETRY_WINDOW", "0")], &[]).await;
    let prometheus = Prometheus::start(&stack).await;
    let look = async {
        let panels = panels();
        assert!(panels.len() > 15, "{panels:?}");
        for (title, expression) in panels {
            prometheus.until_it_has(&title, &expression).await;
        }
        let rules = eventually("every rule to be evaluated", || async {
            let answer = prometheus.at.get("/api/v1/rules?type=alert").send().await.json();
            let rules = answer["data"]["groups"][0]["rules"].as_array().expect("rules").clone();
            let judged = rules.iter().all(|rule| rule["health"] == "ok" && rule["lastError"].is_null());
            judged.then_some(rules)
        })
        .await;
        assert!(rules.len() > 10, "{rules:?}");
        for rule in rules {
            let (name, expression) = (&rule["name"], rule["query"].as_str().expect("a query"));
            for text in ["summary", "runbook"] {
                assert!(rule["annotations"][text].as_str().is_some_and(|text| !text.is_empty()), "{name} has a {text}");
            }
            let selectors = selectors(expression);
            assert!(!selectors.is_empty(), "{name}: {expression}");
            for selector in selectors {
                prometheus.until_it_has(&name.to_string(), &selector).await;
            }
        }
    };
    tokio::select! {
        () = look => {}
        () = live(&stack) => {}
    }
}
