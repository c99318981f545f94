//! Which of many moves may begin now: an instance takes part in so many at once, and no more. Pure.
//!
//! A server pays for each move that reads from it or writes to it, and has slots and workers for some. So what is bounded is not how
//! many moves there are, but how many touch one instance: moves between other instances go on beside them.

use std::collections::{BTreeMap, VecDeque};

use crate::shard::{InstanceName, ShardId};

/// A move that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) shard: ShardId,
    /// Where it lives; nothing where that is not known, and the move says why.
    pub(super) from: Option<InstanceName>,
    pub(super) to: InstanceName,
}

/// The moves that wait, and how many go on at each instance.
#[derive(Debug)]
pub(super) struct Turns {
    most: usize,
    waiting: VecDeque<Turn>,
    at_work: BTreeMap<InstanceName, usize>,
}

impl Turn {
    fn instances(&self) -> impl Iterator<Item = &InstanceName> {
        self.from.iter().filter(|from| **from != self.to).chain([&self.to])
    }
}

impl Turns {
    /// `most` moves at once at each instance, and one at least.
    pub(super) fn new(moves: impl IntoIterator<Item = Turn>, most: usize) -> Self {
        let waiting = moves.into_iter().collect();
        Self { most: most.max(1), waiting, at_work: BTreeMap::new() }
    }

    /// The first of those that wait whose instances have room. It goes on until it is [given back](Self::give_back).
    pub(super) fn take(&mut self) -> Option<Turn> {
        let has_room = |turn: &Turn| turn.instances().all(|name| self.at_work_at(name) < self.most);
        let next = self.waiting.iter().position(has_room)?;
        let turn = self.waiting.remove(next)?;
        for name in turn.instances() {
            *self.at_work.entry(name.clone()).or_default() += 1;
        }
        Some(turn)
    }

    /// It is over, however it ended.
    pub(super) fn give_back(&mut self, turn: &Turn) {
        for name in turn.instances() {
            if let Some(count) = self.at_work.get_mut(name) {
                *count -= 1;
            }
        }
    }

    fn at_work_at(&self, name: &InstanceName) -> usize {
        self.at_work.get(name).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turn(shard: u16, from: &str, to: &str) -> Turn {
        let name = |name| InstanceName::new(name).unwrap();
        Turn { shard: ShardId::new(shard).unwrap(), from: Some(name(from)), to: name(to) }
    }

    fn taken(turns: &mut Turns) -> Vec<u16> {
        std::iter::from_fn(|| turns.take()).map(|turn| turn.shard.get()).collect()
    }

    #[test]
    fn who_shares_no_instance_does_not_wait() {
        let moves = [turn(1, "a", "b"), turn(2, "a", "c"), turn(3, "d", "b"), turn(4, "d", "c")];
        let mut turns = Turns::new(moves.clone(), 1);
        assert_eq!(taken(&mut turns), [1, 4]);
        turns.give_back(&moves[0]);
        assert_eq!(taken(&mut turns), Vec::<u16>::new(), "both share an instance with the other");
        turns.give_back(&moves[3]);
        assert_eq!(taken(&mut turns), [2, 3]);
    }

    #[test]
    fn a_target_counts_as_a_source_does() {
        let moves = (1..=5).map(|shard| turn(shard, if shard % 2 == 0 { "a" } else { "b" }, "c"));
        assert_eq!(taken(&mut Turns::new(moves, 3)), [1, 2, 3]);
        assert_eq!(taken(&mut Turns::new([turn(1, "a", "b"), turn(2, "b", "c")], 1)), [1]);
    }

    #[test]
    fn what_lives_there_already_counts_once_and_none_is_one() {
        let moves = [turn(1, "a", "a"), turn(2, "a", "a")];
        assert_eq!(taken(&mut Turns::new(moves.clone(), 2)), [1, 2]);
        assert_eq!(taken(&mut Turns::new(moves, 0)), [1]);
    }

    proptest! {
        /// Each gets its turn once, in whatever order they end; no instance ever has more than the bound; and whoever waits
        /// does so for an instance that is at it.
        #[test]
        fn all_get_their_turn_and_no_instance_has_too_many(
            pairs in prop::collection::vec((0_u8..5, 0_u8..5), 0..40),
            most in 1_usize..5,
            ends in prop::collection::vec(any::<prop::sample::Index>(), 40),
        ) {
            let named = |number: u8| format!("i{number}");
            let moves = pairs.iter().zip(0..);
            let moves = moves.map(|((from, to), shard)| turn(shard, &named(*from), &named(*to)));
            let mut turns = Turns::new(moves, most);
            let (mut running, mut done) = (Vec::<Turn>::new(), Vec::new());
            for end in ends.iter().cycle() {
                while let Some(turn) = turns.take() {
                    running.push(turn);
                }
                let touching = |name: &InstanceName| {
                    running.iter().filter(|turn| turn.instances().any(|one| one == name)).count()
                };
                for number in 0..5 {
                    prop_assert!(touching(&InstanceName::new(&named(number)).unwrap()) <= most);
                }
                for turn in &turns.waiting {
                    prop_assert!(turn.instances().any(|name| touching(name) == most));
                }
                if running.is_empty() {
                    break;
                }
                let over = running.swap_remove(end.index(running.len()));
                turns.give_back(&over);
                done.push(over.shard.get());
            }
            done.sort_unstable();
            prop_assert_eq!(done, (0..u16::try_from(pairs.len()).unwrap()).collect::<Vec<_>>());
        }
    }
}
