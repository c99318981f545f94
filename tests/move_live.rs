//! A shard moves while it is written to: nothing is lost, nothing is done twice, and nothing is left behind.
#![cfg(test)]

mod moving;

use std::time::Duration;

use howdah::{InstanceName, MovePhase, Mover, Result, Statement};
use moving::{Load, cluster_with_tables, leftovers, schemas, shard};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_moves_under_load_and_back_and_nothing_is_lost_or_left() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let [pg1, pg2] = [InstanceName::new("pg1")?, InstanceName::new("pg2")?];
    let mover = Mover::new(&test.config())?;
    let load = Load::start(&test, 8).await?;
    load.go_on_for(Duration::from_millis(300)).await;

    let moved = mover.run(shard(), &pg1).await?;
    assert_eq!((moved.phase, moved.verified), (MovePhase::Reversible, true));
    assert_eq!(schemas(&test).await?, ["pg1 shard_0001_e2", "pg2 shard_0001_e2"]);
    load.go_on_for(Duration::from_millis(300)).await;
    mover.verify(shard()).await?;

    // Moving it on ends the old move first.
    let again = mover.run(shard(), &pg2).await?;
    assert_eq!(mover.show(moved.id).await?.phase, MovePhase::Finished);
    load.go_on_for(Duration::from_millis(300)).await;

    let ledger = load.stop().await;
    let cluster = test.cluster().await?;
    let shard = cluster.shard(shard())?;
    assert_eq!(*shard.home()?.instance(), pg2);
    ledger.check(&shard).await?;
    assert_eq!(ledger.errors, Vec::<String>::new());
    assert!(ledger.reads > 0 && ledger.written.len() > 100, "{}", ledger.written.len());
    mover.verify(shard.id()).await?;

    mover.finish(again.id).await?;
    assert_eq!(schemas(&test).await?, ["pg2 shard_0001_e3"]);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    ledger.check(&shard).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_undone_with_all_that_was_written_since() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let [pg1, pg2] = [InstanceName::new("pg1")?, InstanceName::new("pg2")?];
    let mover = Mover::new(&test.config())?;
    let load = Load::start(&test, 6).await?;

    let moved = mover.run(shard(), &pg1).await?;
    load.go_on_for(Duration::from_millis(300)).await;
    let back = mover.rollback(moved.id).await?;
    assert_eq!(back.phase, MovePhase::RolledBack);
    load.go_on_for(Duration::from_millis(200)).await;

    let ledger = load.stop().await;
    let cluster = test.cluster().await?;
    let shard = cluster.shard(shard())?;
    assert_eq!(*shard.home()?.instance(), pg2);
    ledger.check(&shard).await?;
    assert_eq!(ledger.errors, Vec::<String>::new());
    assert_eq!(schemas(&test).await?, ["pg2 shard_0001_e3"]);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_write_to_the_copy_that_is_not_home_is_refused() -> Result<()> {
    const BY_NAME: &str = "INSERT INTO shard_0001_e2.events (what) VALUES ('wrong')";

    let test = cluster_with_tables()?.start().await?;
    let mover = Mover::new(&test.config())?;
    // Prepared, and so bound to the table itself, before the move.
    let old = test.servers().client("pg2", "howdah_app").await?;
    let bound =
        old.prepare("INSERT INTO shard_0001_e1.events (what) VALUES ('stale')").await.unwrap();
    old.execute(&bound, &[]).await.unwrap();
    let ids = old.prepare("SELECT shard_0001_e1.next_id()").await.unwrap();
    let moved = mover.run(shard(), &InstanceName::new("pg1")?).await?;

    let refused = old.execute(&bound, &[]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42P01");
    assert!(old.query_one(&ids, &[]).await.is_err());
    let refused = old.execute(BY_NAME, &[]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "HW002");
    for sql in ["TRUNCATE shard_0001_e2.tags", "DELETE FROM shard_0001_e2.users WHERE false"] {
        let admin = test.admin("pg2").await?;
        assert_eq!(admin.batch_execute(sql).await.unwrap_err().code().unwrap().code(), "HW002");
    }
    let drawn = old.query_one("SELECT shard_0001_e2.next_id()", &[]).await.unwrap_err();
    assert_eq!(drawn.code().unwrap().code(), "2200H");

    let events = Statement::new("SELECT count(*) FROM {shard}.events");
    let shard = test.cluster().await?.shard(shard())?;
    assert_eq!(shard.query_one(&events, &[]).await?.get::<_, i64>(0), 1);
    mover.finish(moved.id).await?;
    Ok(())
}

/// No rename follows a schema's name in the text of a function, or in its settings.
#[tokio::test]
async fn functions_that_name_their_schema_name_the_new_one_there_and_back() -> Result<()> {
    const TEXTS: &str = "SELECT pg_get_functiondef(oid) FROM pg_proc \
        WHERE proname ~ '^note_by_' AND pronamespace = to_regnamespace($1)";
    const NOTES: Statement = Statement::new("SELECT what FROM {shard}.events ORDER BY n");
    const BY_PATH: Statement = Statement::new("SELECT {shard}.note_by_path()");
    const BY_NAME: Statement = Statement::new("SELECT {shard}.note_by_name()");

    let test = cluster_with_tables()?.start().await?;
    let mover = Mover::new(&test.config())?;
    let shard = test.cluster().await?.shard(shard())?;
    let called = async |schema: &str| -> Result<[String; 2]> {
        let home = test.admin(shard.home()?.instance().as_str()).await?;
        let texts = home.query(TEXTS, &[&schema]).await.unwrap();
        assert_eq!(texts.len(), 2, "{schema}");
        for text in texts.iter().map(|row| row.get::<_, &str>(0)) {
            assert_eq!(
                text.matches("shard_0001_e").count(),
                text.matches(schema).count(),
                "{text}"
            );
            assert!(text.contains(schema), "{text}");
        }
        let by_path = shard.query_one(&BY_PATH, &[]).await?.get(0);
        Ok([by_path, shard.query_one(&BY_NAME, &[]).await?.get(0)])
    };
    assert_eq!(called("shard_0001_e1").await?, ["shard_0001_e1"; 2]);
    let moved = mover.run(shard.id(), &InstanceName::new("pg1")?).await?;
    // It calls under the old name first, and comes to know of the new home.
    shard.query(&NOTES, &[]).await?;
    assert_eq!(called("shard_0001_e2").await?, ["shard_0001_e2"; 2]);
    assert_eq!(mover.rollback(moved.id).await?.phase, MovePhase::RolledBack);
    shard.query(&NOTES, &[]).await?;
    assert_eq!(called("shard_0001_e3").await?, ["shard_0001_e3"; 2]);

    let notes = shard.query(&NOTES, &[]).await?;
    let notes: Vec<&str> = notes.iter().map(|row| row.get(0)).collect();
    assert_eq!(notes, ["by path", "by name"].repeat(3));
    Ok(())
}
