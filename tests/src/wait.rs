//! Waiting for a condition, with a limit generous enough for a busy machine.

use std::time::{Duration, Instant};

/// The limit of every wait: only a test that fails reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The most that one look at a condition counts: a long run may be stopped for a while and go on.
const LONGEST_STEP: Duration = Duration::from_secs(5);

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
