//! The roles that a cluster's servers must have; `sql/roles.sql` is the same for an administrator.

use tokio_postgres::Client;

use crate::Result;
use crate::connect::{sqlstate, statement_failure};

/// The roles that the SQL of an instance grants rights to and that are not there, with their attributes.
pub(super) async fn missing_roles(client: &Client) -> Result<Vec<&'static str>> {
    const ROLES: [(&str, &str); 2] =
        [("howdah_mover", "howdah_mover LOGIN REPLICATION"), ("howdah_app", "howdah_app LOGIN")];

    let known =
        client.query("SELECT rolname FROM pg_roles WHERE rolname LIKE 'howdah%'", &[]).await;
    let known = known.map_err(|error| statement_failure(error, "cannot read the roles"))?;
    let is_known = |role: &str| known.iter().any(|row| row.get::<_, &str>(0) == role);
    Ok(ROLES.into_iter().filter(|(role, _)| !is_known(role)).map(|(_, made)| made).collect())
}

pub(super) async fn create_roles(client: &Client) -> Result<()> {
    for role in missing_roles(client).await? {
        match client.batch_execute(&format!("CREATE ROLE {role}")).await {
            Ok(()) => {}
            // Roles are the whole server's: another database's init was quicker.
            Err(error) if error.code().is_some_and(sqlstate::is_there_already) => {}
            Err(error) => {
                return Err(statement_failure(error, format!("cannot create the role {role}"))
                    .hint("let an administrator run sql/roles.sql"));
            }
        }
    }
    Ok(())
}
