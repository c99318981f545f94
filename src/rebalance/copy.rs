//! The copy: schema, rows, indexes, and what the way back needs.
//!
//! The schema appears with all its rows in one commit, so there is no half of a copy to go on with: who finds none begins anew. The
//! rows are those of the snapshot that belongs to the slot, and the subscription takes what came after it. They are read and
//! written by the mover: into tables that have no index yet and that nobody else sees, which costs the target least.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::try_join;
use tokio::time::{Instant, sleep};

use super::dump::Dump;
use super::event::MoveNews;
use super::exported::Exporter;
use super::headway::{speed, time_left};
use super::heed::Heeding;
use super::members::members;
use super::names::{MARK_TABLE, literal};
use super::pour::{Brakes, Poured, Watch, pour};
use super::programs::Programs;
use super::relations::Relations;
use super::run::Run;
use super::step::MoveStep;
use super::stream::{self, Takes};
use super::{seal, sequences, writers};
use crate::connect::sqlstate::is_in_the_way;
use crate::{Error, Result};

/// How often whoever looks on is told how far the rows are.
const TELL: Duration = Duration::from_millis(100);
/// Either server has nothing to do while rows are held up by the other, or by their pace.
const PATIENT: &str = "SET LOCAL idle_in_transaction_session_timeout = 0";
/// From which size on a table is analyzed before it is used: what the planner assumes of smaller ones does.
const LARGE: i64 = 8 << 20;
/// How often indexes are begun anew where others held the locks, and the pauses between, from the first to the longest: what is
/// applied gets on meanwhile.
const BUILD_ATTEMPTS: u32 = 60;
const BUILD_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

impl Run<'_> {
    /// Makes the copy, or what is missing of it.
    pub(super) async fn copy(&self, schema: &str, relations: &Relations) -> Result<()> {
        let began = Instant::now();
        self.mark_shard(schema).await?;
        let (whole, bare) = (Some(self.names.comment.clone()), Some(self.names.bare_comment()));
        let mut found = self.target.comment(schema).await?;
        if found != whole && found != bare {
            // Nobody knows the snapshot of its slot any more. And a psql of a mover that is gone may still be waiting for its own.
            stream::drop_slot(&self.source, &self.names.forward).await?;
        } else if !self.can_be_followed(found == whole).await? {
            self.drop_copy_of_ours().await?;
            found = None;
        }
        if found != whole {
            let programs = self.programs().await?;
            let dump = if found == bare {
                self.dump(&programs, schema).await?
            } else {
                let mut exporter = self.source.open_exporter(&programs, &self.mover.connector)?;
                let publish = self.publish(&mut exporter, schema, relations);
                let (dump, snapshot) = try_join!(self.dump(&programs, schema), publish)?;
                self.copy_rows(schema, relations, &dump, (exporter, snapshot)).await?;
                dump
            };
            self.follow().await?;
            self.build_indexes(schema, relations, &dump).await?;
        } else {
            self.follow().await?;
        }
        if self.report.reverse {
            self.begin(MoveStep::PrepareReverse).await?;
            stream::publish(&self.target, &self.names.reverse, schema, relations).await?;
            let made = stream::make_slot(&self.target, &self.names.reverse);
            let tell = |waits: &str| self.tell(MoveStep::PrepareReverse, waits);
            writers::awaited(&self.target, made, tell).await?;
            self.end(MoveStep::PrepareReverse).await?;
        }
        self.journal.set_copied(&self.report, began.elapsed()).await
    }

    /// Whether what the copy lacks is kept, and it is known what that is.
    async fn can_be_followed(&self, is_whole: bool) -> Result<bool> {
        let (source, target, name) = (&self.source, &self.target, &self.names.forward);
        // A whole copy followed already: nobody knows how far without its subscription.
        Ok(stream::has_slot(source, name).await?
            && (!is_whole || stream::is_subscribed(target, name).await?))
    }

    async fn mark_shard(&self, schema: &str) -> Result<()> {
        self.begin(MoveStep::MarkShard).await?;
        let mark = format!(
            "{}INSERT INTO {schema}.{MARK_TABLE} (move, mark) VALUES ({}, 0) ON CONFLICT DO NOTHING",
            table_of_marks(schema),
            self.report.id.get()
        );
        self.source.work.batch(&mark, "cannot mark the shard").await?;
        self.end(MoveStep::MarkShard).await
    }

    /// The programs for the source, looked for once.
    async fn programs(&self) -> Result<Programs> {
        let (source, mover) = (&self.source, self.mover);
        let mut known = mover.programs.lock().await;
        let key = (source.name.clone(), source.major);
        if let Some(known) = known.get(&key) {
            return Ok(known.clone());
        }
        let folder = self.programs_of_source().await;
        let found = Programs::find(mover.pg_bin.as_deref(), folder, source.major).await?;
        known.insert(key, found.clone());
        Ok(found)
    }

    async fn dump(&self, programs: &Programs, schema: &str) -> Result<Dump> {
        self.mover.kept.dumps.make(programs, &self.mover.connector, &self.source, schema).await
    }

    /// Makes the publication and the slot, and has the slot's snapshot exported.
    async fn publish(
        &self,
        exporter: &mut Exporter,
        schema: &str,
        relations: &Relations,
    ) -> Result<String> {
        let (name, source) = (&self.names.forward, &self.source);
        self.begin(MoveStep::Publish).await?;
        stream::publish(source, name, schema, relations).await?;
        let tell = |waits: &str| self.tell(MoveStep::Publish, waits);
        let snapshot = writers::awaited(source, exporter.export(source, name), tell).await?;
        self.end(MoveStep::Publish).await?;
        Ok(snapshot)
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

    /// The schema with the rows of a snapshot and its primary keys, sealed, in one transaction: it is there as a whole or not at
    /// all.
    async fn copy_rows(
        &self,
        schema: &str,
        relations: &Relations,
        dump: &Dump,
        exported: (Exporter, String),
    ) -> Result<()> {
        const WHAT: &str = "cannot make the schema on the target";

        let work = &self.target.work;
        let (keys, _) = self.after_rows(schema, dump).await?;
        let made = async {
            self.begin(MoveStep::CopySchema).await?;
            work.batch(&format!("BEGIN; {}", dump.before(self.target.major)), WHAT).await?;
            // What a dump sets is meant for itself.
            work.reset().await?;
            work.batch(&format!("{}{PATIENT}", table_of_marks(schema)), WHAT).await?;
            self.end(MoveStep::CopySchema).await?;

            self.begin(MoveStep::CopyRows).await?;
            let rows = self.pour(schema, relations, exported).await?;
            work.batch(&keys, WHAT).await?;
            let sequences = sequences::read(work, schema, &relations.sequences, "").await?;
            let seal = format!(
                "{}{}{}COMMIT",
                seal::guard(schema, relations),
                sequences::seal(schema, &sequences),
                seal::comment(schema, Some(&self.names.bare_comment())),
            );
            work.batch(&seal, WHAT).await?;
            Ok(rows)
        };
        let made: Result<_> = made.await;
        work.roll_back().await;
        let refreshed = work.refresh().await;
        let rows = made?;
        refreshed?;
        let bytes = self.size(&self.target, schema).await?;
        self.set_copied(rows, bytes).await?;
        self.end(MoveStep::CopyRows).await
    }

    /// Copies the rows of a snapshot, table by table, and says how many they are.
    async fn pour(
        &self,
        schema: &str,
        relations: &Relations,
        (mut exporter, snapshot): (Exporter, String),
    ) -> Result<u64> {
        const TABLES: &str = concat!(
            "SELECT c.relname::text, pg_table_size(c.oid), array_agg(a.attname::text ORDER BY a.attnum), getdatabaseencoding()::text \
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
            WHERE c.oid = ANY (",
            members!("pg_class"),
            ") AND c.relkind = 'r' \
              AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' GROUP BY c.oid"
        );

        let reader = self.source.open_reader(&self.mover.connector).await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; {PATIENT}",
            literal(&snapshot)
        );
        reader.batch(&begin, "cannot take the snapshot of the slot").await?;
        exporter.release(&self.names.forward).await?;
        self.source.keep_exporter(exporter);
        let rows = reader.rows(TABLES, &[&schema], "cannot read the shard's tables").await?;
        let table = |row: &tokio_postgres::Row| {
            let bytes = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
            (row.get::<_, String>(0), (bytes, row.get::<_, Vec<String>>(2)))
        };
        let tables: BTreeMap<_, _> = rows.iter().map(table).collect();
        let encoding = rows.first().map_or("UTF8", |row| row.get(3));

        let mut progress = Progress {
            run: self,
            of_bytes: tables.values().map(|(bytes, _)| *bytes).sum(),
            done: Poured::default(),
            bytes: 0,
            began: Instant::now(),
            told: None,
        };
        let heeding = Heeding::begin(self).await?;
        let brakes = Brakes { pace: &self.mover.pace, waits: heeding.waits() };
        let pouring = async {
            let named = relations.with_rows().map(|table| table.name.as_str()).chain([MARK_TABLE]);
            for name in named {
                let (bytes, columns) = tables.get(name).ok_or_else(|| {
                    Error::refused(format!("the table {name} was dropped during the move"))
                        .hint("abort the move, then begin it anew")
                })?;
                progress.bytes = *bytes;
                let table = super::relations::of(schema, name);
                let form = (columns.as_slice(), encoding);
                let poured =
                    pour(&reader, &self.target.work, &table, form, &brakes, &mut progress).await?;
                progress.done.rows += poured.rows;
                progress.done.bytes += bytes;
            }
            Ok::<_, Error>(())
        };
        tokio::select! {
            biased;
            poured = Box::pin(pouring) => poured?,
            Err(error) = heeding.go_on() => return Err(error),
        }
        progress.tell_now(Poured::default());
        let rows = progress.done.rows;
        reader.batch("COMMIT", "cannot end the snapshot").await?;
        self.source.keep_reader(reader);
        Ok(rows)
    }

    /// Has the copy take what is committed on the source after the snapshot.
    async fn follow(&self) -> Result<()> {
        self.begin(MoveStep::Follow).await?;
        let (source, target, name) = (&self.source, &self.target, &self.names.forward);
        let conninfo = self.conninfo(source, target).await?;
        stream::subscribe(&conninfo, target, source, name, Takes::All).await?;
        self.end(MoveStep::Follow).await
    }

    async fn build_indexes(&self, schema: &str, relations: &Relations, dump: &Dump) -> Result<()> {
        const WHAT: &str = "cannot make the indexes and constraints on the target";

        self.begin(MoveStep::BuildIndexes).await?;
        let (_, rest) = self.after_rows(schema, dump).await?;
        let work = &self.target.work;
        let whole = seal::comment(schema, Some(&self.names.comment));
        // What is applied meanwhile locks several tables, too, in an order of its own. Where the two wait for each other, it is
        // before anything is built.
        let lock = relations.lock(schema, "SHARE ROW EXCLUSIVE");
        let build = format!("BEGIN; {lock}{rest}; {whole}COMMIT");
        let (mut attempt, mut pause) = (1, BUILD_PAUSE.0);
        loop {
            let made = work.batch(&build, WHAT).await;
            work.roll_back().await;
            work.refresh().await?;
            match made {
                Err(error)
                    if error.code().is_some_and(is_in_the_way) && attempt < BUILD_ATTEMPTS =>
                {
                    self.tell(MoveStep::BuildIndexes, &format!("tried {attempt} times: {error}"));
                }
                made => break made?,
            }
            sleep(pause).await;
            attempt += 1;
            pause = (pause * 2).min(BUILD_PAUSE.1);
        }
        self.analyze(schema).await?;
        self.end(MoveStep::BuildIndexes).await
    }

    /// Large tables are not left to the planner's guesses until autovacuum comes by.
    async fn analyze(&self, schema: &str) -> Result<()> {
        const TABLES: &str = concat!(
            "SELECT relname::text FROM pg_class \
            WHERE oid = ANY (",
            members!("pg_class"),
            ") AND relkind = 'r' AND pg_relation_size(oid) >= $2"
        );
        const WHAT: &str = "cannot analyze the copy";

        let large = self.target.work.rows(TABLES, &[&schema, &LARGE], WHAT).await?;
        for table in large.iter().map(|row| super::relations::of(schema, row.get(0))) {
            self.target.work.batch(&format!("ANALYZE {table}"), WHAT).await?;
        }
        Ok(())
    }

    /// What a dump makes after the rows, as SQL: the primary keys, without which rows cannot be applied, and the rest.
    async fn after_rows(&self, schema: &str, dump: &Dump) -> Result<(String, String)> {
        const KEYS: &str = concat!(
            "SELECT k.oid FROM pg_constraint k WHERE k.contype = 'p' \
            AND k.conrelid = ANY (",
            members!("pg_class"),
            ")"
        );

        let keys = self.source.work.rows(KEYS, &[&schema], "cannot read the primary keys").await?;
        let keys: Vec<u32> = keys.iter().map(|row| row.get(0)).collect();
        Ok(dump.split(&keys))
    }

    /// The bytes of the tables and indexes of a schema.
    async fn size(&self, side: &super::side::Side, schema: &str) -> Result<u64> {
        const SIZE: &str = concat!(
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class \
            WHERE oid = ANY (",
            members!("pg_class"),
            ") AND relkind = 'r'"
        );

        let row = side.watch.one(SIZE, &[&schema], "cannot ask for the shard's size").await?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }
}

/// How far the copy of a shard's rows is, and who is told.
struct Progress<'a> {
    run: &'a Run<'a>,
    /// What all tables take on disk.
    of_bytes: u64,
    /// The rows of the tables that are done, and what these take on disk.
    done: Poured,
    /// What the table that is copied now takes there.
    bytes: u64,
    began: Instant,
    told: Option<Instant>,
}

impl Watch for Progress<'_> {
    fn tell(&mut self, poured: Poured) {
        if self.told.is_none_or(|told| told.elapsed() > TELL) {
            self.tell_now(poured);
            self.told = Some(Instant::now());
        }
    }
}

impl Progress<'_> {
    fn tell_now(&self, poured: Poured) {
        let Poured { rows, bytes } = self.with(poured);
        let bytes_per_second = speed(bytes, self.began.elapsed());
        let of_bytes = self.of_bytes;
        let left = bytes_per_second.and_then(|speed| time_left(bytes, of_bytes, speed));
        let news = MoveNews::Progress { rows, bytes, of_bytes, bytes_per_second, left };
        self.run.event(MoveStep::CopyRows, news);
    }

    /// A row takes more on disk than on its way, or less; a table that is done is done.
    fn with(&self, poured: Poured) -> Poured {
        let bytes = self.done.bytes + poured.bytes.min(self.bytes);
        Poured { rows: self.done.rows + poured.rows, bytes }
    }
}

/// The SQL that makes the table of marks, which is no part of a dump. The servers' hosts are asked for marks as applications ask.
fn table_of_marks(schema: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {schema}.{MARK_TABLE} (move bigint PRIMARY KEY, mark bigint NOT NULL, opens text); \
         REVOKE ALL ON {schema}.{MARK_TABLE} FROM howdah_app; GRANT SELECT ON {schema}.{MARK_TABLE} TO howdah_app; "
    )
}
