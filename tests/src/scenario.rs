//! The main job as a scenario, for every kind of store and database.

use crate::stack::{EMAIL, Stack, tokens};
use crate::wait::eventually;

/// The second user of every stack.
pub const OTHER: &str = "bob@example.org";

/// Login, check, refresh, logout; then every verifier refuses the tokens. Needs the users `EMAIL`
/// (id 1) and `OTHER`.
///
/// # Panics
/// A step fails.
pub async fn life_of_a_session(stack: &Stack) {
    let first = stack.issuer.login(EMAIL).await;
    for verifier in &stack.verifiers {
        let reply = verifier.check(&first.access).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("x-auth-subject"), Some("1"));
        assert_eq!(reply.header("x-auth-scope"), Some("read write"));
        assert_eq!(reply.header("x-auth-client"), Some("sidegate"));
        for name in ["x-auth-session", "x-auth-token-id", "x-auth-expires"] {
            assert!(reply.header(name).is_some_and(|value| !value.is_empty() && value != "-"), "{name}");
        }
    }
    let refreshed = stack.issuer.refresh(&first.refresh).await;
    assert_eq!(refreshed.status, 200);
    let second = tokens(&refreshed);
    assert_ne!(first.access, second.access);
    let me = stack.issuer.at.get("/auth/me").bearer(&second.access).send().await;
    assert_eq!((me.status.as_u16(), me.json()["sub"].as_str()), (200, Some("1")));

    let other = stack.issuer.login(OTHER).await;
    assert_eq!(stack.issuer.logout(&second.access).await.status, 204);
    for verifier in &stack.verifiers {
        for dead in [&first.access, &second.access] {
            let reply = verifier.until_denied(dead).await;
            assert_eq!(reply.code(), "token_revoked");
            assert!(reply.header("www-authenticate").is_some_and(|value| value.contains("invalid_token")));
        }
        assert_eq!(verifier.check(&other.access).await.status, 200, "another session is untouched");
    }
    eventually("the issuer's own routes to deny it", || async {
        let reply = stack.issuer.at.get("/auth/me").bearer(&second.access).send().await;
        (reply.status == 401).then_some(())
    })
    .await;
    assert_eq!(stack.issuer.refresh(&second.refresh).await.code(), "invalid_grant");
    assert_eq!(stack.issuer.logout(&second.access).await.status, 204, "already ended: 204 again");
}
