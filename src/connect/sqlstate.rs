//! The SQLSTATEs that the library acts upon: every list there is, here and nowhere else.
//!
//! What follows from each is decided where it is asked: the outcome of a statement in [`super::failure`], whether it is
//! done again in `cluster::retry`. `tests/errors_retried.rs` and `tests/errors_told.rs` provoke each on a real server.

use tokio_postgres::error::{DbError, SqlState};

/// "This copy of the shard is not its home", raised by the guard of a copy.
const NOT_HOME: &str = "HW002";
/// "The catalog is not here", raised where it was, or is not yet.
const CATALOG_ELSEWHERE: &str = "HW003";

/// A table or a schema of that name is not there: the shard has moved, somebody misspelt it, or howdah's own tables are
/// not made yet.
pub(crate) fn is_unresolved(code: &SqlState) -> bool {
    matches!(code, &SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME)
}

/// The server said itself that it is not the shard's home any more: its clock is fenced, or the guard of a copy refused.
/// A sequence of the application's own that has come to its end is neither.
pub(super) fn is_fenced(db: &DbError) -> bool {
    db.code().code() == NOT_HOME
        || *db.code() == SqlState::SEQUENCE_GENERATOR_LIMIT_EXCEEDED
            && ["howdah_id", "howdah_block"].iter().any(|clock| db.message().contains(clock))
}

/// The catalog was moved while somebody was about to write to it.
pub(super) fn is_catalog_elsewhere(code: &SqlState) -> bool {
    code.code() == CATALOG_ELSEWHERE
}

/// The transaction lost against another one, and nothing is left of it.
pub(super) fn is_conflict(code: &SqlState) -> bool {
    matches!(code, &SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED)
}

/// A lock was not to be had in the time allowed; or at once, where the statement said NOWAIT.
pub(crate) fn is_locked(code: &SqlState) -> bool {
    *code == SqlState::LOCK_NOT_AVAILABLE
}

/// The same, but for NOWAIT: somebody was willing to wait, and `lock_timeout` ended it.
pub(crate) fn is_lock_timeout(db: &DbError) -> bool {
    is_locked(db.code()) && db.routine() == Some("ProcessInterrupts")
}

/// Others hold the locks that a change of tables needs; they may be gone the next time.
pub(crate) fn is_in_the_way(code: &SqlState) -> bool {
    is_locked(code) || *code == SqlState::T_R_DEADLOCK_DETECTED
}

/// Others use what is to be changed, and may be done the next time.
pub(crate) fn is_in_use(code: &SqlState) -> bool {
    is_locked(code) || *code == SqlState::OBJECT_IN_USE
}

/// Something that is to go is still referred to.
pub(crate) fn is_referred_to(code: &SqlState) -> bool {
    *code == SqlState::FOREIGN_KEY_VIOLATION
}

/// A table is of an older version than the statement.
pub(crate) fn is_older_table(code: &SqlState) -> bool {
    is_unresolved(code) || *code == SqlState::UNDEFINED_COLUMN
}

/// Cancelled, by `statement_timeout` or by hand.
pub(super) fn is_cancelled(code: &SqlState) -> bool {
    *code == SqlState::QUERY_CANCELED
}

/// A write on a server or in a session that only reads: a primary that is a standby now.
pub(super) fn is_read_only(code: &SqlState) -> bool {
    *code == SqlState::READ_ONLY_SQL_TRANSACTION
}

/// The server is starting or stopping.
pub(super) fn is_starting_or_stopping(code: &SqlState) -> bool {
    matches!(
        code,
        &SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN | &SqlState::CANNOT_CONNECT_NOW
    )
}

/// The connection behind the connection broke: a pooler in between lost its server, or the server does not know itself
/// what became of the statement.
pub(super) fn is_lost(code: &SqlState) -> bool {
    is_starting_or_stopping(code)
        || code.code().starts_with("08")
        || *code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
}

/// The user or the password is not accepted.
pub(super) fn is_log_in(code: &SqlState) -> bool {
    matches!(code, &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// There is no such database.
pub(super) fn is_no_database(code: &SqlState) -> bool {
    *code == SqlState::INVALID_CATALOG_NAME
}

/// The server has as many connections as it allows.
pub(super) fn is_full(code: &SqlState) -> bool {
    *code == SqlState::TOO_MANY_CONNECTIONS
}

/// The role may not do this.
pub(crate) fn is_forbidden(code: &SqlState) -> bool {
    *code == SqlState::INSUFFICIENT_PRIVILEGE
}

/// Somebody else made it first.
pub(crate) fn is_there_already(code: &SqlState) -> bool {
    matches!(code, &SqlState::DUPLICATE_OBJECT | &SqlState::UNIQUE_VIOLATION)
}

/// What keeps a statement off connections that others read on: too slow, behind a lock, or writing after all, through a
/// view.
pub(crate) fn keeps_off_pipelines(code: &SqlState) -> bool {
    is_cancelled(code) || is_locked(code) || is_read_only(code)
}

/// The server did nothing of it, as a request ahead of it had failed: in the same transaction, or, as [`super::wire`] says,
/// among reads that travelled together.
pub(crate) fn is_skipped(code: &SqlState) -> bool {
    *code == SqlState::IN_FAILED_SQL_TRANSACTION
}

/// A prepared statement is out of date on its connection: the table has changed ("cached plan must not change result
/// type"), or the statement was discarded. PostgreSQL executed nothing.
pub(super) fn is_stale_plan(db: &DbError) -> bool {
    *db.code() == SqlState::INVALID_SQL_STATEMENT_NAME
        || *db.code() == SqlState::FEATURE_NOT_SUPPORTED
            && db.routine() == Some("RevalidateCachedQuery")
}

/// There is no prepared transaction of that name: it was never prepared, or somebody has finished it.
pub(crate) fn is_no_prepared_transaction(code: &SqlState) -> bool {
    *code == SqlState::UNDEFINED_OBJECT
}

/// Somebody is finishing that prepared transaction just now; of `PREPARE TRANSACTION` itself, that the server keeps none.
pub(crate) fn is_prepared_elsewhere(code: &SqlState) -> bool {
    *code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
}

/// The server keeps as many prepared transactions as it may.
pub(crate) fn is_out_of_room(code: &SqlState) -> bool {
    *code == SqlState::OUT_OF_MEMORY
}
