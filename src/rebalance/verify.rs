//! Whether two copies of a shard are equal, found out while the home is written to.
//!
//! Structure is compared thing by thing, rows chunk by chunk. A chunk that differs may only be behind: it is looked at again
//! after the copy has caught up, then row by row. A row that stays as it is at home, and other in the copy although that has
//! caught up, is a difference. A row that changes each time it is looked at is left for the fence, where nothing changes.

use std::time::Duration;

use futures_util::try_join;

use super::event::MoveNews;
use super::relations::{Relations, Table};
use super::rows::{Hashes, Key, Range, Rows, hashes_of_rows};
use super::side::Side;
use super::stream;
use super::structure::Structure;
use crate::{Error, Result};

/// How many rows are compared at once.
const CHUNK: u32 = 10_000;
/// Up to which size a table is first looked at as a whole, which takes half the time where nobody writes to it just then.
const AT_ONCE: i64 = 8 << 20;
/// How often a chunk is looked at as a whole before its rows are looked at.
const LOOKS: u32 = 3;
/// How often a row has to be other in a copy that has caught up, and unchanged at home, to be a difference.
const PROOF: u32 = 3;
/// How often a row that changes is looked at before it is left for the fence.
const CHASES: u32 = 12;
/// How many rows may be left for the fence: what is compared there keeps writers waiting.
const MOST_HOT: usize = 1_000;
/// How many different rows are named.
const NAMED: usize = 5;
/// How far a copy may be behind while it is compared, and for how long it may stand still before.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two copies of a shard: the home, and one that follows.
pub(super) struct Pair<'a> {
    pub(super) home: &'a Side,
    pub(super) copy: &'a Side,
    /// What the copy follows by.
    pub(super) stream: &'a str,
    /// The schema's name, on both.
    pub(super) schema: &'a str,
    /// The move's number, which the marks carry.
    pub(super) id: i64,
}

/// What a comparison found of one table.
#[derive(Debug)]
pub(super) struct TableFindings {
    pub(super) table: Table,
    /// What a row's hash is, in SQL.
    hash: String,
    pub(super) rows: u64,
    pub(super) chunks: u64,
    /// In words; nothing where both are equal.
    pub(super) difference: Option<String>,
    /// The rows that changed each time they were looked at.
    pub(super) hot: Vec<Key>,
}

/// What a comparison found.
#[derive(Debug)]
pub(super) struct Findings {
    /// The structure of the home.
    pub(super) structure: Structure,
    pub(super) structure_difference: Option<String>,
    pub(super) tables: Vec<TableFindings>,
}

impl Findings {
    /// All differences, in words.
    pub(super) fn difference(&self) -> Option<String> {
        let tables = self.tables.iter().filter_map(|table| table.difference.as_deref());
        let all: Vec<_> = self.structure_difference.as_deref().into_iter().chain(tables).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    pub(super) fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

impl Pair<'_> {
    /// Compares everything. `progress` is told how many rows have been compared.
    pub(super) async fn compare(
        &self,
        relations: &Relations,
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<Findings> {
        let with_views = self.home.major == self.copy.major;
        let structure = Structure::read(&self.home.watch, self.schema, with_views).await?;
        let of_copy = Structure::read(&self.copy.watch, self.schema, with_views).await?;
        let structure_difference = structure.difference(&of_copy);
        let mut findings = Findings { structure, structure_difference, tables: Vec::new() };
        if findings.structure_difference.is_some() {
            // Rows of different tables cannot be compared.
            return Ok(findings);
        }
        let by_bytes = self.orders_differ().await?;
        let mut hashes = hashes_of_rows(&self.home.watch, self.schema).await?;
        for table in relations.with_rows() {
            let before = findings.rows();
            let told = |rows| progress(before + rows);
            let hash = hashes.remove(&table.name).ok_or_else(|| {
                Error::refused(format!("the table {} was dropped meanwhile", table.name))
            })?;
            findings.tables.push(self.compare_table(table, hash, by_bytes, &told).await?);
        }
        let hot: usize = findings.tables.iter().map(|table| table.hot.len()).sum();
        if hot > MOST_HOT {
            return Err(Error::refused(format!(
                "{hot} rows change too fast to be compared; {MOST_HOT} can be left for the fence"
            ))
            .hint("try again when less is written"));
        }
        Ok(findings)
    }

    /// Compares the rows that were left for the fence. Nothing changes meanwhile.
    pub(super) async fn compare_hot(&self, findings: &Findings) -> Result<Option<String>> {
        for found in findings.tables.iter().filter(|found| !found.hot.is_empty()) {
            let rows = Rows::new(&found.table, &found.hash, self.schema, false);
            let (home, copy) = try_join!(
                rows.hashes_of(&self.home.watch, &found.hot),
                rows.hashes_of(&self.copy.watch, &found.hot)
            )?;
            let different = different_keys(&home, &copy);
            if !different.is_empty() {
                return self.name(&rows, &different, &home, &copy).await.map(Some);
            }
        }
        Ok(None)
    }

    async fn compare_table(
        &self,
        table: &Table,
        (hash, bytes): (String, i64),
        by_bytes: bool,
        progress: &(impl Fn(u64) + Send + Sync),
    ) -> Result<TableFindings> {
        let rows = Rows::new(table, &hash, self.schema, by_bytes);
        let mut found = TableFindings {
            table: table.clone(),
            hash: hash.clone(),
            rows: 0,
            chunks: 0,
            difference: None,
            hot: Vec::new(),
        };
        if bytes <= AT_ONCE {
            let all = Range::default();
            let (home, copy) =
                try_join!(rows.sum(&self.home.watch, &all), rows.sum(&self.copy.watch, &all))?;
            if home == copy {
                (found.rows, found.chunks) = (home.0, 1);
                progress(found.rows);
                return Ok(found);
            }
        }
        let mut differences = Vec::new();
        let mut above = None;
        loop {
            let up_to = rows.end_of_chunk(&self.home.watch, above.as_ref(), CHUNK).await?;
            let range = Range { above: above.take(), up_to: up_to.clone() };
            found.rows +=
                self.compare_chunk(&rows, &range, &mut found.hot, &mut differences).await?;
            found.chunks += 1;
            progress(found.rows);
            if up_to.is_none() || differences.len() >= NAMED {
                break;
            }
            above = up_to;
        }
        if !differences.is_empty() {
            found.difference = Some(differences.join("; "));
        }
        Ok(found)
    }

    /// Compares one chunk and returns how many rows the home has in it.
    async fn compare_chunk(
        &self,
        rows: &Rows<'_>,
        range: &Range,
        hot: &mut Vec<Key>,
        differences: &mut Vec<String>,
    ) -> Result<u64> {
        for look in 0..LOOKS {
            if look > 0 {
                self.catch_up().await?;
            }
            let (home, copy) =
                try_join!(rows.sum(&self.home.watch, range), rows.sum(&self.copy.watch, range))?;
            if home == copy {
                return Ok(home.0);
            }
        }
        let (home, copy) =
            try_join!(rows.hashes(&self.home.watch, range), rows.hashes(&self.copy.watch, range))?;
        let count = u64::try_from(home.len()).unwrap_or(u64::MAX);
        self.chase(rows, home, copy, hot, differences).await?;
        Ok(count)
    }

    /// Looks at the rows that differ until each is equal, proven different, or too hot to tell.
    async fn chase(
        &self,
        rows: &Rows<'_>,
        mut home: Hashes,
        copy: Hashes,
        hot: &mut Vec<Key>,
        differences: &mut Vec<String>,
    ) -> Result<()> {
        let mut open: Vec<(Key, u32)> =
            different_keys(&home, &copy).into_iter().map(|key| (key, 0)).collect();
        for _ in 0..CHASES {
            if open.is_empty() {
                return Ok(());
            }
            self.catch_up().await?;
            let keys: Vec<Key> = open.iter().map(|(key, _)| key.clone()).collect();
            // The copy in the middle: it has at least what the home had when it was looked at before.
            let copy_now = rows.hashes_of(&self.copy.watch, &keys).await?;
            let home_now = rows.hashes_of(&self.home.watch, &keys).await?;
            let mut proven = Vec::new();
            open.retain_mut(|(key, proof)| {
                let (then, now) = (home.get(key), home_now.get(key));
                if copy_now.get(key) == now {
                    return false;
                }
                *proof = if then == now { *proof + 1 } else { 0 };
                if *proof >= PROOF {
                    proven.push(key.clone());
                }
                *proof < PROOF
            });
            if !proven.is_empty() {
                proven.truncate(NAMED);
                differences.push(self.name(rows, &proven, &home_now, &copy_now).await?);
            }
            home = home_now;
        }
        hot.extend(open.into_iter().map(|(key, _)| key));
        Ok(())
    }

    /// Waits until the copy has what has piled up: while its indexes were made, or while it could not be reached. `tell` hears for how
    /// long, and what is in its way.
    pub(super) async fn work_off(&self, tell: impl Fn(MoveNews) + Send + Sync) -> Result<()> {
        let mark = (self.schema, self.id);
        stream::work_off(self.home, self.copy, self.stream, mark, PATIENCE, tell).await
    }

    async fn catch_up(&self) -> Result<()> {
        let mark = (self.schema, self.id);
        stream::mark(self.home, self.copy, self.stream, mark, PATIENCE).await.map(|_| ())
    }

    /// Names rows that differ, and how.
    async fn name(
        &self,
        rows: &Rows<'_>,
        keys: &[Key],
        home: &Hashes,
        copy: &Hashes,
    ) -> Result<String> {
        let mut words = Vec::new();
        for key in keys.iter().take(NAMED) {
            let row = format!("{}: row {}", rows.table().name, rows.describe(key));
            words.push(match (home.contains_key(key), copy.contains_key(key)) {
                (true, false) => format!("{row} is missing in the copy"),
                (false, _) => format!("{row} is only in the copy"),
                (true, true) => {
                    let sessions = [&self.home.watch, &self.copy.watch];
                    let columns = rows.columns_that_differ(sessions, key).await?;
                    format!("{row} differs in {}", columns.join(", "))
                }
            });
        }
        Ok(words.join("; "))
    }

    /// Whether the two databases may order text differently.
    async fn orders_differ(&self) -> Result<bool> {
        const ORDER: &str = "SELECT concat_ws(' ', datlocprovider, datcollate, pg_database_collation_actual_version(oid)) \
            FROM pg_database WHERE datname = current_database()";

        let home = self.home.watch.one(ORDER, &[], "cannot read the collation").await?;
        let copy = self.copy.watch.one(ORDER, &[], "cannot read the collation").await?;
        Ok(home.get::<_, String>(0) != copy.get::<_, String>(0))
    }
}

/// The keys whose rows are not the same in both.
fn different_keys(home: &Hashes, copy: &Hashes) -> Vec<Key> {
    let missing_or_other = home.iter().filter(|(key, hash)| copy.get(*key) != Some(hash));
    let extra = copy.keys().filter(|key| !home.contains_key(*key));
    missing_or_other.map(|(key, _)| key).chain(extra).cloned().collect()
}
