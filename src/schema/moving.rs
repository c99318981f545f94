//! Whether shards have open moves. A move keeps a second copy, which no change of a schema reaches: from its beginning to its
//! end, also while no mover holds the shard's lock, a table of its own is in the schema.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::connect::statement_failure;
use crate::shard::Home;
use crate::{Error, Result};

/// Those of some shards at home here that have an open move. Asked under their locks, it stays so.
pub(super) async fn moving<'a>(client: &Client, homes: &[&'a Home]) -> Result<Vec<&'a Home>> {
    const MARKED: &str = "SELECT name FROM unnest($1::text[]) name WHERE to_regclass(name || '.howdah_move') IS NOT NULL";

    let names: Vec<_> = homes.iter().map(|home| home.schema()).collect();
    let marked = client.query_typed(MARKED, &[(&names, Type::TEXT_ARRAY)]).await;
    let marked = marked.map_err(|error| statement_failure(error, "cannot look for moves"))?;
    let is_marked = |home: &&Home| marked.iter().any(|row| row.get::<_, &str>(0) == home.schema());
    Ok(homes.iter().copied().filter(is_marked).collect())
}

/// # Errors
///
/// [Refused](Error::is_refused), where the shard has an open move.
pub(super) async fn refuse_if_moving(client: &Client, home: &Home) -> Result<()> {
    if moving(client, &[home]).await?.is_empty() {
        return Ok(());
    }
    let shard = home.shard();
    Err(Error::refused(format!("shard {shard} has an open move"))
        .hint(format!("end it first: `howdah moves finish {shard}`, or abort or rollback")))
}
