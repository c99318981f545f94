//! The journal of moves, in the catalog: what was meant, and how far it came.
//!
//! Every write names the attempt it belongs to, and changes nothing once a later run has taken over. What is on the
//! servers decides how a move goes on; the journal says which servers those are, and what they were when the copy began.

use std::time::{Duration, Instant};

use futures_util::try_join;
use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;

use super::headway::Headway;
use super::names::literal;
use super::report::{COLUMNS, MoveId, MoveReport, ServerId};
use super::session::Session;
use super::step::{MovePhase, MoveStep};
use crate::catalog::{CHANNEL, Signpost};
use crate::config::Dsn;
use crate::connect::{Connector, Role, sqlstate};
use crate::error::Kind;
use crate::shard::{Epoch, InstanceName, ShardId};
use crate::{Error, Result};

/// What a mover means to do: the row that it writes first.
pub(super) struct Intent<'a> {
    pub(super) shard: ShardId,
    pub(super) source: &'a InstanceName,
    pub(super) target: &'a InstanceName,
    pub(super) epoch: Epoch,
    pub(super) reverse: bool,
    pub(super) servers: [&'a ServerId; 2],
}

/// A shard's change of home.
pub(super) struct Change<'a> {
    pub(super) shard: ShardId,
    pub(super) from: (&'a InstanceName, Epoch),
    pub(super) to: (&'a InstanceName, Epoch),
    /// What the identity row of the old home says since it was closed.
    pub(super) generation: i64,
}

/// The catalog's session. Where it is lost the run begins again; the locks that matter are on the servers.
#[derive(Debug)]
pub(super) struct Journal {
    session: Session,
    pub(super) opened: Instant,
}

impl Journal {
    /// To write in it.
    pub(super) async fn open(connector: &Connector) -> Result<Self> {
        Self::open_as(connector, Role::Owner).await
    }

    /// To read it, which applications may.
    pub(super) async fn look(connector: &Connector) -> Result<Self> {
        Self::open_as(connector, Role::App).await
    }

    async fn open_as(connector: &Connector, role: Role) -> Result<Self> {
        let session = Session::open_catalog(connector, role).await?;
        let version = session.opt(IS_THERE, &[], "cannot read the catalog").await?;
        if !version.is_some_and(|row| row.get(0)) {
            return Err(Error::config(
                "the catalog has no journal of moves, or that of an older howdah",
            )
            .hint("run `howdah init` again: it upgrades what is older"));
        }
        Ok(Self { session, opened: Instant::now() })
    }

    /// Whether the catalog has not been moved away.
    pub(super) async fn is_in_place(&self) -> bool {
        matches!(Signpost::read(self.session.client()).await, Ok(None))
    }

    /// Whoever comes next may have other moves to write of.
    pub(super) fn forget_statements(&self) {
        self.session.forget_statements();
    }

    /// How the other servers reach an instance, where that is not how applications do.
    pub(super) async fn peer_dsn(&self, instance: &InstanceName) -> Result<Option<Dsn>> {
        const PEER: &str = "SELECT peer_dsn FROM howdah.instance WHERE name = $1";

        let row = self.session.opt(PEER, &[&instance.as_str()], CANNOT_READ).await?;
        let dsn = row.and_then(|row| row.get::<_, Option<String>>(0));
        dsn.map(|dsn| dsn.parse()).transpose()
    }

    /// All moves, the newest first.
    pub(super) async fn list(&self) -> Result<Vec<MoveReport>> {
        let sql = format!("SELECT {COLUMNS} FROM howdah.move ORDER BY id DESC");
        let rows = self.session.rows(&sql, &[], CANNOT_READ).await?;
        rows.iter().map(MoveReport::from_row).collect()
    }

    pub(super) async fn show(&self, id: MoveId) -> Result<MoveReport> {
        let sql = format!("SELECT {COLUMNS} FROM howdah.move WHERE id = $1");
        let row = self.session.opt(&sql, &[&id.0], CANNOT_READ).await?;
        let row = row.ok_or_else(|| Error::input(format!("there is no move {id}")))?;
        MoveReport::from_row(&row)
    }

    /// The open move of a shard.
    pub(super) async fn open_move(&self, shard: ShardId) -> Result<Option<MoveReport>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM howdah.move \
             WHERE shard = $1 AND phase NOT IN ('finished', 'rolled_back', 'aborted')"
        );
        let row = self.session.opt(&sql, &[&number(shard)], CANNOT_READ).await?;
        row.as_ref().map(MoveReport::from_row).transpose()
    }

    /// Enters a move, if the shard lives where it was looked at and the target takes shards; both stay so until it is entered.
    /// Where the shard has an open one already, that is an error of the database.
    pub(super) async fn enter(&self, intent: &Intent<'_>) -> Result<Option<MoveId>> {
        const ENTER: &str = "INSERT INTO howdah.move (shard, source, target, epoch, reverse, step, source_system, \
                 source_timeline, target_system, target_timeline) \
             SELECT shard, instance, name, epoch, $5, $6, $7, $8, $9, $10 FROM howdah.home, howdah.instance \
             WHERE shard = $1 AND instance = $2 AND epoch = $4 AND name = $3 AND state = 'active' \
             FOR SHARE RETURNING id";

        let [source, target] = intent.servers;
        let row = self
            .session
            .opt(
                ENTER,
                &[
                    &number(intent.shard),
                    &intent.source.as_str(),
                    &intent.target.as_str(),
                    &i32::try_from(intent.epoch.get()).unwrap_or(i32::MAX),
                    &intent.reverse,
                    &MoveStep::Journal.as_str(),
                    &source.system,
                    &source.timeline,
                    &target.system,
                    &target.timeline,
                ],
                "cannot write the journal",
            )
            .await?;
        Ok(row.map(|row| MoveId(row.get(0))))
    }

    /// Takes a move over from whoever was at it before, if it is still as it was when we looked. The caller holds the locks.
    pub(super) async fn take_over(&self, seen: &MoveReport) -> Result<MoveReport> {
        let sql = format!(
            "UPDATE howdah.move SET attempt = attempt + 1, error = NULL, of_bytes = NULL, \
                 bytes_per_second = NULL, lag_ms = NULL, changed_at = clock_timestamp() \
             WHERE id = $1 AND attempt = $2 AND phase = $3 RETURNING {COLUMNS}"
        );
        let phase = seen.phase.as_str();
        let row =
            self.session.opt(&sql, &[&seen.id.0, &seen.attempt, &phase], CANNOT_WRITE).await?;
        let row = row.ok_or_else(|| {
            // What is to be done is decided anew.
            Error::new(Kind::Unavailable, format!("another run went on with {}", seen.id))
        })?;
        MoveReport::from_row(&row)
    }

    /// Notes that a step begins, or that it is done.
    pub(super) async fn note(&self, of: &MoveReport, step: MoveStep, done: bool) -> Result<()> {
        const NOTE: &str = "WITH mine AS (UPDATE howdah.move \
                SET step = $3, phase = $4, of_bytes = NULL, bytes_per_second = NULL, lag_ms = NULL, changed_at = clock_timestamp() WHERE id = $1 AND attempt = $2 RETURNING back) \
            INSERT INTO howdah.move_step (move, attempt, step, back, done) SELECT $1, $2, $3, back, $5 FROM mine \
            RETURNING id";
        let phase = step.phase().as_str();
        let noted = self
            .session
            .opt(NOTE, &[&of.id.0, &of.attempt, &step.as_str(), &phase, &done], CANNOT_WRITE)
            .await?;
        noted.map(|_| ()).ok_or_else(|| superseded(of))
    }

    /// Sets columns of the move; `assignments` is SQL of ours, whose parameters begin at `$3`.
    async fn set(
        &self,
        of: &MoveReport,
        assignments: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<()> {
        let sql = setting(assignments);
        let mut params: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
            vec![&of.id.0, &of.attempt];
        params.extend(values);
        let set = self.session.opt(&sql, &params, CANNOT_WRITE).await?;
        set.map(|_| ()).ok_or_else(|| superseded(of))
    }

    /// How far it is, for whoever looks on.
    pub(super) async fn set_headway(&self, of: &MoveReport, headway: &Headway) -> Result<()> {
        const HEADWAY: &str = "rows = coalesce($3, rows), bytes = coalesce($4, bytes), of_bytes = $5, \
            bytes_per_second = $6, compared = coalesce($7, compared), lag_ms = $8";
        let Headway { rows, bytes, of_bytes, bytes_per_second, compared, lag } = *headway;
        let [rows, bytes, of_bytes, bytes_per_second, compared] =
            [rows, bytes, of_bytes, bytes_per_second, compared].map(|count| count.map(signed));
        let lag = lag.map(milliseconds);
        self.set(of, HEADWAY, &[&rows, &bytes, &of_bytes, &bytes_per_second, &compared, &lag]).await
    }

    pub(super) async fn set_copied(&self, of: &MoveReport, took: Duration) -> Result<()> {
        let sum = "copy_ms = coalesce(copy_ms, 0) + $3";
        self.set(of, sum, &[&milliseconds(took)]).await
    }

    pub(super) async fn set_verified(&self, of: &MoveReport, verified: bool) -> Result<()> {
        self.set(of, "verified = $3", &[&verified]).await
    }

    /// Notes where the reverse stream begins.
    pub(super) async fn set_position(&self, of: &MoveReport, position: PgLsn) -> Result<()> {
        self.set(of, SET_POSITION, &[&position]).await
    }

    pub(super) async fn set_fence(&self, of: &MoveReport, took: Duration) -> Result<()> {
        self.set(of, "fence_ms = $3", &[&milliseconds(took)]).await
    }

    /// Notes that the move goes back from now on, also when it is resumed.
    pub(super) async fn turn_back(&self, of: &MoveReport) -> Result<()> {
        self.set(of, "back = true", &[]).await
    }

    /// Notes that a move which was on its way back stays where it is, and that what is left of it is being dropped.
    pub(super) async fn stay(&self, of: &MoveReport) -> Result<()> {
        let step = MoveStep::DropReverse;
        let ending: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&step.as_str(), &step.phase().as_str()];
        self.set(of, "back = false, step = $3, phase = $4", ending).await
    }

    /// Whether the catalog tells clients that a shard lives here.
    pub(super) async fn is_home(
        &self,
        shard: ShardId,
        instance: &InstanceName,
        epoch: Epoch,
    ) -> Result<bool> {
        const HOME: &str =
            "SELECT FROM howdah.home WHERE shard = $1 AND instance = $2 AND epoch = $3";

        let epoch = i32::try_from(epoch.get()).unwrap_or(i32::MAX);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&number(shard), &instance.as_str(), &epoch];
        Ok(self.session.opt(HOME, &params, CANNOT_READ).await?.is_some())
    }

    /// Enters the phase in which the move comes to rest.
    pub(super) async fn rest(&self, of: &MoveReport, phase: MovePhase) -> Result<()> {
        self.set(of, "phase = $3, error = NULL, lag_ms = NULL", &[&phase.as_str()]).await
    }

    /// Ends the move, and notes what was not done for it.
    pub(super) async fn rest_without(
        &self,
        of: &MoveReport,
        phase: MovePhase,
        note: &str,
    ) -> Result<()> {
        self.set(of, "phase = $3, error = $4, lag_ms = NULL", &[&phase.as_str(), &note]).await
    }

    /// Notes why a run ended early. The run may have been taken over, and then this is of no interest.
    pub(super) async fn set_error(&self, of: &MoveReport, error: &Error) {
        let _ = self
            .set(
                of,
                "error = $3, of_bytes = NULL, bytes_per_second = NULL, lag_ms = NULL",
                &[&error.to_string()],
            )
            .await;
    }

    /// Stores what a verification found of one table, or, without a table, of the structure.
    pub(super) async fn store_verified(
        &self,
        of: &MoveReport,
        relation: Option<&str>,
        [rows, chunks]: [u64; 2],
        difference: Option<&str>,
    ) -> Result<()> {
        const STORE: &str = "INSERT INTO howdah.move_verified (move, attempt, relation, rows, chunks, difference) \
            VALUES ($1, $2, $3, $4, $5, $6) RETURNING id";
        let (rows, chunks) = (signed(rows), signed(chunks));
        self.session
            .one(
                STORE,
                &[&of.id.0, &of.attempt, &relation, &rows, &chunks, &difference],
                CANNOT_WRITE,
            )
            .await
            .map(|_| ())
    }

    /// Rehearses what is written while clients wait, for an attempt that nobody made: it changes nothing, and is planned.
    pub(super) async fn rehearse_cutover(
        &self,
        of: &MoveReport,
        change: &Change<'_>,
        reverse: bool,
    ) -> Result<()> {
        if reverse {
            let position: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                &[&of.id.0, &NOBODYS, &PgLsn::from(0)];
            self.session.opt(&setting(SET_POSITION), position, CANNOT_WRITE).await?;
        }
        self.write_home(of, NOBODYS, change).await.map(|_| ())
    }

    /// Makes sure that nobody keeps what is written when the home changes: for an instant it is ours.
    ///
    /// # Errors
    ///
    /// When somebody does.
    pub(super) async fn prove_free(&self, change: &Change<'_>) -> Result<()> {
        // One message, so one transaction, and nothing that has to be on disk. Writing nothing takes the locks of the tables, and is
        // refused where the catalog has moved away.
        let lock = format!(
            "SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '{}ms'; \
             UPDATE howdah.move SET step = step WHERE false; UPDATE howdah.home SET epoch = epoch WHERE false; \
             UPDATE howdah.instance SET generation = generation WHERE false; \
             UPDATE howdah.cluster SET map_version = map_version WHERE false; \
             SELECT FROM howdah.home, howdah.instance, howdah.cluster WHERE shard = {} AND name = {} FOR NO KEY UPDATE",
            INSTANT.as_millis(),
            change.shard,
            literal(change.from.0.as_str()),
        );
        self.session
            .batch(&lock, CANNOT_CHANGE)
            .await
            .map_err(|error| if is_kept(&error) { error.hint(END_IT) } else { error })
    }

    /// Changes the home, once: if the attempt is still ours and the home is the one we know. Done before, it is well, too.
    /// Nobody has the shard meanwhile: `tell` hears what is waited for.
    pub(super) async fn change_home(
        &self,
        of: &MoveReport,
        change: &Change<'_>,
        tell: impl Fn(&str) + Send + Sync,
    ) -> Result<()> {
        let (from, to) = (change.from.0, change.to.0);
        let written = self.write_home_patiently(of, change, tell).await;
        let unlimited = self.session.batch("SET lock_timeout = 0", CANNOT_CHANGE).await;
        let row = written?;
        unlimited?;
        if row.get::<_, i64>(0) == 0 {
            return Err(superseded(of));
        }
        if row.get::<_, i64>(1) == 1 {
            return Ok(());
        }
        if self.is_home(change.shard, to, change.to.1).await? {
            return Ok(());
        }
        Err(Error::refused(format!(
            "the catalog says neither that shard {} lives on {from} nor on {to}",
            change.shard
        ))
        .hint("was the catalog restored from a backup? the servers are right: see `howdah status`"))
    }

    /// Waits for others' locks again and again, each time for a second.
    async fn write_home_patiently(
        &self,
        of: &MoveReport,
        change: &Change<'_>,
        tell: impl Fn(&str) + Send + Sync,
    ) -> Result<Row> {
        let began = Instant::now();
        loop {
            // Sent together, in the same session.
            let limit = self.session.batch("SET lock_timeout = '1s'", CANNOT_CHANGE);
            match try_join!(limit, self.write_home(of, of.attempt, change)) {
                Err(error) if is_kept(&error) && began.elapsed() < KEPT => {
                    tell(&format!("waits for a transaction: {error}; {END_IT}"));
                }
                Err(error) if is_kept(&error) => {
                    return Err(error.hint(format!("{END_IT}, then resume the move")));
                }
                written => return written.map(|((), row)| row),
            }
        }
    }

    async fn write_home(&self, of: &MoveReport, attempt: i32, change: &Change<'_>) -> Result<Row> {
        let epoch = |epoch: Epoch| i32::try_from(epoch.get()).unwrap_or(i32::MAX);
        let ((from, old), (to, new)) = (change.from, change.to);
        let params: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
            &of.id.0,
            &attempt,
            &MoveStep::ChangeHome.as_str(),
            &number(change.shard),
            &from.as_str(),
            &epoch(old),
            &to.as_str(),
            &epoch(new),
            &change.generation,
            &CHANNEL,
        ];
        self.session.one(CHANGE_HOME, params, CANNOT_CHANGE).await
    }
}

/// An attempt that no run has.
const NOBODYS: i32 = -1;

/// For how long others may keep what is to be written: while the shard has its home, and once it is closed.
const INSTANT: Duration = Duration::from_millis(100);
const KEPT: Duration = Duration::from_secs(600);

const CHANGE_HOME: &str = "WITH mine AS (UPDATE howdah.move SET step = $3, changed_at = clock_timestamp() \
            WHERE id = $1 AND attempt = $2 RETURNING id), \
        moved AS (UPDATE howdah.home SET instance = $7, epoch = $8 FROM mine \
            WHERE shard = $4 AND instance = $5 AND epoch = $6 RETURNING shard), \
        raised AS (UPDATE howdah.instance SET generation = greatest(generation, $9) FROM moved \
            WHERE name = $5 RETURNING name), \
        numbered AS (UPDATE howdah.cluster SET map_version = map_version + 1 FROM moved RETURNING map_version) \
        SELECT (SELECT count(*) FROM mine), (SELECT count(*) FROM moved), (SELECT count(*) FROM raised), \
               (SELECT count(*) FROM numbered), (SELECT pg_notify($10, '') FROM numbered)";
/// Whether there is a journal with all that is written into it.
const IS_THERE: &str = "SELECT EXISTS (SELECT FROM pg_attribute \
    WHERE attrelid = to_regclass('howdah.move') AND attname = 'bytes_per_second')";
const SET_POSITION: &str = "position = $3";

const CANNOT_READ: &str = "cannot read the journal";
const CANNOT_WRITE: &str = "cannot write the journal";
const CANNOT_CHANGE: &str = "cannot change the home in the catalog";
const END_IT: &str = "find it in pg_stat_activity of the catalog's database, and end it";

/// Whether others keep what was to be written.
fn is_kept(error: &Error) -> bool {
    error.code().is_some_and(sqlstate::is_in_the_way)
}

/// The statement that sets columns of a move, as long as the attempt is ours.
fn setting(assignments: &str) -> String {
    format!(
        "UPDATE howdah.move SET {assignments}, changed_at = clock_timestamp() \
         WHERE id = $1 AND attempt = $2 RETURNING id"
    )
}

fn superseded(of: &MoveReport) -> Error {
    Error::refused(format!("another run has taken over {}", of.id))
        .hint(format!("see `howdah moves show {}`", of.id))
}

fn number(shard: ShardId) -> i32 {
    i32::from(shard.get())
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
