//! Waiting for a condition, with a limit generous enough for a busy machine.

use std::time::{Duration, Instant};

/// The limit of every wait: only a failing test reaches it.
pub const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// The most that one poll counts: a long run may be suspended and resumed.
const LONGEST_STEP: Duration = Duration::from_secs(5);

/// Polls `condition` until it returns a value, for at most [`WAIT_LIMIT`].
///
/// # Panics
/// The limit is reached; the message has `what`.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, condition: impl FnMut() -> F) -> T {
    within(WAIT_LIMIT, what, condition).await
}

/// Polls `condition` until it returns a value, for at most `limit`.
///
/// # Panics
/// The limit is reached; the message has `what`.
pub async fn within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let (mut waited, mut pause) = (Duration::ZERO, Duration::from_millis(2));
    loop {
        let began = Instant::now();
        if let Some(value) = condition().await {
            return value;
        }
        assert!(waited < limit, "waited {limit:?} in vain for {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
        waited += began.elapsed().min(LONGEST_STEP);
    }
}
