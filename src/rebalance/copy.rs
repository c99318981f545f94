//! The copy: schema, rows, indexes, and what the way back needs.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::dump::{Dump, PgDump};
use super::event::MoveNews;
use super::names::MARK_TABLE;
use super::relations::Relations;
use super::run::Run;
use super::step::MoveStep;
use super::stream::{self, Begin};
use super::{seal, sequences};
use crate::error::Kind;
use crate::{Error, Result};

/// How often the copy of rows is looked at, at first and later; how often its rows are counted, and the journal is told.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
const COUNT_ROWS: Duration = Duration::from_millis(100);
const TELL_JOURNAL: Duration = Duration::from_secs(1);
/// How long a copy may stand still before it is given up.
const STANDSTILL: Duration = Duration::from_secs(60);

/// How much of the rows is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Copied {
    rows: u64,
    bytes: u64,
}

impl Run<'_> {
    /// Makes the copy, or what is missing of it.
    pub(super) async fn copy(&self, schema: &str, relations: &Relations) -> Result<()> {
        let began = Instant::now();
        self.mark_shard(schema).await?;
        let comment = self.target.comment(schema).await?;
        let dump = if comment.as_ref() == Some(&self.names.comment) {
            None
        } else {
            let dump = self.dump(schema).await?;
            if comment != Some(self.names.bare_comment()) {
                self.copy_schema(schema, relations, &dump).await?;
            }
            Some(dump)
        };
        self.begin(MoveStep::Publish).await?;
        stream::publish(&self.source, &self.names.forward, schema, relations).await?;
        stream::make_slot(&self.source, &self.names.forward).await?;
        self.end(MoveStep::Publish).await?;

        self.copy_rows(schema, relations).await?;
        if let Some(dump) = dump {
            self.build_indexes(schema, &dump).await?;
        }
        if self.report.reverse {
            self.begin(MoveStep::PrepareReverse).await?;
            stream::publish(&self.target, &self.names.reverse, schema, relations).await?;
            stream::make_slot(&self.target, &self.names.reverse).await?;
            self.end(MoveStep::PrepareReverse).await?;
        }
        self.journal.set_copied(&self.report, began.elapsed()).await
    }

    async fn mark_shard(&self, schema: &str) -> Result<()> {
        self.begin(MoveStep::MarkShard).await?;
        let mark = format!(
            "CREATE TABLE IF NOT EXISTS {schema}.{MARK_TABLE} (move bigint PRIMARY KEY, mark bigint NOT NULL, opens text); \
             REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON {schema}.{MARK_TABLE} FROM howdah_app; \
             INSERT INTO {schema}.{MARK_TABLE} (move, mark) VALUES ({}, 0) ON CONFLICT DO NOTHING",
            self.report.id.get()
        );
        self.source.work.batch(&mark, "cannot mark the shard").await?;
        self.end(MoveStep::MarkShard).await
    }

    async fn dump(&self, schema: &str) -> Result<Dump> {
        let folder = self.programs_of_source().await;
        let named = self.mover.pg_bin.as_deref();
        let pg_dump = PgDump::find(named, folder, self.source.major).await?;
        let connector = &self.mover.connector;
        pg_dump.schema(connector, &self.source.dsn, schema, self.target.major).await
    }

    /// The source's own programs, where it runs on this machine and says so.
    async fn programs_of_source(&self) -> Option<std::path::PathBuf> {
        const FOLDER: &str = "SELECT setting FROM pg_config WHERE name = 'BINDIR'";

        if !self.source.dsn.is_local() {
            return None;
        }
        // Only superusers are told.
        let row = self.source.mover.opt(FOLDER, &[], "").await.ok().flatten()?;
        Some(row.get::<_, String>(0).into())
    }

    /// The schema with its primary keys, sealed, in one transaction: it is there as a whole or not at all.
    async fn copy_schema(&self, schema: &str, relations: &Relations, dump: &Dump) -> Result<()> {
        const WHAT: &str = "cannot make the schema on the target";

        self.begin(MoveStep::CopySchema).await?;
        let (keys, _) = self.after_rows(schema, dump).await?;
        let work = &self.target.work;
        let made = async {
            work.batch(&format!("BEGIN; {}", dump.before), WHAT).await?;
            work.batch(&keys, WHAT).await?;
            let sequences = sequences::read(work, schema, &relations.sequences, "").await?;
            let seal = format!(
                "{}{}{}COMMIT",
                seal::guard(schema, relations),
                sequences::seal(schema, &sequences),
                seal::comment(schema, Some(&self.names.bare_comment())),
            );
            work.batch(&seal, WHAT).await
        };
        let made = made.await;
        work.roll_back().await;
        work.refresh().await?;
        made?;
        self.end(MoveStep::CopySchema).await
    }

    async fn build_indexes(&self, schema: &str, dump: &Dump) -> Result<()> {
        const WHAT: &str = "cannot make the indexes and constraints on the target";

        self.begin(MoveStep::BuildIndexes).await?;
        let (_, rest) = self.after_rows(schema, dump).await?;
        let work = &self.target.work;
        let whole = seal::comment(schema, Some(&self.names.comment));
        let made = work.batch(&format!("BEGIN; {rest}; {whole}COMMIT"), WHAT).await;
        work.roll_back().await;
        work.refresh().await?;
        made?;
        self.end(MoveStep::BuildIndexes).await
    }

    /// What a dump makes after the rows, as SQL: the primary keys, without which rows cannot be applied, and the rest.
    async fn after_rows(&self, schema: &str, dump: &Dump) -> Result<(String, String)> {
        const KEYS: &str = "SELECT k.oid FROM pg_constraint k WHERE k.contype = 'p' \
            AND k.connamespace = to_regnamespace($1)";

        let keys = self.source.work.rows(KEYS, &[&schema], "cannot read the primary keys").await?;
        let keys: Vec<u32> = keys.iter().map(|row| row.get(0)).collect();
        Ok(dump.split(&keys))
    }

    /// Subscribes, and waits until every table was copied and follows.
    async fn copy_rows(&self, schema: &str, relations: &Relations) -> Result<()> {
        self.begin(MoveStep::CopyRows).await?;
        let name = &self.names.forward;
        let (source, target) = (&self.source, &self.target);
        let conninfo = self.conninfo(source, target).await?;
        stream::subscribe(&conninfo, target, source, name, Begin::Copying).await?;
        let tables = i64::try_from(relations.with_rows().count() + 1).unwrap_or(i64::MAX);
        let of_bytes = self.size(source, schema).await?;
        let began = Instant::now();
        let mut counted: Option<Instant> = None;
        let mut last = (0, Copied::default());
        let (mut moved, mut told) = (began, began);
        loop {
            let (ready, copied) = stream::copied(target, name).await?;
            let is_done = ready >= tables;
            if is_done || counted.is_none_or(|counted| counted.elapsed() > COUNT_ROWS) {
                let now = (ready, self.copied(schema).await?);
                counted = Some(Instant::now());
                if now != last {
                    (last, moved) = (now, Instant::now());
                }
                let Copied { rows, bytes } = last.1;
                self.event(MoveStep::CopyRows, MoveNews::Progress { rows, bytes, of_bytes });
                if told.elapsed() > TELL_JOURNAL {
                    self.journal.set_progress(&self.report, rows, bytes).await?;
                    told = Instant::now();
                }
            }
            if is_done {
                break;
            }
            if copied > 0 {
                // They follow from the next commit on, and where none comes the server waits a second for one.
                stream::write_mark(source, schema, self.report.id.get()).await?;
            }
            if moved.elapsed() > STANDSTILL {
                let trouble = stream::trouble(target, name).await;
                return Err(Error::new(
                    Kind::Timeout,
                    format!(
                        "the copy has stood still for {STANDSTILL:?} with {ready} of {tables} tables: {trouble}"
                    ),
                ));
            }
            // So seldom that it costs the copy a hundredth at most.
            sleep((began.elapsed() / 100).clamp(LOOK_AGAIN.0, LOOK_AGAIN.1)).await;
        }
        let bytes = self.size(target, schema).await?;
        self.journal.set_progress(&self.report, last.1.rows, bytes).await?;
        self.end(MoveStep::CopyRows).await
    }

    /// What the target has of the rows so far.
    async fn copied(&self, schema: &str) -> Result<Copied> {
        const RUNNING: &str = "SELECT coalesce(sum(p.tuples_processed), 0)::bigint, coalesce(sum(p.bytes_processed), 0)::bigint \
            FROM pg_stat_progress_copy p JOIN pg_class c ON c.oid = p.relid \
            WHERE p.datname = current_database() AND c.relnamespace = to_regnamespace($1)";
        const DONE: &str = "SELECT coalesce(sum(n_live_tup), 0)::bigint, coalesce(sum(pg_table_size(relid)), 0)::bigint \
            FROM pg_stat_user_tables JOIN pg_subscription_rel ON srrelid = relid \
            WHERE schemaname = $1 AND srsubstate NOT IN ('i', 'd')";
        const WHAT: &str = "cannot look at the copy";

        let running = self.target.watch.one(RUNNING, &[&schema], WHAT).await?;
        let done = self.target.watch.one(DONE, &[&schema], WHAT).await?;
        let sum = |column| {
            let sum: i64 = running.get::<_, i64>(column) + done.get::<_, i64>(column);
            u64::try_from(sum).unwrap_or(0)
        };
        Ok(Copied { rows: sum(0), bytes: sum(1) })
    }

    /// The bytes of the tables and indexes of a schema.
    async fn size(&self, side: &super::side::Side, schema: &str) -> Result<u64> {
        const SIZE: &str = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class \
            WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'";

        let row = side.watch.one(SIZE, &[&schema], "cannot ask for the shard's size").await?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }
}
