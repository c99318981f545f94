//! Reads that replicas answer, and users who see their own writes at once.
//!
//! The replicas have to be there from the beginning, so the local cluster is destroyed first, with what is in it. Without
//! replicas the program runs as well, and the primary answers.
//!
//! ```text
//! howdah local destroy
//! howdah local up --replicas 1
//! howdah migrate up --dir examples/migrations
//! cargo run --example replicas_and_tokens
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use howdah::{Cluster, Config, ReadFrom, Result, Statement, Token};

const SIGN_UP: Statement =
    Statement::new("INSERT INTO {shard}.users (name) VALUES ($1) ON CONFLICT (name) DO NOTHING");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.users");

#[tokio::main]
async fn main() -> Result<()> {
    run(Config::load()?).await
}

pub(crate) async fn run(config: Config) -> Result<()> {
    let cluster = Cluster::connect(config).await?;
    let shard = cluster.shard_for_key("Ada");

    // After a write, the token says how far the primary has come: a line of text for the user's cookie.
    shard.execute(&SIGN_UP, &[&"Ada"]).await?;
    let cookie = shard.token().await?.to_string();
    println!("cookie: {cookie}");

    // The same user's next request: a replica that has the write, or the primary.
    let token: Token = cookie.parse()?;
    let mine = shard.read(ReadFrom::AtLeast(token)).query_one(&COUNT, &[]).await?;
    println!("who has signed up sees {} users", mine.get::<_, i64>(0));

    // Everybody else may see what was there ten seconds ago, and so is answered by any replica that keeps up.
    let recent = ReadFrom::Replica { max_lag: Duration::from_secs(10) };
    let others = shard.read(recent).timeout(Duration::from_secs(1)).query_one(&COUNT, &[]).await?;
    println!("others see {} users", others.get::<_, i64>(0));
    Ok(())
}
