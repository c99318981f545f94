//! A move, as it is named and as the journal has it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;

use super::headway::time_left;
use super::step::{MovePhase, MoveStep};
use crate::shard::{Epoch, InstanceName, ShardId};
use crate::{Error, Result};

/// The number of a move, written `m17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MoveId(pub(super) i64);

impl MoveId {
    /// The bare number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

impl FromStr for MoveId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.strip_prefix('m').and_then(|number| number.parse().ok());
        number.filter(|number| *number > 0).map(Self).ok_or_else(|| {
            Error::input(format!("{text:?} is not a move")).hint("they are named m1, m2 and so on")
        })
    }
}

/// A move as the journal has it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MoveReport {
    /// Its name.
    pub id: MoveId,
    /// The shard that is moved.
    pub shard: ShardId,
    /// The instance that it is moved from.
    pub source: InstanceName,
    /// The instance that it is moved to.
    pub target: InstanceName,
    /// How far it has come.
    pub phase: MovePhase,
    /// The step that was begun last.
    pub step: MoveStep,
    /// Rows on the target, as they were copied or last compared.
    pub rows: u64,
    /// Bytes of the tables and indexes on the target; while rows are copied, an estimate of what the copied ones take.
    pub bytes: u64,
    /// The bytes of all that is to be copied, an estimate, and how many are copied in a second, on average; `None` but while
    /// rows are copied.
    pub of_bytes: Option<u64>,
    /// See [`of_bytes`](Self::of_bytes).
    pub bytes_per_second: Option<u64>,
    /// Rows that were compared, by the comparison that goes on or by the last.
    pub compared: Option<u64>,
    /// How far the copy is behind, while that is waited for.
    pub lag: Option<Duration>,
    /// How long the copy took; `None` while it goes on.
    pub copy: Option<Duration>,
    /// How long writers were kept waiting by the last cutover, at most; `None` before it.
    pub fence: Option<Duration>,
    /// Whether the copies were compared and found equal.
    pub verified: bool,
    /// Whether a reverse stream was asked for.
    pub reverse: bool,
    /// Why the last run of it ended early, or what it had to leave on a server that was [lost](crate::Mover::without).
    pub error: Option<String>,
    pub(super) epoch: Epoch,
    pub(super) back: bool,
    pub(super) attempt: i32,
    pub(super) position: Option<PgLsn>,
    pub(super) source_server: Option<ServerId>,
    pub(super) target_server: Option<ServerId>,
}

/// Which server it is, and which history of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerId {
    pub(super) system: String,
    pub(super) timeline: i32,
}

/// The journal's columns that make a report.
pub(super) const COLUMNS: &str = "id, shard, source, target, epoch, phase, step, back, attempt, reverse, source_system, \
    source_timeline, target_system, target_timeline, position, rows, bytes, of_bytes, bytes_per_second, compared, lag_ms, copy_ms, fence_ms, verified, error";

impl MoveReport {
    /// What is left of it is being dropped: the shard has the home that it shall have.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.step, MoveStep::DropReverse | MoveStep::DropCopy)
    }

    /// The shard has its new home, on all hosts, and what is missing is the stream back.
    pub(super) fn is_unsettled(&self) -> bool {
        let steps = MoveStep::DropForward..MoveStep::DropReverse;
        !self.back && self.phase == MovePhase::Fence && steps.contains(&self.step)
    }

    /// How long the rest of the rows takes to copy, at the speed so far; `None` but while they are copied.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        time_left(self.bytes, self.of_bytes?, self.bytes_per_second?)
    }

    pub(super) fn from_row(row: &Row) -> Result<Self> {
        let count = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
        let known = |column| {
            let count: Option<i64> = row.get(column);
            count.and_then(|count| u64::try_from(count).ok())
        };
        let milliseconds = |column| {
            let value: Option<f64> = row.get(column);
            value.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok())
        };
        let server = |system, timeline| {
            let system: Option<String> = row.get(system);
            let timeline: Option<i32> = row.get(timeline);
            system.zip(timeline).map(|(system, timeline)| ServerId { system, timeline })
        };
        let unknown = |what: &str| {
            Error::config(format!("the journal has a move with the unknown {what:?}"))
                .hint("a newer version of howdah may have written it: upgrade this one")
        };
        let (phase, step): (&str, &str) = (row.get("phase"), row.get("step"));
        let shard = u16::try_from(row.get::<_, i32>("shard")).unwrap_or(u16::MAX);
        Ok(Self {
            id: MoveId(row.get("id")),
            shard: ShardId::new(shard)?,
            source: InstanceName::new(row.get("source"))?,
            target: InstanceName::new(row.get("target"))?,
            phase: MovePhase::parse(phase).ok_or_else(|| unknown(phase))?,
            step: MoveStep::parse(step).ok_or_else(|| unknown(step))?,
            rows: count("rows"),
            bytes: count("bytes"),
            of_bytes: known("of_bytes"),
            bytes_per_second: known("bytes_per_second"),
            compared: known("compared"),
            lag: milliseconds("lag_ms"),
            copy: milliseconds("copy_ms"),
            fence: milliseconds("fence_ms"),
            verified: row.get("verified"),
            reverse: row.get("reverse"),
            error: row.get("error"),
            epoch: Epoch::new(row.get("epoch"))?,
            back: row.get("back"),
            attempt: row.get("attempt"),
            position: row.get("position"),
            source_server: server("source_system", "source_timeline"),
            target_server: server("target_system", "target_timeline"),
        })
    }
}
