//! What an error of the driver means: which of the three outcomes it has, and whose fault it was.
//!
//! The lists of SQLSTATEs that the library acts upon are here and nowhere else.

use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::config::Dsn;
use crate::error::Kind;
use crate::{Error, Outcome};

/// "This copy of the shard is not its home", raised by the guard of a copy.
const NOT_HOME: &str = "HW002";

/// An error while connecting: nothing was executed, whatever it is.
pub(crate) fn connect_failure(error: tokio_postgres::Error, dsn: &Dsn) -> Error {
    let (kind, hint) = match error.code() {
        Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
            (Kind::Config, "check the user, and where its password comes from ([auth])")
        }
        Some(&SqlState::INVALID_CATALOG_NAME) => {
            (Kind::Config, "create the database first, or correct the address")
        }
        Some(&SqlState::TOO_MANY_CONNECTIONS) => {
            (Kind::Unavailable, "raise the server's max_connections or lower [pool] max_size")
        }
        Some(code) if starting_or_stopping(code) => (Kind::Unavailable, "the server is not ready"),
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
    Error::new(kind, what).because(error).with_outcome(outcome)
}

/// The meaning of a server's answer to a statement.
fn of_answer(db: &DbError) -> (Kind, Outcome) {
    match db.code() {
        // Answered before anything is executed: the name was not resolved, the shard's clock is fenced, or the
        // guard of a copy refused. Whether the first is the caller's own mistake is for the cluster to ask.
        &SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME => {
            (Kind::Database, Outcome::Failed)
        }
        &SqlState::SEQUENCE_GENERATOR_LIMIT_EXCEEDED if db.message().contains("\"howdah_") => {
            (Kind::StaleHome, Outcome::NotExecuted)
        }
        code if code.code() == NOT_HOME => (Kind::StaleHome, Outcome::NotExecuted),
        &SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED => {
            (Kind::Conflict, Outcome::NotExecuted)
        }
        &SqlState::READ_ONLY_SQL_TRANSACTION => (Kind::Unavailable, Outcome::NotExecuted),
        &SqlState::QUERY_CANCELED => (Kind::Timeout, Outcome::Failed),
        // A pooler in between lost its server, or the server does not know itself.
        code if starting_or_stopping(code)
            || code.code().starts_with("08")
            || *code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN =>
        {
            (Kind::Unavailable, Outcome::Unknown)
        }
        _ => (Kind::Database, Outcome::Failed),
    }
}

/// Whether a name was not resolved: the shard has moved, or the caller misspelt it.
pub(crate) fn is_undefined_name(error: &Error) -> bool {
    matches!(error.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME))
}

/// Whether the server or the session only reads.
pub(crate) fn is_read_only(error: &Error) -> bool {
    error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

/// Whether a prepared statement is out of date on this connection: the table has changed ("cached plan must
/// not change result type"), or the statement was discarded. PostgreSQL executed nothing.
pub(crate) fn is_stale_plan(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(db) if *db.code() == SqlState::INVALID_SQL_STATEMENT_NAME => true,
        Some(db) => {
            *db.code() == SqlState::FEATURE_NOT_SUPPORTED
                && db.routine() == Some("RevalidateCachedQuery")
        }
        None => false,
    }
}

fn starting_or_stopping(code: &SqlState) -> bool {
    matches!(
        code,
        &SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN | &SqlState::CANNOT_CONNECT_NOW
    )
}

/// Whether the driver refused before anything was sent: parameters of the wrong type or number. Its errors tell that by
/// their text alone.
fn is_refused_by_driver(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    text.starts_with("error serializing parameter") || text.contains("parameters but got")
}

fn is_password_missing(error: &tokio_postgres::Error) -> bool {
    source(error).is_some_and(|source| source.to_string().contains("password missing"))
}

fn source(error: &tokio_postgres::Error) -> Option<&(dyn std::error::Error + 'static)> {
    std::error::Error::source(error)
}
