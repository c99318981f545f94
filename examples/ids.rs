//! What an id knows, and how to have ids before there are rows.
//!
//! ```text
//! howdah local up
//! cargo run --example ids
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use howdah::{Cluster, Config, Id, Result, ShardId};

#[tokio::main]
async fn main() -> Result<()> {
    run(Config::load()?).await
}

pub(crate) async fn run(config: Config) -> Result<()> {
    let cluster = Cluster::connect(config).await?;
    let layout = cluster.layout();

    // A block of ids from the shard's own clock, in one round trip: for rows that are written in several places.
    let ids: Vec<Id> = cluster.shard(ShardId::new(3)?)?.reserve_ids(3).await?.collect();
    for id in &ids {
        let parts = layout.decode(*id);
        println!(
            "{id} was made at {}, on shard {}, as number {} of its millisecond; in a link it is {}",
            parts.time().to_rfc3339(),
            parts.shard,
            parts.sequence,
            id.to_code()
        );
        assert_eq!(Id::from_code(&id.to_code())?, *id);
    }

    // Ids are ordered by time, so a period is a range of the primary key: … WHERE id BETWEEN $1 AND $2.
    let newest = layout.decode(ids[2]).time();
    let minute = layout.range(ShardId::new(3)?, newest - Duration::from_secs(60), newest)?;
    assert!(ids.iter().all(|id| minute.contains(id)));
    println!("the last minute is from {} to {}", minute.start(), minute.end());
    Ok(())
}
