//! Time from logout to denial, compared with a bare Redis PUBLISH to its subscriber.

use std::time::Instant;

use tokio_stream::StreamExt as _;

use super::load::{Stream, check_request};
use super::row::{Goal, Row, quantile};
use crate::stack::{EMAIL, Stack, Store};

const BATCHES: usize = 7;
const PER_BATCH: usize = 60;

/// From the 204 of a logout to a verifier's first 401, and from sending a PUBLISH to its arrival.
pub async fn rows() -> Vec<Row> {
    let stack = Stack::with(Store::Redis, 1, &[("RUST_LOG", "warn")], &[("RUST_LOG", "warn")]).await;
    let redis = stack.redis.as_ref().expect("on Redis");
    let mut publisher = redis.connection().await;
    let mut subscriber = redis.client().get_async_pubsub().await.expect("a subscription");
    subscriber.subscribe("bench").await.expect("subscribed");
    let mut messages = subscriber.into_on_message();
    let row = |what, goal| Row {
        name: format!("logout to denied, {what}"),
        unit: "us",
        peer: "PUBLISH to subscriber",
        ours: Vec::new(),
        theirs: Vec::new(),
        goal,
    };
    let (mut p50, mut p99) = (row("p50 after the 204", Goal::None), row("p99 after the 204", Goal::AtMost(2.0)));
    for _ in 0..BATCHES {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..PER_BATCH {
            let access = stack.issuer.login(EMAIL).await.access;
            let request = check_request(&access);
            let mut prober = Stream::connect(&stack.verifiers[0].at).await;
            assert_eq!(prober.ask(&request).await, 200);
            assert_eq!(stack.issuer.logout(&access).await.status, 204);
            let acknowledged = Instant::now();
            while prober.ask(&request).await == 200 {}
            ours.push(acknowledged.elapsed().as_secs_f64() * 1e6);
            let sent = Instant::now();
            let mut publish = redis::cmd("PUBLISH");
            publish.arg("bench").arg(&access);
            let published = publish.query_async::<u32>(&mut publisher);
            let (count, message) = tokio::join!(published, messages.next());
            assert!(count.is_ok_and(|count| count == 1) && message.is_some());
            theirs.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        p50.ours.push(quantile(&mut ours, 0.5));
        p50.theirs.push(quantile(&mut theirs, 0.5));
        p99.ours.push(quantile(&mut ours, 0.99));
        p99.theirs.push(quantile(&mut theirs, 0.99));
    }
    vec![p50, p99]
}
