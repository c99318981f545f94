//! The time that one call may take, over all its phases.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::Kind;
use crate::shard::ShardId;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// When a call has to be done, if at all; knows what running out of time means in each phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    shard: ShardId,
    limit: Option<(Duration, Instant)>,
}

impl Deadline {
    pub(super) fn new(shard: ShardId, timeout: Option<Duration>) -> Self {
        // A time too far away to be told is no limit.
        let limit = timeout.and_then(|time| Some((time, Instant::now().checked_add(time)?)));
        Self { shard, limit }
    }

    /// For work that changes nothing: what comes before sending, and reads. Work is pinned where it is, for each place that
    /// it were moved to would make every call larger.
    pub(super) fn before_sending<T>(
        &self,
        work: Pin<&mut impl Future<Output = Result<T>>>,
    ) -> impl Future<Output = Result<T>> {
        self.bound(work, Outcome::NotExecuted, "could not be asked, or did not answer,")
    }

    /// For work that may have taken effect when its time is over.
    pub(super) fn after_sending<T>(
        &self,
        work: Pin<&mut impl Future<Output = Result<T>>>,
    ) -> impl Future<Output = Result<T>> {
        self.bound(work, Outcome::Unknown, "did not answer")
    }

    /// For a statement on its own.
    pub(super) fn running<T>(
        &self,
        statement: &Statement,
        work: Pin<&mut impl Future<Output = Result<T>>>,
    ) -> impl Future<Output = Result<T>> {
        let outcome =
            if statement.is_single_read() { Outcome::NotExecuted } else { Outcome::Unknown };
        self.bound(work, outcome, "did not answer")
    }

    async fn bound<T>(
        &self,
        work: Pin<&mut impl Future<Output = Result<T>>>,
        outcome: Outcome,
        what: &str,
    ) -> Result<T> {
        let Some((time, end)) = self.limit else { return work.await };
        timeout_at(end, work).await.unwrap_or_else(|_| {
            let text = format!("shard {} {what} within {time:?}", self.shard);
            Err(Error::new(Kind::Timeout, text).with_outcome(outcome))
        })
    }
}
