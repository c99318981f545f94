//! What every instance has before it can hold shards: the roles, who it is, and the clock behind its ids.

use postgres_types::ToSql;
use tokio_postgres::Client;

use super::roles::create_roles;
use crate::Result;
use crate::connect::{ClusterId, Generation, statement_failure};
use crate::id::{Layout, clock_sql};
use crate::shard::InstanceName;

/// Puts it there, as the owner; all of it may be there already. Its generation is at least `first`.
pub(super) async fn furnish(
    client: &Client,
    cluster: &ClusterId,
    name: &InstanceName,
    layout: &Layout,
    first: Generation,
) -> Result<()> {
    const ENTER: &str = "INSERT INTO howdah.identity \
                             (cluster, instance, epoch_ms, shard_bits, sequence_bits, generation) \
                         VALUES ($1::text::uuid, $2, $3, $4, $5, $6) \
                         ON CONFLICT (only_one) DO UPDATE SET generation = excluded.generation \
                             WHERE identity.generation < excluded.generation";

    let failed = |error| statement_failure(error, "cannot set up the instance").at(name);
    create_roles(client).await?;
    client.batch_execute(include_str!("../../sql/identity.sql")).await.map_err(failed)?;
    client.batch_execute(include_str!("../../sql/guard.sql")).await.map_err(failed)?;
    let bits = (i32::from(layout.shard_bits()), i32::from(layout.sequence_bits()));
    let entry: [&(dyn ToSql + Sync); 6] =
        [&cluster.as_str(), &name.as_str(), &layout.epoch_ms(), &bits.0, &bits.1, &first.0];
    client.execute(ENTER, &entry).await.map_err(failed)?;
    client.batch_execute(&clock_sql(layout)).await.map_err(failed)
}
