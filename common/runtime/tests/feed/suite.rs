//! The conformance suite: what every feed must do.

use std::time::Duration;

use sidegate_common::sync::{Alarm, Phase};
use sidegate_runtime::feed::Source;

use super::follower::{Follower, entry};

/// A log under test, and its failures.
pub trait Rig: Sized {
    type Source: Source;

    /// A log that no issuer has written to yet.
    async fn start() -> Self;
    fn source(&self) -> Self::Source;
    /// Creates the data set, as an issuer does.
    async fn create(&self, epoch: &str);
    /// Appends an entry and pushes it.
    async fn append(&self, entry: &[u8]);
    /// Appends many entries and pushes none.
    async fn append_without_push(&self, entries: &[Vec<u8>]);
    /// Pushes a malformed message.
    async fn push_garbage(&self);
    /// Cuts every connection.
    async fn cut(&self);
    /// Loses everything, the data set included.
    async fn lose(&self);
    /// Removes the oldest `count` entries.
    async fn trim(&self, count: usize);
}

pub async fn starts_with_what_the_log_has<R: Rig>() {
    let rig = R::start().await;
    rig.create("first").await;
    rig.append(&entry("before")).await;
    let follower = Follower::start(rig.source());
    follower.proven_anew().await;
    assert!(follower.holds(0, "before"));
    let held = follower.list.held();
    assert_eq!(held.since.len(), 1, "it was not there before the log's `since`");
    follower.stop().await;
}

pub async fn waits_for_an_issuer<R: Rig>() {
    let rig = R::start().await;
    let follower = Follower::start(rig.source());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(follower.proofs(), 0, "a store without a data set proves nothing");
    rig.create("first").await;
    follower.proven_anew().await;
    follower.stop().await;
}

pub async fn receives_every_push<R: Rig>() {
    let rig = R::start().await;
    rig.create("first").await;
    let follower = Follower::start(rig.source());
    follower.proven_anew().await;
    let before = follower.partition(0).counters;
    for n in 0..200 {
        rig.append(&entry(&format!("pushed-{n}"))).await;
    }
    follower.until("all are held", |follower| (0..200).all(|n| follower.holds(0, &format!("pushed-{n}")))).await;
    follower.proven_anew().await;
    let after = follower.partition(0).counters;
    assert_eq!((after.gaps, after.resyncs), (before.gaps, before.resyncs), "no reading was needed");
    follower.stop().await;
}

pub async fn finds_what_was_not_pushed<R: Rig>() {
    let rig = R::start().await;
    rig.create("first").await;
    let follower = Follower::start(rig.source());
    follower.proven_anew().await;
    rig.append_without_push(&[entry("unheard")]).await;
    follower.proven_anew().await;
    assert!(follower.holds(0, "unheard"), "fresh means that nothing is missing");
    rig.append_without_push(&[entry("unheard-too")]).await;
    rig.append(&entry("pushed")).await;
    rig.push_garbage().await;
    follower.proven_anew().await;
    assert!(follower.holds(0, "unheard-too") && follower.holds(0, "pushed"));
    follower.stop().await;
}

pub async fn reads_a_long_log_while_it_grows<R: Rig>() {
    let rig = R::start().await;
    rig.create("first").await;
    let many: Vec<_> = (0..5_500).map(|n| entry(&format!("old-{n}"))).collect();
    rig.append_without_push(&many).await;
    let follower = Follower::start(rig.source());
    for n in 0..300 {
        rig.append(&entry(&format!("new-{n}"))).await;
    }
    follower.proven_anew().await;
    assert!((0..5_500).all(|n| follower.holds(0, &format!("old-{n}"))));
    assert!((0..300).all(|n| follower.holds(0, &format!("new-{n}"))));
    assert_eq!(follower.partition(0).counters.gaps, 0, "pushes ahead of the reading are no gap");
    follower.stop().await;
}

pub async fn comes_back_after_a_cut<R: Rig>() {
    let rig = R::start().await;
    rig.create("first").await;
    rig.append(&entry("before")).await;
    let follower = Follower::start(rig.source());
    follower.proven_anew().await;
    for n in 0..5 {
        rig.cut().await;
        rig.append(&entry(&format!("meanwhile-{n}"))).await;
        follower.proven_anew().await;
        assert!(follower.holds(0, &format!("meanwhile-{n}")));
    }
    let status = follower.partition(0);
    assert!(status.reconnects >= 5, "{status:?}");
    assert_eq!(status.counters.full_reads, 1, "the same log needs no second full reading");
    follower.stop().await;
}

pub async fn keeps_what_the_store_loses<R: Rig>() {
    let rig = R::start().await;
    rig.create("first").await;
    rig.append(&entry("lost")).await;
    let follower = Follower::start(rig.source());
    follower.proven_anew().await;
    rig.lose().await;
    follower.until("the loss is noticed", |follower| follower.partition(0).alarm == Some(Alarm::NoEpoch)).await;
    let proofs = follower.proofs();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(follower.proofs(), proofs, "an empty store proves nothing");
    rig.create("second").await;
    rig.append(&entry("after")).await;
    follower.proven_anew().await;
    assert!(follower.holds(0, "lost"), "what was held stays held");
    assert!(follower.holds(0, "after"));
    assert_eq!(follower.list.held().since.len(), 1, "it was there all the time");
    assert_eq!(follower.partition(0).alarm, None);
    follower.stop().await;
}

pub async fn reads_a_trimmed_log_whole<R: Rig>() {
    let rig = R::start().await;
    rig.create("first").await;
    rig.append(&entry("old")).await;
    let follower = Follower::start(rig.source());
    follower.proven_anew().await;
    let kept = follower.status.checkpoints().unwrap();
    follower.stop().await;
    rig.append_without_push(&[entry("b"), entry("c")]).await;
    rig.trim(2).await;
    let follower = Follower::resume(rig.source(), kept);
    follower.proven_anew().await;
    assert!(follower.holds(0, "c"));
    assert_eq!(follower.partition(0).counters.full_reads, 1, "the entry to go on from is gone");
    follower.stop().await;
}

pub async fn an_unreadable_entry_withholds_the_proof<R: Rig>() {
    let rig = R::start().await;
    rig.create("first").await;
    let follower = Follower::start(rig.source());
    follower.proven_anew().await;
    rig.append(&[0x21, 0, 0, 0, 1, 2, 3]).await;
    follower.until("the alarm", |follower| follower.partition(0).alarm == Some(Alarm::UnreadableEntry)).await;
    let proofs = follower.proofs();
    rig.append(&entry("readable")).await;
    follower.until("held all the same", |follower| follower.holds(0, "readable")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(follower.proofs(), proofs);
    assert_eq!(follower.partition(0).checkpoint.map(|kept| kept.proven.0 > 0), Some(true), "the last good one is kept");
    follower.stop().await;
}

pub async fn goes_on_from_a_snapshot<R: Rig>() {
    let rig = R::start().await;
    rig.create("first").await;
    rig.append(&entry("kept")).await;
    let follower = Follower::start(rig.source());
    follower.proven_anew().await;
    let kept = follower.status.checkpoints().unwrap();
    follower.stop().await;
    rig.append(&entry("meanwhile")).await;
    let follower = Follower::resume(rig.source(), kept);
    follower.proven_anew().await;
    assert!(follower.holds(0, "meanwhile"));
    let status = follower.partition(0);
    assert_eq!((status.counters.full_reads, status.phase), (0, Phase::Live), "only the rest was read");
    assert!(follower.list.held().since.is_empty(), "the snapshot covers it");
    follower.stop().await;
}

/// Makes a module of tests that run the suite over a rig.
#[macro_export]
macro_rules! conformance {
    ($rig:ty: $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::suite::$case::<$rig>().await;
            }
        )+
    };
    ($rig:ty) => {
        $crate::conformance! {
            $rig: starts_with_what_the_log_has, waits_for_an_issuer, receives_every_push, finds_what_was_not_pushed,
            reads_a_long_log_while_it_grows, comes_back_after_a_cut, keeps_what_the_store_loses,
            reads_a_trimmed_log_whole, an_unreadable_entry_withholds_the_proof, goes_on_from_a_snapshot,
        }
    };
}
