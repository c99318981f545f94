//! What is looked at before `init` touches anything, and what it needs of a server.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::plan::Plan;
use super::roles::missing_roles;
use crate::catalog::{Place, Signpost};
use crate::connect::{Connector, Identity, Role, gone, sqlstate, statement_failure};
use crate::shard::InstanceName;
use crate::{Error, Result};

/// Advisory locks are pairs; all that begin with this one are howdah's ("howd" in ASCII).
const LOCK_SPACE: i32 = 0x686f_7764;
/// Held on the catalog's database while a cluster is made or changed, and on both while that moves.
pub(super) const CATALOG_LOCK: i32 = -1;
/// Held on an instance's database meanwhile; two names for one database are found by it.
const INSTANCE_LOCK: i32 = -2;

/// How long a lock is waited for, and how often it is tried meanwhile.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The oldest PostgreSQL that is supported, as `server_version_num` has it.
const OLDEST_VERSION: i32 = 150_000;

/// How often the catalog may be moved while its lock is waited for.
const PLACES: u32 = 4;

/// Logs in to the catalog, wherever it is, and keeps other changes of the cluster away for as long as the session lasts.
///
/// # Errors
///
/// As [`Place::find`]; [refused](Error::is_refused) while another change is being made.
pub(super) async fn lock_catalog(connector: &Connector) -> Result<Place> {
    for _ in 0..PLACES {
        let place = Place::find(connector, Role::Owner).await?;
        if !lock(&place.client, CATALOG_LOCK).await? {
            break;
        }
        // Whoever held the lock may have moved it.
        if Signpost::read(&place.client).await? == place.closed {
            return Ok(place);
        }
    }
    Err(Error::refused("another change of this cluster is being made")
        .hint("wait for it, then run this again"))
}

/// Whatever keeps an instance from being part of the cluster.
pub(super) async fn problems_of(
    client: &Client,
    name: &InstanceName,
    plan: &Plan,
) -> Result<Vec<String>> {
    const FACTS: &str = "SELECT current_setting('server_version_num')::int, \
                         has_database_privilege(current_database(), 'CREATE'), \
                         (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user)";

    let failed = |error| statement_failure(error, "cannot look at the server");
    let mut problems = Vec::new();
    match Identity::read(client).await {
        // A schema that the owner may not even read is another's.
        Err(error) if error.code().is_some_and(sqlstate::is_forbidden) => {
            problems.push(foreign_schema().to_string());
        }
        Err(error) => return Err(error),
        Ok(found) => problems.extend(problem_of_identity(client, found, name, plan).await?),
    }
    if !lock(client, INSTANCE_LOCK).await? {
        problems.push("is the same database as another instance, or another init is at it".into());
    }
    let facts = client.query_one(FACTS, &[]).await.map_err(failed)?;
    problems.extend(problem_of_version(facts.get(0)));
    if !facts.get::<_, bool>(1) {
        problems.push("does not let the owner create schemas: grant CREATE on the database".into());
    }
    if !facts.get::<_, bool>(2) {
        let missing = missing_roles(client).await?;
        problems.extend(
            missing
                .into_iter()
                .map(|role| format!("lacks a role: let an administrator run CREATE ROLE {role}")),
        );
    }
    Ok(problems)
}

/// What is wrong with a `server_version_num`.
fn problem_of_version(version: i32) -> Option<String> {
    let (found, oldest) = (version / 10_000, OLDEST_VERSION / 10_000);
    (version < OLDEST_VERSION)
        .then(|| format!("runs PostgreSQL {found}, and {oldest} is the oldest that will do"))
}

async fn problem_of_identity(
    client: &Client,
    found: Option<Identity>,
    name: &InstanceName,
    plan: &Plan,
) -> Result<Option<String>> {
    Ok(match found {
        Some(found) if Some(&found.cluster) != plan.cluster.as_ref() => {
            Some(format!("is instance {} of another cluster, {}", found.instance, found.cluster))
        }
        Some(found) if found.instance != *name => {
            Some(format!("is instance {} of this cluster", found.instance))
        }
        Some(_) => None,
        None => refuse_foreign_schema(client).await.err().map(|error| error.to_string()),
    })
}

/// A schema of our name without a table of ours is somebody else's.
pub(super) async fn refuse_foreign_schema(client: &Client) -> Result<()> {
    const FOREIGN: &str = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'howdah') \
                           AND to_regclass('howdah.cluster') IS NULL AND to_regclass('howdah.identity') IS NULL";

    let foreign = client.query_one(FOREIGN, &[]).await;
    let foreign = foreign.map_err(|error| statement_failure(error, "cannot look at the server"))?;
    if foreign.get(0) {
        return Err(foreign_schema());
    }
    Ok(())
}

pub(super) fn foreign_schema() -> Error {
    Error::refused("the database has a schema named howdah that is not ours")
        .hint("rename it, or use another database")
}

/// Takes a lock for as long as the session lasts, and its client is there; `false` when somebody keeps it. Who held it may have ended just now, and his
/// server not have noticed yet.
pub(super) async fn lock(client: &Client, key: i32) -> Result<bool> {
    gone::limit(client).await?;
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        let locked =
            client.query_one("SELECT pg_try_advisory_lock($1, $2)", &[&LOCK_SPACE, &key]).await;
        let locked = locked.map_err(|error| statement_failure(error, "cannot lock"))?.get(0);
        if locked || Instant::now() > end {
            return Ok(locked);
        }
        sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_too_old_is_named_by_its_version() {
        for (version, named) in [
            (80_400, Some("runs PostgreSQL 8, and 15 is the oldest that will do")),
            (140_019, Some("runs PostgreSQL 14, and 15 is the oldest that will do")),
            (150_000, None),
            (180_004, None),
        ] {
            assert_eq!(problem_of_version(version).as_deref(), named, "{version}");
        }
    }
}
