//! How many rows a caller expects.

use tokio_postgres::Row;

use crate::error::Kind;
use crate::statement::{Nature, Statement};
use crate::{Error, Outcome, Result};

pub(super) fn one(rows: Vec<Row>, statement: &Statement) -> Result<Row> {
    at_most_one(rows, statement)?.ok_or_else(|| unexpected("no row", statement))
}

pub(super) fn at_most_one(mut rows: Vec<Row>, statement: &Statement) -> Result<Option<Row>> {
    if rows.len() > 1 {
        return Err(unexpected(&format!("{} rows", rows.len()), statement));
    }
    Ok(rows.pop())
}

/// What was executed stays so, whatever it returned; a read changed nothing.
fn unexpected(found: &str, statement: &Statement) -> Error {
    let outcome = match statement.nature() {
        Nature::SingleRead => Outcome::NotExecuted,
        Nature::Rows | Nature::Session | Nature::Procedure | Nature::Gradual | Nature::Other => {
            Outcome::Unknown
        }
    };
    Error::new(Kind::Rows, format!("{statement:?} returned {found}; one was expected"))
        .with_outcome(outcome)
}
