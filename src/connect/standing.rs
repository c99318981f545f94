//! What a server is at the moment: a primary or a replica, in which history, and how far.

use tokio_postgres::SimpleQueryMessage::Row;
use tokio_postgres::{Client, SimpleQueryRow};

use super::position::{Lsn, Timeline};
use super::statement_failure;
use crate::config::Dsn;
use crate::error::Kind;
use crate::{Error, Result};

/// A primary, or a replica of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Primary {
        reign: Reign,
        /// What it has flushed, and so what replicas can have; asynchronous commits come up to here a little later.
        flushed: Lsn,
        /// It refuses writes all the same: an administrator has made new sessions read only.
        read_only: bool,
    },
    Replica {
        /// The history that it is known to follow; it may be in a newer one, and not have written that down yet.
        timeline: Option<Timeline>,
        replayed: Option<Lsn>,
    },
}

/// Of two primaries of one instance, the one with the higher timeline was promoted later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reign {
    /// Made with the data folder: that of an upgraded server is another one, and its timelines begin anew.
    pub(crate) system: i64,
    pub(crate) timeline: Timeline,
}

impl Reign {
    /// Whether a promotion lies between that one and this.
    pub(crate) fn is_later_than(self, other: Self) -> bool {
        self.system == other.system && self.timeline > other.timeline
    }
}

/// The columns that tell it. A replica does not show everybody what it receives (`pg_read_all_stats` sees it); what it has
/// written into its control file is true as well, and comes up to a few minutes later.
pub(super) const COLUMNS: &str = "pg_is_in_recovery(), current_setting('transaction_read_only'),
    (SELECT system_identifier FROM pg_control_system()),
    CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END,
    CASE WHEN pg_is_in_recovery() THEN greatest(
        (SELECT received_tli FROM pg_stat_wal_receiver),
        (SELECT timeline_id FROM pg_control_checkpoint()),
        (SELECT min_recovery_end_timeline FROM pg_control_recovery())) END,
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END";

impl Standing {
    /// Asks a server in one round trip.
    pub(crate) async fn ask(client: &Client) -> Result<Self> {
        let answer = client.simple_query(&format!("SELECT {COLUMNS}")).await;
        let answer =
            answer.map_err(|error| statement_failure(error, "cannot ask what the server is"))?;
        let row = answer.iter().find_map(|message| match message {
            Row(row) => Some(row),
            _ => None,
        });
        Ok(row.map_or(Self::UNKNOWN, |row| Self::from_text(row, 0)))
    }

    /// That of a primary.
    pub(crate) fn reign(self) -> Option<Reign> {
        match self {
            Self::Primary { reign, .. } => Some(reign),
            Self::Replica { .. } => None,
        }
    }

    /// What a primary has flushed.
    pub(crate) fn flushed(self) -> Option<Lsn> {
        match self {
            Self::Primary { flushed, .. } => Some(flushed),
            Self::Replica { .. } => None,
        }
    }

    /// The reign of a primary that takes writes.
    ///
    /// # Errors
    ///
    /// When it is none, or does not.
    pub(super) fn of_a_primary(self, target: &Dsn) -> Result<Reign> {
        let refused = |what| Err(Error::new(Kind::Unavailable, format!("{target} {what}")));
        match self {
            Self::Primary { read_only: false, reign, .. } => Ok(reign),
            Self::Primary { read_only: true, .. } => refused("is set to take no writes"),
            Self::Replica { .. } => refused("is a replica"),
        }
    }

    /// A replica of which nothing is known serves for nothing.
    const UNKNOWN: Self = Self::Replica { timeline: None, replayed: None };

    /// From the columns of a row from the one given on.
    pub(super) fn from_text(row: &SimpleQueryRow, first: usize) -> Self {
        let text = |column| row.get(first + column);
        let lsn = text(5).and_then(|lsn| lsn.parse().ok());
        let timeline = text(3).and_then(Timeline::of_file);
        match (text(0), timeline, lsn) {
            (Some("f"), Some(timeline), Some(flushed)) => {
                let system = text(2).and_then(|number| number.parse().ok()).unwrap_or_default();
                let read_only = text(1) != Some("off");
                Self::Primary { reign: Reign { system, timeline }, flushed, read_only }
            }
            _ => {
                let timeline = text(4).and_then(|number| number.parse().ok()).map(Timeline::new);
                Self::Replica { timeline, replayed: lsn }
            }
        }
    }
}
