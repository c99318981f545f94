//! What may happen in which order, and what must hold always.

use howdah::MoveStep;
use stateright::{Model, Property};

use super::mover::{At, LAST_EPOCH, Move};
use super::state::{Side, State, Wrong, home, other};

/// The steps in which a run ends, with all patience.
const PATIENCE: usize = 100;

pub(crate) const LOST: &str = "no acknowledged write is lost";
pub(crate) const STRAYED: &str = "one copy at a time takes writes";
pub(crate) const REPEATED: &str = "no id is issued twice";
pub(crate) const STALE: &str = "an old map names nothing";
pub(crate) const SHUT: &str = "a shard whose move has come to rest takes writes";
pub(crate) const BACK: &str = "the map never goes back, but with its catalog";
pub(crate) const STUCK: &str = "the same command again always converges";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Start(usize, Side),
    Step(usize),
    /// A copy is made, and lacks a row.
    CopyBadly(usize),
    /// A mover dies, and its sessions with it.
    Die(usize),
    /// A server ends a mover's session: it was idle for too long, or the network was cut.
    Cut(usize, Side),
    Apply,
    /// A standby catches up.
    Follow(Side),
    FailOver(Side),
    FollowCatalog,
    FailOverCatalog,
    /// A client opens a transaction and writes a row.
    Write(Side),
    /// It commits.
    Commit(Side),
    Draw(Side),
}

impl Move {
    /// Whether a client gets at the copy: by a name that some map has, or because it has hold of it from before.
    fn is_reached(state: &State, side: Side) -> bool {
        let copy = &state.instances[side];
        state.is_named(side) || copy.held && copy.now.epoch > 0
    }

    /// After the last failover nobody cares how standbys lag.
    fn rest(state: &mut State) {
        if state.failovers == 0 {
            for instance in &mut state.instances {
                instance.standby = instance.now;
            }
            state.catalog_standby = state.catalog;
        }
    }

    fn act(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Start(mover, target) => {
                let back = target == home(1);
                let is_off = state.movers[mover].at.is_none();
                if !is_off || state.runs == self.scope.runs || back != (state.catalog > 1) {
                    return None;
                }
                state.runs += 1;
                Self::start(state, mover, target);
            }
            Action::Step(mover) => self.step(state, mover)?,
            Action::CopyBadly(mover) => {
                let me = state.movers[mover];
                if me.at != Some(At::Step(MoveStep::CopyRows)) || me.sessions != [true; 2] {
                    return None;
                }
                let rows = state.instances[me.source()].now.rows;
                self.copy(state, &me, rows & rows.wrapping_sub(1));
                state.movers[mover].at = Some(At::Step(MoveStep::Verify));
            }
            Action::Die(mover) => {
                state.movers[mover].at?;
                Self::end(state, mover);
            }
            Action::Cut(mover, side) => {
                // Who comes after finds the lock free; without that it is no more than a death.
                let alive = std::mem::take(&mut state.movers[mover].sessions[side]);
                if !alive || state.runs == self.scope.runs {
                    return None;
                }
            }
            Action::Apply => self.apply(state)?,
            Action::Follow(side) => {
                let instance = &mut state.instances[side];
                if instance.standby == instance.now {
                    return None;
                }
                instance.standby = instance.now;
            }
            Action::FailOver(side) => {
                if state.failovers == 0 || state.instances[side].now.epoch == 0 {
                    return None;
                }
                state.failovers -= 1;
                state.fail_over(side);
                Self::rest(state);
            }
            Action::FollowCatalog if state.catalog_standby != state.catalog => {
                state.catalog_standby = state.catalog;
            }
            Action::FailOverCatalog
                if state.failovers > 0 && state.catalog_standby < state.catalog =>
            {
                state.failovers -= 1;
                state.catalog = state.catalog_standby;
                Self::rest(state);
            }
            Action::FollowCatalog | Action::FailOverCatalog => return None,
            Action::Write(side) => {
                let instance = &state.instances[side];
                let obeys = instance.now.open && !self.tables_are_locked(state, side);
                let may = instance.pending.is_none() && state.writes <= self.scope.writes;
                if !obeys || !may || !Self::is_reached(state, side) {
                    return None;
                }
                state.instances[side].pending = Some(state.writes);
                state.instances[side].held = true;
                state.writes += 1;
            }
            Action::Commit(side) => self.acknowledge(state, side)?,
            Action::Draw(side) => {
                let copy = &state.instances[side].now;
                let obeys = !copy.capped && !self.sequences_are_held(state, side);
                if !obeys || copy.next >= self.scope.ids || !Self::is_reached(state, side) {
                    return None;
                }
                self.draw(state, side);
            }
        }
        Some(())
    }

    /// Whether the home, if it takes writes, has all that were acknowledged.
    fn keeps(state: &State) -> bool {
        let copy = &state.instances[home(state.published)].now;
        let lacks = state.acknowledged() & !copy.rows != 0;
        !(lacks && copy.open && copy.epoch == state.published)
    }

    /// Whether the home takes writes once its move has come to rest.
    fn serves(state: &State) -> bool {
        let copy = &state.instances[home(state.published)].now;
        state.rested != state.published || copy.epoch != state.published || copy.open
    }

    /// Whether every map but the newest names nothing any more.
    fn forgets(state: &State) -> bool {
        let side = other(home(state.published));
        !state.is_named(side)
    }

    /// All that is down is up again and stays so, and the command is given until it has nothing left to do: is the shard
    /// then in one place, whole and open?
    fn converges(&self, state: &State) -> bool {
        let mut state = state.clone();
        for mover in 0..2 {
            Self::end(&mut state, mover);
        }
        for side in 0..2 {
            self.acknowledge(&mut state, side);
        }
        let target =
            if state.published > 1 && state.catalog > 1 { home(1) } else { other(home(1)) };
        for _ in 0..3 {
            Self::start(&mut state, 0, target);
            let mut steps = 0;
            while state.movers[0].at.is_some() && steps < PATIENCE {
                for instance in &mut state.instances {
                    instance.standby = instance.now;
                }
                self.apply(&mut state);
                self.step(&mut state, 0);
                steps += 1;
            }
            if steps == PATIENCE {
                return false;
            }
        }
        let there = &state.instances[target].now;
        let left = &state.instances[other(target)].now;
        let is_home = home(state.catalog) == target && there.epoch == state.catalog;
        let is_whole = state.acknowledged() & !there.rows == 0;
        state.wrong.is_none()
            && is_home
            && is_whole
            && there.open
            && !there.capped
            && (left.capped && !left.open || left.epoch == 0)
    }
}

impl Model for Move {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.scope.failovers)]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Action>) {
        for i in 0..2 {
            actions.extend([
                Action::Start(i, other(home(1))),
                Action::Start(i, home(1)),
                Action::Step(i),
                Action::CopyBadly(i),
                Action::Die(i),
                Action::Cut(i, 0),
                Action::Cut(i, 1),
                Action::Follow(i),
                Action::FailOver(i),
                Action::Write(i),
                Action::Commit(i),
                Action::Draw(i),
            ]);
        }
        actions.extend([Action::Apply, Action::FollowCatalog, Action::FailOverCatalog]);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.act(&mut state, action)?;
        // Movers are alike: only one order of them needs a visit.
        state.movers.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(LOST, |_, state: &State| Self::keeps(state)),
            Property::always(STRAYED, |_, state: &State| state.wrong != Some(Wrong::Strayed)),
            Property::always(REPEATED, |_, state: &State| state.wrong != Some(Wrong::Repeated)),
            Property::always(STALE, |_, state: &State| Self::forgets(state)),
            Property::always(SHUT, |_, state: &State| Self::serves(state)),
            Property::always(BACK, |model: &Self, state: &State| {
                state.catalog == state.published || state.failovers < model.scope.failovers
            }),
            Property::always(STUCK, |model: &Self, state| model.converges(state)),
            Property::sometimes("a shard goes there and back", |model: &Self, state: &State| {
                let written = state.acknowledged().count_ones() > u32::from(model.scope.writes);
                state.catalog == LAST_EPOCH && written
            }),
        ];
        if let Some(promise) = self.promise {
            properties.retain(|property| property.name == promise);
        }
        properties
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.published <= LAST_EPOCH
    }
}
