//! How far the primary was, and when: what a replica has replayed then tells how far behind it is, by our clock alone.

use tokio::time::Instant;

use super::super::position::Lsn;

/// At a look a second, the last half is four minutes, and the first reaches back hours, less and less precisely.
const MOST: usize = 512;

#[derive(Debug, Default)]
pub(super) struct History(Vec<(Instant, Lsn)>);

impl History {
    /// The primary had flushed so much at the moment at which it was asked, or a little after.
    pub(super) fn note(&mut self, asked: Instant, flushed: Lsn) {
        if self.0.len() >= MOST {
            // Of the older half every second one is enough.
            let mut number = 0;
            self.0.retain(|_| {
                number += 1;
                number > MOST / 2 || number % 2 == 0
            });
        }
        self.0.push((asked, flushed));
    }

    /// The last moment of which a replica that has replayed so much has everything.
    pub(super) fn covered_by(&self, replayed: Lsn) -> Option<Instant> {
        let covered = self.0.partition_point(|(_, flushed)| *flushed <= replayed);
        let (asked, _) = self.0[..covered].last()?;
        Some(*asked)
    }

    /// When the primary was first asked.
    pub(super) fn begin(&self) -> Option<Instant> {
        self.0.first().map(|(asked, _)| *asked)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_replica_is_never_taken_for_fresher_than_it_is(
            written in prop::collection::vec(0_u64..5, 1..2000),
            replayed in 0_u64..10_000,
        ) {
            let start = Instant::now();
            let second = |number: usize| start + Duration::from_secs(number as u64);
            let mut history = History::default();
            let mut flushed = 0;
            let mut truth = None;
            for (number, bytes) in written.iter().enumerate() {
                flushed += bytes;
                history.note(second(number), Lsn::new(flushed));
                if flushed <= replayed {
                    truth = Some(second(number));
                }
            }
            prop_assert!(history.covered_by(Lsn::new(replayed)) <= truth);
            prop_assert!(history.0.len() <= MOST);
            // Who has everything is as fresh as the last look.
            prop_assert_eq!(history.covered_by(Lsn::new(flushed)), Some(second(written.len() - 1)));
        }
    }
}
