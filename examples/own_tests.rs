//! Tests of an application of your own, on real servers with fresh shards.
//!
//! ```text
//! cargo test --example own_tests
//! ```
//!
//! The program itself, after `howdah local up` and `howdah migrate up --dir examples/migrations`: `cargo run --example
//! own_tests`.
//!
//! In your own project: `cargo add --dev howdah --path ../howdah --features local`. The servers are started by the first test
//! that needs them, shared by all, and ended after the last.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use howdah::{Cluster, Config, Id, Result, Statement};

const SIGN_UP: Statement =
    Statement::new("INSERT INTO {shard}.users (name) VALUES ($1) RETURNING id");

/// What is to be tested: nothing when the name is taken.
async fn sign_up(cluster: &Cluster, name: &str) -> Result<Option<Id>> {
    match cluster.shard_for_key(name).query_one(&SIGN_UP, &[&name]).await {
        Ok(row) => Ok(Some(row.get("id"))),
        Err(error) if error.is_unique_violation() => Ok(None),
        Err(error) => Err(error),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let cluster = Cluster::connect(Config::load()?).await?;
    match sign_up(&cluster, "alice").await? {
        Some(id) => println!("welcome, {id}"),
        None => println!("the name is taken"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use howdah::Migrations;
    use howdah::testing::TestCluster;

    use super::*;

    #[tokio::test]
    async fn a_name_is_given_once() -> Result<()> {
        let migrations = Migrations::from_dir("examples/migrations")?;
        let test = TestCluster::builder().migrations(migrations).start().await?;
        let cluster = test.cluster().await?;
        let alice = sign_up(&cluster, "alice").await?;
        assert!(alice.is_some());
        assert_eq!(sign_up(&cluster, "alice").await?, None);
        // What the test is about may be broken, too: see `TestCluster::kill`.
        assert_eq!(cluster.shard_of_id(alice.unwrap())?.id(), cluster.shard_for_key("alice").id());
        Ok(())
    }
}
