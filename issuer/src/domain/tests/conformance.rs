//! Runs the conformance suite of the stores on the in-memory store of these tests.

use sidegate_common::log_protocol::Position;
use sidegate_common::revocation::Revocation;
use sidegate_common::time::UnixTime;

use super::memory_store::{MemoryStore, TestClock};
use crate::domain::session::NewSession;
use suite::{Bench, LIFETIMES};

#[path = "../../../tests/suite/conformance/mod.rs"]
mod suite;

struct MemoryBench {
    store: MemoryStore,
    clock: TestClock,
}

impl MemoryBench {
    fn start(partitions: u16, sessions_max: usize) -> Self {
        let clock = TestClock::default();
        Self { store: MemoryStore::new(clock.clone(), LIFETIMES, partitions, sessions_max), clock }
    }
}

impl Bench for MemoryBench {
    type Store = MemoryStore;

    fn store(&self) -> &MemoryStore {
        &self.store
    }

    fn now(&self) -> UnixTime {
        self.clock.now()
    }

    async fn elapse(&self, seconds: u64) {
        self.clock.advance(seconds);
    }

    async fn put_back_watermark(&self, sub: &str, threshold: UnixTime) {
        self.store.put_back_watermark(sub, threshold);
    }

    async fn downgrade_record(&self, session: &NewSession) {
        self.store.change_session(&session.sub, &session.sid, |session| session.created = UnixTime(1000));
    }

    async fn age(&self, session: &NewSession, seconds: u64) {
        self.store.change_session(&session.sub, &session.sid, |session| {
            session.idle_ends = session.idle_ends.minus(seconds);
        });
    }

    async fn log(&self, partition: u16) -> Vec<(Position, Revocation)> {
        self.store.log(partition)
    }
}

macro_rules! conforms {
    ($($name:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $name() {
            for partitions in [1, 4] {
                suite::$name(&MemoryBench::start(partitions, 1000)).await;
            }
        })*
    };
}

conforms!(
    a_session_is_stored_as_created,
    a_refresh_token_is_traded_once_and_may_be_retried,
    an_old_refresh_token_kills_the_session,
    the_retry_window_does_not_slide,
    a_generation_ahead_of_the_store_is_authentic,
    many_refreshes_of_one_token_have_one_child,
    ending_appends_and_may_be_repeated,
    ending_covers_the_last_token_of_the_session,
    a_user_can_be_logged_out_everywhere,
    every_revocation_within_one_second_counts,
    repeated_revocations_do_not_run_ahead_of_the_clock,
    all_users_can_be_logged_out,
    sessions_end_by_idling_and_by_age,
    entries_are_appended_in_order,
    expired_entries_are_not_appended,
    a_refresh_does_not_make_a_session_younger,
    sessions_can_be_kept,
    a_refresh_token_is_examined_without_being_traded,
    sessions_come_in_pages,
    a_threshold_far_ahead_of_the_clock_is_refused,
);

#[tokio::test]
async fn login_over_the_limit_ends_the_first_to_expire() {
    suite::login_over_the_limit_ends_the_first_session_to_expire(&MemoryBench::start(1, 5)).await;
}
