//! Waiting for a condition, with a limit generous enough for a busy machine.

use std::time::{Duration, Instant};

/// The limit of every wait: only a test that fails reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls `condition` until it gives a value, for at most [`PATIENCE`].
///
/// # Panics
/// It never does; says what was waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, condition: impl FnMut() -> F) -> T {
    within(PATIENCE, what, condition).await
}

/// Polls `condition` until it gives a value, for at most `limit`.
///
/// # Panics
/// It never does; says what was waited for.
pub async fn within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} in vain for {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
