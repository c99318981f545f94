//! The copy that becomes the home: renamed while the home is still open, unsealed when that is closed for good, or taken back.
//!
//! Between the two a session that has got hold of the copy by OID is refused, as it was all along. Were it obeyed, and the
//! cutover given up, what it wrote would be lost.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::PgLsn;

use super::cutover::{Cutover, UNSEALED_HOSTS};
use super::hosts::Hosts;
use super::names::{MARK_TABLE, Names, literal};
use super::relations::Relations;
use super::report::MoveId;
use super::seal;
use super::side::Side;
use super::step::MoveStep;
use crate::{Error, Result};

/// After which time something is told.
const TELL_AFTER: Duration = Duration::from_secs(1);

const CANNOT_UNSEAL: &str = "cannot unseal the target";

impl Cutover<'_> {
    /// Gives the copy its new name, in a transaction that has begun. It stays sealed, and the SQL that opens its sequences is
    /// written into it: nothing else knows that once the home's are ended. Returns a position in the WAL after all that.
    pub(super) async fn rename_target(&self, functions: &[String], opens: &str) -> Result<PgLsn> {
        let [old, new] = self.schemas();
        self.run.event_begin(MoveStep::RenameTarget);
        let rename = format!(
            "SET LOCAL lock_timeout = '1s'; \
             UPDATE {old}.{MARK_TABLE} SET opens = {} WHERE move = {}; {}COMMIT; \
             SELECT pg_current_wal_insert_lsn()",
            literal(opens),
            self.run.report.id.get(),
            seal::rename(&old, &new, functions),
        );
        let rows = self.to.work.batch_rows(&rename, "cannot rename the target").await?;
        let position = rows.last().and_then(|row| row.get(0)?.parse().ok());
        self.run.event_end(MoveStep::RenameTarget);
        position
            .ok_or_else(|| Error::system("the target did not tell its position").at(&self.to.name))
    }

    /// Does all that unseals the target, but for the commit: whatever may fail or take time is behind us when the home is
    /// closed. Nobody waits for these locks but who gets at the copy by OID, so the transaction may stay open.
    pub(super) async fn prepare_unsealing(&self, relations: &Relations, opens: &str) -> Result<()> {
        let [_, new] = self.schemas();
        begin_unsealing(self.to, &new, relations, opens, "1s").await
    }

    /// The same for a target that an earlier run has left sealed.
    pub(super) async fn prepare_unsealing_again(&self) -> Result<()> {
        let [_, new] = self.schemas();
        let (names, id) = (&self.run.names, self.run.report.id);
        begin_unsealing_left(self.to, &new, names, id).await.map(|_| ())
    }

    /// Unseals the target, once no host of the old home takes writes.
    pub(super) async fn unseal_target(&self) -> Result<()> {
        self.run.event_begin(MoveStep::UnsealTarget);
        // Where there was nothing left to do, there is no transaction.
        commit_unsealing(self.to).await?;
        self.run.event_end(MoveStep::UnsealTarget);
        Ok(())
    }

    /// Waits until whichever host of the new home is promoted takes writes. Clients do not wait for it.
    pub(super) async fn await_unsealed(&self, target_hosts: &mut Hosts<'_>) -> Result<()> {
        let run = self.run;
        let [_, new] = self.schemas();
        run.begin(MoveStep::AwaitUnsealed).await?;
        let tell = |waits: &str| run.tell(MoveStep::AwaitUnsealed, waits);
        target_hosts.have_unsealed(&new, &run.names.comment, UNSEALED_HOSTS, tell).await?;
        run.end(MoveStep::AwaitUnsealed).await
    }

    /// Makes a copy again of what an attempt has renamed, if it has: the home is not closed. It waits for what the attempt had
    /// begun there, however long that takes.
    pub(super) async fn take_back(&self) -> Result<()> {
        let mut taken_back = pin!(self.rename_back());
        if let Ok(done) = timeout(TELL_AFTER, taken_back.as_mut()).await {
            return done;
        }
        let waits = format!(
            "{} is to give the copy its old name back, and does not answer: does it wait for a synchronous standby?",
            self.to.name
        );
        self.run.tell(MoveStep::RenameTarget, &waits);
        taken_back.await
    }

    async fn rename_back(&self) -> Result<()> {
        let work = &self.to.work;
        work.roll_back().await;
        if !self.to.epochs(self.run.report.shard).await?.contains(&self.new) {
            return Ok(());
        }
        let [old, new] = self.schemas();
        let functions = seal::functions_naming(work, &new).await?;
        let back = format!(
            "BEGIN; SET LOCAL lock_timeout = '10s'; {}COMMIT",
            seal::rename(&new, &old, &functions)
        );
        work.batch(&back, "cannot give the target its old name back").await
    }
}

/// Does all that unseals a schema, but for the commit.
async fn begin_unsealing(
    side: &Side,
    schema: &str,
    relations: &Relations,
    opens: &str,
    lock_timeout: &str,
) -> Result<()> {
    let unseal = format!(
        "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0; \
         SET LOCAL lock_timeout = '{lock_timeout}'; {}{opens}{}",
        seal::unguard(schema, relations),
        seal::comment(schema, None)
    );
    side.work.batch(&unseal, CANNOT_UNSEAL).await
}

/// The same for one that a move has left sealed, by what it has written into it. Says whether it has.
pub(super) async fn begin_unsealing_left(
    side: &Side,
    schema: &str,
    names: &Names,
    id: MoveId,
) -> Result<bool> {
    if side.comment(schema).await?.as_ref() != Some(&names.comment) {
        return Ok(false);
    }
    let relations = Relations::read(&side.work, schema).await?;
    let opens =
        format!("SELECT opens FROM {schema}.{MARK_TABLE} WHERE move = $1 AND opens IS NOT NULL");
    let opens: String = side.work.one(&opens, &[&id.get()], CANNOT_UNSEAL).await?.get(0);
    begin_unsealing(side, schema, &relations, &opens, "30s").await?;
    Ok(true)
}

/// Unseals what was prepared.
pub(super) async fn commit_unsealing(side: &Side) -> Result<()> {
    side.work.batch("COMMIT", CANNOT_UNSEAL).await
}
