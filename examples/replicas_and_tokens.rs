//! Reads that replicas answer, and a user who sees his own writes at once.
//!
//! ```sh
//! cargo run --features cli -- local up --instances 2 --replicas 1
//! cargo run --example replicas_and_tokens
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use howdah::{Cluster, Config, ReadFrom, Statement, Token};

const MAKE: &str =
    "CREATE TABLE IF NOT EXISTS guests (id bigint PRIMARY KEY DEFAULT next_id(), name text)";
const ADD: Statement = Statement::new("INSERT INTO {shard}.guests (name) VALUES ($1)");
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.guests");

#[tokio::main(flavor = "current_thread")]
async fn main() -> howdah::Result<()> {
    let config = Config::load()?;
    howdah::Migrations::new([("0001_guests.sql", MAKE)])?.up(&config, 4, |_| {}).await?;
    let cluster = Cluster::connect(config).await?;
    let shard = cluster.shard_for_key("guestbook");

    // After a write, the token says how far the primary has come: a line of text for the user's cookie.
    shard.execute(&ADD, &[&"Ada"]).await?;
    let cookie = shard.token().await?.to_string();
    println!("cookie: {cookie}");

    // The same user's next request: a replica that has the write, or the primary.
    let token: Token = cookie.parse()?;
    let mine = shard.read(ReadFrom::AtLeast(token)).query_one(&COUNT, &[]).await?;
    println!("who has signed sees {} guests", mine.get::<_, i64>(0));

    // Everybody else may see what was there ten seconds ago, and so is answered by any replica that keeps up.
    let recent = ReadFrom::Replica { max_lag: Duration::from_secs(10) };
    let others = shard.read(recent).timeout(Duration::from_secs(1)).query_one(&COUNT, &[]).await?;
    println!("others see {} guests", others.get::<_, i64>(0));
    Ok(())
}
