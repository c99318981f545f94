//! What makes a schema a copy, and what makes it the home: guards, the ends of sequences, the comment, the name.

use super::members::members;
use super::names::{GUARD, ident, literal};
use super::relations::Relations;
use super::session::Session;
use crate::Result;

/// The SQL that puts a guard on every table: writes are refused, but for replication's.
pub(super) fn guard(schema: &str, relations: &Relations) -> String {
    let guards = relations.tables.iter().map(|table| {
        format!(
            "CREATE OR REPLACE TRIGGER {GUARD} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {} \
             FOR EACH STATEMENT EXECUTE FUNCTION howdah.guard(); ",
            table.of(schema)
        )
    });
    guards.collect()
}

/// The SQL that takes the guards away.
pub(super) fn unguard(schema: &str, relations: &Relations) -> String {
    let guards = relations.tables.iter();
    guards
        .map(|table| format!("DROP TRIGGER IF EXISTS {GUARD} ON {}; ", table.of(schema)))
        .collect()
}

/// The SQL that says what a schema is.
pub(super) fn comment(schema: &str, text: Option<&str>) -> String {
    let text = text.map_or("NULL".into(), literal);
    format!("COMMENT ON SCHEMA {schema} IS {text}; ")
}

/// The SQL that renames a schema and, after it, the functions that have its name in their text or settings.
pub(super) fn rename(old: &str, new: &str, functions: &[String]) -> String {
    let mut sql = format!("ALTER SCHEMA {old} RENAME TO {new}; ");
    for function in functions {
        sql.push_str(&renamed_in(function, old, new));
        sql.push_str("; ");
    }
    sql
}

/// The definitions of the functions that name their own schema in text, which no rename follows.
pub(super) async fn functions_naming(session: &Session, schema: &str) -> Result<Vec<String>> {
    const NAMING: &str = concat!(
        "SELECT pg_get_functiondef(p.oid) FROM pg_proc p \
        WHERE p.oid = ANY (",
        members!("pg_proc"),
        ") AND p.prokind IN ('f', 'p') \
          AND (p.prosrc ~ ('\\m' || $1 || '\\M') OR p.proconfig::text ~ ('\\m' || $1 || '\\M')) ORDER BY p.oid"
    );

    let rows = session.rows(NAMING, &[&schema], "cannot read the shard's functions").await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A text with a schema's name replaced where it stands as a word.
fn renamed_in(text: &str, old: &str, new: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let mut renamed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(old) {
        let (before, after) = (&rest[..at], &rest[at + old.len()..]);
        let stands_alone = !renamed.chars().chain(before.chars()).next_back().is_some_and(is_word)
            && !after.chars().next().is_some_and(is_word);
        renamed.push_str(before);
        renamed.push_str(if stands_alone { new } else { old });
        rest = after;
    }
    renamed.push_str(rest);
    renamed
}

/// The SQL that drops a copy.
pub(super) fn drop_schema(schema: &str) -> String {
    format!("DROP SCHEMA IF EXISTS {} CASCADE", ident(schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_renamed_where_its_name_is_a_word() {
        let renamed = |text| renamed_in(text, "shard_0001_e1", "shard_0001_e2");
        assert_eq!(
            renamed("SET search_path TO 'shard_0001_e1'"),
            "SET search_path TO 'shard_0001_e2'"
        );
        assert_eq!(
            renamed("shard_0001_e1.t, shard_0001_e12.t"),
            "shard_0001_e2.t, shard_0001_e12.t"
        );
        assert_eq!(renamed("my_shard_0001_e1"), "my_shard_0001_e1");
        assert_eq!(renamed("\"shard_0001_e1\".\"t\""), "\"shard_0001_e2\".\"t\"");
    }
}
