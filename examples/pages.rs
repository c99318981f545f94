//! The newest photos of everybody, page by page, over all shards.
//!
//! ```text
//! howdah local up
//! howdah migrate up --dir examples/migrations
//! cargo run --example pages
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use howdah::{Cluster, Config, Cursor, Id, Result, Statement};

// After its own parameters, of which it has none, the statement takes where to start, how many rows, and how far down to look.
const NEWEST: Statement = Statement::new(
    "SELECT id, caption FROM {shard}.photos WHERE id < $1 AND id >= $3 ORDER BY id DESC LIMIT $2",
);
const COUNT: Statement = Statement::new("SELECT count(*) FROM {shard}.photos");

#[tokio::main]
async fn main() -> Result<()> {
    run(Config::load()?).await
}

pub(crate) async fn run(config: Config) -> Result<()> {
    let cluster = Cluster::connect(config).await?;
    add_some(&cluster).await?;

    let mut link: Option<String> = None;
    for number in 1..=3 {
        // What came back in the link to this page: text that anybody may have tampered with, so it is checked.
        let cursor = link.as_deref().map(str::parse::<Cursor>).transpose()?;
        let newest = cluster.scatter(&NEWEST).all(&[]).takes_floor().partial();
        let page = newest.page("id", cursor.as_ref(), 5).await?;
        println!("page {number}:");
        for row in &page.rows {
            println!("  {} {}", row.get::<_, Id>("id"), row.get::<_, &str>("caption"));
        }
        // A shard that could not be reached has its rows on a later page, once it is back.
        if !page.missing.is_empty() {
            println!("  (without shards {:?})", page.missing);
        }
        link = page.next.map(|cursor| cursor.to_string());
        if link.is_none() {
            break;
        }
    }

    let photos = cluster.scatter(&COUNT).all(&[]).count().await?.value;
    println!("of {photos} in all");
    Ok(())
}

async fn add_some(cluster: &Cluster) -> Result<()> {
    const USER: Statement = Statement::new(
        "INSERT INTO {shard}.users (name) VALUES ($1)
         ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
    );
    const ADD: Statement =
        Statement::new("INSERT INTO {shard}.photos (user_id, caption) VALUES ($1, $2)");

    for name in ["alice", "bob", "Zoë"] {
        let shard = cluster.shard_for_key(name);
        let user: Id = shard.query_one(&USER, &[&name]).await?.get(0);
        for number in 1..=4 {
            shard.execute(&ADD, &[&user, &format!("{name}, number {number}")]).await?;
        }
    }
    Ok(())
}
