//! The argument at the head of `sql/clock.sql`, checked by trying every interleaving of three callers.
//!
//! Each step of the model is one access to one sequence or to the lock; between any two, any other caller may do
//! anything, and every caller may stop for good. The server's clock is not modelled but replaced by whim:
//! wherever the SQL asks it, both answers are followed, so what holds here holds for every clock.
//!
//! A model that cannot fail proves nothing. So each line of the argument is taken away in a test of its own,
//! and the model must then find a repeated or a belated id.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

use stateright::{Checker, Model, Property};

const CALLERS: usize = 3;
/// Draws, and ticks jumped over, in all: enough for a burst to pass a jump's target.
const MAX_DRAWS: u8 = 4;
const MAX_JUMPED: u8 = 2;

/// A line of the argument that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// jumps is read before the draw …
    FirstReading,
    /// … and again after it, and must be the same.
    SecondReading,
    /// Drawing is one step.
    AtomicDraw,
    /// One caller at a time jumps.
    Lock,
    /// What a jump adds to was read while alone.
    ReadWhileAlone,
    /// A jump never lowers.
    OnlyRaised,
    /// tick is only drawn from: what jumps is the other sequence.
    OnlyDrawn,
}

struct Clock {
    without: Option<Line>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    tick: u8,
    jumps: u8,
    /// Which ticks were issued, as bits.
    issued: u64,
    /// A tick was issued that had been issued before.
    repeated: bool,
    /// A tick was issued that is not above all that were issued before it was asked for.
    belated: bool,
    callers: [Caller; CALLERS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Caller {
    at: Step,
    /// The first reading of jumps.
    before: u8,
    drawn: u8,
    /// What a jump adds to.
    base: u8,
    /// The greatest tick issued when this one was asked for.
    floor: u8,
}

/// What a caller does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    #[default]
    Ask,
    ReadBefore,
    Draw,
    /// Only without [`Line::AtomicDraw`]: the draw was read, and is yet to be stored.
    StoreDraw,
    ReadAfter,
    TryLock,
    ReadBase,
    Jump,
    Unlock,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    /// A caller takes its next step; where the clock has a say, it says so.
    Step(usize, Whim),
    /// A caller is cancelled or killed; its lock goes with its transaction.
    Stop(usize),
}

/// What the clock answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whim {
    /// The tick drawn is accurate; or the clock is not behind.
    Fine,
    /// The tick is behind the clock by so much, or ahead of it.
    Off(i8),
}

impl Clock {
    fn has(&self, line: Line) -> bool {
        self.without != Some(line)
    }

    /// Whether a caller that is about to do this has the lock.
    fn holds_lock(&self, step: Step) -> bool {
        matches!(step, Step::Jump | Step::Unlock)
            || step == Step::ReadBase && self.has(Line::ReadWhileAlone)
    }

    fn issue(state: &mut State, caller: usize, tick: u8) {
        let bit = 1 << tick;
        state.repeated |= state.issued & bit != 0;
        state.belated |= tick <= state.callers[caller].floor;
        state.issued |= bit;
        state.callers[caller] = Caller::default();
    }

    /// Takes a step; `None` where there is nothing to do.
    fn step(&self, state: &mut State, caller: usize, whim: Whim) -> Option<()> {
        let locked = state.callers.iter().any(|other| self.holds_lock(other.at));
        let greatest = state.issued.checked_ilog2().unwrap_or(0);
        let me = &mut state.callers[caller];
        me.at = match (me.at, whim) {
            (Step::Ask, Whim::Fine) => {
                me.floor = u8::try_from(greatest).ok()?;
                Step::ReadBefore
            }
            (Step::ReadBefore, Whim::Fine) => {
                me.before = state.jumps;
                Step::Draw
            }
            (Step::Draw, Whim::Fine) if self.has(Line::AtomicDraw) => {
                state.tick += 1;
                me.drawn = state.tick;
                Step::ReadAfter
            }
            (Step::Draw, Whim::Fine) => {
                me.drawn = state.tick + 1;
                Step::StoreDraw
            }
            (Step::StoreDraw, Whim::Fine) => {
                state.tick = me.drawn;
                Step::ReadAfter
            }
            (Step::ReadAfter, whim) => {
                if !self.has(Line::FirstReading) {
                    me.before = state.jumps;
                }
                let same = me.before == state.jumps || !self.has(Line::SecondReading);
                let tick = me.drawn + me.before;
                match whim {
                    Whim::Fine if same => {
                        Self::issue(state, caller, tick);
                        return Some(());
                    }
                    Whim::Off(1) => {
                        (me.before, me.drawn) = (0, 0);
                        if self.has(Line::ReadWhileAlone) { Step::TryLock } else { Step::ReadBase }
                    }
                    Whim::Fine | Whim::Off(_) => return None,
                }
            }
            (Step::TryLock, Whim::Fine) if locked && self.has(Line::Lock) => Step::ReadBefore,
            (Step::TryLock, Whim::Fine) if self.has(Line::ReadWhileAlone) => Step::ReadBase,
            (Step::TryLock, Whim::Fine) => Step::Jump,
            (Step::ReadBase, Whim::Fine) => {
                me.base = if self.has(Line::OnlyDrawn) { state.jumps } else { state.tick };
                if self.has(Line::ReadWhileAlone) { Step::Jump } else { Step::TryLock }
            }
            (Step::Jump, Whim::Fine) => Step::Unlock,
            (Step::Jump, Whim::Off(by)) if by > 0 || !self.has(Line::OnlyRaised) => {
                let target = me.base.checked_add_signed(by)?;
                if self.has(Line::OnlyDrawn) {
                    state.jumps = target;
                } else {
                    state.tick = target;
                }
                Step::Unlock
            }
            (Step::Unlock, Whim::Fine) => {
                me.base = 0;
                Step::ReadBefore
            }
            _ => return None,
        };
        Some(())
    }
}

impl Model for Clock {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (caller, Caller { at, .. }) in state.callers.iter().enumerate() {
            if *at == Step::Stopped {
                continue;
            }
            actions.push(Action::Stop(caller));
            let whims = [Whim::Fine, Whim::Off(-1), Whim::Off(1), Whim::Off(2)];
            actions.extend(whims.map(|whim| Action::Step(caller, whim)));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Step(caller, whim) => self.step(&mut state, caller, whim)?,
            Action::Stop(caller) => {
                state.callers[caller] = Caller { at: Step::Stopped, ..Caller::default() };
            }
        }
        // Callers are alike: only one order of them needs a visit.
        state.callers.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no tick is issued twice", |_, state: &State| !state.repeated),
            Property::always(
                "each is above those issued before it was asked for",
                |_, state: &State| !state.belated,
            ),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.tick <= MAX_DRAWS && state.jumps <= MAX_JUMPED
    }
}

#[test]
fn the_clock_holds_under_every_interleaving() {
    let checker = Clock { without: None }.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.is_done());
    assert!(checker.unique_state_count() > 50_000, "{} states", checker.unique_state_count());
}

/// Nobody waits for a caller that stopped, wherever it did.
#[test]
fn ids_flow_after_a_jump_that_stopped_half_way() {
    let clock = Clock { without: None };
    let mut state = State::default();
    let mut step = |caller, whim| clock.step(&mut state, caller, whim).unwrap();
    for whim in [Whim::Fine, Whim::Fine, Whim::Fine, Whim::Off(1), Whim::Fine, Whim::Fine] {
        step(0, whim);
    }
    for whim in [Whim::Fine, Whim::Fine, Whim::Fine, Whim::Off(1), Whim::Fine] {
        step(1, whim);
    }
    assert!(clock.holds_lock(state.callers[0].at));
    assert_eq!(state.callers[1].at, Step::ReadBefore, "the other goes on without the lock");
    for _ in 0..3 {
        clock.step(&mut state, 1, Whim::Fine).unwrap();
    }
    assert_eq!(state.issued, 1 << 3);
}

/// Looks for a repeated or belated tick where one line of the argument is missing.
fn fails_without(line: Line) {
    let checker = Clock { without: Some(line) }.checker().threads(2).spawn_bfs().join();
    let found = checker.discoveries();
    assert!(
        found.contains_key("no tick is issued twice")
            || found.contains_key("each is above those issued before it was asked for"),
        "the argument holds without {line:?}: the line, or this model, is not needed"
    );
}

#[test]
fn it_needs_the_first_reading() {
    fails_without(Line::FirstReading);
}

#[test]
fn it_needs_the_second_reading() {
    fails_without(Line::SecondReading);
}

#[test]
fn it_needs_draws_in_one_step() {
    fails_without(Line::AtomicDraw);
}

#[test]
fn it_needs_the_lock() {
    fails_without(Line::Lock);
}

#[test]
fn it_needs_the_reading_under_the_lock() {
    fails_without(Line::ReadWhileAlone);
}

#[test]
fn it_needs_jumps_to_be_only_raised() {
    fails_without(Line::OnlyRaised);
}

#[test]
fn it_needs_the_tick_to_be_only_drawn_from() {
    fails_without(Line::OnlyDrawn);
}
