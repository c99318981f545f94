//! A transaction on one shard, which is tried again when PostgreSQL asks for that.
//!
//! ```text
//! howdah local up
//! howdah migrate up --dir examples/migrations
//! cargo run --example transaction
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use howdah::{Cluster, Config, Id, Result, Shard, Statement};

const USER: Statement = Statement::new(
    "INSERT INTO {shard}.users (name) VALUES ($1)
     ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
);
const POST: Statement =
    Statement::new("INSERT INTO {shard}.photos (user_id, caption) VALUES ($1, $2) RETURNING id");
const LIKE: Statement = Statement::new(
    "INSERT INTO {shard}.likes (photo_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
);
const COUNT: Statement =
    Statement::new("UPDATE {shard}.photos SET likes = likes + 1 WHERE id = $1 RETURNING likes");

#[tokio::main]
async fn main() -> Result<()> {
    run(Config::load()?).await
}

pub(crate) async fn run(config: Config) -> Result<()> {
    let cluster = Cluster::connect(config).await?;
    let user = async |name: &str| {
        let row = cluster.shard_for_key(name).query_one(&USER, &[&name]).await?;
        Ok::<Id, howdah::Error>(row.get(0))
    };
    let (alice, bob) = (user("alice").await?, user("bob").await?);
    let shard = cluster.shard_of_id(alice)?;
    let photo: Id = shard.query_one(&POST, &[&alice, &"first light"]).await?.get(0);

    println!("bob likes it: {:?}", like(&shard, photo, bob).await?);
    println!("and again: {:?}", like(&shard, photo, bob).await?);
    Ok(())
}

/// How many like the photo now; nothing when this fan did already.
///
/// The like lives on the photo's shard, whoever's it is, so one transaction on one shard is enough.
async fn like(shard: &Shard, photo: Id, fan: Id) -> Result<Option<i64>> {
    // The closure may be run again: after a deadlock or a serialization failure, and when the shard has just moved. Nothing
    // of it has happened then. So it touches nothing but the transaction.
    shard
        .transaction(async |tx| {
            if tx.execute(&LIKE, &[&photo, &fan]).await? == 0 {
                return Ok(None);
            }
            Ok(Some(tx.query_one(&COUNT, &[&photo]).await?.get(0)))
        })
        .await
}
