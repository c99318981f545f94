//! The argument of `docs/moves.md`, checked by trying every interleaving of one shard's move and its way back.
//!
//! Two instances, each with a standby that follows when it likes; movers that may die, freeze or lose a session at every
//! step, and be run again; a catalog; failovers that lose what the standby did not have, the catalog's too. Clients are not
//! counted: whoever ever read a map may come at any time and act on it, and whoever named a copy once may go on with
//! what it found there without naming it again, as a cached plan does. So the model knows which maps were ever
//! published, and whether a session may have hold of a copy.
//!
//! A write is lost where the home, open to its clients, lacks one that was acknowledged. What an instance itself loses in
//! its failover is no move's doing and does not count: writes and ids of its present time as home, never those from
//! before a cutover. With synchronous standbys nothing at all is excused.
//!
//! A model that cannot fail proves nothing. So each line of the argument is taken away in a test of its own, and the
//! model must then find what goes wrong.
//!
//! And a model of something else proves nothing either: a real move has to take its steps in the order that is checked here.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

#[path = "move_model/check.rs"]
mod check;
#[path = "move_model/mover.rs"]
mod mover;
#[path = "move_model/state.rs"]
mod state;

mod moving;

use std::sync::{Arc, Mutex};

use howdah::{InstanceName, MoveNews, MovePhase, MoveStep, Mover, Result};
use stateright::{Checker, HasDiscoveries, Model};

use check::{BACK, LOST, REPEATED, SHUT, STALE, STRAYED, STUCK};
use mover::{Move, Scope};
use moving::cluster_with_tables;
use moving::fault::{Point, Way};

/// A line of the argument that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// What a step does.
    Step(MoveStep),
    /// One mover at a time changes the source: the lock is that of the session which holds the fence …
    SourceLock,
    /// … and the target: the lock is that of the session which opens it.
    TargetLock,
    /// A copy that was made before a failover of either side is none.
    Timelines,
    /// The new epoch is part of the schema's name on the source.
    Rename,
    /// The target's sequences go on from the source's.
    Sequences,
    /// The target's hosts show this attempt's mark, not just the name.
    Mark,
    /// The source is closed before the map names the target.
    ClosedFirst,
    /// The map changes only from what the mover found.
    Compare,
    /// The source's name decides, not the target's: what was opened in vain is closed again.
    ClosedAgain,
}

/// Enough for every line to be needed.
const SCOPE: Scope = Scope { runs: 2, writes: 1, ids: 2, failovers: 1 };
/// Many movers, and little else.
const MOVERS: Scope = Scope { runs: 3, writes: 0, ids: 0, failovers: 0 };

fn explore(model: Move) -> impl Checker<Move> {
    model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join()
}

#[test]
fn a_move_holds_under_every_interleaving() {
    let checker = explore(Move::new(SCOPE, None, false));
    checker.assert_properties();
    assert!(checker.is_done());
    assert!(checker.unique_state_count() > 50_000, "{} states", checker.unique_state_count());
}

#[test]
fn movers_that_freeze_and_wake_do_no_harm() {
    let checker = explore(Move::new(MOVERS, None, false));
    checker.assert_properties();
    assert!(checker.is_done());
}

#[test]
fn synchronous_standbys_lose_nothing_at_all() {
    let checker = explore(Move::new(SCOPE, None, true));
    checker.assert_properties();
    assert!(checker.is_done());
}

/// Looks for a broken promise where one line of the argument is missing.
fn fails_without(line: Line, promise: &'static str) {
    fails_within(SCOPE, line, promise);
}

fn fails_within(scope: Scope, line: Line, promise: &'static str) {
    let mut model = Move::new(scope, Some(line), false);
    model.promise = Some(promise);
    let found = explore(model).discoveries();
    assert!(found.contains_key(promise), "{promise:?} holds without {line:?}: is it needed?");
}

#[test]
fn it_needs_the_lock_on_the_source() {
    fails_without(Line::SourceLock, STUCK);
}

#[test]
fn it_needs_the_lock_on_the_target() {
    fails_within(MOVERS, Line::TargetLock, STUCK);
}

#[test]
fn it_needs_to_know_a_failover() {
    fails_without(Line::Timelines, STUCK);
}

#[test]
fn it_needs_the_verification() {
    fails_without(Line::Step(MoveStep::Verify), LOST);
}

#[test]
fn it_needs_the_locks_on_tables() {
    fails_without(Line::Step(MoveStep::FenceTables), LOST);
}

#[test]
fn it_needs_the_locks_on_sequences() {
    fails_without(Line::Step(MoveStep::FenceSequences), REPEATED);
}

#[test]
fn it_needs_the_guards() {
    fails_without(Line::Step(MoveStep::GuardSource), STRAYED);
}

#[test]
fn it_needs_the_mark() {
    fails_without(Line::Step(MoveStep::Drain), LOST);
}

#[test]
fn it_needs_the_sequences() {
    fails_without(Line::Sequences, REPEATED);
}

#[test]
fn it_needs_the_wait_for_the_target_s_hosts() {
    fails_without(Line::Step(MoveStep::AwaitTargetHosts), STUCK);
}

#[test]
fn it_needs_the_source_closed_first() {
    fails_without(Line::ClosedFirst, STRAYED);
}

#[test]
fn it_needs_the_target_sealed_until_the_source_is_closed() {
    fails_without(Line::Step(MoveStep::UnsealTarget), LOST);
}

#[test]
fn it_needs_the_wait_for_the_unsealed_hosts() {
    fails_without(Line::Step(MoveStep::AwaitUnsealed), SHUT);
}

#[test]
fn it_needs_the_wait_for_the_source_s_hosts() {
    fails_without(Line::Step(MoveStep::AwaitSourceHosts), STRAYED);
}

#[test]
fn it_needs_the_epoch_in_the_name() {
    fails_without(Line::Rename, STALE);
}

#[test]
fn it_needs_the_comparison_in_the_catalog() {
    fails_within(MOVERS, Line::Compare, BACK);
}

#[test]
fn it_needs_what_was_opened_in_vain_to_be_closed() {
    fails_without(Line::ClosedAgain, STUCK);
}

#[test]
fn it_needs_the_mark_on_the_target_s_hosts() {
    fails_without(Line::Mark, STUCK);
}

/// Steps that go on together, since none of them waits for what another does: all are done before the step after them.
const TOGETHER: [&[MoveStep]; 3] = [
    &[MoveStep::GuardSource, MoveStep::Recheck, MoveStep::Drain],
    &[MoveStep::NotePosition, MoveStep::AwaitTargetHosts],
    &[MoveStep::NotePosition, MoveStep::RecheckTimelines],
];

/// What a mover has told of its steps: that they began, or are done.
type Told = Arc<Mutex<Vec<(MoveStep, MoveNews)>>>;

/// The steps as they began, each once all before it were done. Of a fence that was tried again, the last.
fn taken(told: &Told) -> Vec<MoveStep> {
    let (mut taken, mut open) = (Vec::<MoveStep>::new(), Vec::<MoveStep>::new());
    for (step, news) in told.lock().unwrap().drain(..) {
        if matches!(news, MoveNews::Done) {
            let begun = open.iter().position(|begun| *begun == step);
            open.remove(begun.unwrap_or_else(|| panic!("{step} is done, and has not begun")));
            continue;
        }
        if step == MoveStep::FenceTables {
            taken.retain(|before| *before < step);
            open.retain(|before| *before < step);
        }
        let waits_for = |before: &&MoveStep| {
            !TOGETHER.iter().any(|all| all.contains(*before) && all.contains(&step))
        };
        let early = open.iter().find(waits_for);
        assert!(early.is_none(), "{step} began before {early:?} was done");
        taken.push(step);
        open.push(step);
    }
    assert!(open.is_empty(), "never done: {open:?}");
    taken
}

#[tokio::test]
async fn a_real_move_takes_its_steps_in_the_order_that_is_checked() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let told = Told::default();
    let tells = told.clone();
    let mover = Mover::new(&test.config())?.on_event(move |event| {
        if matches!(event.what, MoveNews::Begun | MoveNews::Done) {
            tells.lock().unwrap().push((event.step, event.what.clone()));
        }
    });
    let (shard, to) = (moving::shard(), InstanceName::new("pg1")?);
    let moved = mover.run(shard, &to).await?;
    let there = taken(&told);
    assert_eq!(mover.rollback(moved.id).await?.phase, MovePhase::RolledBack);
    let back = taken(&told);
    let again = mover.run(shard, &to).await?;
    assert_eq!(taken(&told), there);
    assert_eq!(mover.finish(again.id).await?.phase, MovePhase::Finished);
    let end = taken(&told);

    let all = |way| -> Vec<MoveStep> {
        Point::all().into_iter().filter(|point| point.way == way).map(|point| point.step).collect()
    };
    assert_eq!([&there, &back, &end], [&all(Way::There), &all(Way::Back), &all(Way::End)]);

    let model = Move::new(SCOPE, None, false);
    let of_model = |taken: &[MoveStep]| -> Vec<MoveStep> {
        taken.iter().filter(|step| model.order().contains(step)).copied().collect()
    };
    assert_eq!(of_model(&there), model.order());
    assert_eq!(of_model(&back), of_model(&all(Way::Back)));
    Ok(())
}
