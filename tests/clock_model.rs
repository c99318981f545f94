//! The argument at the head of `sql/clock.sql`, checked by trying every interleaving of three callers.
//!
//! Each step of the model is one access to one sequence or to the lock; between any two, any other caller may do
//! anything, and every caller may stop for good. The server's clock is not modelled but replaced by whim:
//! wherever the SQL asks it, both answers are followed, so what holds here holds for every clock.
//!
//! A block has two ids here, and behind its last comes the first of the next: worse than in a layout, where other shards'
//! lie between.
//!
//! A model that cannot fail proves nothing. So each line of the argument is taken away in a test of its own,
//! and the model must then find a repeated or a belated id.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

use stateright::{Checker, Model, Property};

const CALLERS: usize = 3;
/// The ids of a block.
const IDS: u8 = 2;
/// Where the model ends: blocks, and draws in all.
const MAX_BLOCK: u8 = 3;
const MAX_DRAWS: u8 = 6;

/// A line of the argument that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Which block is open is read before the draw …
    ReadBefore,
    /// … and the id is issued only if it does not lie beyond that block.
    NotBeyond,
    /// Drawing is one step.
    AtomicDraw,
    /// One caller at a time opens a block.
    Lock,
    /// Which block comes next was read while alone.
    ReadWhileAlone,
    /// It is a later one.
    OnlyForwards,
    /// The ids are set to its beginning before it is opened.
    IdsFirst,
}

struct Clock {
    without: Option<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// The id drawn last.
    id: u8,
    /// The block that is open.
    block: u8,
    draws: u8,
    /// Which ids were issued, as bits.
    issued: u64,
    /// An id was issued that had been issued before.
    repeated: bool,
    /// An id was issued that is not above all that were issued before it was asked for.
    belated: bool,
    callers: [Caller; CALLERS],
}

impl Default for State {
    /// Block 1 is open, and none of its ids drawn.
    fn default() -> Self {
        Self {
            id: IDS - 1,
            block: 1,
            draws: 0,
            issued: 0,
            repeated: false,
            belated: false,
            callers: Default::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Caller {
    at: Step,
    /// The block that was read as open; while one is being opened, the one that is to be.
    block: u8,
    drawn: u8,
    /// The greatest id issued when this one was asked for.
    floor: u8,
}

/// What a caller does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    #[default]
    Ask,
    ReadBlock,
    Draw,
    /// Only without [`Line::AtomicDraw`]: the draw was read, and is yet to be stored.
    StoreDraw,
    Compare,
    Lock,
    ReadOpen,
    SetIds,
    SetBlock,
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
    /// The block is of the present.
    Fine,
    /// It is not; the present is so many blocks on.
    Off(i8),
}

impl Clock {
    fn has(&self, line: Line) -> bool {
        self.without != Some(line)
    }

    /// Whether a caller that is about to do this has the lock.
    fn holds_lock(&self, step: Step) -> bool {
        matches!(step, Step::SetIds | Step::SetBlock | Step::Unlock)
            || step == Step::ReadOpen && self.has(Line::ReadWhileAlone)
    }

    fn issue(state: &mut State, caller: usize, id: u8) {
        let bit = 1 << id;
        state.repeated |= state.issued & bit != 0;
        state.belated |= id <= state.callers[caller].floor;
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
                Step::ReadBlock
            }
            (Step::ReadBlock, Whim::Fine) => {
                me.block = state.block;
                Step::Draw
            }
            (Step::Draw, Whim::Fine) => {
                state.draws += 1;
                me.drawn = state.id + 1;
                if self.has(Line::AtomicDraw) {
                    state.id = me.drawn;
                    Step::Compare
                } else {
                    Step::StoreDraw
                }
            }
            (Step::StoreDraw, Whim::Fine) => {
                state.id = me.drawn;
                Step::Compare
            }
            (Step::Compare, whim) => {
                if !self.has(Line::ReadBefore) {
                    me.block = state.block;
                }
                let valid = me.drawn / IDS <= me.block || !self.has(Line::NotBeyond);
                let drawn = me.drawn;
                match whim {
                    Whim::Fine if valid => {
                        Self::issue(state, caller, drawn);
                        return Some(());
                    }
                    // Behind the clock, or beyond the block.
                    Whim::Off(1) => {
                        (me.block, me.drawn) = (0, 0);
                        if self.has(Line::ReadWhileAlone) { Step::Lock } else { Step::ReadOpen }
                    }
                    Whim::Fine | Whim::Off(_) => return None,
                }
            }
            // Whoever need not wait draws again at once, and whoever must stays here until he is alone.
            (Step::Lock, Whim::Fine) if locked && self.has(Line::Lock) => Step::ReadBlock,
            (Step::Lock, Whim::Fine) if self.has(Line::ReadWhileAlone) => Step::ReadOpen,
            (Step::Lock, Whim::Fine) => Step::SetIds,
            // It was opened meanwhile.
            (Step::ReadOpen, Whim::Fine) if self.has(Line::ReadWhileAlone) => Step::Unlock,
            (Step::ReadOpen, Whim::Off(by)) if by > 0 || !self.has(Line::OnlyForwards) => {
                me.block = state.block.checked_add_signed(by)?;
                match (self.has(Line::ReadWhileAlone), self.has(Line::IdsFirst)) {
                    (false, _) => Step::Lock,
                    (true, true) => Step::SetIds,
                    (true, false) => Step::SetBlock,
                }
            }
            (Step::SetIds, Whim::Fine) => {
                state.id = me.block * IDS - 1;
                if self.has(Line::IdsFirst) { Step::SetBlock } else { Step::Unlock }
            }
            (Step::SetBlock, Whim::Fine) => {
                state.block = me.block;
                if self.has(Line::IdsFirst) { Step::Unlock } else { Step::SetIds }
            }
            (Step::Unlock, Whim::Fine) => {
                me.block = 0;
                Step::ReadBlock
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
            let whims = [Whim::Fine, Whim::Off(0), Whim::Off(1), Whim::Off(2)];
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
            Property::always("no id is issued twice", |_, state: &State| !state.repeated),
            Property::always(
                "each is above those issued before it was asked for",
                |_, state: &State| !state.belated,
            ),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.draws <= MAX_DRAWS && state.block <= MAX_BLOCK
    }
}

#[test]
fn the_clock_holds_under_every_interleaving() {
    let checker = Clock { without: None }.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.is_done());
    assert!(checker.unique_state_count() > 50_000, "{} states", checker.unique_state_count());
}

/// The lock goes with whoever stops between its two settings, and the next caller opens the block.
#[test]
fn ids_flow_after_a_block_that_was_opened_half_way() {
    let clock = Clock { without: None };
    let mut state = State::default();
    let step = |state: &mut State, caller, whims: &[Whim]| {
        for whim in whims {
            clock.step(state, caller, *whim).unwrap();
        }
    };
    let open =
        [Whim::Fine, Whim::Fine, Whim::Fine, Whim::Off(1), Whim::Fine, Whim::Off(1), Whim::Fine];
    step(&mut state, 0, &open);
    assert_eq!(state.callers[0].at, Step::SetBlock, "the ids are set, the block is not");
    state.callers[0] = Caller { at: Step::Stopped, ..Caller::default() };
    step(&mut state, 1, &open);
    step(&mut state, 1, &[Whim::Fine; 5]);
    assert_eq!(state.issued, 1 << (2 * IDS));
}

/// Looks for a repeated or belated id where one line of the argument is missing.
fn fails_without(line: Line) {
    let checker = Clock { without: Some(line) }.checker().threads(2).spawn_bfs().join();
    let found = checker.discoveries();
    assert!(
        found.contains_key("no id is issued twice")
            || found.contains_key("each is above those issued before it was asked for"),
        "the argument holds without {line:?}: the line, or this model, is not needed"
    );
}

#[test]
fn it_needs_the_reading_before_the_draw() {
    fails_without(Line::ReadBefore);
}

#[test]
fn it_needs_the_comparison() {
    fails_without(Line::NotBeyond);
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
fn it_needs_blocks_to_be_opened_forwards() {
    fails_without(Line::OnlyForwards);
}

#[test]
fn it_needs_the_ids_to_be_set_first() {
    fails_without(Line::IdsFirst);
}
