//! Fault cycles on a real Redis: kill -9 with and without its data, SIGSTOP, CLIENT KILL, FLUSHALL,
//! a black hole, a failover that loses a suffix, a planned one, the restart of an issuer, clock
//! steps, loss of rights, OOM; while the issuer's own store and scripts write 2,000 revocations per
//! second. A second issuer, a process, only follows.
//!
//! Two verifiers follow through a TCP proxy: a complete verifier in this process (its own `App`,
//! follower, list and token checker), which is checked for *every* acknowledged revocation, and a
//! verifier process, which is checked over its socket for samples. The following holds at all
//! times, without waiting:
//! - no revocation acknowledged before `fresh_as_of` is accepted by a verifier that reports itself
//!   fresh;
//! - no revocation is undone: a token once denied as revoked stays denied;
//! - no session whose end was acknowledged is refreshed, whatever happens.
//!
//! This includes entries that Redis acknowledged and lost: nothing is proven until the issuers have
//! replayed them. `REPLAY_WAIT` is a minute here, so that a slow machine does not trigger the
//! exception named in docs/guarantees.md. At the end of its cycle every entry must be held.
//!
//! `SIDEGATE_FAULT_CYCLES` sets the number of cycles (30 by default), `SIDEGATE_FAULT_SEED` the
//! first seed.
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
/// Rigs that run in parallel, each with its own Redis, issuer's store and two verifiers.
const RIGS: u64 = 2;
/// Cycles of one rig, before its log gets too long for quick restarts.
const CYCLES_A_RIG: usize = 15;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Runs these cycles in one rig after the other.
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
fn no_fault_breaks_a_guarantee() {
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
        let (some, of) = world.join().expect("a fault violated a guarantee");
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
