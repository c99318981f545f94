//! The mover: its steps in order, and what each does. Nothing is remembered between two runs but what the servers and
//! the catalog have.

use howdah::MoveStep;

use super::Line;
use super::state::{Copy, Set, Side, State, Wrong, home, other};

/// The steps of the code that the argument rests on. The others prepare or clear away, and nothing is lost between them;
/// what `GuardSource` does takes effect with `CloseSource`.
const STEPS: [MoveStep; 14] = [
    MoveStep::LockServers,
    MoveStep::CopyRows,
    MoveStep::Verify,
    MoveStep::FenceTables,
    MoveStep::FenceSequences,
    MoveStep::Drain,
    MoveStep::RenameTarget,
    MoveStep::AwaitTargetHosts,
    MoveStep::CloseSource,
    MoveStep::AwaitSourceHosts,
    MoveStep::UnsealTarget,
    MoveStep::ChangeHome,
    MoveStep::AwaitUnsealed,
    MoveStep::StartReverse,
];

/// There and back.
pub(crate) const LAST_EPOCH: u8 = 3;

/// How much may happen: what is tried grows fast with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    /// How often a mover is started: to move, to come back, and again for one that died.
    pub(crate) runs: u8,
    /// Rows that clients write, and ids that they draw.
    pub(crate) writes: u8,
    pub(crate) ids: u8,
    /// How often an instance or the catalog fails over.
    pub(crate) failovers: u8,
}

/// A move of one shard, and its way back.
pub(crate) struct Move {
    pub(crate) scope: Scope,
    without: Option<Line>,
    /// The promise that is looked at, if it is not all.
    pub(crate) promise: Option<&'static str>,
    /// Standbys are synchronous: what is acknowledged, they have.
    synchronous: bool,
    /// The steps as the code takes them.
    order: Vec<MoveStep>,
}

/// What a mover does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum At {
    /// It takes an opened target back, because the source still has its old name.
    CloseTarget,
    Step(MoveStep),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mover {
    /// `None`: it does not run.
    pub(crate) at: Option<At>,
    /// Where the shard shall be.
    pub(crate) target: Side,
    /// Whether its session on each server lives. It may not have noticed that one does not.
    pub(crate) sessions: [bool; 2],
    /// The epoch that it found in the catalog.
    pub(crate) epoch: u8,
    /// Which run of them all it is.
    pub(crate) run: u8,
    /// The source's sequence, as read in the fence.
    pub(crate) next: u8,
}

impl Mover {
    pub(crate) fn source(&self) -> Side {
        other(self.target)
    }

    /// Whether it holds the fence on this side, or the part of it that this step takes.
    fn fences(&self, side: Side, from: MoveStep) -> bool {
        let within =
            matches!(self.at, Some(At::Step(at)) if from < at && at <= MoveStep::CloseSource);
        within && self.sessions[side] && self.source() == side
    }
}

/// How a step went.
enum Went {
    Well,
    /// It waits, and nothing changes.
    Nowhere,
    /// The copy is not equal: it is made again.
    Back,
    /// The mover gives up: what its sessions had open is rolled back.
    Wrong,
}

impl Move {
    pub(crate) fn new(scope: Scope, without: Option<Line>, synchronous: bool) -> Self {
        let mut order: Vec<_> = MoveStep::ALL.into_iter().filter(|at| STEPS.contains(at)).collect();
        if without == Some(Line::ClosedFirst) {
            let at = |step| order.iter().position(|at| *at == step).unwrap();
            let (close, change) = (at(MoveStep::CloseSource), at(MoveStep::ChangeHome));
            order[close..=change].rotate_right(1);
        }
        Self { scope, without, promise: None, synchronous, order }
    }

    /// The steps, in the order in which a mover takes them here.
    pub(crate) fn order(&self) -> &[MoveStep] {
        &self.order
    }

    pub(crate) fn has(&self, line: Line) -> bool {
        self.without != Some(line)
    }

    /// Whether this step does what it is for.
    fn does(&self, step: MoveStep) -> bool {
        self.has(Line::Step(step))
    }

    pub(crate) fn tables_are_locked(&self, state: &State, side: Side) -> bool {
        let locks = |mover: &Mover| mover.fences(side, MoveStep::FenceTables);
        self.does(MoveStep::FenceTables) && state.movers.iter().any(locks)
    }

    pub(crate) fn sequences_are_held(&self, state: &State, side: Side) -> bool {
        let holds = |mover: &Mover| mover.fences(side, MoveStep::FenceSequences);
        self.does(MoveStep::FenceSequences) && state.movers.iter().any(holds)
    }

    /// What is committed, a synchronous standby has.
    pub(crate) fn commit(&self, state: &mut State, side: Side, change: impl FnOnce(&mut Copy)) {
        let instance = &mut state.instances[side];
        change(&mut instance.now);
        // Nor does it matter how a standby lags that will not be promoted any more.
        if self.synchronous || state.failovers == 0 {
            instance.standby = instance.now;
        }
    }

    /// A mover is started, to bring the shard to a side.
    pub(crate) fn start(state: &mut State, mover: usize, target: Side) {
        let at = Some(At::Step(MoveStep::LockServers));
        // The catalog's standby is not behind by a whole move.
        state.catalog_standby = state.catalog;
        state.movers[mover] = Mover { at, target, run: state.runs, ..Mover::default() };
    }

    /// The mover goes on as the code does.
    pub(crate) fn step(&self, state: &mut State, mover: usize) -> Option<()> {
        let me = state.movers[mover];
        let went = match me.at? {
            At::CloseTarget if me.sessions[me.target] => {
                self.commit(state, me.target, |copy| {
                    (copy.epoch, copy.open, copy.capped) = (me.epoch, false, true);
                });
                state.movers[mover].at = Some(At::Step(MoveStep::Verify));
                return Some(());
            }
            At::CloseTarget => Went::Wrong,
            At::Step(step) => self.take(state, mover, step),
        };
        match (went, me.at?) {
            (Went::Well, At::Step(MoveStep::LockServers)) => {
                let at = self.look(state, mover);
                state.movers[mover].at = Some(at);
            }
            (Went::Well, At::Step(step)) => {
                let next = self.order.iter().position(|at| *at == step)? + 1;
                match self.order.get(next) {
                    Some(next) => state.movers[mover].at = Some(At::Step(*next)),
                    None => Self::end(state, mover),
                }
            }
            (Went::Back, _) => state.movers[mover].at = Some(At::Step(MoveStep::CopyRows)),
            (Went::Nowhere, _) => return None,
            (Went::Well | Went::Wrong, _) => Self::end(state, mover),
        }
        Some(())
    }

    /// Takes one step of the code's.
    fn take(&self, state: &mut State, mover: usize, step: MoveStep) -> Went {
        let me = state.movers[mover];
        let (source, target) = (me.source(), me.target);
        let new_epoch = me.epoch + 1;
        let needs = match step {
            MoveStep::FenceTables | MoveStep::FenceSequences | MoveStep::CloseSource => {
                (true, false)
            }
            MoveStep::RenameTarget | MoveStep::UnsealTarget => (false, true),
            MoveStep::CopyRows | MoveStep::Verify | MoveStep::Drain => (true, true),
            _ => (false, false),
        };
        if needs.0 && !me.sessions[source] || needs.1 && !me.sessions[target] {
            return Went::Wrong;
        }
        match step {
            // There and back is enough.
            MoveStep::LockServers if state.catalog == LAST_EPOCH && home(LAST_EPOCH) != target => {
                return Went::Wrong;
            }
            MoveStep::LockServers => {
                let others = state.movers.iter().enumerate().filter(|(other, _)| *other != mover);
                let is_held = |side: Side| others.clone().any(|(_, other)| other.sessions[side]);
                // Which of the servers is the source is known before anything is locked.
                if is_held(source) && self.has(Line::SourceLock)
                    || is_held(target) && self.has(Line::TargetLock)
                {
                    return Went::Wrong;
                }
                state.movers[mover].sessions = [true; 2];
            }
            MoveStep::CopyRows => {
                let rows = state.instances[source].now.rows;
                self.copy(state, &me, rows);
            }
            MoveStep::Verify => {
                let has_all = state.instances[target].now.rows & state.sent == state.sent;
                if !has_all && self.does(step) {
                    return Went::Back;
                }
            }
            // Who writes is waited for.
            MoveStep::FenceTables
                if self.does(step) && state.instances[source].pending.is_some() =>
            {
                return Went::Nowhere;
            }
            MoveStep::FenceSequences => state.movers[mover].next = state.instances[source].now.next,
            MoveStep::Drain
                if self.does(step) && state.sent != state.instances[source].now.rows =>
            {
                return Went::Nowhere;
            }
            MoveStep::RenameTarget => {
                if state.instances[target].now.epoch != me.epoch {
                    return Went::Wrong;
                }
                self.commit(state, target, |copy| {
                    (copy.epoch, copy.mark, copy.opens) = (new_epoch, me.run, me.next);
                });
                if !self.does(MoveStep::UnsealTarget) {
                    self.unseal(state, target);
                }
            }
            MoveStep::UnsealTarget => {
                let copy = &state.instances[target].now;
                if copy.epoch != new_epoch {
                    return Went::Wrong;
                }
                if !copy.open {
                    self.unseal(state, target);
                }
            }
            MoveStep::AwaitUnsealed if !state.instances[target].standby.open && self.does(step) => {
                return Went::Nowhere;
            }
            MoveStep::AwaitTargetHosts => {
                let hosts = &state.instances[target];
                if hosts.now.epoch != new_epoch {
                    return Went::Wrong;
                }
                // The name alone may be that of an attempt before, which was taken back.
                let has_mark = hosts.standby.mark == me.run || !self.has(Line::Mark);
                let has_all = hosts.standby.epoch == new_epoch && has_mark;
                if !has_all && self.does(step) {
                    return Went::Nowhere;
                }
            }
            MoveStep::CloseSource => {
                let sealed = self.does(MoveStep::GuardSource);
                let name = if self.has(Line::Rename) { new_epoch } else { me.epoch };
                self.commit(state, source, |copy| {
                    copy.epoch = name;
                    copy.capped |= sealed;
                    copy.open &= !sealed;
                });
            }
            MoveStep::AwaitSourceHosts if self.has(Line::Rename) => {
                let hosts = &state.instances[source];
                if hosts.now.epoch != new_epoch {
                    return Went::Wrong;
                }
                if hosts.standby.epoch != new_epoch && self.does(step) {
                    return Went::Nowhere;
                }
            }
            MoveStep::ChangeHome if state.catalog != new_epoch => {
                if state.catalog != me.epoch && self.has(Line::Compare) {
                    return Went::Wrong;
                }
                state.publish(new_epoch);
            }
            MoveStep::StartReverse => {
                Self::turn_stream(state, target);
                state.rested = state.published;
            }
            _ => {}
        }
        Went::Well
    }

    /// What was sealed serves, with ids that go on from the source's.
    fn unseal(&self, state: &mut State, side: Side) {
        let raises = self.has(Line::Sequences);
        self.commit(state, side, |copy| {
            (copy.open, copy.capped) = (true, false);
            copy.next = copy.next.max(if raises { copy.opens } else { 0 });
        });
        state.settle();
    }

    /// The facts say where to go on. The home's name comes first: as long as it is the old one the shard lives there,
    /// whatever the other side looks like; once it is the new one there is no way back.
    fn look(&self, state: &mut State, mover: usize) -> At {
        let epoch = state.catalog;
        let me = &mut state.movers[mover];
        me.epoch = epoch;
        let from = home(epoch);
        let (source, target) = (&state.instances[from].now, &state.instances[other(from)].now);
        if source.epoch > epoch {
            me.target = other(from);
            return At::Step(MoveStep::AwaitSourceHosts);
        }
        if epoch == state.published && state.rested != state.published {
            // The move before has not come to rest: it comes first.
            (me.target, me.epoch) = (from, epoch - 1);
            return At::Step(MoveStep::AwaitSourceHosts);
        }
        if me.target == from {
            return At::Step(MoveStep::StartReverse);
        }
        if target.epoch == 0 || !state.same_timelines && self.has(Line::Timelines) {
            At::Step(MoveStep::CopyRows)
        } else if target.epoch > epoch && self.has(Line::ClosedAgain) {
            At::CloseTarget
        } else {
            At::Step(MoveStep::Verify)
        }
    }

    /// What is written on the new home goes to the old copy from now on: all that the noted position did not cover.
    fn turn_stream(state: &mut State, from: Side) {
        if state.stream == Some(other(from)) {
            state.stream = Some(from);
            state.sent = state.instances[0].now.rows & state.instances[1].now.rows;
        }
    }

    /// Puts these rows on the target, whatever was there, and streams what comes after.
    pub(crate) fn copy(&self, state: &mut State, me: &Mover, rows: Set) {
        self.commit(state, me.target, |copy| {
            *copy = Copy { epoch: me.epoch, capped: true, rows, ..Copy::default() };
        });
        state.stream = Some(me.source());
        state.sent = state.instances[me.source()].now.rows;
        state.same_timelines = true;
    }

    /// Its sessions end, and with them what they had open and locked.
    pub(crate) fn end(state: &mut State, mover: usize) {
        state.movers[mover] = Mover::default();
    }

    /// A row that a client's open transaction has written is committed and acknowledged.
    pub(crate) fn acknowledge(&self, state: &mut State, side: Side) -> Option<()> {
        let write = state.instances[side].pending.take()?;
        self.commit(state, side, |copy| copy.rows |= 1 << write);
        state.fresh |= 1 << write;
        if state.taker() != side {
            state.wrong = Some(Wrong::Strayed);
        }
        Some(())
    }

    /// A client draws an id.
    pub(crate) fn draw(&self, state: &mut State, side: Side) {
        let id = state.instances[side].now.next;
        self.commit(state, side, |copy| copy.next += 1);
        state.instances[side].held = true;
        if state.issued() & 1 << id != 0 {
            state.wrong = Some(Wrong::Repeated);
        }
        state.fresh_ids |= 1 << id;
    }

    /// The subscriber has applied what was committed. It finds tables by name, so both schemas have the same.
    pub(crate) fn apply(&self, state: &mut State) -> Option<()> {
        let from = state.stream?;
        let (source, target) = (state.instances[from].now, state.instances[other(from)].now);
        if !state.same_timelines || source.epoch != target.epoch || state.sent == source.rows {
            return None;
        }
        let rows = source.rows & !state.sent;
        self.commit(state, other(from), |copy| copy.rows |= rows);
        state.sent = source.rows;
        Some(())
    }
}
