//! A deterministic simulation: one issuer, a replicated store and one verifier, under seeded faults, in virtual time.
//!
//! The verifier is the very [`Machine`](super::Machine) of the daemon. After every proof, and at every look in between,
//! the truth is compared with what the verifier would answer:
//! - **Safety**: no token whose revocation was acknowledged before `fresh_as_of` is answered good. The one exception is
//!   stated in docs/revocation.md: what a failover or a restored backup has lost, until the issuer has put it back.
//! - **Nothing un-revokes**: a token once held dead stays dead until it could not be accepted anyway.
//! - **Liveness**: after the last fault the verifier is fresh again within seconds.
//!
//! `SIDEGATE_SCHEDULES` sets how many schedules are run (10,000 in the usual tests), `SIDEGATE_SEED` the first seed.

mod faults;
mod random;
mod store;
mod verifier;
mod world;

use verifier::Mutant;
use world::{Outcome, World};

const SCHEDULES: u64 = 10_000;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn run(seed: u64, mutant: Option<Mutant>) -> Outcome {
    World::new(seed, mutant).run()
}

#[test]
fn no_schedule_of_faults_breaks_a_promise() {
    let (first, count) = (from_environment("SIDEGATE_SEED", 0), from_environment("SIDEGATE_SCHEDULES", SCHEDULES));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let totals: Vec<(u64, u64, u64)> = std::thread::scope(|scope| {
        let work = |thread: u64| {
            let mut totals = (0, 0, 0);
            for seed in (first + thread..first + count).step_by(threads as usize) {
                let outcome = run(seed, None);
                assert_eq!(
                    outcome.violation, None,
                    "seed {seed}; again with SIDEGATE_SEED={seed} SIDEGATE_SCHEDULES=1"
                );
                assert!(outcome.faults >= 5, "seed {seed} had {} faults", outcome.faults);
                totals = (totals.0 + outcome.faults, totals.1 + outcome.revocations, totals.2 + outcome.proofs);
            }
            totals
        };
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a schedule broke a promise")).collect()
    });
    let sum = |of: fn(&(u64, u64, u64)) -> u64| totals.iter().map(of).sum::<u64>();
    println!(
        "{count} schedules: {} faults, {} revocations, {} proofs, 0 violations",
        sum(|totals| totals.0),
        sum(|totals| totals.1),
        sum(|totals| totals.2)
    );
}

#[test]
fn a_schedule_is_the_same_every_time() {
    assert_eq!(run(7, None), run(7, None));
}

/// A simulation that finds nothing proves nothing: each of these weakened followers must be caught, and soon.
#[test]
fn every_mutant_is_caught() {
    for mutant in Mutant::ALL {
        let caught = (0..20_000).find(|seed| run(*seed, Some(mutant)).violation.is_some());
        let seed = caught.unwrap_or_else(|| panic!("{mutant:?} was not caught"));
        println!("{mutant:?} is caught by seed {seed}: {:?}", run(seed, Some(mutant)).violation);
    }
}
