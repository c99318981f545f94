//! What stands in the way of a move, all of it at once, before anything is touched.

use std::time::Duration;

use futures_util::try_join;
use tokio::time::{Instant, sleep};

use super::journal::Journal;
use super::kept::Kept;
use super::members::members;
use super::names::{GUARD, MARK_TABLE, literal};
use super::side::Side;
use super::stream;
use crate::connect::Connector;
use crate::shard::{Home, ShardId};
use crate::{Error, Result};

/// What a shard's schema ($1) must not have, or depend on: one row a problem.
const SHARD: &str = include_str!("../../sql/preflight.sql");

/// The prepared transactions that have touched a shard ($1). Their locks have no process, and are found by the one on their
/// own number.
const PREPARED: &str = "SELECT DISTINCT gid FROM pg_prepared_xacts x \
    JOIN pg_locks own ON own.locktype = 'transactionid' AND own.transactionid = x.transaction AND own.pid IS NULL \
    JOIN pg_locks l ON l.virtualtransaction = own.virtualtransaction AND l.pid IS NULL \
    JOIN pg_class c ON c.oid = l.relation \
    WHERE x.database = current_database() AND c.relnamespace = to_regnamespace($1)";

/// The prepared transactions of a whole server that are older than so many seconds ($1): making a slot waits for all of them.
const OLD: &str = "SELECT gid, database::text FROM pg_prepared_xacts \
    WHERE prepared < clock_timestamp() - make_interval(secs => $1) ORDER BY prepared";

/// How long a prepared transaction may take to end before it is in doubt; and one that has nothing to do with the shard, and may be in
/// the hands of others.
const TWO_PHASES: Duration = Duration::from_secs(3);
const OTHERS_TWO_PHASES: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a server must offer, for either direction: it publishes to the other, and subscribes to it. Moves that begin at the same
/// time do not see each other here: they wait for each other's workers.
const SERVER: &str = "\
    SELECT 'wal_level is ' || current_setting('wal_level') || ', not logical' \
        WHERE current_setting('wal_level') <> 'logical' \
    UNION ALL SELECT 'all ' || m || ' replication slots (max_replication_slots) are in use' \
        FROM current_setting('max_replication_slots') m \
        WHERE (SELECT count(*) FROM pg_replication_slots) + 2 > m::int \
    UNION ALL SELECT format('has %s subscriptions at work, and a move takes one more: \
raise max_logical_replication_workers, which is %s', n, m) \
        FROM (SELECT count(*) FROM pg_subscription WHERE subenabled) s(n), current_setting('max_logical_replication_workers') m \
        WHERE n + 1 > m::int \
    UNION ALL SELECT format('has %s replication origins, and a move takes up to two more: raise %s, which is %s', n, name, setting) \
        FROM (SELECT count(*) FROM pg_replication_origin) o(n), pg_settings \
        WHERE name = CASE WHEN current_setting('server_version_num')::int < 180000 THEN 'max_replication_slots' \
            ELSE 'max_active_replication_origins' END AND n + 2 > setting::int \
    UNION ALL SELECT format('has %s walsenders, and a move takes up to two more: raise max_wal_senders, which is %s', n, m) \
        FROM (SELECT count(*) FROM pg_stat_replication) w(n), current_setting('max_wal_senders') m \
        WHERE n + 2 > m::int \
    UNION ALL SELECT 'max_slot_wal_keep_size is -1: the WAL that a slot keeps for a copy could fill the disk' \
        WHERE current_setting('max_slot_wal_keep_size') = '-1' \
    UNION ALL SELECT 'synchronous_standby_names is ' || names || ': commits would be acknowledged once a copy has them, \
which follows like a standby; name the standbys' \
        FROM current_setting('synchronous_standby_names') names WHERE position('*' in names) > 0 \
    UNION ALL SELECT 'the function howdah.guard() is missing: run `howdah init` again' \
        WHERE to_regprocedure('howdah.guard()') IS NULL \
    UNION ALL SELECT 'session_replication_role is ' || current_setting('session_replication_role') \
        WHERE current_setting('session_replication_role') <> 'origin'";

/// What the role of movers must be able to do; $1 is the owner of the shards. The servers' sessions among each other have its
/// settings, and take no others.
const ROLE: &str = "\
    SELECT 'role ' || current_user || ' lacks REPLICATION' FROM pg_roles \
        WHERE rolname = current_user AND NOT (rolreplication OR rolsuper) \
    UNION ALL SELECT 'role ' || current_user || ' must be a superuser, for it makes subscriptions' FROM pg_roles \
        WHERE rolname = current_user AND NOT rolsuper AND current_setting('server_version_num')::int < 160000 \
    UNION ALL SELECT 'role ' || current_user || ' lacks ' || r FROM pg_roles, (VALUES ('pg_checkpoint'), ('pg_create_subscription')) v(r) \
        WHERE rolname = current_user AND NOT rolsuper AND current_setting('server_version_num')::int >= 160000 \
          AND NOT pg_has_role(current_user, r, 'MEMBER') \
    UNION ALL SELECT 'role ' || current_user || ' may not create subscriptions in the database: GRANT CREATE ON DATABASE ' \
            || quote_ident(current_database()) || ' TO ' || quote_ident(current_user) \
        WHERE NOT has_database_privilege(current_database(), 'CREATE') \
    UNION ALL SELECT 'role ' || current_user || ' is no member of ' || $1::text || ', as whom rows are read and replicated' \
        WHERE NOT pg_has_role(current_user, $1::text, 'USAGE') \
    UNION ALL SELECT format('role %1$s has %2$s = %3$s, which would end what follows a copy: ALTER ROLE %1$s IN DATABASE %4$I SET %2$s = 0', \
            current_user, name, reset_val, current_database()) \
        FROM pg_settings WHERE name = 'transaction_timeout' AND reset_val <> '0'";

const OWNER: &str = "SELECT current_user::text";

/// What both servers must have alike.
const ALIKE: &str =
    "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()";

/// The extensions that the tables of a shard ($1) use.
const EXTENSIONS: &str = concat!(
    "SELECT DISTINCT e.extname::text FROM ( \
        SELECT 'pg_class'::regclass, unnest(",
    members!("pg_class"),
    ") UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = ANY (",
    members!("pg_class"),
    ") UNION ALL SELECT 'pg_proc'::regclass, unnest(",
    members!("pg_proc"),
    ") UNION ALL SELECT 'pg_type'::regclass, unnest(",
    members!("pg_type"),
    ") UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid = ANY (",
    members!("pg_class"),
    ")) inside (classid, objid) \
    JOIN pg_depend d ON d.classid = inside.classid AND d.objid = inside.objid \
    JOIN pg_depend m ON m.classid = d.refclassid AND m.objid = d.refobjid AND m.deptype = 'e' \
    JOIN pg_extension e ON e.oid = m.refobjid"
);

/// Looks for everything that would keep the shard from being moved.
///
/// # Errors
///
/// [Refused](Error::is_refused), naming all of it.
pub(super) async fn check(source: &Side, target: &Side, home: &Home) -> Result<()> {
    let (shard, schema) = (home.shard(), home.schema());
    let mut problems = Vec::new();
    if !source.epochs(shard).await?.contains(&home.epoch()) {
        problems.push(format!("{} has no {schema}, which the catalog says is there", source.name));
    }
    for row in source.work.rows(SHARD, &[&schema, &GUARD], CANNOT_LOOK).await? {
        problems.push(format!("shard {shard}: {}", row.get::<_, &str>(0)));
    }
    let in_doubt = in_doubt(source, &schema).await?;
    for gid in &in_doubt {
        problems.push(format!(
            "shard {shard}: the prepared transaction {} is in doubt: `howdah tx recover`",
            literal(gid)
        ));
    }
    for side in [source, target] {
        let found = |rows: Vec<tokio_postgres::Row>| {
            let problem =
                |row: &tokio_postgres::Row| format!("{} {}", side.name, row.get::<_, &str>(0));
            rows.iter().map(problem).collect::<Vec<_>>()
        };
        problems.extend(found(side.work.rows(SERVER, &[], CANNOT_LOOK).await?));
        let owner: String = side.work.one(OWNER, &[], CANNOT_LOOK).await?.get(0);
        problems.extend(found(side.mover.rows(ROLE, &[&owner], CANNOT_LOOK).await?));
        problems.extend(old_prepared(side, &in_doubt).await?);
    }
    let is_marked = problems.iter().any(|problem| problem.contains(MARK_TABLE));
    let left = target.epochs(shard).await?;
    let is_left = is_marked || !left.is_empty();
    for epoch in left {
        problems.push(format!(
            "{} has a schema of shard {shard} already, of epoch {epoch}",
            target.name
        ));
    }
    if source.server.system == target.server.system && source.dsn.dbname() == target.dsn.dbname() {
        problems.push(format!("{} and {} are the same database", source.name, target.name));
    }
    let here: String = source.work.one(ALIKE, &[], CANNOT_LOOK).await?.get(0);
    let there: String = target.work.one(ALIKE, &[], CANNOT_LOOK).await?.get(0);
    if here != there {
        problems.push(format!("{} is encoded in {here}, {} in {there}", source.name, target.name));
    }
    let (here, there) = (extensions(source).await?, extensions(target).await?);
    if here.iter().any(|extension| !there.contains(extension)) {
        for row in source.work.rows(EXTENSIONS, &[&schema], CANNOT_LOOK).await? {
            let used = row.get(0);
            if !there.contains(&used) {
                problems.push(format!("{} lacks the extension {used}", target.name));
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let next = if is_left {
        "nothing was touched; is it left of a move? `howdah moves list`, then abort or finish that; what belongs to none is dropped by hand"
    } else {
        "nothing was touched"
    };
    Err(Error::refused(format!("shard {shard} cannot be moved: {}", problems.join("; ")))
        .hint(next))
}

/// Has each server log in to the other as it will have to; the source to the target when the shard is there, and the move can hardly
/// be ended without.
///
/// # Errors
///
/// [Refused](Error::is_refused), where one is not let in.
pub(super) async fn rehearse(
    connector: &Connector,
    journal: &Journal,
    kept: &Kept,
    [source, target]: [&Side; 2],
    (shard, reverse): (ShardId, bool),
) -> Result<()> {
    let name = format!("howdah_rehearsal_s{shard}");
    let log_in = async |from: &Side, to: &Side, is_needed: bool| {
        let conninfo = stream::conninfo(connector, journal, from, to).await?;
        if !is_needed || kept.was_let_in(&to.name, &from.name) {
            return Ok(());
        }
        stream::rehearse(&conninfo, to, from, &name).await.map_err(|error| {
            Error::refused(format!("{} cannot follow {}", to.name, from.name)).because(error).hint(
                "nothing was touched; how do servers reach each other? see `howdah instance list`",
            )
        })?;
        kept.keep_let_in(&to.name, &from.name);
        Ok(())
    };
    try_join!(log_in(source, target, true), log_in(target, source, reverse)).map(|_| ())
}

/// The extensions that a server has.
async fn extensions(side: &Side) -> Result<Vec<String>> {
    const ALL: &str = "SELECT extname::text FROM pg_extension";

    let rows = side.work.rows(ALL, &[], CANNOT_LOOK).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The prepared transactions for which a slot would wait, but for those that are named already.
async fn old_prepared(side: &Side, named: &[String]) -> Result<Vec<String>> {
    let old = side.work.rows(OLD, &[&OTHERS_TWO_PHASES.as_secs_f64()], CANNOT_LOOK).await?;
    let problem = |row: &tokio_postgres::Row| {
        let (gid, database): (String, &str) = (row.get(0), row.get(1));
        let of = format!("the prepared transaction {} in the database {database}", literal(&gid));
        let what = format!("{} cannot make a slot as long as {of} is in doubt", side.name);
        (!named.contains(&gid)).then(|| format!("{what}: `howdah tx recover`"))
    };
    Ok(old.iter().filter_map(problem).collect())
}

/// The prepared transactions that do not end by themselves, as those of clients at work do.
async fn in_doubt(source: &Side, schema: &str) -> Result<Vec<String>> {
    let look = async || {
        let rows = source.work.rows(PREPARED, &[&schema], CANNOT_LOOK).await?;
        Ok::<_, Error>(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>())
    };
    let mut there = look().await?;
    let began = Instant::now();
    while !there.is_empty() && began.elapsed() < TWO_PHASES {
        sleep(LOOK_AGAIN).await;
        let still = look().await?;
        there.retain(|gid| still.contains(gid));
    }
    Ok(there)
}

const CANNOT_LOOK: &str = "cannot look for what is in the way";
