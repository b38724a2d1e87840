//! SIGTERM: the issuer completes pending requests, accepts no new ones, and exits cleanly.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use sidegate_tests::stack::{EMAIL, Stack, Store, metric};
use sidegate_tests::users::PASSWORD;
use sidegate_tests::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn login_in_flight_completes_before_exit() {
    let settings = [("BCRYPT_COST", "11"), ("BCRYPT_THREADS", "1"), ("SHUTDOWN_GRACE", "5m")];
    let mut stack = Stack::with(Store::Redis, 0, &settings, &[]).await;
    // Two wrong passwords, one in progress and one queued, so that the third has not begun when the
    // signal arrives.
    let login = |password: &str| {
        let call = stack.issuer.at.post("/auth/login").json(&json!({"email": EMAIL, "password": password}));
        tokio::spawn(call.within(Duration::from_secs(300)).send())
    };
    let refused = [login("wrong"), login("wrong")];
    let right = login(PASSWORD);
    eventually("a login to wait", || async {
        (metric(&stack.issuer.admin, "sidegate_issuer_bcrypt_queue").await > 0).then_some(())
    })
    .await;
    stack.issuer.program.signal(Signal::TERM);
    eventually("new connections to be refused", || async { stack.issuer.at.get("/auth/me").try_send().await.err() })
        .await;
    for one in refused {
        assert_eq!(one.await.expect("an answer").status, 401);
    }
    let reply = right.await.expect("an answer");
    assert_eq!(reply.status, 200, "accepted requests are completed");
    assert!(stack.issuer.program.wait(Duration::from_secs(60)).success(), "and the exit is clean");
}
