//! A deterministic simulation: issuers, a replicated store, clients and one verifier, under seeded
//! faults, in virtual time.
//!
//! The verifier runs the daemon's [`Machine`](super::Machine). After every proof, and at intervals,
//! the verifier's answers are compared with the truth:
//! - **Safety**: no token whose revocation was acknowledged before `fresh_as_of` is answered good.
//!   The exceptions are stated in docs/guarantees.md: entries that a failover or a restored backup
//!   has lost, if every issuer that acknowledged or received them is gone, or while a log is
//!   accepted although its replay is missing.
//! - **Sessions**: a session whose end was acknowledged is never refreshed, with the first of these
//!   exceptions.
//! - **Logins**: no token is revoked when it is issued.
//! - **Nothing un-revokes**: a token once answered revoked stays revoked until it has expired.
//! - **Liveness**: after the last fault the verifier is fresh again within seconds.
//!
//! `SIDEGATE_SCHEDULES` sets the number of schedules (10,000 by default), `SIDEGATE_SEED` the first
//! seed.

mod clients;
mod faults;
mod issuer;
mod mutant;
mod random;
mod scenarios;
mod server;
mod store;
mod truth;
mod verifier;
mod world;

use faults::{ALL, Among, Fault};
pub(super) use mutant::Mutant;
use world::{Outcome, World};

use crate::time::CLOCK_SKEW_SECONDS;

const SCHEDULES: u64 = 10_000;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// The number of schedules for a world with few kinds of faults.
fn some() -> u64 {
    from_environment("SIDEGATE_SCHEDULES", SCHEDULES).min(500)
}

fn run(seed: u64, mutant: Option<Mutant>) -> Outcome {
    World::new(seed, mutant, ALL).run()
}

/// Runs schedules with these kinds of faults only; returns their outcomes.
fn run_some(among: Among, strikes: u64, store_steps_ms: u64) -> Vec<Outcome> {
    let outcomes = (0..some()).map(|seed| {
        let mut world = World::new(seed, None, among);
        (world.strikes_left, world.store_steps_ms) = (strikes, store_steps_ms);
        let outcome = world.run();
        assert_eq!(outcome.violation, None, "seed {seed}");
        outcome
    });
    outcomes.collect()
}

/// Simulated: a real server's clock cannot be stepped here. A verifier keeps its entries, and
/// positions never go back. A step beyond the skew may trim entries early; a verifier that was not
/// connected then misses them.
#[test]
fn f15_store_clock_step_loses_nothing_for_connected_verifier() {
    const AMONG: Among = &[Fault::StepStoreClock, Fault::Cut, Fault::LosePushes, Fault::PauseVerifier];
    let hour = run_some(AMONG, u64::MAX, 3_600_000);
    assert!(hour.iter().any(|outcome| outcome.trimmed_alive > 0), "an hour is more than is provided for");
    let skew = run_some(AMONG, u64::MAX, CLOCK_SKEW_SECONDS * 1_000);
    assert!(skew.iter().all(|outcome| outcome.trimmed_alive == 0), "within the skew nothing alive is trimmed");
}

/// Simulated: the verifier's clock is up to 5 s off in every schedule, and is stepped by up to an
/// hour here.
#[test]
fn f16_verifier_clock_step_accepts_no_revoked_token() {
    const AMONG: Among = &[Fault::StepClock, Fault::Cut, Fault::RestartVerifier, Fault::LosePushes];
    run_some(AMONG, u64::MAX, 0);
}

/// A verifier that starts with its clock an hour behind would accept expired tokens, whose
/// revocations the log has trimmed: it must not be fresh before its clock is right. First seen at
/// seed 80,416 of all kinds of faults.
#[test]
fn verifier_with_slow_clock_is_not_fresh() {
    const AMONG: Among = &[Fault::StepClock, Fault::RestartVerifier];
    only_the_mutant_is_caught(Mutant::AnyClock, AMONG, |world| world.faults_until_ms = 400_000);
}

/// A verifier that started with its clock an hour ahead has dropped entries as expired, and its
/// snapshot lacks them.
#[test]
fn snapshot_of_a_fast_clock_is_not_resumed() {
    const AMONG: Among = &[Fault::StepClock, Fault::RestartVerifier];
    only_the_mutant_is_caught(Mutant::TrustsAnySnapshot, AMONG, |world| world.faults_until_ms = 200_000);
}

/// Entries that no issuer remembers are lost with the data. A verifier that was not connected must
/// reject the tokens that it cannot check.
#[test]
fn new_verifier_rejects_what_lost_data_cannot_prove() {
    const AMONG: Among = &[Fault::FlushAll, Fault::RestartEmpty, Fault::CrashIssuer, Fault::RestartVerifier];
    only_the_mutant_is_caught(Mutant::NoSince, AMONG, |world| world.issuers.truncate(1));
    only_the_mutant_is_caught(Mutant::EnrolmentCoversEveryLog, AMONG, |world| world.issuers.truncate(1));
}

/// With these faults only, the machine keeps every promise, and without one rule it does not.
fn only_the_mutant_is_caught(mutant: Mutant, among: Among, alter: impl Fn(&mut World)) {
    let violation = |seed, mutant| {
        let mut world = World::new(seed, mutant, among);
        alter(&mut world);
        world.run().violation
    };
    for seed in 0..some() {
        assert_eq!(violation(seed, None), None, "seed {seed}");
    }
    let caught = (0..some()).filter(|seed| violation(*seed, Some(mutant)).is_some()).count();
    println!("{mutant:?} is caught by {caught} of {}", some());
    assert!(caught > 0, "no schedule needs this rule");
}

/// The age of an acknowledgement is measured by the monotonic clock: an issuer whose slow wall
/// clock is corrected still remembers what it acknowledged. (No other issuer received it.)
#[test]
fn issuer_with_corrected_clock_replays_everything() {
    const AMONG: Among = &[Fault::StepIssuerClock, Fault::Failover];
    only_the_mutant_is_caught(Mutant::AgesByWallClock, AMONG, |world| world.issuers.truncate(1));
}

/// Redis is down for ten minutes and restarted: once the issuers have restored its log, the list is
/// proven again, within four seconds of its return.
#[test]
fn ten_minute_outage_recovers_within_four_seconds() {
    for outcome in run_some(&[Fault::LongOutage], 1, 0) {
        assert!(outcome.back_after_ms.is_some_and(|after| after <= 4_000), "{outcome:?}");
    }
}

#[test]
fn no_schedule_of_faults_breaks_a_promise() {
    let (first, count) = (from_environment("SIDEGATE_SEED", 0), from_environment("SIDEGATE_SCHEDULES", SCHEDULES));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let totals: Vec<[u64; 4]> = std::thread::scope(|scope| {
        let work = |thread: u64| {
            let mut totals = [0; 4];
            for seed in (first + thread..first + count).step_by(threads as usize) {
                let outcome = run(seed, None);
                assert_eq!(
                    outcome.violation, None,
                    "seed {seed}; again with SIDEGATE_SEED={seed} SIDEGATE_SCHEDULES=1"
                );
                assert!(outcome.faults >= 5, "seed {seed} had {} faults", outcome.faults);
                let counted = [outcome.faults, outcome.revocations, outcome.refreshes, outcome.proofs];
                totals = std::array::from_fn(|of| totals[of] + counted[of]);
            }
            totals
        };
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a schedule broke a promise")).collect()
    });
    let sum = |of: usize| totals.iter().map(|totals| totals[of]).sum::<u64>();
    println!(
        "{count} schedules: {} faults, {} revocations, {} refreshes, {} proofs, 0 violations",
        sum(0),
        sum(1),
        sum(2),
        sum(3)
    );
}

#[test]
fn a_schedule_is_the_same_every_time() {
    assert_eq!(run(7, None), run(7, None));
}

/// A simulation that finds nothing proves nothing: it must catch each of these mutants soon. The
/// other mutants have their own schedules above.
#[test]
fn every_mutant_is_caught() {
    for mutant in Mutant::ALL {
        let caught = (0..20_000).find(|seed| run(*seed, Some(mutant)).violation.is_some());
        let seed = caught.unwrap_or_else(|| panic!("{mutant:?} was not caught"));
        println!("{mutant:?} is caught by seed {seed}: {:?}", run(seed, Some(mutant)).violation);
    }
}
