//! The tables and sequences of a shard's schema, as one server has them.

use futures_util::try_join;

use super::members::members;
use super::names::{MARK_TABLE, ident};
use super::session::{Params, Session};
use crate::Result;

/// What of a schema holds data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Relations {
    pub(super) tables: Vec<Table>,
    pub(super) sequences: Vec<String>,
}

/// A table; the partitions of a table are tables of their own here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    /// It has no rows itself: its partitions have them.
    pub(super) is_partitioned: bool,
    /// The columns of its primary key, in order; empty where there is none.
    pub(super) key: Vec<KeyColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyColumn {
    pub(super) name: String,
    /// As SQL writes it.
    pub(super) type_name: String,
    /// Its order is that of a collation.
    pub(super) is_collated: bool,
}

impl Relations {
    pub(super) async fn read(session: &Session, schema: &str) -> Result<Self> {
        const TABLES: &str = concat!(
            "SELECT c.relname::text, c.relkind = 'p', \
                coalesce(array_agg(a.attname::text ORDER BY k.place) FILTER (WHERE a.attnum > 0), '{}'), \
                coalesce(array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY k.place) FILTER (WHERE a.attnum > 0), '{}'), \
                coalesce(array_agg(a.attcollation <> 0 ORDER BY k.place) FILTER (WHERE a.attnum > 0), '{}') \
            FROM pg_class c \
            LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
            LEFT JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k(attnum, place) ON k.place <= i.indnkeyatts \
            LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum \
            WHERE c.oid = ANY (",
            members!("pg_class"),
            ") AND c.relkind IN ('r', 'p') AND c.relname <> $2 \
            GROUP BY c.oid, c.relname, c.relkind ORDER BY c.relname"
        );
        const SEQUENCES: &str = concat!(
            "SELECT relname::text FROM pg_class \
            WHERE oid = ANY (",
            members!("pg_class"),
            ") AND relkind = 'S' ORDER BY relname"
        );
        const WHAT: &str = "cannot read the shard's tables";

        let table = |row: &tokio_postgres::Row| {
            let names: Vec<String> = row.get(2);
            let types: Vec<String> = row.get(3);
            let collated: Vec<bool> = row.get(4);
            let key = names.into_iter().zip(types).zip(collated);
            let column =
                |((name, type_name), is_collated)| KeyColumn { name, type_name, is_collated };
            Table { name: row.get(0), is_partitioned: row.get(1), key: key.map(column).collect() }
        };
        let of_tables: Params<'_> = &[&schema, &MARK_TABLE];
        let of_sequences: Params<'_> = &[&schema];
        let (tables, sequences) = try_join!(
            session.rows(TABLES, of_tables, WHAT),
            session.rows(SEQUENCES, of_sequences, WHAT)
        )?;
        Ok(Self {
            tables: tables.iter().map(table).collect(),
            sequences: sequences.iter().map(|row| row.get(0)).collect(),
        })
    }

    /// The tables that have rows, which are the ones that are replicated.
    pub(super) fn with_rows(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(|table| !table.is_partitioned)
    }

    /// All tables as `LOCK TABLE` wants them.
    pub(super) fn lock(&self, schema: &str, mode: &str) -> String {
        // The parent of a partition locks it too; alone, in the order of names, all movers and migrations agree.
        let names: Vec<_> = self.tables.iter().map(|table| table.of(schema)).collect();
        if names.is_empty() {
            return String::new();
        }
        format!("LOCK TABLE ONLY {} IN {mode} MODE; ", names.join(", ONLY "))
    }
}

impl Table {
    /// The table's name with its schema.
    pub(super) fn of(&self, schema: &str) -> String {
        of(schema, &self.name)
    }
}

/// A table's name with its schema.
pub(super) fn of(schema: &str, table: &str) -> String {
    format!("{schema}.{}", ident(table))
}
