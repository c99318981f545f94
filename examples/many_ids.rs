//! Many rows by their ids, from whatever shards they are on, in the order asked.
//!
//! ```text
//! howdah local up
//! howdah migrate up --dir examples/migrations
//! cargo run --example many_ids
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use howdah::{Cluster, Config, Id, Result, Statement};

const USER: Statement = Statement::new(
    "INSERT INTO {shard}.users (name) VALUES ($1)
     ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
);
const BY_IDS: Statement = Statement::new("SELECT id, name FROM {shard}.users WHERE id = ANY($1)");

#[tokio::main]
async fn main() -> Result<()> {
    run(Config::load()?).await
}

pub(crate) async fn run(config: Config) -> Result<()> {
    let cluster = Cluster::connect(config).await?;
    let mut fans = Vec::new();
    for name in ["Zoë", "bob", "alice", "mallory"] {
        let row = cluster.shard_for_key(name).query_one(&USER, &[&name]).await?;
        fans.push(row.get::<_, Id>("id"));
    }
    // Nobody has this one, and the first is asked for twice.
    fans.push(Id::new(fans[0].get() + 1)?);
    fans.push(fans[0]);

    // One statement for each shard that has any of them, all under way at once.
    let found = cluster.get_many(&BY_IDS, &fans).partial().await?;
    for (id, row) in found.iter() {
        match row {
            Some(row) => println!("{id}: {}", row.get::<_, &str>("name")),
            None => println!("{id}: nobody"),
        }
    }
    // Who is gone, and who is on a shard that could not be reached, are two things.
    println!("gone: {:?}; not known: {:?}", found.absent(), found.unknown());
    Ok(())
}
