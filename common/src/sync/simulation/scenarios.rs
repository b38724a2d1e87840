//! Scenarios that have a name: what a reader of the promise would ask about.

use super::faults::Among;
use super::issuer::Issuer;
use super::mutant::Mutant;
use super::server::Session;
use super::some;
use super::store::Order;
use super::truth::true_seconds;
use super::world::{What, World};
use crate::revocation::{Revocation, Target};
use crate::sync::{Alarm, Event};
use crate::time::UnixTime;
use crate::wire::Message;

const NOTHING: Among = &[];

/// What happens when, in milliseconds.
type Plan<'a> = &'a [(u64, fn(&mut World))];

/// A world in which only that happens which is planned.
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

fn silence(world: &mut World) {
    world.pushes_lost = 100;
}

fn sound(world: &mut World) {
    world.pushes_lost = 0;
}

#[test]
fn two_failovers_within_the_window_lose_nothing() {
    fn at_once(world: &mut World) {
        world.fall_behind(0, false);
    }
    let plan: Plan<'_> = &[
        (20_000, silence),
        (20_010, fails_over),
        (21_150, fails_over),
        (22_300, at_once),
        (23_000, sound),
        (40_000, fails_over),
    ];
    holds(3, &[Mutant::BelievesUnsettled], plan, is_settled);
}

/// Whoever was logged out just before the failover that lost it neither refreshes nor logs in before that is put back.
#[test]
fn no_session_is_refreshed_or_created_before_the_log_is_settled() {
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

/// The others wait for it, and nobody relies on the log before it has put back what it knows, or the wait is over.
#[test]
fn a_paused_issuer_is_waited_for() {
    fn falls_behind(world: &mut World) {
        world.pushes_lost = 100;
        world.fall_behind(1_000, false);
    }
    fn pause(world: &mut World) {
        world.issuers[0].paused_until = world.now + 4_000;
    }
    let plan: Plan<'_> = &[(20_000, falls_behind), (20_990, pause), (21_100, sound)];
    holds(2, &[Mutant::BelievesUnsettled], plan, is_settled);
}

/// It is delisted after a minute, and what only it knew is put back when it is there again.
#[test]
fn an_issuer_that_is_paused_for_long_is_delisted() {
    fn pause(world: &mut World) {
        world.faults_until_ms = 110_000;
        world.issuers[0].paused_until = world.now + 90_000;
    }
    fn believed(world: &mut World) {
        assert!(world.verifier.machine.raised(Alarm::ReplayMissing), "the wait is over");
        assert!(!world.store.master().is_settled());
    }
    fn delisted(world: &mut World) {
        assert!(world.store.master().is_settled(), "those that are left have marked");
    }
    let plan: Plan<'_> = &[(20_000, pause), (20_010, fails_over), (40_000, believed), (95_000, delisted)];
    holds(2, &[], plan, is_settled);
}

/// None of those that acknowledged is there any more, but those that came after them have read the log.
#[test]
fn a_rolling_restart_of_issuers_before_a_failover_loses_nothing() {
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
        // Even a log that is believed without a mark must have everything: all that know anything are there.
        (world.strict, world.faults_until_ms) = (true, 90_000);
        world.fall_behind(3_000, false);
    }
    let plan: Plan<'_> = &[(20_000, falls_behind), (21_000, first), (22_300, second), (23_100, starts)];
    holds(2, &[Mutant::OwnEntriesOnly], plan, is_settled);
}

#[test]
fn a_verifier_that_starts_right_after_a_failover_waits_for_the_replay() {
    fn start(world: &mut World) {
        world.promote(false);
        world.kept = None;
        world.restart_verifier();
    }
    fn behind(world: &mut World) {
        world.fall_behind(5_000, false);
    }
    holds(2, &[Mutant::BelievesUnsettled], &[(20_000, behind), (21_000, start)], is_settled);
}

/// They mark nothing: a log is believed after the wait, with an alarm, and by then they have put back what they acknowledged.
#[test]
fn issuers_of_the_version_before_are_believed_after_the_wait() {
    for seed in 0..some() {
        let mut world = planned(seed, None, 2, &[(20_000, fails_over), (40_000, fails_over)]);
        world.issuers.iter_mut().for_each(|issuer| issuer.old = true);
        world.strict = true;
        assert_eq!(world.run().violation, None, "seed {seed}");
        assert!(world.verifier.machine.raised(Alarm::ReplayMissing), "seed {seed}");
    }
}

#[test]
fn an_issuer_of_the_version_before_beside_others_keeps_nobody_waiting() {
    for seed in 0..some() {
        let mut world = planned(seed, None, 3, &[(20_000, fails_over), (40_000, fails_over)]);
        world.issuers[0].old = true;
        assert_eq!(world.run().violation, None, "seed {seed}");
        is_settled(&world);
    }
}

/// Whoever may publish can say "everybody, up to the year 2106".
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

/// A living token of nobody that was ever revoked.
fn accepts_the_living(world: &World) -> bool {
    let alive =
        |token: &super::truth::Token| token.dead_by.is_empty() && token.expires > true_seconds(world.now + 60_000);
    let tokens = &world.store.truth.tokens;
    let living: Vec<_> = tokens.iter().enumerate().filter(|(_, token)| alive(token)).collect();
    !living.is_empty() && living.iter().any(|(id, token)| world.verifier.accepts(*id, token))
}

#[test]
fn a_forged_push_is_dropped_when_the_log_does_not_have_it() {
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

/// A push whose entry a failover took away is held, although no log has it and nobody is left to put it back.
#[test]
fn a_push_that_a_failover_took_away_stays_held() {
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
