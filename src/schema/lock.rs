//! The lock that keeps changes to one shard apart: migrations from each other, and from moves.
//!
//! It is PostgreSQL's advisory lock of the session, in the shard's own database, so it dies with whoever holds it.
//! It is asked for again and again instead of waited for: a waiting query would hold a snapshot, and `CREATE INDEX
//! CONCURRENTLY`, run by the holder, would wait for that snapshot in turn.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::connect::statement_failure;
use crate::shard::ShardId;
use crate::{Error, Result};

/// The first half of the lock's key, `howd` in ASCII; the second is the shard's number.
const CLASS: i32 = i32::from_be_bytes(*b"howd");
/// How long another change is waited for. Most take less; who meets a longer one can come again.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pauses between two attempts, from the first to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Takes the lock of a shard for this session.
///
/// # Errors
///
/// When another session holds it for longer than our patience.
pub(crate) async fn lock(client: &Client, shard: ShardId) -> Result<()> {
    const TRY: &str = "SELECT pg_try_advisory_lock($1, $2)";

    let give_up = Instant::now() + PATIENCE;
    let mut pause = PAUSE.0;
    loop {
        if ask(client, TRY, shard).await?.get(0) {
            return Ok(());
        }
        if Instant::now() >= give_up {
            return Err(Error::refused(format!("shard {shard} is being changed by another run"))
                .hint("wait until that has ended, then run this again"));
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Gives the lock back. A session that cannot do so must be closed.
pub(crate) async fn unlock(client: &Client, shard: ShardId) -> Result<()> {
    const UNLOCK: &str = "SELECT pg_advisory_unlock($1, $2)";

    ask(client, UNLOCK, shard).await.map(|_| ())
}

async fn ask(client: &Client, sql: &str, shard: ShardId) -> Result<Row> {
    let number = i32::from(shard.get());
    let key: [(&(dyn ToSql + Sync), Type); 2] = [(&CLASS, Type::INT4), (&number, Type::INT4)];
    let answer = client.query_typed_one(sql, &key).await;
    answer.map_err(|error| statement_failure(error, format!("the lock of shard {shard}")))
}
