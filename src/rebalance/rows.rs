//! The rows of one table, chunk by chunk along its primary key: the SQL that a comparison is made of.

use std::collections::BTreeMap;

use tokio_postgres::SimpleQueryRow;

use super::members::members;
use super::names::{ident, literal};
use super::relations::Table;
use super::session::Session;
use crate::Result;

/// A primary key's values as text.
pub(super) type Key = Vec<String>;

/// A row's hash, by its key.
pub(super) type Hashes = BTreeMap<Key, i64>;

/// The alias under which a whole row is one value; no column has this name.
const ROW: &str = "\"howdah row\"";
const WHAT: &str = "cannot compare rows";

/// A table of two copies, and how its key is ordered on both alike.
pub(super) struct Rows<'a> {
    table: &'a Table,
    /// The table with its schema.
    of: String,
    /// The key's columns as they are ordered, separated by commas.
    order: String,
    /// What a row's hash is.
    hash: &'a str,
}

/// The SQL of a row's hash, and the bytes that a table has, by the names of a schema's tables.
pub(super) async fn hashes_of_rows(
    session: &Session,
    schema: &str,
) -> Result<BTreeMap<String, (String, i64)>> {
    // Types whose values have one form each, and the same hash on all versions. PostgreSQL keeps these hashes as they are: who has
    // tables partitioned by hash relies on them.
    const COLUMNS: &str = concat!(
        "SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum), \
            array_agg(CASE WHEN a.atttypid = 'int8'::regtype THEN 'long' \
                           WHEN a.atttypid = ANY ('{int2,int4,uuid}'::regtype[]) THEN 'short' \
                           WHEN a.atttypid = ANY ('{text,varchar}'::regtype[]) THEN 'text' \
                           ELSE '' END ORDER BY a.attnum), \
            array_agg(a.attnum = ANY (i.indkey) IS TRUE ORDER BY a.attnum), pg_table_size(c.oid) \
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
        LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
        WHERE c.oid = ANY (",
        members!("pg_class"),
        ") AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped \
        GROUP BY c.oid"
    );

    let rows = session.rows(COLUMNS, &[&schema], WHAT).await?;
    let hash = |row: &tokio_postgres::Row| {
        let (names, kinds): (Vec<&str>, Vec<&str>) = (row.get(1), row.get(2));
        let is_key: Vec<bool> = row.get(3);
        let columns = || names.iter().zip(&kinds).map(|(name, kind)| (*name, *kind));
        let key = columns().zip(&is_key).filter(|(_, is_key)| **is_key).map(|(column, _)| column);
        // The hash of a row is a sum over its columns, and so is that of a table over its rows. With the key as its seed no value
        // counts as much in one row as in another: one that is in the wrong row is not made up for by the other way round.
        let hash = format!(
            "hash_record_extended(ROW({}), hash_record_extended(ROW({}), 0))",
            as_hashed(columns()),
            as_hashed(key)
        );
        (row.get(0), (hash, row.get(4)))
    };
    Ok(rows.iter().map(hash).collect())
}

/// Columns as what their hashes tell apart.
fn as_hashed<'a>(columns: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let (mut hashed, mut others) = (Vec::new(), Vec::new());
    for (name, kind) in columns {
        let column = format!("{ROW}.{}", ident(name));
        match kind {
            "short" => hashed.push(column),
            "text" => hashed.push(format!("{column} COLLATE \"C\"")),
            // Its own hash is one of 32 bits, into which both halves are folded.
            "long" => hashed.push(format!("{column}, {column} >> 32")),
            _ => others.push(column),
        }
    }
    if !others.is_empty() {
        // All others as they are written.
        hashed.push(format!("ROW({})::text COLLATE \"C\"", others.join(", ")));
    }
    hashed.join(", ")
}

/// What lies above one key, up to and with another; without either there is no end.
#[derive(Debug, Clone, Default)]
pub(super) struct Range {
    pub(super) above: Option<Key>,
    pub(super) up_to: Option<Key>,
}

impl<'a> Rows<'a> {
    /// The servers may order text differently; then it is ordered by its bytes.
    pub(super) fn new(table: &'a Table, hash: &'a str, schema: &str, by_bytes: bool) -> Self {
        let column = |column: &super::relations::KeyColumn| {
            let collate = if by_bytes && column.is_collated { " COLLATE \"C\"" } else { "" };
            // With its table: a bare name could be that of an output, which is text.
            format!("{ROW}.{}{collate}", ident(&column.name))
        };
        let order: Vec<_> = table.key.iter().map(column).collect();
        Self { table, of: format!("{} {ROW}", table.of(schema)), order: order.join(", "), hash }
    }

    pub(super) fn table(&self) -> &Table {
        self.table
    }

    /// The key of the last row of a chunk that begins above a key; nothing when fewer are left.
    pub(super) async fn end_of_chunk(
        &self,
        session: &Session,
        above: Option<&Key>,
        size: u32,
    ) -> Result<Option<Key>> {
        let sql = format!(
            "SELECT {} FROM {} WHERE {} ORDER BY {} OFFSET {} LIMIT 1",
            self.key_as_text(),
            self.of,
            self.within(&Range { above: above.cloned(), up_to: None }),
            self.order,
            size - 1
        );
        let rows = session.batch_rows(&sql, WHAT).await?;
        Ok(rows.first().map(|row| self.key_of(row)))
    }

    /// How many rows a range has, and the sum of their hashes.
    pub(super) async fn sum(&self, session: &Session, range: &Range) -> Result<(u64, String)> {
        let sql = format!(
            "SELECT count(*), coalesce(sum({}), 0) FROM {} WHERE {}",
            self.hash,
            self.of,
            self.within(range)
        );
        let rows = session.batch_rows(&sql, WHAT).await?;
        let text = |column| rows.first().and_then(|row| row.get(column)).unwrap_or_default();
        Ok((text(0).parse().unwrap_or(0), text(1).to_owned()))
    }

    /// The hash of every row of a range.
    pub(super) async fn hashes(&self, session: &Session, range: &Range) -> Result<Hashes> {
        self.hashes_where(session, &self.within(range)).await
    }

    /// The hash of each of some rows, of those that are there.
    pub(super) async fn hashes_of(&self, session: &Session, keys: &[Key]) -> Result<Hashes> {
        if keys.is_empty() {
            return Ok(Hashes::new());
        }
        let keys: Vec<_> = keys.iter().map(|key| self.tuple(key)).collect();
        self.hashes_where(session, &format!("({}) IN ({})", self.columns(), keys.join(", "))).await
    }

    /// The columns in which one row differs between two servers.
    pub(super) async fn columns_that_differ(
        &self,
        [one, other]: [&Session; 2],
        key: &Key,
    ) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT j.key, md5(j.value) FROM {}, jsonb_each_text(to_jsonb({ROW})) j WHERE ({}) = {}",
            self.of,
            self.columns(),
            self.tuple(key)
        );
        let values = |rows: Vec<SimpleQueryRow>| -> BTreeMap<String, String> {
            let text =
                |row: &SimpleQueryRow, column| row.get(column).unwrap_or_default().to_owned();
            rows.iter().map(|row| (text(row, 0), text(row, 1))).collect()
        };
        let one = values(one.batch_rows(&sql, WHAT).await?);
        let other = values(other.batch_rows(&sql, WHAT).await?);
        Ok(one
            .into_iter()
            .filter(|(column, hash)| other.get(column) != Some(hash))
            .map(|(column, _)| column)
            .collect())
    }

    /// A key in words.
    pub(super) fn describe(&self, key: &Key) -> String {
        let columns = self.table.key.iter().zip(key);
        let words: Vec<_> =
            columns.map(|(column, value)| format!("{} {value}", column.name)).collect();
        words.join(", ")
    }

    async fn hashes_where(&self, session: &Session, condition: &str) -> Result<Hashes> {
        let sql = format!(
            "SELECT {}, {} FROM {} WHERE {condition}",
            self.key_as_text(),
            self.hash,
            self.of,
        );
        let rows = session.batch_rows(&sql, WHAT).await?;
        let hash = |row: &SimpleQueryRow| {
            let hash = row.get(self.table.key.len()).and_then(|text| text.parse().ok());
            (self.key_of(row), hash.unwrap_or_default())
        };
        Ok(rows.iter().map(hash).collect())
    }

    fn key_of(&self, row: &SimpleQueryRow) -> Key {
        let columns = 0..self.table.key.len();
        columns.map(|column| row.get(column).unwrap_or_default().to_owned()).collect()
    }

    fn key_as_text(&self) -> String {
        let columns: Vec<_> =
            self.table.key.iter().map(|column| format!("{}::text", ident(&column.name))).collect();
        columns.join(", ")
    }

    fn columns(&self) -> String {
        let columns: Vec<_> = self.table.key.iter().map(|column| ident(&column.name)).collect();
        columns.join(", ")
    }

    fn tuple(&self, key: &Key) -> String {
        let values = self.table.key.iter().zip(key);
        let values: Vec<_> = values
            .map(|(column, value)| format!("{}::{}", literal(value), column.type_name))
            .collect();
        format!("({})", values.join(", "))
    }

    fn within(&self, range: &Range) -> String {
        let compared = |sign: &str, key: &Option<Key>| {
            key.as_ref().map(|key| format!("({}) {sign} {}", self.order, self.tuple(key)))
        };
        let conditions: Vec<_> =
            compared(">", &range.above).into_iter().chain(compared("<=", &range.up_to)).collect();
        if conditions.is_empty() { "true".into() } else { conditions.join(" AND ") }
    }
}
