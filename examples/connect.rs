//! Connect, write a row and read it again.
//!
//! ```text
//! howdah local up
//! howdah migrate up --dir examples/migrations
//! cargo run --example connect
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use howdah::{Cluster, Config, Id, Result, Statement};

// `{shard}` stands for the schema of the shard on which it is run. A name that is taken is not taken twice: whoever wants
// it comes to the same shard, where it is unique.
const SIGN_UP: Statement = Statement::new(
    "INSERT INTO {shard}.users (name) VALUES ($1)
     ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
);
const POST: Statement =
    Statement::new("INSERT INTO {shard}.photos (user_id, caption) VALUES ($1, $2) RETURNING id");
const BY_ID: Statement = Statement::new("SELECT caption FROM {shard}.photos WHERE id = $1");

#[tokio::main]
async fn main() -> Result<()> {
    // HOWDAH_CONFIG, else howdah.toml, else .howdah/howdah.toml.
    run(Config::load()?).await
}

pub(crate) async fn run(config: Config) -> Result<()> {
    let cluster = Cluster::connect(config).await?;

    // Who has no id yet is found by a key.
    let alice: Id = cluster.shard_for_key("alice").query_one(&SIGN_UP, &[&"alice"]).await?.get(0);

    // From then on the id says where everything of hers is: no I/O, only bits.
    let shard = cluster.shard_of_id(alice)?;
    let photo: Id = shard.query_one(&POST, &[&alice, &"first light"]).await?.get("id");
    println!("photo {photo} is on shard {}, on {}", shard.id(), shard.home()?.instance());

    let row = cluster.shard_of_id(photo)?.query_one(&BY_ID, &[&photo]).await?;
    println!("it says {:?}", row.get::<_, &str>("caption"));
    Ok(())
}
