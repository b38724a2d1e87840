//! A deterministic simulation: a few issuers, a replicated store, clients and one verifier, under seeded faults, in virtual time.
//!
//! The verifier is the very [`Machine`](super::Machine) of the daemon. After every proof, and at every look in between,
//! the truth is compared with what the verifier would answer:
//! - **Safety**: no token whose revocation was acknowledged before `fresh_as_of` is answered good. The exceptions are stated
//!   in docs/guarantees.md: what a failover or a restored backup has lost, if every issuer that acknowledged it or heard of it
//!   is gone, or while a log is believed although its replay is missing.
//! - **Sessions**: none whose end was acknowledged is ever refreshed, with the first of these exceptions.
//! - **Logins**: no token is born dead.
//! - **Nothing un-revokes**: a token once held dead stays dead until it could not be accepted anyway.
//! - **Liveness**: after the last fault the verifier is fresh again within seconds.
//!
//! `SIDEGATE_SCHEDULES` sets how many schedules are run (10,000 in the usual tests), `SIDEGATE_SEED` the first seed.

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

/// How many schedules a world of some faults only gets.
fn some() -> u64 {
    from_environment("SIDEGATE_SCHEDULES", SCHEDULES).min(500)
}

fn run(seed: u64, mutant: Option<Mutant>) -> Outcome {
    World::new(seed, mutant, ALL).run()
}

/// Schedules of some kinds of faults only; what they came to.
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

/// Simulated: a real server's clock cannot be stepped here. What a verifier holds it keeps, and positions never go back; a
/// step beyond the skew that is provided for may trim entries early, which then are missing to who was not there.
#[test]
fn f15_steps_of_the_stores_clock_take_nothing_from_who_was_there() {
    const AMONG: Among = &[Fault::StepStoreClock, Fault::Cut, Fault::LosePushes, Fault::PauseVerifier];
    let hour = run_some(AMONG, u64::MAX, 3_600_000);
    assert!(hour.iter().any(|outcome| outcome.trimmed_alive > 0), "an hour is more than is provided for");
    let skew = run_some(AMONG, u64::MAX, CLOCK_SKEW_SECONDS * 1_000);
    assert!(skew.iter().all(|outcome| outcome.trimmed_alive == 0), "within the skew nothing alive is trimmed");
}

/// Simulated: the verifier's clock is up to 5 s off in every schedule, and is stepped by up to an hour here.
#[test]
fn f16_a_verifiers_clock_ahead_or_behind_revives_nothing() {
    const AMONG: Among = &[Fault::StepClock, Fault::Cut, Fault::RestartVerifier, Fault::LosePushes];
    run_some(AMONG, u64::MAX, 0);
}

/// A verifier that starts with its clock an hour behind takes expired tokens for living ones, and the log has forgotten what
/// expired: it is not fresh before its clock is right. First seen at seed 80,416 of all kinds of faults.
#[test]
fn a_verifier_that_starts_behind_is_not_fresh_before_its_clock_is_right() {
    const AMONG: Among = &[Fault::StepClock, Fault::RestartVerifier];
    only_the_mutant_is_caught(Mutant::AnyClock, AMONG, |world| world.faults_until_ms = 400_000);
}

/// A verifier that started with its clock an hour ahead has dropped what it took for expired, and its snapshot lacks it.
#[test]
fn a_snapshot_of_a_clock_that_was_ahead_is_not_gone_on_from() {
    const AMONG: Among = &[Fault::StepClock, Fault::RestartVerifier];
    only_the_mutant_is_caught(Mutant::TrustsAnySnapshot, AMONG, |world| world.faults_until_ms = 200_000);
}

/// What no issuer remembers is gone with the data, and who was not there must refuse what it cannot know.
#[test]
fn what_nobody_remembers_is_refused_by_who_was_not_there() {
    const AMONG: Among = &[Fault::FlushAll, Fault::RestartEmpty, Fault::CrashIssuer, Fault::RestartVerifier];
    only_the_mutant_is_caught(Mutant::NoSince, AMONG, |world| world.issuers.truncate(1));
}

/// In worlds of some faults only, the machine keeps every promise, and without one rule it does not.
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
    assert!(caught > 0, "what this rule is for never happens here");
}

/// How long ago it was acknowledged is told by the monotonic clock, if at all: an issuer whose wall clock is put right
/// remembers what it acknowledged while it was slow. (It is alone, and what it forgets nobody else has heard.)
#[test]
fn an_issuer_whose_clock_is_put_right_forgets_nothing() {
    const AMONG: Among = &[Fault::StepIssuerClock, Fault::Failover];
    only_the_mutant_is_caught(Mutant::AgesByWallClock, AMONG, |world| world.issuers.truncate(1));
}

/// Redis away for ten minutes and restarted: once the issuers have seen to its log, the list is proven again, within four
/// seconds of its return.
#[test]
fn an_outage_of_ten_minutes_is_over_within_four_seconds() {
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

/// A simulation that finds nothing proves nothing: each of these weakened followers must be caught, and soon. The others of them
/// have schedules of their own above.
#[test]
fn every_mutant_is_caught() {
    for mutant in Mutant::ALL {
        let caught = (0..20_000).find(|seed| run(*seed, Some(mutant)).violation.is_some());
        let seed = caught.unwrap_or_else(|| panic!("{mutant:?} was not caught"));
        println!("{mutant:?} is caught by seed {seed}: {:?}", run(seed, Some(mutant)).violation);
    }
}
