//! Copies that are not equal are never made the home; what differs is named exactly, and stored with the move.
#![cfg(test)]

mod moving;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use howdah::testing::TestCluster;
use howdah::{
    InstanceName, MoveEvent, MoveId, MoveNews, MovePhase, MoveStep, Mover, Result, Statement,
};
use moving::{Load, cluster_with_tables, leftovers, shard};

/// SQL that a superuser runs on an instance around replication, as a replica would.
fn plant(test: &TestCluster, instance: &str, sql: &str) {
    let dsn = test.servers().dsn(instance, "postgres").unwrap();
    let sql = format!("SET session_replication_role = replica; {sql}");
    // The observer is no future: another thread has one.
    let planted = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.unwrap();
            let driven = tokio::spawn(connection);
            client.batch_execute(&sql).await.unwrap();
            driven.abort();
        });
    });
    planted.join().unwrap();
}

/// A mover that, when it is about to take a step, has SQL run on the target.
fn spoiled(test: &Arc<TestCluster>, step: MoveStep, sql: &'static str) -> Result<Mover> {
    let (test, planted) = (test.clone(), Mutex::new(false));
    let mover = Mover::new(&test.config())?;
    Ok(mover.on_event(move |event: &MoveEvent| {
        let mut planted = planted.lock().unwrap();
        if event.step == step && matches!(event.what, MoveNews::Begun) && !*planted {
            *planted = true;
            plant(&test, "pg1", sql);
        }
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_differences_stop_the_cutover_and_are_named() -> Result<()> {
    let test = Arc::new(cluster_with_tables()?.start().await?);
    let add =
        Statement::new("INSERT INTO {shard}.users (id, n) VALUES (101, 1), (102, 2), (103, -1)");
    test.cluster().await?.shard(shard())?.execute(&add, &[]).await?;
    let load = Load::start(&test, 3).await?;
    let to = InstanceName::new("pg1")?;
    for (sql, named) in [
        // What one row lacks another has; and two numbers whose halves, one into the other, are the same.
        (
            "UPDATE shard_0001_e1.users SET n = 3 - n WHERE id IN (101, 102)",
            &["users: row id 101 differs in n", "users: row id 102 differs in n"][..],
        ),
        (
            "UPDATE shard_0001_e1.users SET n = 4294967295 WHERE id = 103",
            &["users: row id 103 differs in n"],
        ),
        (
            "UPDATE shard_0001_e1.users SET n = n + 1000 WHERE id = 103;
             DELETE FROM shard_0001_e1.users WHERE id = 102;
             INSERT INTO shard_0001_e1.users VALUES (104);
             INSERT INTO shard_0001_e1.tags VALUES ('it''s', 1)",
            &[
                "users: row id 103 differs in n",
                "users: row id 102 is missing in the copy",
                "users: row id 104 is only in the copy",
                "tags: row tag it's, photo 1 is only in the copy",
            ],
        ),
        (
            "DROP INDEX shard_0001_e1.photos_by_user;
             ALTER TABLE shard_0001_e1.users ALTER n SET DEFAULT 7;
             ALTER TABLE shard_0001_e1.tags DROP CONSTRAINT tags_photo_fkey;
             ALTER TABLE shard_0001_e1.users DISABLE TRIGGER touched;
             ALTER TYPE shard_0001_e1.mood ADD VALUE 'best'",
            &[
                "index photos_by_user is missing in the copy",
                "column users.n differs",
                "constraint tags.tags_photo_fkey is missing in the copy",
                "trigger users.touched differs",
                "type mood differs",
            ],
        ),
        (
            "CREATE TABLE shard_0001_e1.extra ();
             GRANT TRUNCATE ON shard_0001_e1.users TO howdah_app",
            &[
                "table extra is only in the copy",
                "right on users of howdah_app to TRUNCATE is only in the copy",
            ],
        ),
    ] {
        let error = spoiled(&test, MoveStep::Verify, sql)?.run(shard(), &to).await.unwrap_err();
        assert!(error.is_refused(), "{error}");
        for named in named {
            assert!(error.to_string().contains(named), "{named}: {error}");
        }
        let mover = Mover::new(&test.config())?;
        let open = mover.open_move(shard()).await?.unwrap();
        assert!(!open.verified && open.error.as_deref() == Some(&*error.to_string()));
        mover.abort(open.id).await?;
    }
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    assert_eq!(load.stop().await.errors, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_or_column_made_by_hand_during_a_move_stops_the_cutover() -> Result<()> {
    let test = Arc::new(cluster_with_tables()?.start().await?);
    let to = InstanceName::new("pg1")?;
    for (sql, named) in [
        ("CREATE TABLE shard_0001_e1.by_hand (id int PRIMARY KEY)", "by_hand"),
        ("ALTER TABLE shard_0001_e1.users ADD by_hand int", "by_hand"),
    ] {
        let (planted, spoiling) = (Mutex::new(false), test.clone());
        let mover = Mover::new(&test.config())?.on_event(move |event: &MoveEvent| {
            let mut planted = planted.lock().unwrap();
            if event.step == MoveStep::CheckHosts && !*planted {
                *planted = true;
                plant(&spoiling, "pg2", sql);
            }
        });
        let error = mover.run(shard(), &to).await.unwrap_err();
        assert!(error.is_refused() && error.to_string().contains(named), "{error}");
        let open = mover.open_move(shard()).await?.unwrap();
        assert_eq!(mover.abort(open.id).await?.phase, MovePhase::Aborted);
        plant(
            &test,
            "pg2",
            "DROP TABLE IF EXISTS shard_0001_e1.by_hand; \
            ALTER TABLE shard_0001_e1.users DROP COLUMN IF EXISTS by_hand",
        );
    }
    Mover::new(&test.config())?.run(shard(), &to).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_piled_up_is_worked_off_before_the_copies_are_compared() -> Result<()> {
    let test = Arc::new(cluster_with_tables()?.start().await?);
    let told = Arc::new(Mutex::new(false));
    let (planting, telling) = (test.clone(), told.clone());
    let switch = |how: &str| {
        format!(
            "DO $$ BEGIN EXECUTE (SELECT format('ALTER SUBSCRIPTION %I {how}', subname) FROM pg_subscription s \
             JOIN pg_database d ON d.oid = s.subdbid WHERE datname = current_database()); END $$"
        )
    };
    let (disable, enable) = (switch("DISABLE"), switch("ENABLE"));
    let mover = Mover::new(&test.config())?.on_event(move |event: &MoveEvent| {
        match (event.step, &event.what) {
            (MoveStep::Verify, MoveNews::Begun) => plant(&planting, "pg1", &disable),
            (MoveStep::Verify, MoveNews::Lag(_)) => *telling.lock().unwrap() = true,
            (MoveStep::Verify, MoveNews::Progress { .. }) => {
                assert!(*telling.lock().unwrap(), "compared while it stood still");
            }
            _ => {}
        }
    });
    let moving = tokio::spawn(async move { mover.run(shard(), &InstanceName::new("pg1")?).await });
    howdah::testing::until("it is told how far the copy is behind", async || *told.lock().unwrap())
        .await;
    plant(&test, "pg1", &enable);
    assert!(moving.await.unwrap()?.verified);
    Ok(())
}

/// What the last comparison found, as it is stored with a move: of each table how many rows it has, and what differs; first of the
/// structure, which has no name.
async fn stored(test: &TestCluster, id: MoveId) -> BTreeMap<String, (i64, Option<String>)> {
    const STORED: &str = "SELECT coalesce(v.relation, ''), v.rows, v.difference FROM howdah.move_verified v \
        JOIN howdah.move m ON m.id = v.move AND m.attempt = v.attempt WHERE v.move = $1";

    let catalog = test.admin("pg1").await.unwrap();
    let rows = catalog.query(STORED, &[&id.get()]).await.unwrap();
    let found = rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2))));
    let stored: BTreeMap<_, _> = found.collect();
    assert_eq!(stored.len(), rows.len(), "{rows:?}");
    stored
}

/// What differs, thing by thing, in some order.
fn parts(difference: &str) -> Vec<&str> {
    let mut parts: Vec<_> = difference.split("; ").collect();
    parts.sort_unstable();
    parts
}

#[tokio::test]
async fn a_comparison_by_hand_names_what_differs_and_stores_what_it_found() -> Result<()> {
    let test = cluster_with_tables()?.start().await?;
    let cluster = test.cluster().await?;
    let add = Statement::new("INSERT INTO {shard}.photos (user_id, caption) VALUES (1, 'one')");
    cluster.shard(shard())?.execute(&add, &[]).await?;
    let mover = Mover::new(&test.config())?;
    let id = mover.run(shard(), &InstanceName::new("pg1")?).await?.id;
    let equal = BTreeMap::from([
        (String::new(), (0, None)),
        ("events".into(), (0, None)),
        ("howdah_decisions".into(), (0, None)),
        ("howdah_migrations".into(), (1, None)),
        ("photos".into(), (1, None)),
        ("tags".into(), (0, None)),
        ("users".into(), (20, None)),
    ]);
    assert_eq!(stored(&test, id).await, equal, "as the gate of the cutover stored it");

    for (planted, undo, relation, named) in [
        (
            "UPDATE shard_0001_e2.users SET n = n + 1000 WHERE id = 1;
             DELETE FROM shard_0001_e2.users WHERE id = 2;
             INSERT INTO shard_0001_e2.users VALUES (104)",
            "UPDATE shard_0001_e2.users SET n = 0 WHERE id = 1;
             INSERT INTO shard_0001_e2.users VALUES (2);
             DELETE FROM shard_0001_e2.users WHERE id = 104",
            "users",
            &[
                "users: row id 1 differs in n",
                "users: row id 104 is only in the copy",
                "users: row id 2 is missing in the copy",
            ][..],
        ),
        (
            "DROP INDEX shard_0001_e2.photos_by_user;
             ALTER TABLE shard_0001_e2.users ALTER n SET DEFAULT 7",
            "CREATE INDEX photos_by_user ON shard_0001_e2.photos (user_id, id DESC);
             ALTER TABLE shard_0001_e2.users ALTER n SET DEFAULT 0",
            "",
            &[
                "column users.n differs: \"bigint not null   - default 0\", in the copy \"bigint not null   - default 7\"",
                "index photos_by_user is missing in the copy",
            ],
        ),
    ] {
        plant(&test, "pg2", planted);
        let error = mover.verify(shard()).await.unwrap_err();
        assert!(error.is_refused(), "{error:?}");
        let said = error.to_string();
        for named in named {
            assert!(said.contains(named), "{named}: {said}");
        }
        assert!(said.contains("howdah moves finish m1"), "{said}");
        // The move stays what it is.
        let report = mover.show(id).await?;
        assert_eq!((report.phase, report.verified), (MovePhase::Reversible, false));
        assert_eq!(report.error.as_deref(), Some(&*said));
        for (compared, (_, difference)) in stored(&test, id).await {
            let named = if compared == relation { named } else { &[] };
            assert_eq!(parts(difference.as_deref().unwrap_or_default()), parts(&named.join("; ")));
        }

        plant(&test, "pg2", undo);
        let verified = mover.verify(shard()).await?;
        assert_eq!((verified.phase, verified.verified), (MovePhase::Reversible, true));
        assert_eq!(verified.error, None);
        assert_eq!(stored(&test, id).await, equal);
    }
    assert_eq!(mover.rollback(id).await?.phase, MovePhase::RolledBack);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}
