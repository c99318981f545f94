//! How far a move is, as its journal tells whoever looks on from elsewhere: what it tells its own observer, gathered.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use super::event::MoveNews;
use super::run::Run;
use super::step::MoveStep;
use crate::Result;

/// How often the journal is told, while there is anything to tell.
const TELL_JOURNAL: Duration = Duration::from_secs(1);

/// What is known of a move just now. `None` is not known, or not the matter of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Headway {
    /// What was copied.
    pub(super) rows: Option<u64>,
    pub(super) bytes: Option<u64>,
    /// What is to be copied in all, while it is copied, and how fast that goes.
    pub(super) of_bytes: Option<u64>,
    pub(super) bytes_per_second: Option<u64>,
    /// The rows that were compared.
    pub(super) compared: Option<u64>,
    /// How far the copy is behind.
    pub(super) lag: Option<Duration>,
}

impl Headway {
    pub(super) fn hear(&mut self, step: MoveStep, news: &MoveNews) {
        match news {
            MoveNews::Begun | MoveNews::Done => {
                *self = Self { rows: self.rows, bytes: self.bytes, ..Self::default() };
            }
            MoveNews::Progress { rows, .. } if step == MoveStep::Verify => {
                self.compared = Some(*rows);
            }
            MoveNews::Progress { rows, bytes, of_bytes, bytes_per_second, .. } => {
                (self.rows, self.bytes) = (Some(*rows), Some(*bytes));
                (self.of_bytes, self.bytes_per_second) = (Some(*of_bytes), *bytes_per_second);
            }
            MoveNews::Lag(lag) => self.lag = Some(*lag),
            MoveNews::Note(_) => {}
        }
    }
}

/// The mean since it began: what a pace or a pause takes is part of it, as it will be of the rest.
pub(super) fn speed(bytes: u64, took: Duration) -> Option<u64> {
    let per_second = (u128::from(bytes) * 1000).checked_div(took.as_millis())?;
    u64::try_from(per_second).ok().filter(|per_second| *per_second > 0)
}

/// How long the rest takes at that speed.
pub(super) fn time_left(bytes: u64, of_bytes: u64, bytes_per_second: u64) -> Option<Duration> {
    let rest = u128::from(of_bytes.saturating_sub(bytes)) * 1000;
    let milliseconds = rest.checked_div(u128::from(bytes_per_second))?;
    u64::try_from(milliseconds).ok().map(Duration::from_millis)
}

impl Run<'_> {
    /// Tells the journal, for as long as it is asked to. Never in the fence, where writers wait for whatever the catalog is told.
    pub(super) async fn tell_journal(&self) -> Result<Infallible> {
        let mut told = Headway::default();
        loop {
            sleep(TELL_JOURNAL).await;
            let now = self.headway();
            if now == told || self.is_fenced() {
                continue;
            }
            match self.journal.set_headway(&self.report, &now).await {
                Ok(()) => told = now,
                // What is done until the fence does not need the catalog; what comes after it does.
                Err(error) if error.is_unavailable() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_own_and_what_was_copied_stays() {
        let mut headway = Headway::default();
        headway.hear(MoveStep::CopyRows, &MoveNews::Begun);
        let copied = MoveNews::Progress {
            rows: 7,
            bytes: 70,
            of_bytes: 100,
            bytes_per_second: Some(10),
            left: Some(Duration::from_secs(3)),
        };
        headway.hear(MoveStep::CopyRows, &copied);
        assert_eq!((headway.of_bytes, headway.bytes_per_second), (Some(100), Some(10)));
        headway.hear(MoveStep::CopyRows, &MoveNews::Done);
        headway.hear(MoveStep::Verify, &MoveNews::Lag(Duration::from_secs(2)));
        assert_eq!(headway.lag, Some(Duration::from_secs(2)));
        headway.hear(MoveStep::Verify, &MoveNews::Note("waits".into()));
        let compared = MoveNews::Progress {
            rows: 5,
            bytes: 0,
            of_bytes: 0,
            bytes_per_second: None,
            left: None,
        };
        headway.hear(MoveStep::Verify, &compared);
        let known = Headway {
            rows: Some(7),
            bytes: Some(70),
            compared: Some(5),
            lag: Some(Duration::from_secs(2)),
            ..Headway::default()
        };
        assert_eq!(headway, known);
        headway.hear(MoveStep::CheckHosts, &MoveNews::Begun);
        assert_eq!((headway.lag, headway.compared, headway.rows), (None, None, Some(7)));
    }

    #[test]
    fn a_speed_is_of_all_that_went_and_none_is_none() {
        assert_eq!(speed(1_000, Duration::from_secs(4)), Some(250));
        assert_eq!(speed(0, Duration::ZERO), None);
        assert_eq!(speed(5, Duration::ZERO), None);
        assert_eq!(speed(0, Duration::from_secs(1)), None);
        assert_eq!(time_left(25, 100, 25), Some(Duration::from_secs(3)));
        assert_eq!(time_left(100, 25, 25), Some(Duration::ZERO));
        assert_eq!(time_left(25, 100, 0), None);
    }
}
