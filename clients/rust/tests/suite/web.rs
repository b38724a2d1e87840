//! The axum extractor and the tower layer, in front of real services and a real segment.

use crate::fake_daemon::{Daemon, Scratch, claims};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::routing::get;
use http_body_util::BodyExt as _;
use sidegate_client::tower::RequireToken;
use sidegate_client::{Sidegate, Verified};
use tower::ServiceExt as _;

fn app(sidegate: &Sidegate) -> Router {
    let layer = |scope: &str| RequireToken::new(sidegate.clone()).scopes([scope]);
    Router::new()
        .route("/hello", get(|token: Verified| async move { token.subject().to_owned() }))
        .route("/write", get(|token: Verified| async move { token.session().to_owned() }).route_layer(layer("write")))
        .route("/admin", get(|| async { "secret" }).route_layer(layer("admin")))
        .with_state(sidegate.clone())
}

async fn get_with(sidegate: &Sidegate, path: &str, authorization: &[&str]) -> Response<Body> {
    let mut request = Request::get(path);
    for value in authorization {
        request = request.header("authorization", *value);
    }
    app(sidegate).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn body(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn protected_routes_accept_good_tokens_and_explain_rejections() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.0);
    let sidegate = scratch.builder().connect();
    let mine = claims(1);
    let bearer = format!("Bearer {}", mine.token());
    for _ in 0..3 {
        assert_eq!(body(get_with(&sidegate, "/hello", &[&bearer]).await).await, mine.sub);
        assert_eq!(body(get_with(&sidegate, "/write", &[&bearer]).await).await, mine.sid);
    }
    assert_eq!(daemon.asked(), 1);

    let short_of = get_with(&sidegate, "/admin", &[&bearer]).await;
    assert_eq!(short_of.status(), 403);
    assert!(header(&short_of, "www-authenticate").unwrap().ends_with("scope=\"admin\""));

    for path in ["/hello", "/write"] {
        let missing = get_with(&sidegate, path, &[]).await;
        assert_eq!(missing.status(), 401);
        assert_eq!(header(&missing, "www-authenticate"), Some("Bearer"), "bare when no token came");
        for bad in [&["Bearer nonsense"][..], &[&bearer, &bearer], &[&format!("{bearer},")], &[&format!("{bearer} x")]]
        {
            let refused = get_with(&sidegate, path, bad).await;
            assert_eq!(refused.status(), 401, "{bad:?}");
            assert!(header(&refused, "www-authenticate").unwrap().contains("invalid_token"));
            assert_eq!(header(&refused, "content-type"), Some("application/problem+json"));
            assert_eq!(header(&refused, "cache-control"), Some("no-store"));
            let problem: serde_json::Value = serde_json::from_str(&body(refused).await).unwrap();
            assert_eq!(problem["code"], "token_invalid");
        }
        assert_eq!(get_with(&sidegate, path, &["Basic eDp5"]).await.status(), 401);
    }

    daemon.revoke_session(&mine);
    for path in ["/hello", "/write"] {
        let revoked = get_with(&sidegate, path, &[&bearer]).await;
        assert_eq!(revoked.status(), 401);
        let problem: serde_json::Value = serde_json::from_str(&body(revoked).await).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&"token_revoked".into(), &401.into()));
    }
    drop(daemon);
    let gone = get_with(&sidegate, "/hello", &[&format!("Bearer {}", claims(2).token())]).await;
    assert_eq!(gone.status(), 503);
    assert_eq!((header(&gone, "retry-after"), header(&gone, "www-authenticate")), (Some("1"), None));
}
