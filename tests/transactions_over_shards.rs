//! A transaction over shards commits everywhere or nowhere, whatever happens to whoever runs it.
#![cfg(test)]

mod cutover;
mod polls;
mod pooler;

use std::time::Duration;

use cutover::cut_over;
use howdah::postgres::Client;
use howdah::testing::{TestCluster, until};
use howdah::{
    Cluster, ClusterTx, Error, Migrations, Outcome, Phase, Result, Shard, ShardId, Statement,
    TransactionOptions,
};
use polls::{dropped, everywhere};
use pooler::Pooler;

const TABLES: &str = "
    CREATE TABLE accounts (name text PRIMARY KEY, points bigint NOT NULL CHECK (points >= 0));
    CREATE TABLE tickets (number int, UNIQUE (number) DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO accounts SELECT 'shared', 100;
    CREATE FUNCTION gift() RETURNS bigint LANGUAGE sql SET search_path FROM CURRENT
        AS 'UPDATE accounts SET points = points + 1 RETURNING points';
    CREATE VIEW gifts AS SELECT gift() AS points";
const ADD: Statement = Statement::new("UPDATE {shard}.accounts SET points = points + $1");
const POINTS: Statement = Statement::new("SELECT points FROM {shard}.accounts");
const TICKET: Statement = Statement::new("INSERT INTO {shard}.tickets VALUES (1)");
const DECISIONS: Statement = Statement::new("SELECT count(*) FROM {shard}.howdah_decisions");

/// Shards with even numbers live on pg1, the others on pg2.
struct Bank {
    test: TestCluster,
    cluster: Cluster,
}

impl Bank {
    async fn open() -> Result<Self> {
        let tables = Migrations::new([("0001_accounts.sql", TABLES)])?;
        let test = TestCluster::builder().shards(4).migrations(tables).start().await?;
        let cluster = test.cluster().await?;
        Ok(Self { test, cluster })
    }

    fn shard(&self, number: u16) -> Result<Shard> {
        self.cluster.shard(ShardId::new(number)?)
    }

    async fn points(&self) -> Result<Vec<i64>> {
        let found = self.cluster.scatter(&POINTS).all(&[]).rows().await?;
        Ok(found.rows.iter().map(|(_, row)| row.get(0)).collect())
    }

    async fn decisions(&self) -> Result<i64> {
        let found = self.cluster.scatter(&DECISIONS).all(&[]).rows().await?;
        Ok(found.rows.iter().map(|(_, row)| row.get::<_, i64>(0)).sum())
    }

    /// Moves one point from a shard to another.
    async fn transfer(&self, tx: ClusterTx, from: u16, to: u16) -> Result<()> {
        tx.on(&self.shard(from)?).await?.execute(&ADD, &[&-1_i64]).await?;
        tx.on(&self.shard(to)?).await?.execute(&ADD, &[&1_i64]).await?;
        Ok(())
    }

    /// From here on whatever needs a decision is refused.
    async fn forbid_decisions(&self) -> Result<()> {
        for home in self.cluster.map().homes() {
            let server = self.test.admin(home.instance().as_str()).await?;
            let sql =
                format!("REVOKE INSERT ON {}.howdah_decisions FROM howdah_app", home.schema());
            server.batch_execute(&sql).await.unwrap();
        }
        Ok(())
    }

    /// A session such as a process has, which a test can end where it likes.
    async fn session(&self, instance: &str) -> Result<Client> {
        self.test.servers().client(instance, "howdah_app").await
    }

    async fn gid(&self, id: &str) -> String {
        let cluster = self.cluster.status().await.cluster;
        format!("howdah:{cluster}:0:{id}")
    }

    /// What a process leaves that dies before it has decided, or after: a part on pg2, and on pg1 the decision or none.
    async fn leave_behind(&self, id: &str, is_decided: bool) -> Result<()> {
        let gid = self.gid(id).await;
        let part = format!(
            "BEGIN; UPDATE shard_0001_e1.accounts SET points = points + 7; PREPARE TRANSACTION '{gid}'"
        );
        self.session("pg2").await?.batch_execute(&part).await.unwrap();
        if is_decided {
            let decision = format!(
                "INSERT INTO shard_0000_e1.howdah_decisions (id, committed) VALUES ('{id}', true)"
            );
            self.session("pg1").await?.batch_execute(&decision).await.unwrap();
        }
        Ok(())
    }
}

const ONE: &str = "11111111-1111-4111-8111-111111111111";
const TWO: &str = "22222222-2222-4222-8222-222222222222";

#[tokio::test]
async fn who_waits_too_long_for_others_is_told_so() -> Result<()> {
    let bank = Bank::open().await?;
    let queue = Duration::from_millis(200);
    let config = bank.test.config().max_size(1).pipelines(0).queue_timeout(queue);
    let cluster = Cluster::connect(config).await?;
    let within = cluster.transaction(async |_| cluster.transaction(async |_| Ok(())).await).await;
    let error = within.unwrap_err();
    assert!(error.is_timeout() && error.phase() == Some(Phase::Queue), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotExecuted);
    Ok(())
}

#[tokio::test]
async fn a_closure_that_gives_up_leaves_nothing_anywhere() -> Result<()> {
    let bank = Bank::open().await?;
    let mut runs = 0;
    let error = bank
        .cluster
        .transaction(|tx| {
            runs += 1;
            let bank = &bank;
            async move {
                bank.transfer(tx, 0, 1).await?;
                Err::<(), _>(Error::abort("enough for today"))
            }
        })
        .await
        .unwrap_err();
    assert!(error.is_aborted() && error.outcome() == Outcome::Failed, "{error:?}");
    assert_eq!(error.to_string(), "the transaction was given up: enough for today");
    assert_eq!((runs, bank.points().await?), (1, vec![100; 4]));

    // Also where the reason is one for which the library would try again.
    const TAKE: &str = "UPDATE shard_0002_e1.accounts SET points = points";
    let (holder, waiter) = (bank.session("pg1").await?, bank.session("pg1").await?);
    holder.batch_execute(&format!("BEGIN; {TAKE}")).await.unwrap();
    waiter.batch_execute("SET lock_timeout = '50ms'").await.unwrap();
    let wait = |_| {
        runs += 1;
        async { waiter.batch_execute(TAKE).await.map_err(Error::abort) }
    };
    let error = bank.cluster.transaction(wait).await.unwrap_err();
    assert!(error.is_aborted() && runs == 2, "{error:?} in run {runs}");
    Ok(())
}

#[tokio::test]
async fn a_read_that_writes_behind_a_view_is_rolled_back_with_the_others() -> Result<()> {
    const GIFT: Statement = Statement::new("SELECT points FROM {shard}.gifts");
    let bank = Bank::open().await?;
    let error = bank
        .cluster
        .transaction(async |tx| {
            tx.on(&bank.shard(0)?).await?.query_one(&GIFT, &[]).await?;
            // Found out no sooner than at the end.
            let other = tx.on(&bank.shard(1)?).await?;
            other.execute(&TICKET, &[]).await?;
            other.execute(&TICKET, &[]).await
        })
        .await
        .unwrap_err();
    assert!(error.is_unique_violation(), "{error:?}");
    assert_eq!(bank.points().await?, [100; 4]);
    bank.cluster
        .transaction(async |tx| {
            tx.on(&bank.shard(0)?).await?.query_one(&GIFT, &[]).await?;
            tx.on(&bank.shard(1)?).await?.execute(&TICKET, &[]).await
        })
        .await?;
    assert_eq!(bank.points().await?, [101, 100, 100, 100]);
    assert_eq!(bank.decisions().await?, 1, "two of them wrote");
    Ok(())
}

#[tokio::test]
async fn what_was_begun_to_read_only_needs_no_decision_and_writes_nothing() -> Result<()> {
    const SEEN: Statement =
        Statement::new("SELECT current_setting('transaction_read_only') FROM {shard}.accounts");
    let bank = Bank::open().await?;
    bank.forbid_decisions().await?;
    let options = TransactionOptions::new().read_only(true);
    let read = bank.cluster.transaction_with(&options, async |tx| {
        for shard in 0..2 {
            let seen = tx.on(&bank.shard(shard)?).await?.query_one(&SEEN, &[]).await?;
            assert_eq!(seen.get::<_, &str>(0), "on");
        }
        Ok(())
    });
    read.await?;
    let error = bank
        .cluster
        .transaction_with(&options, async |tx| bank.transfer(tx, 0, 1).await)
        .await
        .unwrap_err();
    assert!(!error.is_unavailable(), "the server is not at fault: {error:?}");
    assert_eq!(error.outcome(), Outcome::Failed, "{error:?}");
    Ok(())
}

#[tokio::test]
async fn ok_commits_everywhere_and_err_rolls_back_everywhere() -> Result<()> {
    let bank = Bank::open().await?;
    bank.cluster.transaction(async |tx| bank.transfer(tx, 0, 1).await).await?;
    assert_eq!(bank.points().await?, [99, 101, 100, 100]);
    let error = bank
        .cluster
        .transaction(async |tx| {
            bank.transfer(tx.clone(), 0, 1).await?;
            bank.transfer(tx.clone(), 2, 3).await?;
            // Below nothing: the constraint of one shard undoes them all.
            tx.on(&bank.shard(1)?).await?.execute(&ADD, &[&-1000_i64]).await
        })
        .await
        .unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23514", "{error:?}");
    assert_eq!(error.outcome(), Outcome::Failed, "{error:?}");
    assert_eq!(bank.points().await?, [99, 101, 100, 100]);
    assert!(bank.cluster.in_doubt().await.parts.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_error_that_the_closure_swallows_still_undoes_all() -> Result<()> {
    let bank = Bank::open().await?;
    let error = bank
        .cluster
        .transaction(async |tx| {
            bank.transfer(tx.clone(), 0, 1).await?;
            let _ = tx.on(&bank.shard(1)?).await?.execute(&ADD, &[&-1000_i64]).await;
            Ok(())
        })
        .await
        .unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23514", "{error:?}");
    assert_eq!(bank.points().await?, [100; 4]);
    Ok(())
}

#[tokio::test]
async fn what_is_written_on_one_instance_needs_no_decision() -> Result<()> {
    let bank = Bank::open().await?;
    bank.forbid_decisions().await?;
    bank.cluster.transaction(async |tx| bank.transfer(tx, 0, 2).await).await?;
    // Reading elsewhere changes nothing about that.
    bank.cluster
        .transaction(async |tx| {
            tx.on(&bank.shard(1)?).await?.query_one(&POINTS, &[]).await?;
            bank.transfer(tx, 0, 2).await
        })
        .await?;
    assert_eq!(bank.points().await?, [98, 100, 102, 100]);
    let error =
        bank.cluster.transaction(async |tx| bank.transfer(tx, 0, 1).await).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42501", "{error:?}");
    assert_eq!(bank.points().await?, [98, 100, 102, 100]);
    Ok(())
}

#[tokio::test]
async fn a_commit_whose_answer_a_pooler_has_lost_is_asked_for_where_it_was_recorded() -> Result<()>
{
    let mut bank = Bank::open().await?;
    let pooler = Pooler::before(&bank.test, "pg1", "COMMIT\0").await;
    bank.cluster = bank.test.cluster().await?;
    pooler.lose_the_next();
    bank.cluster.transaction(async |tx| bank.transfer(tx, 0, 1).await).await?;
    assert_eq!(bank.points().await?, [99, 101, 100, 100]);
    // On one shard alone nothing is recorded, and the server's next answer tells nothing of it.
    pooler.lose_the_next();
    let shard = bank.shard(0)?;
    let error = shard.transaction(async |tx| tx.execute(&ADD, &[&1_i64]).await).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    assert_eq!(bank.points().await?, [100, 101, 100, 100]);
    Ok(())
}

#[tokio::test]
async fn a_part_that_cannot_promise_undoes_the_others() -> Result<()> {
    let bank = Bank::open().await?;
    // What is deferred is checked when a part is prepared, on either side: once the first, once another one.
    for (first, other) in [(0, 1), (1, 0)] {
        let error = bank
            .cluster
            .transaction(async |tx| {
                bank.transfer(tx.clone(), first, other).await?;
                let tx = tx.on(&bank.shard(1)?).await?;
                tx.execute(&TICKET, &[]).await?;
                tx.execute(&TICKET, &[]).await
            })
            .await
            .unwrap_err();
        assert!(error.is_unique_violation(), "{error:?}");
        assert_eq!(error.outcome(), Outcome::Failed, "{error:?}");
        assert_eq!(bank.points().await?, [100; 4]);
        assert!(bank.cluster.in_doubt().await.parts.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_shard_that_has_moved_is_followed() -> Result<()> {
    let bank = Bank::open().await?;
    for shard in [0, 1] {
        cut_over(&bank.test, shard).await;
    }
    bank.cluster.transaction(async |tx| bank.transfer(tx, 0, 1).await).await?;
    assert_eq!(bank.points().await?, [99, 101, 100, 100]);
    Ok(())
}

#[tokio::test]
async fn two_that_wait_for_each_other_on_two_servers_both_end_well() -> Result<()> {
    let bank = Bank::open().await?;
    let meeting = tokio::sync::Barrier::new(2);
    let met = std::sync::atomic::AtomicU32::new(0);
    // With one connection to lend there would be no two at once.
    let cluster = Cluster::connect(bank.test.config().pipelines(0)).await?;
    let transfer = async |from: u16, to: u16| {
        cluster
            .transaction(async |tx| {
                tx.on(&bank.shard(from)?).await?.execute(&ADD, &[&-1_i64]).await?;
                if met.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2 {
                    meeting.wait().await;
                }
                tx.on(&bank.shard(to)?).await?.execute(&ADD, &[&1_i64]).await
            })
            .await
    };
    let (one, other) = tokio::join!(transfer(0, 1), transfer(1, 0));
    assert_eq!((one?, other?), (1, 1));
    assert_eq!(bank.points().await?, [100; 4]);
    Ok(())
}

#[tokio::test]
async fn a_handle_is_of_no_use_after_its_transaction() -> Result<()> {
    let bank = Bank::open().await?;
    let shard = bank.shard(0)?;
    let (all, one) = bank
        .cluster
        .transaction(async |tx| Ok((tx.clone(), tx.on(&bank.shard(0)?).await?)))
        .await?;
    assert!(all.on(&shard).await.unwrap_err().is_invalid_input());
    assert!(one.execute(&ADD, &[&1_i64]).await.unwrap_err().is_invalid_input());
    assert_eq!(bank.points().await?, [100; 4]);
    Ok(())
}

#[tokio::test]
async fn what_nobody_has_decided_is_undone_and_cannot_be_decided_any_more() -> Result<()> {
    let bank = Bank::open().await?;
    bank.leave_behind(ONE, false).await?;
    let found = bank.cluster.in_doubt().await;
    assert!(found.unreachable.is_empty(), "{found:?}");
    let [part] = &found.parts[..] else { panic!("{found:?}") };
    assert_eq!((part.id.as_str(), part.shard.get(), part.decision), (ONE, 0, None));
    assert_eq!((part.instance.as_str(), &part.schemas[..]), ("pg2", &["shard_0001_e1".into()][..]));

    // The young may still be under way.
    let spared = bank.cluster.recover(Duration::from_secs(3600)).await;
    assert_eq!((spared.committed, spared.rolled_back, spared.left.len()), (0, 0, 0));
    assert_eq!(bank.cluster.in_doubt().await.parts.len(), 1);

    let done = bank.cluster.recover(Duration::ZERO).await;
    assert_eq!((done.committed, done.rolled_back, done.left.len()), (0, 1, 0), "{done:?}");
    assert_eq!(bank.points().await?, [100; 4]);
    let late = format!(
        "INSERT INTO shard_0000_e1.howdah_decisions (id, committed) VALUES ('{ONE}', true)"
    );
    let late = bank.session("pg1").await?.batch_execute(&late).await.unwrap_err();
    assert_eq!(late.code().unwrap().code(), "23505");
    Ok(())
}

#[tokio::test]
async fn what_was_decided_is_done_wherever_the_decision_has_moved_to() -> Result<()> {
    let bank = Bank::open().await?;
    bank.leave_behind(ONE, true).await?;
    cut_over(&bank.test, 0).await;
    let found = bank.cluster.in_doubt().await;
    assert_eq!(found.parts[0].decision, Some(howdah::Decision::Committed));
    let done = bank.cluster.recover(Duration::ZERO).await;
    assert_eq!((done.committed, done.rolled_back, done.left.len()), (1, 0, 0), "{done:?}");
    assert_eq!(bank.points().await?, [100, 107, 100, 100]);
    Ok(())
}

#[tokio::test]
async fn who_still_decides_is_not_disturbed() -> Result<()> {
    let bank = Bank::open().await?;
    let deciding = bank.session("pg1").await?;
    for (id, end) in [(ONE, "COMMIT"), (TWO, "ROLLBACK")] {
        let decide = format!(
            "BEGIN; INSERT INTO shard_0000_e1.howdah_decisions (id, committed) VALUES ('{id}', true)"
        );
        deciding.batch_execute(&decide).await.unwrap();
        bank.leave_behind(id, false).await?;
        let done = bank.cluster.recover(Duration::ZERO).await;
        assert_eq!((done.committed, done.rolled_back), (0, 0), "{done:?}");
        assert!(done.left[0].1.to_string().contains("still open"), "{done:?}");
        deciding.batch_execute(end).await.unwrap();
        let done = bank.cluster.recover(Duration::ZERO).await;
        let expected = if end == "COMMIT" { (1, 0) } else { (0, 1) };
        assert_eq!((done.committed, done.rolled_back), expected, "{done:?}");
    }
    assert_eq!(bank.points().await?, [100, 107, 100, 100]);
    Ok(())
}

#[tokio::test]
async fn the_transactions_of_others_are_left_alone() -> Result<()> {
    let bank = Bank::open().await?;
    let session = bank.session("pg2").await?;
    let theirs = format!("other:{}", bank.test.servers().database());
    session.batch_execute(&format!("BEGIN; PREPARE TRANSACTION '{theirs}'")).await.unwrap();
    assert!(bank.cluster.in_doubt().await.parts.is_empty());
    let _ = bank.cluster.recover(Duration::ZERO).await;
    session.batch_execute(&format!("ROLLBACK PREPARED '{theirs}'")).await.unwrap();
    Ok(())
}

#[tokio::test]
async fn decisions_are_kept_until_nobody_needs_them() -> Result<()> {
    let bank = Bank::open().await?;
    for _ in 0..3 {
        bank.cluster.transaction(async |tx| bank.transfer(tx, 0, 1).await).await?;
    }
    bank.leave_behind(ONE, true).await?;
    // Nothing is due, so nothing is finished; what that one waits for stays, and the others go.
    let _ = bank.cluster.recover(Duration::from_secs(3600)).await;
    assert_eq!(bank.decisions().await?, 1);
    let _ = bank.cluster.recover(Duration::ZERO).await;
    let _ = bank.cluster.recover(Duration::ZERO).await;
    assert_eq!(bank.decisions().await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_anywhere_it_is_whole_and_nothing_stays_in_doubt() -> Result<()> {
    let bank = Bank::open().await?;
    for at in everywhere() {
        let transfer = bank.cluster.transaction(async |tx| bank.transfer(tx, 0, 1).await);
        if let Some(done) = dropped(at, transfer).await {
            done?;
            break;
        }
    }
    // What goes on without us takes the only turn there is; who has had it after that comes last.
    bank.cluster.transaction(async |tx| bank.transfer(tx, 2, 3).await).await?;
    assert!(bank.cluster.in_doubt().await.parts.is_empty());
    let points = bank.points().await?;
    assert_eq!(points[0] + points[1], 200, "{points:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_keeps_no_prepared_transactions_says_what_to_do() -> Result<()> {
    let tables = Migrations::new([("0001_accounts.sql", TABLES)])?;
    let builder = TestCluster::builder().shards(2).own_servers();
    let mut test = builder.migrations(tables).start().await?;
    let server = test.admin("pg2").await?;
    server.batch_execute("ALTER SYSTEM SET max_prepared_transactions = 0").await.unwrap();
    drop(server);
    test.kill("pg2").await?;
    test.start_server("pg2").await?;
    let bank = Bank { cluster: test.cluster().await?, test };
    let error =
        bank.cluster.transaction(async |tx| bank.transfer(tx, 0, 1).await).await.unwrap_err();
    assert!(error.is_config() && error.instance() == Some("pg2"), "{error:?}");
    assert!(error.to_string().contains("set max_prepared_transactions"), "{error}");
    assert_eq!(bank.points().await?, [100, 100]);
    Ok(())
}

#[tokio::test]
async fn who_has_left_too_many_parts_behind_begins_no_more_until_they_are_finished() -> Result<()> {
    const MOST: i32 = 64;
    const NUMBERED: Statement = Statement::new("INSERT INTO {shard}.tickets VALUES ($1)");
    const TICKETS: Statement = Statement::new("SELECT count(*) FROM {shard}.tickets");
    let mut bank = Bank::open().await?;
    let pooler = Pooler::before(&bank.test, "pg2", "COMMIT PREPARED").await;
    bank.cluster = bank.test.cluster().await?;
    pooler.refuse(true);
    let mut begun = 0;
    let mut write = async || {
        begun += 1;
        let number = begun;
        let write = bank.cluster.transaction(async |tx| {
            for shard in 0..2 {
                tx.on(&bank.shard(shard)?).await?.execute(&NUMBERED, &[&number]).await?;
            }
            Ok(())
        });
        write.await
    };
    for _ in 0..MOST {
        // Decided, and done on one side.
        write().await?;
    }
    let error = write().await.unwrap_err();
    assert!(error.is_unavailable() && error.outcome() == Outcome::NotExecuted, "{error:?}");
    assert!(error.to_string().contains("64 parts"), "{error}");
    assert_eq!(bank.cluster.in_doubt().await.parts.len(), 64);
    pooler.refuse(false);
    until("these are finished", async || write().await.ok()).await;
    assert!(bank.cluster.in_doubt().await.parts.is_empty());
    let tickets = bank.shard(1)?.query_one(&TICKETS, &[]).await?.get::<_, i64>(0);
    assert_eq!(tickets, i64::from(MOST) + 1);
    Ok(())
}
