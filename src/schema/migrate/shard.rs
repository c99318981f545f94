//! One shard: its lock, its ledger, and one migration after the other.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::error::ErrorPosition;
use tokio_postgres::types::{ToSql, Type};

use super::ShardMigration;
use super::ledger::Ledger;
use super::scan::may_commit_in_part;
use super::set::{Migration, Migrations};
use crate::connect::{gone, sqlstate, statement_failure};
use crate::schema::lock::{lock, unlock};
use crate::schema::moving::refuse_if_moving;
use crate::shard::Home;
use crate::{Error, Result};

/// Undoes whatever earlier migrations have set, and takes away the limit that is for requests.
const FRESH: &str =
    "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DISCARD TEMP; SET statement_timeout = 0; ";

/// How long a migration waits for a lock. While it waits, everybody who comes later waits behind it.
const LOCK_TIMEOUT: &str = "2s";
/// How often a migration steps back and tries again: for about a minute in all.
const ATTEMPTS: u32 = 20;
/// The pauses between two attempts, from the first to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What is to be done on every shard.
#[derive(Clone, Copy)]
pub(super) enum Job<'a> {
    /// Apply what is missing.
    Up(&'a Migrations),
    /// Ask for the version.
    Status(&'a Migrations),
}

impl Job<'_> {
    /// Does it on one shard. The client is fit for the next one only if there was no error.
    pub(super) async fn run(self, client: &Client, home: Home) -> ShardMigration {
        match self {
            Self::Up(set) => up(client, home, set).await,
            Self::Status(set) => status(client, home, set).await,
        }
    }
}

async fn up(client: &Client, home: Home, set: &Migrations) -> ShardMigration {
    let mut outcome = ShardMigration::new(home.clone());
    let done: Result<()> = async {
        freshen(client).await?;
        // Most runs find nothing to do, and need no lock to know it.
        let ledger = Ledger::read(client, &home).await?;
        if ledger.missing(set).is_ok_and(<[_]>::is_empty) {
            outcome.version = ledger.version();
            return Ok(());
        }
        lock(client, home.shard()).await?;
        refuse_if_moving(client, &home).await?;
        apply_all(client, &home, set, &mut outcome).await?;
        unlock(client, home.shard()).await
    }
    .await;
    outcome.error = done.err();
    outcome
}

async fn status(client: &Client, home: Home, set: &Migrations) -> ShardMigration {
    let mut outcome = ShardMigration::new(home.clone());
    let asked: Result<()> = async {
        let ledger = Ledger::read(client, &home).await?;
        outcome.version = ledger.version();
        ledger.missing(set).map(|_| ())
    }
    .await;
    outcome.error = asked.err();
    outcome
}

async fn apply_all(
    client: &Client,
    home: &Home,
    set: &Migrations,
    outcome: &mut ShardMigration,
) -> Result<()> {
    let ledger = Ledger::read(client, home).await?;
    outcome.version = ledger.version();
    let missing = ledger.missing(set)?;
    if !missing.is_empty() {
        ledger.create(client, home).await?;
    }
    for migration in missing {
        freshen(client).await?;
        gone::notice(client).await;
        if migration.in_transaction {
            apply_patiently(client, home, migration).await?;
        } else {
            apply_alone(client, home, migration).await?;
        }
        outcome.version = Some(migration.version);
        outcome.applied += 1;
    }
    Ok(())
}

/// Applies a migration, stepping back as long as others hold the locks that it needs.
async fn apply_patiently(client: &Client, home: &Home, migration: &Migration) -> Result<()> {
    let mut pause = PAUSE.0;
    for _ in 1..ATTEMPTS {
        match apply(client, home, migration).await {
            Err(error) if is_in_the_way(&error) => {
                roll_back(client).await?;
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
            done => return done,
        }
    }
    apply(client, home, migration).await.map_err(|error| {
        if is_in_the_way(&error) {
            error.hint("a transaction holds a lock on its tables: find it in pg_stat_activity")
        } else {
            error
        }
    })
}

/// The migration and its entry in the ledger, in one transaction.
async fn apply(client: &Client, home: &Home, migration: &Migration) -> Result<()> {
    let begin = format!(
        "BEGIN; SET LOCAL search_path = {}, public; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'",
        home.schema()
    );
    client.batch_execute(&begin).await.map_err(|error| statement_failure(error, "cannot begin"))?;
    client.batch_execute(&migration.sql).await.map_err(|error| in_file(error, migration))?;
    enter(client, home, migration, "now()").await?;
    client
        .batch_execute("COMMIT")
        .await
        .map_err(|error| statement_failure(error, format!("cannot commit {}", migration.name)))
}

/// A command that refuses to run in a transaction. Its start is in the ledger before it runs: if it is interrupted,
/// nobody can tell how far it came, and the next run says so.
async fn apply_alone(client: &Client, home: &Home, migration: &Migration) -> Result<()> {
    let schema = home.schema();
    enter(client, home, migration, "NULL").await?;
    let path = format!("SET search_path = {schema}, public");
    client.batch_execute(&path).await.map_err(|error| statement_failure(error, "cannot begin"))?;
    // Sent as a prepared statement, of which the server accepts one command alone.
    let statement = match client.prepare(&migration.sql).await {
        Ok(statement) => statement,
        Err(error) => {
            return Err(forget_start(client, home, migration, in_file(error, migration)).await);
        }
    };
    if let Err(error) = client.execute(&statement, &[]).await {
        return Err(after_failing_alone(client, home, migration, in_file(error, migration)).await);
    }
    let end = format!(
        "UPDATE {schema}.howdah_migrations SET applied_at = clock_timestamp() WHERE version = $1"
    );
    let version = i32::from(migration.version.get());
    let ended = client.execute_typed(&end, &[(&version, Type::INT4)]).await;
    ended.map(|_| ()).map_err(|error| statement_failure(error, "cannot write the ledger"))
}

/// Where a failed command left nothing behind, neither does the ledger keep its start. What it had committed before it
/// failed cannot be told, so a command that may have keeps it.
async fn after_failing_alone(
    client: &Client,
    home: &Home,
    migration: &Migration,
    error: Error,
) -> Error {
    const LEFTOVERS: &str = include_str!("../../../sql/leftovers.sql");

    if may_commit_in_part(&migration.sql) {
        return error.hint(format!(
            "it may have committed a part: undo that, delete version {} from howdah_migrations there, and run this again",
            migration.version.get()
        ));
    }
    let schema = home.schema();
    let Ok(leftovers) = client.query_typed(LEFTOVERS, &[(&schema, Type::TEXT)]).await else {
        return error;
    };
    let leftovers: Vec<&str> = leftovers.iter().map(|row| row.get(0)).collect();
    if !leftovers.is_empty() {
        return error.hint(format!("it left behind, unusable: {}", leftovers.join(", ")));
    }
    forget_start(client, home, migration, error).await
}

/// Takes the start of a command out of the ledger that did nothing.
async fn forget_start(client: &Client, home: &Home, migration: &Migration, error: Error) -> Error {
    let schema = home.schema();
    let forget = format!("DELETE FROM {schema}.howdah_migrations WHERE version = $1");
    let version = i32::from(migration.version.get());
    match client.execute_typed(&forget, &[(&version, Type::INT4)]).await {
        Ok(_) => error,
        Err(_) => error.hint("its start is still in the ledger"),
    }
}

/// The migration's entry in the ledger, whole as of a moment that is SQL.
async fn enter(client: &Client, home: &Home, migration: &Migration, whole: &str) -> Result<()> {
    let sql = format!(
        "INSERT INTO {}.howdah_migrations (version, name, checksum, applied_at) VALUES ($1, $2, $3, {whole})",
        home.schema()
    );
    let version = i32::from(migration.version.get());
    let checksum = &migration.checksum[..];
    let row: [(&(dyn ToSql + Sync), Type); 3] =
        [(&version, Type::INT4), (&migration.name, Type::TEXT), (&checksum, Type::BYTEA)];
    let entered = client.execute_typed(&sql, &row).await;
    entered.map(|_| ()).map_err(|error| statement_failure(error, "cannot write the ledger"))
}

async fn freshen(client: &Client) -> Result<()> {
    let fresh = format!("{FRESH}{}", gone::LIMITS);
    client.batch_execute(&fresh).await.map_err(|error| statement_failure(error, "cannot begin"))
}

async fn roll_back(client: &Client) -> Result<()> {
    client
        .batch_execute("ROLLBACK")
        .await
        .map_err(|error| statement_failure(error, "cannot roll back"))
}

/// Whether others were in the way, and may be gone the next time.
fn is_in_the_way(error: &Error) -> bool {
    error.code().is_some_and(sqlstate::is_in_the_way)
}

/// An error of a migration's SQL, with its line where the server says it.
fn in_file(error: tokio_postgres::Error, migration: &Migration) -> Error {
    let position = error.as_db_error().and_then(|error| error.position());
    let what = match position {
        Some(ErrorPosition::Original(at)) => {
            let before = migration.sql.chars().take((*at as usize).saturating_sub(1));
            let line = 1 + before.filter(|c| *c == '\n').count();
            format!("{}, line {line}", migration.name)
        }
        _ => migration.name.clone(),
    };
    statement_failure(error, what)
}
