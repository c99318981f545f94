//! The row that decides: made by the transaction itself, or by whoever finds that it cannot be any more.

use super::gid::Gid;
use crate::cluster::Cluster;
use crate::cluster::retry::Visit;
use crate::connect::sqlstate::is_lock_timeout;
use crate::error::Kind;
use crate::pool::Params;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// In the first's own transaction. What is decided must be on the disk before anybody acts upon it, whatever the
/// session's setting; one that waits for standbys too is left as it is.
const DECIDE: Statement = Statement::new(
    "INSERT INTO {shard}.howdah_decisions (committed)
     SELECT true WHERE set_config('synchronous_commit',
         CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
              ELSE current_setting('synchronous_commit') END, true) IS NOT NULL
     RETURNING id::text",
);

/// Waits for a row that is not committed yet, but not for long: whoever made it lives, and will see to it.
const SETTLE: Statement = Statement::new(
    "INSERT INTO {shard}.howdah_decisions AS decided (id, committed)
     SELECT $1::text::uuid, false
     WHERE set_config('lock_timeout', '1s', true) IS NOT NULL
       AND set_config('synchronous_commit',
               CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                    ELSE current_setting('synchronous_commit') END, true) IS NOT NULL
     ON CONFLICT (id) DO UPDATE SET committed = decided.committed
     RETURNING committed",
);

const LOOK: Statement =
    Statement::new("SELECT committed FROM {shard}.howdah_decisions WHERE id = $1::text::uuid");

/// What became of a transaction over shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Decision {
    /// It was committed: every part of it will be.
    Committed,
    /// Nothing of it remains, or will.
    RolledBack,
}

impl Decision {
    fn new(committed: bool) -> Self {
        if committed { Self::Committed } else { Self::RolledBack }
    }
}

/// Writes the decision into the open transaction of a visit: it is made when that commits. Returns the row's id.
pub(super) async fn decide(visit: &Visit) -> Result<String> {
    let params: Params<'_> = &[];
    let (rows, _) = visit.send(&DECIDE, params).await?;
    let row = rows.first().ok_or_else(|| Error::new(Kind::Rows, "no decision was made"))?;
    Ok(row.get(0))
}

impl Cluster {
    /// Finds out what was decided, and decides where nobody has and nobody can any more. `None` while the transaction that
    /// will decide is still open.
    pub(super) async fn settle(&self, gid: &Gid) -> Result<Option<Decision>> {
        match self.shard(gid.shard)?.query_one(&SETTLE, &[&gid.id]).await {
            Ok(row) => Ok(Some(Decision::new(row.get(0)))),
            Err(error) if error.as_db_error().is_some_and(is_lock_timeout) => Ok(None),
            // Whether it was inserted or not, asking again gives the answer.
            Err(error) => Err(error.if_unknown(Outcome::NotExecuted)),
        }
    }

    /// What was decided so far; changes nothing.
    pub(super) async fn decided(&self, gid: &Gid) -> Result<Option<Decision>> {
        let row = self.shard(gid.shard)?.query_opt(&LOOK, &[&gid.id]).await?;
        Ok(row.map(|row| Decision::new(row.get(0))))
    }
}
