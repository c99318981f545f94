//! What a read over many shards does about those that cannot be reached, and how long it may take.

use std::time::{Duration, Instant};

use super::Shard;
use crate::{Outcome, Result};

/// The caller's choice for all shards of one call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Policy {
    /// Goes without shards that cannot be reached.
    pub(super) partial: bool,
    pub(super) timeout: Option<Duration>,
    end: Option<Instant>,
}

impl Policy {
    /// The call begins: its time runs from now on.
    pub(super) fn begin(self) -> Self {
        // A time too far away to be told is no limit.
        let end = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Self { end, ..self }
    }

    /// What is left of the call's time.
    pub(super) fn left(&self) -> Option<Duration> {
        self.end.map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// The shard with what is left of the call's time.
    pub(super) fn limit(&self, shard: Shard) -> Shard {
        match self.left() {
            Some(left) => shard.timeout(left),
            None => shard,
        }
    }

    /// `None` for a shard to go without: one that could not be reached. What ran into a timeout of its own was
    /// reached.
    pub(super) fn judge<T>(&self, answer: Result<T>) -> Result<Option<T>> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error)
                if self.partial
                    && error.is_unavailable()
                    && error.outcome() == Outcome::NotExecuted =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
