//! How a transaction is run: its isolation, what it may do, and how often it is tried.

use std::fmt::Write as _;

use tokio_postgres::IsolationLevel;

use super::retry::MAX_RUNS;

/// What a transaction asks of the database; for [`Shard::transaction_with`](crate::Shard::transaction_with) and its kin.
///
/// # Examples
///
/// ```
/// use howdah::TransactionOptions;
/// use howdah::postgres::IsolationLevel;
///
/// let options = TransactionOptions::new()
///     .isolation_level(IsolationLevel::Serializable)
///     .read_only(true)
///     .max_runs(3);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct TransactionOptions {
    isolation_level: Option<IsolationLevel>,
    read_only: bool,
    deferrable: bool,
    max_runs: u32,
}

impl TransactionOptions {
    /// The server's own defaults, and up to ten runs.
    #[must_use]
    pub const fn new() -> Self {
        Self { isolation_level: None, read_only: false, deferrable: false, max_runs: MAX_RUNS }
    }

    /// What it sees of others. Default: the server's `default_transaction_isolation`, usually read committed.
    ///
    /// From repeatable read on expect serialization failures; a closure is then run again by itself.
    #[must_use]
    pub const fn isolation_level(mut self, level: IsolationLevel) -> Self {
        self.isolation_level = Some(level);
        self
    }

    /// Whether the database refuses to write in it. Default: false.
    #[must_use]
    pub const fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether a serializable transaction that only reads may wait, when it begins, for a moment from which on it cannot
    /// fail: for long reports. Of no effect otherwise. Default: false.
    #[must_use]
    pub const fn deferrable(mut self, deferrable: bool) -> Self {
        self.deferrable = deferrable;
        self
    }

    /// How often a closure is run before its conflicts with others are the caller's, at least once. Default: 10.
    ///
    /// Runs after its shard has moved are not counted. They end when it has had no home for five seconds.
    #[must_use]
    pub const fn max_runs(mut self, runs: u32) -> Self {
        self.max_runs = runs;
        self
    }

    pub(super) fn runs(&self) -> u32 {
        self.max_runs.max(1)
    }

    pub(super) const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The command that begins it.
    pub(super) fn begin(&self) -> String {
        let mut sql = "BEGIN".to_owned();
        let level = self.isolation_level.map(|level| match level {
            IsolationLevel::ReadUncommitted => "READ UNCOMMITTED",
            IsolationLevel::ReadCommitted => "READ COMMITTED",
            IsolationLevel::RepeatableRead => "REPEATABLE READ",
            // Whatever the driver adds is at least as strict.
            _ => "SERIALIZABLE",
        });
        if let Some(level) = level {
            // Writing to a string does not fail.
            let _ = write!(sql, " ISOLATION LEVEL {level}");
        }
        if self.read_only {
            sql.push_str(" READ ONLY");
        }
        if self.deferrable {
            sql.push_str(" DEFERRABLE");
        }
        sql
    }
}

impl Default for TransactionOptions {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_left_to_the_server() {
        assert_eq!(TransactionOptions::new().begin(), "BEGIN");
        let all = TransactionOptions::new()
            .isolation_level(IsolationLevel::Serializable)
            .read_only(true)
            .deferrable(true);
        assert_eq!(all.begin(), "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE");
    }
}
