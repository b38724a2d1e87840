//! Fault cycles on a real Redis: kill -9 with and without its data, SIGSTOP, CLIENT KILL, FLUSHALL, a black hole, a
//! failover that loses a suffix, a planned one, the restart of an issuer, clocks that are set, loss of rights, OOM; while
//! 2,000 revocations a second are written by the issuer's own store and scripts. A second issuer, a process, only listens.
//!
//! Two verifiers follow through a TCP proxy: the whole verifier in this process (its own `App`, follower, list and judge),
//! whose verdict on *every* revocation acknowledged is asked, and a verifier process, which is asked over its socket about
//! samples. Asserted all the time, without waiting for anything:
//! - nothing acknowledged before `fresh_as_of` is answered good by a verifier that calls itself fresh;
//! - nothing un-revokes: what was once denied as revoked is denied for ever;
//! - no session whose end was acknowledged is refreshed, whatever happens.
//!
//! That holds for what Redis acknowledged and lost, too: nothing is proven until the issuers have put it back. `REPLAY_WAIT`
//! is a minute here, so that a busy machine is not the exception that docs/guarantees.md names. At the end of its cycle every
//! entry must be held.
//!
//! `SIDEGATE_FAULT_CYCLES` sets how many cycles are run (30 in the usual tests), `SIDEGATE_FAULT_SEED` the first seed.
//! `./tests/long faults` runs 1,000.
#![forbid(unsafe_code)]

mod rig;
mod strike;
mod truth;
mod watcher;
mod writer;

use std::collections::BTreeMap;

use rig::Rig;
use strike::Fault;
use truth::Totals;

const CYCLES: u64 = 30;
/// Worlds side by side, each with a Redis, an issuer's store and two verifiers of its own.
const RIGS: u64 = 2;
/// Cycles of one world, before its log gets too long for quick restarts.
const CYCLES_A_RIG: usize = 15;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Runs these cycles in one world after the other.
async fn run(seeds: Vec<u64>) -> (Totals, BTreeMap<&'static str, u64>) {
    let (mut totals, mut kinds) = (Totals::default(), BTreeMap::new());
    for seeds in seeds.chunks(CYCLES_A_RIG) {
        let mut rig = Rig::start(seeds[0]).await;
        for seed in seeds {
            let fault = Fault::of(*seed);
            rig.cycle(*seed, fault).await;
            *kinds.entry(fault.name()).or_insert(0) += 1;
        }
        totals.add(&rig.end().await);
    }
    (totals, kinds)
}

#[test]
fn no_real_fault_breaks_a_promise() {
    let first = from_environment("SIDEGATE_FAULT_SEED", 0);
    let cycles = from_environment("SIDEGATE_FAULT_CYCLES", CYCLES);
    let started = std::time::Instant::now();
    let worlds: Vec<_> = (0..RIGS.min(cycles))
        .map(|world| {
            let seeds: Vec<u64> = (first + world..first + cycles).step_by(RIGS as usize).collect();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                runtime.expect("a runtime").block_on(run(seeds))
            })
        })
        .collect();
    let (mut totals, mut kinds) = (Totals::default(), BTreeMap::<&str, u64>::new());
    for world in worlds {
        let (some, of) = world.join().expect("a fault broke a promise");
        totals.add(&some);
        of.into_iter().for_each(|(kind, count)| *kinds.entry(kind).or_insert(0) += count);
    }
    let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!(
        "faults: {cycles} cycles from seed {first} in {} s ({}): {totals}, 0 violations",
        started.elapsed().as_secs(),
        kinds.join(", ")
    );
}
