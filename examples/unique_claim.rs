//! A value that is unique in the whole cluster: the e-mail address of a user who lives on the shard of the name.
//!
//! ```text
//! howdah local up
//! howdah migrate up --dir examples/migrations
//! cargo run --example unique_claim
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use howdah::{Claims, Cluster, Config, Id, Result, Statement};

// A lookup table that is sharded by the address: whoever wants an address comes to the same shard.
const EMAILS: Claims = Claims::new("emails");
const USER: Statement = Statement::new(
    "INSERT INTO {shard}.users (name) VALUES ($1)
     ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
);

#[tokio::main]
async fn main() -> Result<()> {
    run(Config::load()?).await
}

pub(crate) async fn run(config: Config) -> Result<()> {
    let cluster = Cluster::connect(config).await?;
    let email = "zoe@example.org";

    let zoe = sign_up(&cluster, "zoe", email).await?;
    println!("{email} is {zoe}'s: {:?}", cluster.owner_of(&EMAILS, email).await?);

    // Somebody else does not get it, and is not signed up either.
    match sign_up(&cluster, "mallory", email).await {
        Err(error) if error.is_taken() => println!("mallory: {error}"),
        other => println!("mallory: {other:?}"),
    }

    let released = cluster.transaction(async |tx| tx.release(&EMAILS, email, zoe).await).await?;
    println!("released: {released}; now it is {:?}", cluster.owner_of(&EMAILS, email).await?);
    Ok(())
}

/// The user and the claim, both or neither.
async fn sign_up(cluster: &Cluster, name: &str, email: &str) -> Result<Id> {
    let shard = cluster.shard_for_key(name);
    cluster
        .transaction(async |tx| {
            let user: Id = tx.on(&shard).await?.query_one(&USER, &[&name]).await?.get(0);
            tx.claim(&EMAILS, email, user).await?;
            Ok(user)
        })
        .await
}
