//! The sequences of a shard: ended on a copy, so that they give nothing, and carried over to the new home.
//!
//! Table locks do not hold `nextval`, and a session that knows a sequence by its OID goes on drawing after the schema was
//! renamed. Changing a sequence waits for all transactions that have drawn from it and holds up those that would; and one
//! whose end is its last value answers `2200H` from then on, which clients take for a stale home.
//!
//! Of the shard's clock (sql/clock.sql) only `howdah_id` is drawn from. As long as it is ended nothing is issued, so
//! `howdah_block` needs no end: raised late, on a copy, it changes nothing. Neither is set back here.

use super::names::{BLOCK, ID, ident, literal};
use super::session::Session;
use crate::{Error, Result};

/// A sequence as its home has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sequence {
    name: String,
    start: i64,
    min: i64,
    max: i64,
    increment: i64,
    cache: i64,
    cycle: bool,
    last: i64,
    is_called: bool,
}

/// Reads sequences as they are. `first` is SQL of ours that goes before, in the same message.
pub(super) async fn read(
    session: &Session,
    schema: &str,
    names: &[String],
    first: &str,
) -> Result<Vec<Sequence>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let of = |name: &String| format!("{schema}.{}", ident(name));
    let state = |name: &String| {
        format!(
            "SELECT {} AS name, d.seqstart, d.seqmin, d.seqmax, d.seqincrement, d.seqcache, d.seqcycle, \
                    s.last_value, s.is_called \
             FROM {} s, pg_sequence d WHERE d.seqrelid = {}::regclass",
            literal(name),
            of(name),
            literal(&of(name)),
        )
    };
    let states: Vec<_> = names.iter().map(state).collect();
    let sql = format!("{first}{}", states.join(" UNION ALL "));
    let rows = session.batch_rows(&sql, "cannot read the shard's sequences").await?;
    rows.iter()
        .map(|row| {
            let text = |column| row.get(column).unwrap_or_default();
            let number = |column| {
                text(column)
                    .parse()
                    .map_err(|_| Error::system(format!("{:?} is no number", text(column))))
            };
            Ok(Sequence {
                name: text(0).to_owned(),
                start: number(1)?,
                min: number(2)?,
                max: number(3)?,
                increment: number(4)?,
                cache: number(5)?,
                cycle: text(6) == "t",
                last: number(7)?,
                is_called: text(8) == "t",
            })
        })
        .collect()
}

/// The SQL after which nobody draws from sequences until the transaction ends. There is no statement that locks one, but
/// setting what is set already does.
pub(super) fn lock(schema: &str, sequences: &[Sequence]) -> String {
    let drawn = sequences.iter().filter(|sequence| sequence.name != BLOCK);
    drawn
        .map(|sequence| {
            format!("ALTER SEQUENCE {schema}.{} CACHE {}; ", ident(&sequence.name), sequence.cache)
        })
        .collect()
}

/// The SQL that ends sequences at their last values: they give nothing more.
pub(super) fn seal(schema: &str, sequences: &[Sequence]) -> String {
    let mut sql = String::new();
    for sequence in sequences.iter().filter(|sequence| sequence.name != BLOCK) {
        let name = format!("{schema}.{}", ident(&sequence.name));
        // The end must lie beyond the beginning, so one that was never drawn from loses a value or two; it is set anew when
        // it is opened.
        let (end, last) = if sequence.increment > 0 {
            ("MAXVALUE", sequence.last.max(sequence.min.saturating_add(1)))
        } else {
            ("MINVALUE", sequence.last.min(sequence.max.saturating_sub(1)))
        };
        // And it must begin before its end.
        let start = if sequence.increment > 0 {
            sequence.start.min(last)
        } else {
            sequence.start.max(last)
        };
        sql.push_str(&format!(
            "ALTER SEQUENCE {name} {end} {last} START {start} NO CYCLE; \
             SELECT setval({}, {last}, true); ",
            literal(&name)
        ));
    }
    sql
}

/// The SQL that makes the sequences of a copy those of the home: as they are defined there, and as far.
pub(super) fn open(schema: &str, home: &[Sequence]) -> String {
    let mut sql = String::new();
    for sequence in home {
        let name = format!("{schema}.{}", ident(&sequence.name));
        let regclass = literal(&name);
        if sequence.name == BLOCK {
            sql.push_str(&format!(
                "SELECT setval({regclass}, greatest({}, pg_sequence_last_value({regclass}))); ",
                sequence.last
            ));
            continue;
        }
        let cycle = if sequence.cycle { "CYCLE" } else { "NO CYCLE" };
        sql.push_str(&format!(
            "ALTER SEQUENCE {name} INCREMENT {} MINVALUE {} MAXVALUE {} START {} CACHE {} {cycle}; ",
            sequence.increment, sequence.min, sequence.max, sequence.start, sequence.cache
        ));
        if sequence.name == ID {
            sql.push_str(&format!(
                "SELECT setval({regclass}, greatest({}, pg_sequence_last_value({regclass}))); ",
                sequence.last
            ));
        } else {
            sql.push_str(&format!(
                "SELECT setval({regclass}, {}, {}); ",
                sequence.last, sequence.is_called
            ));
        }
    }
    sql
}
