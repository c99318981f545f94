//! A value that is claimed has one owner in the whole cluster, whoever races for it and whoever dies.
#![cfg(test)]

use std::time::Duration;

use futures_util::future::join_all;
use howdah::testing::TestCluster;
use howdah::{Claims, Cluster, Id, Migrations, Outcome, Result, Statement};

const TABLES: &str = "
    CREATE TABLE users (id bigint PRIMARY KEY DEFAULT next_id(), name text NOT NULL UNIQUE);
    CREATE TABLE emails (value text PRIMARY KEY, owner bigint NOT NULL)";
const EMAILS: Claims = Claims::new("emails");
const ADD: Statement = Statement::new("INSERT INTO {shard}.users (name) VALUES ($1) RETURNING id");
const REMOVE: Statement = Statement::new("DELETE FROM {shard}.users WHERE id = $1");
const USERS: Statement = Statement::new("SELECT id FROM {shard}.users");

async fn start() -> Result<(TestCluster, Cluster)> {
    let tables = Migrations::new([("0001_users.sql", TABLES)])?;
    let test = TestCluster::builder().migrations(tables).start().await?;
    let cluster = test.cluster().await?;
    Ok((test, cluster))
}

async fn sign_up(cluster: &Cluster, name: &str, email: &str) -> Result<Id> {
    let shard = cluster.shard_for_key(name);
    cluster
        .transaction(async |tx| {
            let user: Id = tx.on(&shard).await?.query_one(&ADD, &[&name]).await?.get(0);
            tx.claim(&EMAILS, email, user).await?;
            Ok(user)
        })
        .await
}

async fn users(cluster: &Cluster) -> Result<Vec<Id>> {
    let found = cluster.scatter(&USERS).all(&[]).rows().await?;
    Ok(found.rows.iter().map(|(_, row)| row.get(0)).collect())
}

#[tokio::test]
async fn a_value_that_is_taken_undoes_whoever_wants_it() -> Result<()> {
    let (_test, cluster) = start().await?;
    let zoe = sign_up(&cluster, "zoe", "zoe@example.org").await?;
    assert_eq!(cluster.owner_of(&EMAILS, "zoe@example.org").await?, Some(zoe));
    assert_eq!(cluster.owner_of(&EMAILS, "ada@example.org").await?, None);
    for name in ["ada", "ben", "cleo", "dora"] {
        let error = sign_up(&cluster, name, "zoe@example.org").await.unwrap_err();
        assert!(error.is_taken() && !error.is_unique_violation(), "{error:?}");
        assert_eq!(error.outcome(), Outcome::Failed);
        assert!(!error.to_string().contains("zoe@"), "whose it is says nobody: {error}");
    }
    assert_eq!(users(&cluster).await?, [zoe]);
    Ok(())
}

#[tokio::test]
async fn a_value_that_is_released_is_free_again() -> Result<()> {
    let (_test, cluster) = start().await?;
    let zoe = sign_up(&cluster, "zoe", "zoe@example.org").await?;
    let stranger = sign_up(&cluster, "ada", "ada@example.org").await?;
    cluster
        .transaction(async |tx| {
            // Again by the same, and by somebody who has it not.
            tx.claim(&EMAILS, "zoe@example.org", zoe).await?;
            assert!(!tx.release(&EMAILS, "zoe@example.org", stranger).await?);
            Ok(())
        })
        .await?;
    let shard = cluster.shard_of_id(zoe)?;
    cluster
        .transaction(async |tx| {
            tx.on(&shard).await?.execute(&REMOVE, &[&zoe]).await?;
            assert!(tx.release(&EMAILS, "zoe@example.org", zoe).await?);
            Ok(())
        })
        .await?;
    assert_eq!(cluster.owner_of(&EMAILS, "zoe@example.org").await?, None);
    let other = sign_up(&cluster, "ben", "zoe@example.org").await?;
    assert_eq!(cluster.owner_of(&EMAILS, "zoe@example.org").await?, Some(other));
    Ok(())
}

#[tokio::test]
async fn a_claim_that_is_repeated_is_kept_until_its_transaction_ends() -> Result<()> {
    let (test, cluster) = start().await?;
    let email = "zoe@example.org";
    let zoe = sign_up(&cluster, "zoe", email).await?;
    let home = cluster.shard_for_key(email).home()?;
    let other = test.admin(home.instance().as_str()).await?;
    other.batch_execute("SET lock_timeout = '50ms'").await.unwrap();
    let release = format!("DELETE FROM {}.emails WHERE value = $1", home.schema());
    cluster
        .transaction(async |tx| {
            tx.claim(&EMAILS, email, zoe).await?;
            let error = other.execute(&release, &[&email]).await.unwrap_err();
            assert_eq!(error.code().unwrap().code(), "55P03", "{error}");
            Ok(())
        })
        .await?;
    assert_eq!(cluster.owner_of(&EMAILS, email).await?, Some(zoe));
    Ok(())
}

#[tokio::test]
async fn nothing_is_committed_without_the_claim_that_failed() -> Result<()> {
    let (_test, cluster) = start().await?;
    let zoe = sign_up(&cluster, "zoe", "zoe@example.org").await?;
    let shard = cluster.shard_for_key("ada");
    let error = cluster
        .transaction(async |tx| {
            let ada: Id = tx.on(&shard).await?.query_one(&ADD, &[&"ada"]).await?.get(0);
            let _ = tx.claim(&EMAILS, "zoe@example.org", ada).await;
            Ok(())
        })
        .await
        .unwrap_err();
    assert!(error.is_taken(), "{error:?}");
    assert_eq!(users(&cluster).await?, [zoe]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_race_for_a_value_one_wins_always() -> Result<()> {
    let (test, cluster) = start().await?;
    let other = Cluster::connect(test.config().pipelines(0)).await?;
    for round in 0..12 {
        let email = format!("{round}@example.org");
        let racers = (0..4).map(|racer| {
            let cluster = if racer % 2 == 0 { cluster.clone() } else { other.clone() };
            let (name, email) = (format!("user{round}.{racer}"), email.clone());
            tokio::spawn(async move { sign_up(&cluster, &name, &email).await })
        });
        let mut winners = Vec::new();
        for raced in join_all(racers).await {
            match raced.unwrap() {
                Ok(user) => winners.push(user),
                Err(error) => assert!(error.is_taken(), "{error:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(cluster.owner_of(&EMAILS, &email).await?, Some(winners[0]));
        assert_eq!(users(&cluster).await?.len(), round + 1);
    }
    Ok(())
}

#[tokio::test]
async fn what_a_dead_process_had_claimed_is_free_again() -> Result<()> {
    let (test, cluster) = start().await?;
    let home = cluster.shard_for_key("zoe@example.org").home()?;
    let gid =
        format!("howdah:{}:0:33333333-3333-4333-8333-333333333333", cluster.status().await.cluster);
    let dead = test.servers().client(home.instance().as_str(), "howdah_app").await?;
    let claim = format!(
        "BEGIN; INSERT INTO {}.emails VALUES ('zoe@example.org', 1); PREPARE TRANSACTION '{gid}'",
        home.schema()
    );
    dead.batch_execute(&claim).await.unwrap();
    assert_eq!(cluster.owner_of(&EMAILS, "zoe@example.org").await?, None);
    let recovered = cluster.recover(Duration::ZERO).await;
    assert_eq!(recovered.rolled_back, 1, "{recovered:?}");
    sign_up(&cluster, "zoe", "zoe@example.org").await?;
    Ok(())
}

#[tokio::test]
async fn a_value_that_is_no_value_is_refused() -> Result<()> {
    let (_test, cluster) = start().await?;
    let error = sign_up(&cluster, "zoe", &"x".repeat(1025)).await.unwrap_err();
    assert!(error.is_invalid_input(), "{error:?}");
    assert!(users(&cluster).await?.is_empty());
    Ok(())
}
