//! What an error of the driver means: which of the three outcomes it has, and whose fault it was.

use tokio_postgres::error::{DbError, Severity};

use super::sqlstate;
use crate::config::Dsn;
use crate::error::{Kind, Phase};
use crate::{Error, Outcome};

/// An error while connecting: nothing was executed, whatever it is.
pub(crate) fn connect_failure(error: tokio_postgres::Error, dsn: &Dsn) -> Error {
    let (kind, hint) = match error.code() {
        Some(code) if sqlstate::is_log_in(code) => {
            (Kind::Config, "check the user, and where its password comes from ([auth])")
        }
        Some(code) if sqlstate::is_no_database(code) => {
            (Kind::Config, "create the database first, or correct the address")
        }
        Some(code) if sqlstate::is_full(code) => {
            (Kind::Unavailable, "raise the server's max_connections or lower [pool] max_size")
        }
        Some(code) if sqlstate::is_starting_or_stopping(code) => {
            (Kind::Unavailable, "the server is not ready")
        }
        Some(_) => (Kind::Config, "the server answered, but refused"),
        None if is_password_missing(&error) => {
            (Kind::Config, "set HOWDAH_PASSWORD, or password_file or passfile under [auth]")
        }
        None => (Kind::Unavailable, "is the server up, and is it the right address?"),
    };
    Error::new(kind, format!("cannot connect to {dsn}")).because(error).hint(hint)
}

/// An error after a statement was sent. `what` says what was being done.
pub(crate) fn statement_failure(error: tokio_postgres::Error, what: impl Into<String>) -> Error {
    let (kind, outcome) = match error.as_db_error() {
        // The session ended under the statement: a COMMIT may have been on its way.
        Some(db) if matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) => {
            (Kind::Unavailable, Outcome::Unknown)
        }
        Some(db) => of_answer(db),
        None if is_refused_by_driver(&error) => (Kind::Input, Outcome::NotExecuted),
        // The connection was lost, or the server answered what nobody expected.
        None => (Kind::Unavailable, Outcome::Unknown),
    };
    Error::new(kind, what).because(error).with_outcome(outcome).in_phase(Phase::Execute)
}

/// For values that are read out of a row (`row.try_get(…)?`), and for statements of a client's own
/// ([`Instance::client`](crate::Instance::client)): judged as those of a [`Statement`](crate::Statement) are, but that nothing
/// is run again for them, since what they were sent in is not howdah's.
///
/// A row that is not as expected tells nothing about what its statement did: the outcome is [`Outcome::Unknown`], and
/// [`Outcome::Failed`] where a transaction's closure returns it.
impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if is_about_rows(&error) {
            let unexpected = Self::new(Kind::Rows, "the rows are not as expected");
            unexpected.because(error).with_outcome(Outcome::Unknown)
        } else {
            let error = statement_failure(error, "the statement failed");
            match error.kind() {
                Kind::Conflict | Kind::StaleHome => error.with_kind(Kind::Database),
                _ => error,
            }
        }
    }
}

/// The meaning of a server's answer to a statement.
fn of_answer(db: &DbError) -> (Kind, Outcome) {
    let code = db.code();
    if sqlstate::is_fenced(db) {
        (Kind::StaleHome, Outcome::NotExecuted)
    } else if sqlstate::is_conflict(code) {
        (Kind::Conflict, Outcome::NotExecuted)
    } else if sqlstate::is_read_only(code) || sqlstate::is_catalog_elsewhere(code) {
        (Kind::Unavailable, Outcome::NotExecuted)
    } else if sqlstate::is_cancelled(code) {
        (Kind::Timeout, Outcome::Failed)
    } else if sqlstate::is_lost(code) {
        (Kind::Unavailable, Outcome::Unknown)
    } else {
        // A name that was not resolved is among these: whether that is the caller's own mistake is for the cluster to ask.
        (Kind::Database, Outcome::Failed)
    }
}

/// Whether a name was not resolved: the shard has moved, or the caller misspelt it.
pub(crate) fn is_undefined_name(error: &Error) -> bool {
    error.code().is_some_and(sqlstate::is_unresolved)
}

/// Whether the server or the session only reads.
pub(crate) fn is_read_only(error: &Error) -> bool {
    error.code().is_some_and(sqlstate::is_read_only)
}

/// An error in a transaction that was begun to read only: that a write is refused is the statement's fault there, not the
/// server's.
pub(crate) fn within_read_only(error: Error) -> Error {
    if is_read_only(&error) {
        let error = error.with_kind(Kind::Database).with_outcome(Outcome::Failed);
        error.hint("the statement writes, and only reads are let through here")
    } else {
        error
    }
}

/// Whether the answer says that howdah's own tables are not there.
pub(crate) fn is_absent(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(sqlstate::is_unresolved)
}

/// Whether a prepared statement is out of date on this connection; nothing was executed then.
pub(crate) fn is_stale_plan(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(sqlstate::is_stale_plan)
}

/// Whether the driver refused before anything was sent: parameters of the wrong type or number. Its errors tell that by
/// their text alone.
fn is_refused_by_driver(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    text.starts_with("error serializing parameter") || text.contains("parameters but got")
}

/// Whether the driver has an answer, but not one of the rows or types that were asked for.
fn is_about_rows(error: &tokio_postgres::Error) -> bool {
    const BEGINNINGS: [&str; 3] =
        ["error deserializing column", "invalid column", "query returned an unexpected number"];

    let text = error.to_string();
    BEGINNINGS.iter().any(|beginning| text.starts_with(beginning))
}

fn is_password_missing(error: &tokio_postgres::Error) -> bool {
    source(error).is_some_and(|source| source.to_string().contains("password missing"))
}

fn source(error: &tokio_postgres::Error) -> Option<&(dyn std::error::Error + 'static)> {
    std::error::Error::source(error)
}
