//! Behind PgBouncer, and within any limit of connections that the server sets.

use std::collections::BTreeMap;

use serde_json::json;
use sidegate_tests::pgbouncer::PgBouncer;
use sidegate_tests::postgres::Postgres;
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::{Issuer, metric, tokens};
use sidegate_tests::users::PASSWORD;

use super::{issuer_over, login, run};

const USERS: usize = 64;
const ROUNDS: usize = 6;

/// Users whose login names are the ids of others: another user's row would look right.
async fn crossed_users(pool: &sqlx::PgPool) {
    run(pool, "CREATE TABLE users (id text PRIMARY KEY, email text UNIQUE, password_hash text)").await;
    let insert = format!(
        "INSERT INTO users SELECT 'u' || n, 'u' || (n + 1) % {USERS}, HASH FROM generate_series(0, {USERS} - 1) AS n"
    );
    run(pool, &insert).await;
}

/// The id of the user whose login name is `u{number}`.
fn id_of(number: usize) -> String {
    format!("u{}", (number + USERS - 1) % USERS)
}

async fn subject(issuer: &Issuer, access: &str) -> String {
    let me = issuer.at.get("/auth/me").bearer(access).send().await;
    me.json()["sub"].as_str().unwrap_or_default().to_owned()
}

/// All users log in and refresh at once, repeatedly. Returns the number of each outcome.
async fn all_at_once(issuer: &Issuer) -> BTreeMap<String, usize> {
    let (at, limit) = (issuer.at.clone(), std::time::Duration::from_secs(120));
    let clients: Vec<_> = (0..USERS)
        .map(|number| {
            let (at, expected) = (at.clone(), id_of(number));
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let body = json!({"email": format!("u{number}"), "password": PASSWORD});
                let reply = at.post("/auth/login").json(&body).within(limit).send().await;
                if reply.status != 200 {
                    return vec![format!("login {}", reply.status)];
                }
                let mut pair = tokens(&reply);
                for round in 0..=ROUNDS {
                    let me = at.get("/auth/me").bearer(&pair.access).within(limit).send().await;
                    let right = me.json()["sub"] == expected.as_str();
                    seen.push(if right { "right".to_owned() } else { format!("wrong: {}", me.json()["sub"]) });
                    if round < ROUNDS {
                        let body = json!({"refresh_token": pair.refresh});
                        let reply = at.post("/auth/refresh").json(&body).within(limit).send().await;
                        if reply.status != 200 {
                            seen.push(format!("refresh {}", reply.status));
                            return seen;
                        }
                        pair = tokens(&reply);
                    }
                }
                seen
            })
        })
        .collect();
    let mut counts = BTreeMap::new();
    for client in clients {
        for seen in client.await.expect("an answer") {
            *counts.entry(seen).or_default() += 1;
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbouncer_in_transaction_mode_mixes_up_no_rows() {
    let postgres = Postgres::start().await;
    crossed_users(&postgres.pool().await).await;
    let bouncer = PgBouncer::start(&postgres, 5).await;
    let folder = Scratch::new();
    let issuer = issuer_over(&folder, "bouncer", &bouncer.url(), &[("BCRYPT_QUEUE_MAX", "1000")]).await;
    let counts = all_at_once(&issuer).await;
    assert_eq!(counts, BTreeMap::from([("right".to_owned(), USERS * (ROUNDS + 1))]));
    assert_eq!(metric(&issuer.admin, "sidegate_issuer_users_wrong_rows_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn role_with_few_connections_serves_all_users() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    crossed_users(&pool).await;
    let folder = Scratch::new();
    for limit in [1, 2, 4] {
        let role = format!("app{limit}");
        let made = format!("CREATE ROLE {role} LOGIN CONNECTION LIMIT {limit}; GRANT SELECT ON users TO {role}");
        run(&pool, &made).await;
        let queue = [("BCRYPT_QUEUE_MAX", "1000")];
        let issuer = issuer_over(&folder, &role, &postgres.url_as(&role), &queue).await;
        let counts = all_at_once(&issuer).await;
        assert_eq!(counts, BTreeMap::from([("right".to_owned(), USERS * (ROUNDS + 1))]), "limit {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_database_connections_fail_no_login() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    crossed_users(&pool).await;
    let folder = Scratch::new();
    let settings = [("DATABASE_POOL_MAX", "3")];
    let issuer = issuer_over(&folder, "killed", &postgres.url_as("postgres"), &settings).await;
    for number in 0..10 {
        run(&pool, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'").await;
        let reply = login(&issuer, &format!("u{number}")).await;
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        assert_eq!(subject(&issuer, &tokens(&reply).access).await, id_of(number));
    }
}

/// The collation makes Postgres return a row that does not match the query, like a pooler that
/// mixes up responses.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_row_is_503_and_ends_no_session() {
    let postgres = Postgres::start().await;
    let pool = postgres.pool().await;
    run(
        &pool,
        "CREATE COLLATION no_accents (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
         CREATE TABLE users (id text COLLATE no_accents PRIMARY KEY, email text COLLATE no_accents UNIQUE, password_hash text);
         INSERT INTO users VALUES ('a1', 'rene@x.org', HASH)",
    )
    .await;
    let folder = Scratch::new();
    let issuer = issuer_over(&folder, "wrong", &postgres.url(), &[]).await;
    let pair = issuer.login("rene@x.org").await;
    let reply = login(&issuer, "ren\u{e9}@x.org").await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (503, "temporarily_unavailable"));
    run(&pool, "UPDATE users SET id = '\u{e1}1'").await;
    let reply = issuer.refresh(&pair.refresh).await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (503, "temporarily_unavailable"),
        "not another's, not gone"
    );
    run(&pool, "UPDATE users SET id = 'a1'").await;
    assert_eq!(issuer.refresh(&pair.refresh).await.status, 200, "the session lives");
    assert_eq!(metric(&issuer.admin, "sidegate_issuer_users_wrong_rows_total").await, 2);
    assert!(issuer.program.output().contains("not the one asked for"));
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_in_the_style_of_other_programs_connect() {
    let postgres = Postgres::start().await;
    crossed_users(&postgres.pool().await).await;
    let folder = Scratch::new();
    let port = postgres.port();
    let mut urls = vec![format!("postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres?channel_binding=prefer")];
    // A machine without IPv6 has no such address.
    if std::net::TcpStream::connect(("::1", port)).is_ok() {
        urls.push(format!("postgres://postgres@[::1]:{port}/postgres"));
    }
    for (number, url) in urls.iter().enumerate() {
        let issuer = issuer_over(&folder, &format!("url{number}"), url, &[]).await;
        assert_eq!(login(&issuer, "u1").await.status, 200, "{url}");
    }
}
