//! Many rows at once: COPY into all shards, and out of them again.
//!
//! ```text
//! howdah local up
//! howdah migrate up --dir examples/migrations
//! cargo run --example bulk_load
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use howdah::postgres::types::Type;
use howdah::{Cluster, Config, Id, Result, Statement};

const USER: Statement = Statement::new(
    "INSERT INTO {shard}.users (name) VALUES ($1)
     ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
);
// The photos' ids are left to the column's default.
const LOAD: Statement =
    Statement::new("COPY {shard}.photos (user_id, caption) FROM STDIN (FORMAT binary)");
const DUMP: Statement = Statement::new(
    "COPY (SELECT caption FROM {shard}.photos WHERE caption LIKE 'loaded%') TO STDOUT (FORMAT csv)",
);

#[tokio::main]
async fn main() -> Result<()> {
    run(Config::load()?).await
}

pub(crate) async fn run(config: Config) -> Result<()> {
    let cluster = Cluster::connect(config).await?;
    let mut users = Vec::new();
    for number in 0..20 {
        let name = format!("user {number}");
        let row = cluster.shard_for_key(&name).query_one(&USER, &[&name]).await?;
        users.push(row.get::<_, Id>("id"));
    }

    // Rows in any order; each goes to the shard that its user's id names.
    let told = |rows| println!("{rows} rows are written");
    let mut load = cluster.copy_in(&LOAD, &[Type::INT8, Type::TEXT]).on_progress(told);
    let loaded = async {
        for (number, user) in (0..2_000).zip(users.iter().cycle()) {
            load.row(*user, &[user, &format!("loaded {number}")]).await?;
        }
        load.finish().await
    };
    // Each shard's rows are written in chunks, whole ones, so a failure leaves some there: the account says which.
    if let Err(error) = loaded.await {
        for (shard, copied) in load.account() {
            println!("shard {shard}: the first {} rows are written", copied.written);
        }
        return Err(error);
    }

    let mut dump = cluster.copy_out(&DUMP).stream();
    let (mut lines, mut bytes) = (0, 0);
    while let Some(line) = dump.next().await {
        let (_shard, line) = line?;
        lines += 1;
        bytes += line.len();
    }
    println!("{lines} lines of CSV, {bytes} bytes, from {} shards", dump.finished().len());
    Ok(())
}
