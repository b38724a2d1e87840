//! The memory budget, and which connections it closes.

use super::*;

fn budget(connections: usize) -> Arc<ConnectionBudget> {
    ConnectionBudget::new(connections * CONNECTION_BYTES, usize::MAX)
}

#[tokio::test]
async fn oldest_idle_connection_makes_room() {
    let budget = budget(3);
    let all = [budget.admit().await, budget.admit().await, budget.admit().await];
    let _busy = all[0].request(0);
    let waiting = tokio::spawn({
        let budget = Arc::clone(&budget);
        async move { budget.admit().await }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(all.each_ref().map(|activity| activity.is_closing()), [false, true, false]);
    let [_first, second, _third] = all;
    drop(second);
    waiting.await.unwrap();
}

#[tokio::test]
async fn heaviest_connection_is_closed_if_none_is_idle() {
    let budget = budget(16);
    let (light, heavy, asking) = (budget.admit().await, budget.admit().await, budget.admit().await);
    let _busy = (light.request(0), heavy.request(3 * CONNECTION_BYTES), asking.request(0));
    let others: Vec<_> = (0..10).map(|_| budget.admit_without_room()).collect();
    let _busy_too: Vec<_> = others.iter().map(|activity| activity.request(0)).collect();
    assert!(asking.charge(CONNECTION_BYTES), "the heavy connection is closed");
    assert!(heavy.is_closing() && !light.is_closing() && !asking.is_closing());
    tokio::time::sleep(SEARCH_EVERY).await;
    assert!(!asking.charge(CONNECTION_BYTES), "no other connection would have more");
}

#[tokio::test]
async fn streams_close_no_young_idle_connection() {
    let budget = budget(16);
    let asking = budget.admit().await;
    let fresh: Vec<_> = (0..15).map(|_| budget.admit_without_room()).collect();
    let closing = || fresh.iter().filter(|activity| activity.is_closing()).count();
    assert!(!asking.charge(CONNECTION_BYTES));
    assert_eq!(closing(), 0);
    tokio::time::sleep(YOUNG).await;
    assert!(asking.charge(CONNECTION_BYTES), "a small charge may close an idle one");
    assert_eq!(closing(), 1);
}

#[tokio::test]
async fn share_is_limited_and_charges_are_released() {
    let budget = budget(64);
    let activity = budget.admit().await;
    assert!(!activity.charge(16 * CONNECTION_BYTES), "a quarter of the budget is its share, with the first charge");
    assert!(activity.charge(15 * CONNECTION_BYTES));
    let open = activity.request(CONNECTION_BYTES);
    assert!(open.is_none(), "no more for a request either");
    drop(activity);
    assert_eq!((budget.bytes.load(Ordering::Relaxed), budget.connections.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test]
async fn number_of_connections_is_bounded() {
    let budget = ConnectionBudget::new(usize::MAX, 1);
    let only = budget.admit().await;
    assert!(budget.try_admit().is_none());
    drop(only);
    assert!(budget.try_admit().is_some());
}
