//! The small programs in examples/ run from their beginning to their end, twice: what they do, they can do again.
#![cfg(test)]
#![allow(dead_code, reason = "the examples' mains are not called here")]

use howdah::testing::TestCluster;
use howdah::{Migrations, Result};

#[path = "../examples/bulk_load.rs"]
mod bulk_load;
#[path = "../examples/connect.rs"]
mod connect;
#[path = "../examples/ids.rs"]
mod ids;
#[path = "../examples/many_ids.rs"]
mod many_ids;
#[path = "../examples/pages.rs"]
mod pages;
#[path = "../examples/replicas_and_tokens.rs"]
mod replicas_and_tokens;
#[path = "../examples/transaction.rs"]
mod transaction;
#[path = "../examples/two_phase_commit.rs"]
mod two_phase_commit;
#[path = "../examples/unique_claim.rs"]
mod unique_claim;

async fn cluster() -> Result<TestCluster> {
    let migrations = Migrations::from_dir("examples/migrations")?;
    TestCluster::builder().migrations(migrations).start().await
}

#[tokio::test]
async fn each_does_what_it_says() -> Result<()> {
    let test = cluster().await?;
    for _ in 0..2 {
        bulk_load::run(test.config()).await?;
        connect::run(test.config()).await?;
        ids::run(test.config()).await?;
        many_ids::run(test.config()).await?;
        pages::run(test.config()).await?;
        replicas_and_tokens::run(test.config()).await?;
        transaction::run(test.config()).await?;
        two_phase_commit::run(test.config()).await?;
        unique_claim::run(test.config()).await?;
    }
    Ok(())
}

#[test]
fn none_is_left_out() {
    const RUN_HERE: &[&str] = &[
        "bulk_load",
        "connect",
        "ids",
        "many_ids",
        "pages",
        "replicas_and_tokens",
        "transaction",
        "two_phase_commit",
        "unique_claim",
    ];
    // Its tests run with all others.
    const TESTS_OF_ITS_OWN: &str = "own_tests";

    let files = std::fs::read_dir("examples").unwrap().map(|entry| entry.unwrap().path());
    let programs = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let mut names: Vec<_> =
        programs.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.retain(|name| name != TESTS_OF_ITS_OWN);
    names.sort();
    assert_eq!(names, RUN_HERE);
}
