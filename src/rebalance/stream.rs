//! The stream from one server to the other: a publication and a slot here, a subscription there, all of one name.
//!
//! Each function finds what is there and does what is missing, so that it can be called again after any interruption.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::types::PgLsn;

use super::event::MoveNews;
use super::journal::Journal;
use super::names::{MARK_TABLE, ident, literal, temporary};
use super::relations::Relations;
use super::side::Side;
use crate::connect::Connector;
use crate::error::Kind;
use crate::{Error, Result};

/// How often something is looked at that takes seconds, or may be done at once.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const LOOK_SOON: Duration = Duration::from_millis(5);
/// For how long the mark is looked for again at once, since clients may be waiting: the timer's shortest pause is longer than a look.
const LOOK_AT_ONCE: Duration = Duration::from_millis(10);
/// How often who looks on is told that something is still waited for.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// How long a slot may be in use by the walsender of a subscription that is gone.
const RELEASE: Duration = Duration::from_secs(10);

/// What a subscription takes of that which comes after its slot's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// All of it.
    All,
    /// Nothing that was itself replicated.
    WhatIsWrittenThere,
}

/// Makes the publication of all tables, by name, the marks' included.
pub(super) async fn publish(
    from: &Side,
    name: &str,
    schema: &str,
    relations: &Relations,
) -> Result<()> {
    const IS_THERE: &str = "SELECT FROM pg_publication WHERE pubname = $1";

    if from.work.opt(IS_THERE, &[&name], "cannot look for the publication").await?.is_some() {
        return Ok(());
    }
    let mut tables: Vec<_> = relations.with_rows().map(|table| table.of(schema)).collect();
    tables.push(format!("{schema}.{MARK_TABLE}"));
    let sql = format!("CREATE PUBLICATION {} FOR TABLE {}", ident(name), tables.join(", "));
    from.work.batch(&sql, "cannot publish the shard's tables").await
}

/// Makes the slot. It waits for every transaction that writes on that server to end.
pub(super) async fn make_slot(from: &Side, name: &str) -> Result<()> {
    const MAKE: &str = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";

    if is_whole(from, name).await? {
        return Ok(());
    }
    // One that the server gave up keeps nothing any more.
    drop_slot(from, name).await?;
    from.mover.one(MAKE, &[&name], "cannot make the replication slot").await.map(|_| ())
}

/// Makes a slot that begins where another one does.
pub(super) async fn copy_slot(from: &Side, other: &str, name: &str) -> Result<()> {
    const COPY: &str = "SELECT pg_copy_logical_replication_slot($1, $2, false)";

    from.mover.one(COPY, &[&other, &name], "cannot make the replication slot").await.map(|_| ())
}

pub(super) async fn has_slot(from: &Side, name: &str) -> Result<bool> {
    const IS_THERE: &str = "SELECT FROM pg_replication_slots WHERE slot_name = $1";

    Ok(from.mover.opt(IS_THERE, &[&name], "cannot look for the slot").await?.is_some())
}

/// How a server reaches the other as a subscriber. PostgreSQL stores it, for superusers alone to see.
///
/// # Errors
///
/// When the configuration allows no connection there, or knows no password where one is demanded: who is no superuser has to
/// bring one along, since the server's own files are not his.
pub(super) async fn conninfo(
    connector: &Connector,
    journal: &Journal,
    from: &Side,
    to: &Side,
) -> Result<String> {
    const IS_SUPERUSER: &str = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";

    let peer_dsn = journal.peer_dsn(&from.name).await?;
    let row = to.mover.one(IS_SUPERUSER, &[], "cannot look at the mover's role").await?;
    connector.conninfo_for_servers(peer_dsn.as_ref().unwrap_or(&from.dsn), !row.get::<_, bool>(0))
}

/// Makes the subscription, to what comes after the slot's position. `conninfo` is how the one server reaches the other.
pub(super) async fn subscribe(
    conninfo: &str,
    to: &Side,
    from: &Side,
    name: &str,
    takes: Takes,
) -> Result<()> {
    if is_subscribed(to, name).await? {
        // It may have been told to let go of its slot, by who did not come to drop it.
        let enable = format!("ALTER SUBSCRIPTION {} ENABLE", ident(name));
        return to.mover.batch(&enable, "cannot enable the subscription").await;
    }
    // From 16 on the publisher leaves out what it has itself received from elsewhere; before, the slot's position must do.
    let origin = if takes == Takes::WhatIsWrittenThere && to.major >= 16 && from.major >= 16 {
        ", origin = none"
    } else {
        ""
    };
    let sql = format!(
        "CREATE SUBSCRIPTION {name} CONNECTION {conninfo} PUBLICATION {name} \
         WITH (create_slot = false, slot_name = {slot}, copy_data = false, streaming = on{origin})",
        name = ident(name),
        conninfo = literal(conninfo),
        slot = literal(name),
    );
    to.mover.batch(&sql, format!("cannot subscribe to {}", from.name)).await
}

/// Makes a subscription that takes nothing, for which the one server logs in to the other, and takes it back.
pub(super) async fn rehearse(conninfo: &str, to: &Side, from: &Side, name: &str) -> Result<()> {
    let sql = format!(
        "BEGIN; CREATE SUBSCRIPTION {name} CONNECTION {conninfo} PUBLICATION {name} \
         WITH (create_slot = false, copy_data = false, enabled = false); ROLLBACK",
        name = ident(name),
        conninfo = literal(conninfo),
    );
    let made = to.mover.batch(&sql, format!("cannot subscribe to {}", from.name)).await;
    to.mover.roll_back().await;
    made
}

/// How many tables a subscription has, and how many of them follow.
pub(super) async fn readiness(to: &Side, name: &str) -> Result<(i64, i64)> {
    const STATES: &str = "SELECT count(*), count(*) FILTER (WHERE r.srsubstate = 'r') \
        FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid \
        WHERE s.subname = $1 AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";

    let row = to.mover.one(STATES, &[&name], "cannot look at the subscription").await?;
    Ok((row.get(0), row.get(1)))
}

/// Where to look when a stream stands still.
async fn trouble(to: &Side, name: &str) -> String {
    match errors(to, name).await {
        Ok(0) => format!("see pg_stat_subscription on {}", to.name),
        Ok(_) => had_errors(to, name),
        Err(error) => error.to_string(),
    }
}

fn had_errors(to: &Side, name: &str) -> String {
    format!("the subscription {name} had errors: the log of {} says which", to.name)
}

/// How often a subscription could not apply what came.
async fn errors(to: &Side, name: &str) -> Result<i64> {
    const ERRORS: &str =
        "SELECT apply_error_count FROM pg_stat_subscription_stats WHERE subname = $1";

    let row = to.watch.opt(ERRORS, &[&name], "cannot look at the subscription").await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// Has a subscription let go of its slot, until it is [subscribed](subscribe) again.
pub(super) async fn disable(to: &Side, name: &str) -> Result<()> {
    // Before 16 a worker that has nothing to do looks after a second.
    const STOP: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_subscription \
        WHERE subname = $1 AND pid IS NOT NULL";
    const WHAT: &str = "cannot disable the subscription";

    if !is_subscribed(to, name).await? {
        return Ok(());
    }
    to.mover.batch(&format!("ALTER SUBSCRIPTION {} DISABLE", ident(name)), WHAT).await?;
    if to.major < 16 {
        to.mover.rows(STOP, &[&name], WHAT).await?;
    }
    Ok(())
}

/// Drops a subscription without touching its slot, which may be on a server that is gone.
pub(super) async fn unsubscribe(to: &Side, name: &str) -> Result<()> {
    if !is_subscribed(to, name).await? {
        return Ok(());
    }
    let name = ident(name);
    let sql = format!(
        "ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE); \
         DROP SUBSCRIPTION {name}"
    );
    to.mover.batch(&sql, "cannot drop the subscription").await
}

/// Drops a slot once nobody uses it, and waits for the end of the temporary one that it may have been made of.
pub(super) async fn drop_slot(from: &Side, name: &str) -> Result<()> {
    const DROP: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
        WHERE slot_name = $1 AND active_pid IS NULL";
    const IN_USE: &str = "SELECT active_pid FROM pg_replication_slots WHERE slot_name IN ($1, $2) \
        ORDER BY active_pid LIMIT 1";
    const END: &str = "SELECT pg_terminate_backend($1)";
    const WHAT: &str = "cannot drop the replication slot";

    let began = Instant::now();
    loop {
        // Between the look and the drop somebody may have taken it.
        let dropped = from.mover.rows(DROP, &[&name], WHAT).await;
        match from
            .mover
            .opt(IN_USE, &[&name, &temporary(name)], WHAT)
            .await?
            .map(|row| row.get::<_, Option<i32>>(0))
        {
            None => return Ok(()),
            Some(Some(pid)) if began.elapsed() > RELEASE / 2 => {
                from.mover.rows(END, &[&pid], WHAT).await?;
            }
            _ => {}
        }
        if began.elapsed() > RELEASE {
            dropped?;
            return Err(Error::new(Kind::Timeout, format!("the slot {name} is still in use"))
                .at(&from.name)
                .hint("run this again"));
        }
        sleep((began.elapsed() / 4).clamp(LOOK_SOON, LOOK_AGAIN)).await;
    }
}

pub(super) async fn unpublish(from: &Side, name: &str) -> Result<()> {
    let sql = format!("DROP PUBLICATION IF EXISTS {}", ident(name));
    from.work.batch(&sql, "cannot drop the publication").await
}

/// Brings the slot to a position, and has that written to disk: an advance alone is lost in a crash.
pub(super) async fn advance(from: &Side, name: &str, position: PgLsn) -> Result<()> {
    const ADVANCE: &str = "SELECT pg_replication_slot_advance(slot_name, $2) FROM pg_replication_slots \
        WHERE slot_name = $1 AND confirmed_flush_lsn < $2";

    from.mover.rows(ADVANCE, &[&name, &position], "cannot advance the slot").await?;
    from.mover.batch("CHECKPOINT", "cannot write the slot to disk").await
}

/// How many bytes of WAL a slot holds back, or the temporary one that it is made of, and whether they are still all there: the server gives a slot up that would hold
/// back more than `max_slot_wal_keep_size`.
pub(super) async fn held_back(from: &Side, name: &str) -> Result<Option<(i64, bool)>> {
    const HELD: &str = "SELECT coalesce(pg_current_wal_lsn() - restart_lsn, 0)::bigint, \
        coalesce(wal_status <> 'lost', true) FROM pg_replication_slots WHERE slot_name IN ($1, $2) \
        ORDER BY restart_lsn LIMIT 1";

    let row = from.watch.opt(HELD, &[&name, &temporary(name)], "cannot look at the slot").await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Whether a slot is there, and keeps all that comes after its position.
pub(super) async fn is_whole(from: &Side, name: &str) -> Result<bool> {
    Ok(held_back(from, name).await?.is_some_and(|(_, is_whole)| is_whole))
}

/// Writes a mark at home and waits until the copy has it: everything that was committed before is there then. How long it
/// took is how far the copy is behind. Returns the mark, too.
pub(super) async fn mark(
    from: &Side,
    to: &Side,
    stream: &str,
    (schema, id): (&str, i64),
    patience: Duration,
) -> Result<(i64, Duration)> {
    let began = Instant::now();
    let mark = write_mark(from, (schema, id)).await?;
    loop {
        let is_there = has_mark(to, (schema, id), mark).await?;
        let waited = began.elapsed();
        if is_there {
            return Ok((mark, waited));
        }
        if waited > patience {
            return Err(Error::new(
                Kind::Timeout,
                format!("{} is more than {patience:?} behind {}", to.name, from.name),
            )
            .hint(trouble(to, stream).await));
        }
        pause(waited).await;
    }
}

/// Waits until the copy has what has piled up at home, however long that takes: it is given up when the copy stands still for as long
/// as the patience lasts. `tell` hears for how long it has been waited, and of errors as long as it stands still for them.
pub(super) async fn work_off(
    from: &Side,
    to: &Side,
    stream: &str,
    (schema, id): (&str, i64),
    patience: Duration,
    tell: impl Fn(MoveNews) + Send + Sync,
) -> Result<()> {
    let began = Instant::now();
    let mark = write_mark(from, (schema, id)).await?;
    let (mut told, mut moved, mut position, mut errors_before) = (began, began, None, None);
    while !has_mark(to, (schema, id), mark).await? {
        let position_now = confirmed(from, stream).await?;
        if position != position_now {
            (moved, position) = (Instant::now(), position_now);
        }
        if moved.elapsed() > patience {
            let still = format!("{} has taken nothing of {} for {patience:?}", to.name, from.name);
            return Err(Error::new(Kind::Timeout, still).hint(trouble(to, stream).await));
        }
        if told.elapsed() > TELL_AGAIN {
            told = Instant::now();
            tell(MoveNews::Lag(began.elapsed()));
            // They come again with every attempt, of which the first may be from before.
            let errors = errors(to, stream).await?;
            if errors > *errors_before.get_or_insert(errors) && moved.elapsed() > TELL_AGAIN {
                tell(MoveNews::Note(had_errors(to, stream)));
            }
        }
        pause(began.elapsed()).await;
    }
    Ok(())
}

async fn write_mark(from: &Side, (schema, id): (&str, i64)) -> Result<i64> {
    let write =
        format!("UPDATE {schema}.{MARK_TABLE} SET mark = mark + 1 WHERE move = $1 RETURNING mark");
    Ok(from.watch.one(&write, &[&id], "cannot write the mark").await?.get(0))
}

async fn has_mark(to: &Side, (schema, id): (&str, i64), mark: i64) -> Result<bool> {
    let read = format!("SELECT FROM {schema}.{MARK_TABLE} WHERE move = $1 AND mark >= $2");
    let seen = to.watch.opt(&read, &[&id, &mark], "cannot look for the mark").await?;
    Ok(seen.is_some())
}

/// Between two looks for a mark. The longer it takes, the less a look more matters.
async fn pause(waited: Duration) {
    if waited > LOOK_AT_ONCE {
        sleep((waited / 20).min(LOOK_AGAIN)).await;
    }
}

/// Up to where the subscriber has said that it has everything.
async fn confirmed(from: &Side, name: &str) -> Result<Option<PgLsn>> {
    const CONFIRMED: &str =
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1";

    let row = from.watch.opt(CONFIRMED, &[&name], "cannot look at the slot").await?;
    Ok(row.and_then(|row| row.get(0)))
}

pub(super) async fn is_subscribed(to: &Side, name: &str) -> Result<bool> {
    const IS_THERE: &str = "SELECT FROM pg_subscription WHERE subname = $1 \
        AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";

    Ok(to.mover.opt(IS_THERE, &[&name], "cannot look for the subscription").await?.is_some())
}
