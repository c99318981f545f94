//! How many were in at once of late: what is kept beyond that serves nobody.

use std::time::{Duration, Instant};

/// In how many parts the time is divided.
const PARTS: u32 = 2;

/// The most that were in at once within a time that has just passed, and up to half as long before it.
#[derive(Debug)]
pub(super) struct Peak {
    /// In the part of the time that runs, and in those before it.
    most: [usize; PARTS as usize + 1],
    part: Duration,
    ends: Instant,
}

impl Peak {
    pub(super) fn over(time: Duration, now: Instant) -> Self {
        let part = time / PARTS;
        Self { most: [0; PARTS as usize + 1], part, ends: now + part }
    }

    /// So many are in now. Needed when there are more than before; fewer are asked for with [`Peak::get`].
    pub(super) fn rise(&mut self, inside: usize) {
        self.most[0] = self.most[0].max(inside);
    }

    /// The most that were in at once, now that it is so many.
    pub(super) fn get(&mut self, now: Instant, inside: usize) -> usize {
        if now >= self.ends {
            // What was there since the last look counts as one part, however long that was.
            self.most.rotate_right(1);
            self.most[0] = inside;
            self.ends = now + self.part;
        }
        self.most.into_iter().max().unwrap_or(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_remembered_for_the_time_and_forgotten_after_half_as_long_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut peak = Peak::over(Duration::from_secs(10), start);
        peak.rise(3);
        peak.rise(7);
        assert_eq!(peak.get(at(4), 2), 7);
        let seen: Vec<_> = (5..=20).map(|second| peak.get(at(second), 2)).collect();
        assert_eq!(seen[..10], [7; 10]);
        assert_eq!(seen[10..], [2; 6]);
        peak.rise(4);
        assert_eq!(peak.get(at(21), 1), 4);
    }

    #[test]
    fn what_nobody_looked_at_is_not_forgotten_before_it_was_seen() {
        let start = Instant::now();
        let mut peak = Peak::over(Duration::from_secs(10), start);
        peak.rise(7);
        let much_later = start + Duration::from_secs(1000);
        assert_eq!(peak.get(much_later, 1), 7);
        assert_eq!(peak.get(much_later + Duration::from_secs(15), 1), 7);
    }
}
