//! The argument at the head of `src/cluster/two_phase`, checked by trying every interleaving: one process commits over
//! three servers, two others look for what was left behind, a third forgets decisions, and all the while messages are late or
//! lost, servers crash and processes die.
//!
//! A model that cannot fail proves nothing. So each rule of the argument is taken away in a test of its own, and the model
//! must then find a transaction that is committed on one server and rolled back on another.

#![cfg(test)]

use stateright::{Checker, Model, Property};

/// How many things go wrong at most.
const MAX_TROUBLES: u8 = 3;
const ATOMIC: &str = "nothing is committed here and rolled back there";
const ENDS: &str = "nothing stays open or prepared";

/// A rule of the argument that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The decision is written in the first's own transaction.
    OneTransaction,
    /// It is written there before any other part is prepared …
    RowBeforePromises,
    /// … and sent after all are.
    PromisesBeforeDecision,
    /// Nobody acts upon it before it is known to be made.
    AnswerBeforeAct,
    /// Where its answer is lost, it is asked for.
    AskWhenUnknown,
    /// Whoever finds a part inserts the same row, and does not merely look for it.
    UniqueRow,
    /// A decision is deleted only where no part is prepared …
    KeptWhileNeeded,
    /// … as seen after the decision was.
    LookAfterReading,
}

struct TwoPhase {
    without: Option<Rule>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    #[default]
    Open,
    Prepared,
    Committed,
    RolledBack,
}

/// The decision's row, as it is in the first's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Row {
    #[default]
    None,
    /// Inserted by the first's transaction, which is open.
    Open,
    Committed,
    Aborted,
}

/// What the process that commits does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Step {
    #[default]
    Insert,
    Prepare,
    AwaitPromises,
    Decide,
    AwaitDecision,
    Ask,
    Undo,
    Finish(Part, usize),
    Over,
}

/// Somebody who looks for parts that were left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Finder {
    #[default]
    Idle,
    Found(usize),
    Knows(usize, Part),
}

/// Somebody who forgets decisions: what is looked at next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Cleaner {
    #[default]
    Row,
    Part(usize),
    Delete,
    Over,
}

/// The first is server 0; the parts of the others are 1 and 2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    parts: [Part; 3],
    row: Row,
    /// PREPARE, or the first's COMMIT, is on its way.
    sent: [bool; 3],
    /// The process has lost its connection there.
    cut: [bool; 3],
    process: Step,
    finders: [Finder; 2],
    cleaner: Cleaner,
    troubles: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Process,
    /// A message arrives at a server.
    Arrive(usize),
    /// A server notices that the client of an open transaction is gone.
    Notice(usize),
    Find(usize, usize),
    Clean,
    /// A row that says that nothing was committed is deleted, at any time.
    CleanAborted,
    // What goes wrong.
    Cut(usize),
    Crash(usize),
    Die,
    FinderDies(usize),
}

impl TwoPhase {
    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// The next step of the process that commits; `None` where it waits.
    fn process(&self, state: &mut State) -> Option<()> {
        state.process = match state.process {
            Step::Insert if state.cut[0] => Step::Undo,
            Step::Insert => {
                if self.has(Rule::RowBeforePromises) {
                    state.row = Row::Open;
                }
                Step::Prepare
            }
            Step::Prepare => {
                state.sent = [false, true, true];
                Step::AwaitPromises
            }
            Step::AwaitPromises => {
                let promised = |at: usize| state.parts[at] == Part::Prepared && !state.cut[at];
                let enough = if self.has(Rule::PromisesBeforeDecision) {
                    promised(1) && promised(2)
                } else {
                    promised(1) || promised(2)
                };
                match enough {
                    true => Step::Decide,
                    false if state.cut[1] || state.cut[2] => Step::Undo,
                    false => return None,
                }
            }
            Step::Decide if state.cut[0] => Step::Undo,
            Step::Decide if !self.has(Rule::RowBeforePromises) && state.row != Row::None => {
                Step::Undo
            }
            Step::Decide => {
                state.row = if self.has(Rule::OneTransaction) { Row::Open } else { Row::Committed };
                state.sent[0] = true;
                if self.has(Rule::AnswerBeforeAct) {
                    Step::AwaitDecision
                } else {
                    Step::Finish(Part::Committed, 1)
                }
            }
            Step::AwaitDecision if state.cut[0] && self.has(Rule::AskWhenUnknown) => Step::Ask,
            Step::AwaitDecision if state.cut[0] => Step::Finish(Part::RolledBack, 1),
            Step::AwaitDecision if state.parts[0] == Part::Committed => {
                Step::Finish(Part::Committed, 1)
            }
            Step::AwaitDecision => return None,
            Step::Ask => Step::Finish(self.settle(state)?, 1),
            Step::Undo => {
                if !state.cut[0] {
                    end_open(state, 0);
                }
                Step::Finish(Part::RolledBack, 1)
            }
            Step::Finish(how, at) => {
                if !state.cut[at] {
                    match state.parts[at] {
                        Part::Prepared => state.parts[at] = how,
                        Part::Open if how == Part::RolledBack => end_open(state, at),
                        _ => {}
                    }
                }
                if at == 1 { Step::Finish(how, 2) } else { Step::Over }
            }
            Step::Over => return None,
        };
        Some(())
    }

    /// What everybody does who wants to know; `None` while the row makes them wait.
    fn settle(&self, state: &mut State) -> Option<Part> {
        match state.row {
            Row::Committed => Some(Part::Committed),
            Row::Aborted => Some(Part::RolledBack),
            _ if !self.has(Rule::UniqueRow) => Some(Part::RolledBack),
            Row::Open => None,
            Row::None => {
                state.row = Row::Aborted;
                Some(Part::RolledBack)
            }
        }
    }

    fn find(&self, state: &mut State, finder: usize, at: usize) -> Option<()> {
        state.finders[finder] = match state.finders[finder] {
            Finder::Idle if state.parts[at] == Part::Prepared => Finder::Found(at),
            Finder::Found(found) if found == at => Finder::Knows(at, self.settle(state)?),
            Finder::Knows(found, how) if found == at => {
                if state.parts[at] == Part::Prepared {
                    state.parts[at] = how;
                }
                Finder::Idle
            }
            _ => return None,
        };
        Some(())
    }

    /// One look of whoever forgets decisions. It goes over them once: what it leaves is another time's.
    fn clean(&self, state: &mut State) -> Option<()> {
        let finished = |at: usize| state.parts[at] != Part::Prepared;
        let reads_first = self.has(Rule::LookAfterReading);
        state.cleaner = match state.cleaner {
            Cleaner::Row if state.row != Row::Committed && reads_first => return None,
            Cleaner::Row if !self.has(Rule::KeptWhileNeeded) => Cleaner::Delete,
            Cleaner::Row => Cleaner::Part(1),
            Cleaner::Part(at) if !finished(at) => Cleaner::Over,
            Cleaner::Part(1) => Cleaner::Part(2),
            Cleaner::Part(_) => Cleaner::Delete,
            Cleaner::Delete if state.row != Row::Committed => return None,
            Cleaner::Delete => {
                state.row = Row::None;
                Cleaner::Over
            }
            Cleaner::Over => return None,
        };
        Some(())
    }
}

/// An open transaction ends, and nothing of it remains; what was on its way finds nothing.
fn end_open(state: &mut State, at: usize) {
    if state.parts[at] == Part::Open {
        state.parts[at] = Part::RolledBack;
        state.sent[at] = false;
        if at == 0 && state.row == Row::Open {
            state.row = Row::None;
        }
    }
}

impl Model for TwoPhase {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend([Action::Process, Action::Clean, Action::CleanAborted]);
        for at in 0..3 {
            actions.extend([Action::Arrive(at), Action::Notice(at)]);
        }
        for finder in 0..2 {
            actions.extend([Action::Find(finder, 1), Action::Find(finder, 2)]);
        }
        if state.troubles < MAX_TROUBLES {
            actions.push(Action::Die);
            actions.extend((0..3).flat_map(|at| [Action::Cut(at), Action::Crash(at)]));
            actions.extend((0..2).map(Action::FinderDies));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Process => self.process(&mut state)?,
            Action::Arrive(at) if state.sent[at] && state.parts[at] == Part::Open => {
                state.sent[at] = false;
                if at > 0 {
                    state.parts[at] = Part::Prepared;
                } else {
                    state.parts[0] = Part::Committed;
                    if state.row == Row::Open {
                        state.row = Row::Committed;
                    }
                }
            }
            Action::Notice(at) if state.cut[at] && state.parts[at] == Part::Open => {
                end_open(&mut state, at);
            }
            Action::Find(finder, at) => self.find(&mut state, finder, at)?,
            Action::Clean => self.clean(&mut state)?,
            Action::CleanAborted if state.row == Row::Aborted => state.row = Row::None,
            Action::Cut(at) if !state.cut[at] => state.cut[at] = true,
            Action::Crash(at) => {
                end_open(&mut state, at);
                state.cut[at] = true;
            }
            Action::Die if state.process != Step::Over => {
                state.process = Step::Over;
                state.cut = [true; 3];
            }
            Action::FinderDies(finder) if state.finders[finder] != Finder::Idle => {
                state.finders[finder] = Finder::Idle;
            }
            _ => return None,
        }
        if matches!(action, Action::Cut(_) | Action::Crash(_) | Action::Die | Action::FinderDies(_))
        {
            state.troubles += 1;
        }
        // Finders are alike: only one order of them needs a visit.
        state.finders.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ATOMIC, |_, state: &State| {
                !(state.parts.contains(&Part::Committed) && state.parts.contains(&Part::RolledBack))
            }),
            Property::eventually(ENDS, |_, state: &State| {
                !state.parts.contains(&Part::Open) && !state.parts.contains(&Part::Prepared)
            }),
            Property::sometimes("it commits after trouble", |_, state: &State| {
                state.troubles == MAX_TROUBLES && state.parts == [Part::Committed; 3]
            }),
            Property::sometimes("it is undone", |_, state: &State| {
                state.parts == [Part::RolledBack; 3]
            }),
            Property::sometimes("its decision is forgotten", |_, state: &State| {
                state.parts == [Part::Committed; 3] && state.row == Row::None
            }),
        ]
    }
}

#[test]
fn it_is_atomic_and_ends_under_every_interleaving() {
    let checker = TwoPhase { without: None }.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.is_done());
    assert!(checker.unique_state_count() > 10_000, "{} states", checker.unique_state_count());
}

/// Looks for a transaction that is torn apart where one rule is missing.
fn fails_without(rule: Rule) {
    let checker = TwoPhase { without: Some(rule) }.checker().threads(2).spawn_bfs().join();
    assert!(
        checker.discoveries().contains_key(ATOMIC),
        "the argument holds without {rule:?}: the rule, or this model, is not needed"
    );
}

#[test]
fn it_needs_the_decision_in_the_firsts_own_transaction() {
    fails_without(Rule::OneTransaction);
}

#[test]
fn it_needs_the_row_before_the_promises() {
    fails_without(Rule::RowBeforePromises);
}

#[test]
fn it_needs_all_promises_before_the_decision() {
    fails_without(Rule::PromisesBeforeDecision);
}

#[test]
fn it_needs_the_answer_before_anybody_acts() {
    fails_without(Rule::AnswerBeforeAct);
}

#[test]
fn it_needs_to_ask_when_the_answer_is_lost() {
    fails_without(Rule::AskWhenUnknown);
}

#[test]
fn it_needs_the_row_to_be_unique() {
    fails_without(Rule::UniqueRow);
}

#[test]
fn it_needs_decisions_to_be_kept() {
    fails_without(Rule::KeptWhileNeeded);
}

#[test]
fn it_needs_parts_to_be_looked_for_after_the_decision_was_read() {
    fails_without(Rule::LookAfterReading);
}
