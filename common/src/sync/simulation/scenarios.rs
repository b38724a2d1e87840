//! Named scenarios: those that a reader of the guarantees would ask about.

use super::faults::Among;
use super::issuer::Issuer;
use super::mutant::Mutant;
use super::server::Session;
use super::some;
use super::store::Order;
use super::truth::{ENROLLED_AT, FOREIGN_FROM, true_seconds};
use super::world::{What, World};
use crate::log_protocol::Message;
use crate::revocation::{Revocation, Target};
use crate::sync::{Alarm, Event};
use crate::time::UnixTime;

const NOTHING: Among = &[];

/// What happens at which time, in milliseconds.
type Plan<'a> = &'a [(u64, fn(&mut World))];

/// A world with only planned events.
fn planned(seed: u64, mutant: Option<Mutant>, issuers: u64, plan: Plan<'_>) -> World {
    let mut world = World::new(seed, mutant, NOTHING);
    world.strikes_left = 0;
    world.issuers.clear();
    for number in 0..issuers {
        world.issuers.push(Issuer::default());
        world.start_issuer(number as usize, None);
    }
    for (at, act) in plan {
        world.at(*at, What::Act(*act));
    }
    world
}

/// No seed breaks a promise; with a mutant, some seed does.
fn holds(issuers: u64, mutants: &[Mutant], plan: Plan<'_>, at_end: impl Fn(&World)) {
    for seed in 0..some() {
        let mut world = planned(seed, None, issuers, plan);
        assert_eq!(world.run().violation, None, "seed {seed}");
        at_end(&world);
    }
    for mutant in mutants {
        let caught = (0..some()).filter(|seed| planned(*seed, Some(*mutant), issuers, plan).run().violation.is_some());
        let caught = caught.count();
        println!("{mutant:?} is caught by {caught} of {}", some());
        assert!(caught > 0, "{mutant:?} is never caught");
    }
}

fn fails_over(world: &mut World) {
    let after = world.random.between(0, 1_000);
    world.fall_behind(after, false);
}

fn is_settled(world: &World) {
    assert!(world.store.servers[world.store.master].is_settled(), "at {}", world.now);
    assert!(!world.verifier.machine.raised(Alarm::ReplayMissing));
}

fn lose_pushes(world: &mut World) {
    world.pushes_lost = 100;
}

fn deliver_pushes(world: &mut World) {
    world.pushes_lost = 0;
}

#[test]
fn two_failovers_lose_nothing() {
    fn at_once(world: &mut World) {
        world.fall_behind(0, false);
    }
    let plan: Plan<'_> = &[
        (20_000, lose_pushes),
        (20_010, fails_over),
        (21_150, fails_over),
        (22_300, at_once),
        (23_000, deliver_pushes),
        (40_000, fails_over),
    ];
    holds(3, &[Mutant::AcceptsUnsettled], plan, is_settled);
}

/// A user logged out just before the failover that lost the logout can neither refresh nor log in
/// before it is put back.
#[test]
fn unsettled_log_blocks_refresh_and_login() {
    fn log_in(world: &mut World) {
        (0..8).for_each(|_| world.login(0));
    }
    fn log_out(world: &mut World) {
        world.fall_behind(50, false);
        for user in 0..super::truth::USERS {
            world.carry_out(0, Order::User { user, keep: false }, None);
        }
    }
    fn come_back(world: &mut World) {
        world.issuers[0].connected_from = world.now;
        (0..world.store.truth.sessions.len()).for_each(|sid| world.refresh(0, sid));
        world.login(0);
    }
    let plan: Plan<'_> = &[
        (18_000, log_in),
        (20_870, log_out),
        (20_930, come_back),
        (20_960, come_back),
        (21_200, come_back),
        (21_600, come_back),
    ];
    let mutants = [Mutant::RotatesUnsettled, Mutant::CreatesUnsettled];
    holds(2, &mutants, plan, is_settled);
}

/// The other issuers wait for it, and no verifier relies on the log before its replay, or before
/// the wait is over.
#[test]
fn verifiers_wait_for_a_paused_issuer() {
    fn falls_behind(world: &mut World) {
        world.pushes_lost = 100;
        world.fall_behind(1_000, false);
    }
    fn pause(world: &mut World) {
        world.issuers[0].paused_until = world.now + 4_000;
    }
    let plan: Plan<'_> = &[(20_000, falls_behind), (20_990, pause), (21_100, deliver_pushes)];
    holds(2, &[Mutant::AcceptsUnsettled], plan, is_settled);
}

/// It is delisted after a minute; what only it knew is put back when it resumes.
#[test]
fn long_paused_issuer_is_delisted() {
    fn pause(world: &mut World) {
        world.faults_until_ms = 110_000;
        world.issuers[0].paused_until = world.now + 90_000;
    }
    fn accepted_after_wait(world: &mut World) {
        assert!(world.verifier.machine.raised(Alarm::ReplayMissing), "the wait is over");
        assert!(!world.store.master().is_settled());
    }
    fn delisted(world: &mut World) {
        assert!(world.store.master().is_settled(), "those that are left have marked");
    }
    let plan: Plan<'_> = &[(20_000, pause), (20_010, fails_over), (40_000, accepted_after_wait), (95_000, delisted)];
    holds(2, &[], plan, is_settled);
}

/// The issuers that acknowledged are gone, but their successors have read the log.
#[test]
fn rolling_restart_before_failover_loses_nothing() {
    fn first(world: &mut World) {
        world.restart_issuer(0);
    }
    fn second(world: &mut World) {
        world.restart_issuer(1);
    }
    fn starts(world: &mut World) {
        world.kept = None;
        world.restart_verifier();
    }
    fn falls_behind(world: &mut World) {
        // Even a log accepted without a mark must be complete: every issuer that knows an entry is
        // running.
        (world.strict, world.faults_until_ms) = (true, 90_000);
        world.fall_behind(3_000, false);
    }
    let plan: Plan<'_> = &[(20_000, falls_behind), (21_000, first), (22_300, second), (23_100, starts)];
    holds(2, &[Mutant::OwnEntriesOnly], plan, is_settled);
}

#[test]
fn new_verifier_waits_for_replay_after_failover() {
    fn start(world: &mut World) {
        world.promote(false);
        world.kept = None;
        world.restart_verifier();
    }
    fn behind(world: &mut World) {
        world.fall_behind(5_000, false);
    }
    holds(2, &[Mutant::AcceptsUnsettled], &[(20_000, behind), (21_000, start)], is_settled);
}

/// They mark nothing: a log is accepted after the wait, with an alarm, and by then they have put
/// back what they acknowledged.
#[test]
fn log_of_old_issuers_is_accepted_after_the_wait() {
    for seed in 0..some() {
        let mut world = planned(seed, None, 2, &[(20_000, fails_over), (40_000, fails_over)]);
        world.issuers.iter_mut().for_each(|issuer| issuer.old = true);
        world.strict = true;
        assert_eq!(world.run().violation, None, "seed {seed}");
        assert!(world.verifier.machine.raised(Alarm::ReplayMissing), "seed {seed}");
    }
}

#[test]
fn old_issuer_beside_others_delays_no_proof() {
    for seed in 0..some() {
        let mut world = planned(seed, None, 3, &[(20_000, fails_over), (40_000, fails_over)]);
        world.issuers[0].old = true;
        assert_eq!(world.run().violation, None, "seed {seed}");
        is_settled(&world);
    }
}

/// First seen at seed 502,592 of all kinds of faults.
#[test]
fn late_order_reaches_tokens_of_sessions_that_were_lost_meanwhile() {
    fn log_in(world: &mut World) {
        (0..8).for_each(|_| world.login(0));
    }
    fn refused(world: &mut World) {
        world.issuers[1].connected_from = world.now + 4_000;
        if world.random.chance(50) {
            world.carry_out(1, Order::All, None);
        } else {
            (0..super::truth::USERS).for_each(|user| world.carry_out(1, Order::User { user, keep: false }, None));
        }
    }
    fn refresh_all(world: &mut World) {
        (0..world.store.truth.sessions.len()).for_each(|sid| world.refresh(0, sid));
    }
    fn lose_everything(world: &mut World) {
        world.store.lose_everything(world.now);
        world.note_orphans();
    }
    let plan: Plan<'_> = &[(18_000, log_in), (20_000, refused), (22_000, refresh_all), (23_000, lose_everything)];
    holds(2, &[Mutant::MovedOrdersKeepTheirReach], plan, is_settled);
}

/// First seen at seed 184,912 of all kinds of faults.
#[test]
fn backup_from_before_a_loss_is_complete_since_that_loss_only() {
    fn back_up(world: &mut World) {
        (0..8).for_each(|_| world.login(0));
        world.backup = Some(world.store.master().clone());
    }
    fn log_out(world: &mut World) {
        (0..world.store.truth.sessions.len()).for_each(|sid| world.carry_out(0, Order::Logout(sid), None));
    }
    fn lose_everything(world: &mut World) {
        world.crash_issuer(0);
        world.store.lose_everything(world.now);
        world.note_orphans();
        world.start_issuer(0, None);
    }
    fn restore(world: &mut World) {
        let mut backup = world.backup.take().expect("it was backed up");
        // The log is settled at once: nothing waits for the issuer that was killed.
        backup.listed.clear();
        world.replace(backup);
        world.cut();
        world.restart_verifier();
    }
    let plan: Plan<'_> = &[(18_000, back_up), (20_000, log_out), (21_000, lose_everything), (30_000, restore)];
    holds(1, &[Mutant::TrustsSinceOfABackup], plan, is_settled);
}

/// A verifier is put before a provider that runs already: its living tokens are older than the log.
#[test]
fn first_log_covers_the_living_tokens_of_an_enrolled_issuer() {
    fn begin(world: &mut World) {
        world.store.master().since = ENROLLED_AT;
        for user in [0, FOREIGN_FROM] {
            let sid = world.store.truth.begin(user);
            world.store.truth.hand_out(world.now, sid, ENROLLED_AT, 190);
        }
    }
    fn lose_everything(world: &mut World) {
        world.crash_issuer(0);
        world.store.lose_everything(world.now);
        world.note_orphans();
        world.start_issuer(0, None);
        world.cut();
        world.kept = None;
        world.restart_verifier();
    }
    let accepted = |world: &World, user: usize| {
        let tokens = world.store.truth.tokens.iter().enumerate();
        let mut of_user = tokens.filter(|(_, token)| token.user == user && token.issued == ENROLLED_AT);
        of_user.any(|(id, token)| token.dead_by.is_empty() && world.verifier.accepts(id, token))
    };
    let mut covered = 0;
    for seed in 0..some() {
        let mut world = planned(seed, None, 1, &[(0, begin)]);
        assert_eq!(world.run().violation, None, "seed {seed}");
        assert!(!accepted(&world, 0), "seed {seed}: a home token is older than the log");
        covered += u64::from(accepted(&world, FOREIGN_FROM));
        let mut world = planned(seed, None, 1, &[(0, begin), (30_000, lose_everything)]);
        assert_eq!(world.run().violation, None, "seed {seed}");
        assert!(!accepted(&world, FOREIGN_FROM), "seed {seed}: data were lost");
    }
    assert!(covered > 0, "unless it is revoked, an enrolled issuer's is accepted");
}

/// A client that may publish can push "all users, up to the year 2106".
fn forge(world: &mut World) {
    let master = world.store.master();
    let (Some(epoch), previous) = (master.epoch, master.last) else { return };
    let mut position = previous;
    position.sequence += 1;
    if world.random.chance(50) {
        position.ms += 86_400_000;
    }
    let target = Target::All { threshold: UnixTime(u64::from(u32::MAX)) };
    let revocation = Ok(Revocation { target, expires_at: UnixTime(u64::from(u32::MAX)) });
    world.send(Event::Pushed(Message { epoch: super::store::epoch_name(epoch), previous, position, revocation }));
}

/// A valid token that was never revoked is accepted.
fn accepts_the_living(world: &World) -> bool {
    let alive =
        |token: &super::truth::Token| token.dead_by.is_empty() && token.expires > true_seconds(world.now + 60_000);
    let tokens = &world.store.truth.tokens;
    let living: Vec<_> = tokens.iter().enumerate().filter(|(_, token)| alive(token)).collect();
    !living.is_empty() && living.iter().any(|(id, token)| world.verifier.accepts(*id, token))
}

#[test]
fn forged_push_is_dropped() {
    let mut looked = 0;
    for seed in 0..some() {
        let mut world = planned(seed, None, 1, &[(20_000, forge), (20_400, forge), (23_000, forge)]);
        (world.faults_until_ms, world.peace_ms) = (24_000, 6_000);
        assert_eq!(world.run().violation, None, "seed {seed}");
        assert!(world.verifier.dropped >= 1, "seed {seed}");
        looked += u64::from(accepts_the_living(&world));
        assert!(world.verifier.held.everybody() < UnixTime(u64::from(u32::MAX)), "seed {seed}");
    }
    assert!(looked > 0, "living tokens are accepted again");
}

/// A push stays applied whose entry a failover lost, although no log has it and no issuer can put
/// it back.
#[test]
fn push_lost_by_failover_stays_applied() {
    fn revoke(world: &mut World) {
        world.fall_behind(30, false);
        let (user, created) = (0, true_seconds(world.now));
        let sid = world.store.truth.begin(user);
        world.store.truth.hand_out(world.now, sid, created, 190);
        world.store.master().sessions.insert(sid, Session { user, created, newest: created });
        world.carry_out(0, Order::Logout(sid), None);
        world.planned = Some(sid);
        world.crash_issuer(0);
    }
    for seed in 0..some() {
        let mut world = planned(seed, None, 1, &[(20_000, revoke)]);
        world.faults_until_ms = 30_000;
        assert_eq!(world.run().violation, None, "seed {seed}");
        let Some(sid) = world.planned else { continue };
        let log = &world.store.servers[world.store.master].log;
        assert!(!log.iter().any(|(_, id)| world.store.truth.ends(*id, sid)), "seed {seed}: lost");
        let token = world.store.truth.sessions[sid].tokens[0];
        assert!(!world.verifier.accepts(token, &world.store.truth.tokens[token]), "seed {seed}");
    }
}
