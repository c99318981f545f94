//! The structure of a shard's schema, so that two copies can be compared thing by thing.

use std::collections::BTreeSet;

use super::session::Session;
use crate::Result;

/// How many differences are named.
const NAMED: usize = 8;

/// Everything in a schema but its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Structure(BTreeSet<Line>);

/// One thing: what it is, its name, and its definition.
type Line = (String, String, String);

impl Structure {
    /// Reads it. Servers of different versions print views in different words, so those are then left out.
    pub(super) async fn read(session: &Session, schema: &str, with_views: bool) -> Result<Self> {
        const STRUCTURE: &str = include_str!("../../sql/structure.sql");

        let rows = session.rows(STRUCTURE, &[&schema], "cannot read the shard's structure").await?;
        let line = |row: &tokio_postgres::Row| -> Line { (row.get(0), row.get(1), row.get(2)) };
        let lines = rows.iter().map(line);
        Ok(Self(lines.filter(|(what, ..)| with_views || what != "view definition").collect()))
    }

    /// What a copy lacks, has too much, or has otherwise; nothing where both are the same.
    pub(super) fn difference(&self, copy: &Self) -> Option<String> {
        let lines = |from: &Self, other: &Self| -> Vec<Line> {
            from.0.difference(&other.0).cloned().collect()
        };
        let (missing, extra) = (lines(self, copy), lines(copy, self));
        let has = |lines: &[Line], (what, name, _): &Line| {
            lines.iter().any(|(other, named, _)| other == what && named == name)
        };
        let mut differences = Vec::new();
        for line in &missing {
            let (what, name, text) = line;
            differences.push(if has(&extra, line) {
                let other = extra.iter().find(|(w, n, _)| w == what && n == name);
                let other = other.map_or("", |(.., text)| text);
                format!("{what} {name} differs: {text:?}, in the copy {other:?}")
            } else {
                format!("{what} {name} is missing in the copy")
            });
        }
        for line in extra.iter().filter(|line| !has(&missing, line)) {
            let (what, name, _) = line;
            differences.push(format!("{what} {name} is only in the copy"));
        }
        if differences.is_empty() {
            return None;
        }
        let more = differences.len().saturating_sub(NAMED);
        differences.truncate(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Some(format!("{}{more}", differences.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structure(lines: &[(&str, &str, &str)]) -> Structure {
        let owned = |(a, b, c): &(&str, &str, &str)| (a.to_string(), b.to_string(), c.to_string());
        Structure(lines.iter().map(owned).collect())
    }

    #[test]
    fn what_is_missing_extra_or_other_is_named() {
        let home =
            structure(&[("table", "a", "x"), ("column", "a.id", "bigint"), ("index", "i", "d")]);
        assert_eq!(home.difference(&home), None);
        let copy =
            structure(&[("table", "a", "x"), ("column", "a.id", "integer"), ("index", "j", "d")]);
        assert_eq!(
            home.difference(&copy).unwrap(),
            "column a.id differs: \"bigint\", in the copy \"integer\"; index i is missing in the copy; \
             index j is only in the copy"
        );
    }
}
