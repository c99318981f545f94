//! How a host looked when it was last asked.

use std::time::Duration;

use tokio::time::Instant;

use super::super::position::{Lsn, Timeline};

#[derive(Debug, Clone, Copy)]
pub(super) enum Sight {
    /// It was not asked yet.
    Unseen,
    /// It did not answer, or is not who it should be.
    Silent,
    Primary,
    Replica {
        /// The history that it follows; none where that is older than the primary's, as far as it lets us know.
        timeline: Option<Timeline>,
        replayed: Lsn,
        /// It has everything that the primary had flushed at this moment.
        fresh_at: Option<Instant>,
        /// It is so far behind that waiting for it makes no sense.
        is_late: bool,
    },
}

impl Sight {
    /// How far it is behind at most; as long as nothing is known of a primary, that may be any time.
    pub(super) fn lag(&self) -> Option<Duration> {
        match self {
            Self::Replica { timeline: Some(_), fresh_at, .. } => {
                Some(fresh_at.map_or(Duration::MAX, |at| at.elapsed()))
            }
            _ => None,
        }
    }

    /// Whether it has everything up to a position.
    pub(super) fn is_at(&self, wanted: Timeline, lsn: Lsn) -> bool {
        // What a later history does not contain of an earlier one is lost, and on no server.
        matches!(self, Self::Replica { timeline: Some(timeline), replayed, .. }
            if *timeline >= wanted && *replayed >= lsn)
    }

    /// Whether it may get there soon.
    pub(super) fn follows(&self, wanted: Timeline) -> bool {
        matches!(self, Self::Replica { timeline: Some(timeline), is_late: false, .. }
            if *timeline >= wanted)
    }
}
