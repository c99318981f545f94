//! Migrations on real shards: all or nothing for each, none hindered by another, and safe to interrupt.
#![cfg(test)]

use std::time::Duration;

use howdah::testing::{TestCluster, until};
use howdah::{MigrationReport, Migrations, ShardMigration};

const PHOTOS: (&str, &str) = (
    "0001_photos.sql",
    "CREATE TABLE photos (id bigint PRIMARY KEY DEFAULT next_id() CHECK (is_local(id)), likes int)",
);
const LIKES: (&str, &str) = (
    "0002_likes.sql",
    "ALTER TABLE photos ALTER likes SET DEFAULT 0;\n\
     INSERT INTO photos DEFAULT VALUES;\n\
     CREATE VIEW liked AS SELECT * FROM photos WHERE likes > 0;",
);

async fn up(test: &TestCluster, files: &[(&'static str, &'static str)]) -> MigrationReport {
    let migrations = Migrations::new(files.iter().copied()).unwrap();
    migrations.up(&test.config(), 2, |_| {}).await.unwrap()
}

async fn status(test: &TestCluster, files: &[(&'static str, &'static str)]) -> MigrationReport {
    let migrations = Migrations::new(files.iter().copied()).unwrap();
    migrations.status(&test.config(), 2, |_| {}).await.unwrap()
}

/// The shards' numbers, versions and errors, of those that are not at the newest version.
fn troubled(report: &MigrationReport) -> Vec<(u16, Option<u16>, String)> {
    let is_troubled =
        |s: &&ShardMigration| s.version() != Some(report.latest()) || s.error().is_some();
    let shown = |s: &ShardMigration| {
        let error = s.error().map(ToString::to_string).unwrap_or_default();
        (s.home().shard().get(), s.version().map(|v| v.get()), error)
    };
    report.shards().iter().filter(is_troubled).map(shown).collect()
}

#[tokio::test]
async fn every_shard_gets_every_migration_once() {
    let test = TestCluster::start().await.unwrap();
    let before = status(&test, &[PHOTOS, LIKES]).await;
    assert_eq!(before.behind().count(), 8);
    assert_eq!(up(&test, &[PHOTOS]).await.applied(), 8);
    assert_eq!(status(&test, &[PHOTOS, LIKES]).await.behind().count(), 8);

    let mut seen = Vec::new();
    let migrations = Migrations::new([PHOTOS, LIKES]).unwrap();
    let report = migrations
        .up(&test.config(), 2, |progress| seen.push((progress.done, progress.total)))
        .await
        .unwrap();
    assert_eq!(seen, (1..=8).map(|done| (done, 8)).collect::<Vec<_>>());
    assert_eq!((report.applied(), troubled(&report)), (8, vec![]));

    let again = up(&test, &[PHOTOS, LIKES]).await;
    assert_eq!((again.applied(), troubled(&again)), (0, vec![]));
    let rows = test.admin("pg2").await.unwrap();
    let rows = rows.query_one("SELECT count(*) FROM shard_0001_e1.photos", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_shard_that_fails_is_named_and_left_whole_and_the_others_go_on() {
    let test = TestCluster::start().await.unwrap();
    up(&test, &[PHOTOS]).await.into_result().unwrap();
    let admin = test.admin("pg2").await.unwrap();
    admin.batch_execute("CREATE TABLE shard_0003_e1.liked ()").await.unwrap();

    let report = up(&test, &[PHOTOS, LIKES]).await;
    let troubled = troubled(&report);
    assert_eq!(troubled.len(), 1, "{troubled:?}");
    let (shard, version, error) = &troubled[0];
    assert_eq!((*shard, *version), (3, Some(1)));
    assert!(error.starts_with("pg2: 0002_likes.sql") && error.contains("liked"), "{error}");
    let rows = admin.query_one("SELECT count(*) FROM shard_0003_e1.photos", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 0, "the first half of the file was kept");

    admin.batch_execute("DROP TABLE shard_0003_e1.liked").await.unwrap();
    assert_eq!(up(&test, &[PHOTOS, LIKES]).await.applied(), 1);
}

#[tokio::test]
async fn an_error_says_its_line() {
    let test = TestCluster::builder().instances(1).shards(1).start().await.unwrap();
    let report =
        up(&test, &[("0001_a.sql", "-- é\nCREATE TABLE t ();\nSELECT nonsense\nFROM t;")]).await;
    let (_, version, error) = &troubled(&report)[0];
    assert_eq!(*version, None);
    assert!(error.contains("0001_a.sql, line 3: column \"nonsense\""), "{error}");
}

#[tokio::test]
async fn files_that_were_edited_or_removed_are_refused_before_anything_runs() {
    let test = TestCluster::builder().instances(1).shards(2).start().await.unwrap();
    up(&test, &[PHOTOS, LIKES]).await.into_result().unwrap();
    let edited = ("0001_photos.sql", "CREATE TABLE photos ()");
    let next = ("0003_more.sql", "CREATE TABLE more ()");
    for report in [up(&test, &[edited, LIKES, next]).await, status(&test, &[edited, LIKES]).await] {
        for (_, version, error) in troubled(&report) {
            assert_eq!(version, Some(2));
            assert!(error.contains("0001_photos.sql was edited"), "{error}");
        }
        assert!(report.failed().all(|shard| shard.error().unwrap().is_refused()));
        assert_eq!((report.failed().count(), report.applied()), (2, 0));
    }
    let fewer = up(&test, &[PHOTOS]).await;
    assert!(troubled(&fewer)[0].2.contains("0002_likes.sql was applied and is no more"));
}

#[tokio::test]
async fn two_runs_at_once_apply_everything_once() {
    let test = TestCluster::start().await.unwrap();
    let files = [PHOTOS, LIKES];
    let (one, two) = tokio::join!(up(&test, &files), up(&test, &files));
    assert_eq!((troubled(&one), troubled(&two)), (vec![], vec![]));
    assert_eq!(one.applied() + two.applied(), 16);
}

#[tokio::test]
async fn what_was_interrupted_is_done_by_the_next_run() {
    let test = TestCluster::builder().instances(1).shards(2).start().await.unwrap();
    let slow = ("0001_slow.sql", "CREATE TABLE slow (); SELECT pg_sleep(1)");
    let interrupted = tokio::time::timeout(Duration::from_millis(400), up(&test, &[slow])).await;
    assert!(interrupted.is_err());
    let report = up(&test, &[slow]).await;
    assert_eq!((troubled(&report), report.applied()), (vec![], 2));
}

#[tokio::test]
async fn a_migration_steps_back_for_traffic_instead_of_blocking_it() {
    let test = TestCluster::builder().instances(1).shards(1).start().await.unwrap();
    up(&test, &[PHOTOS]).await.into_result().unwrap();
    let mut busy = test.admin("pg1").await.unwrap();
    let reader = test.admin("pg1").await.unwrap();
    let transaction = busy.transaction().await.unwrap();
    transaction.batch_execute("SELECT FROM shard_0000_e1.photos").await.unwrap();

    let migrating = up(&test, &[PHOTOS, LIKES]);
    let traffic = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Queues behind the migration that waits for the transaction, until the migration steps back.
        let read = reader.batch_execute("SELECT FROM shard_0000_e1.photos");
        tokio::time::timeout(Duration::from_secs(50), read).await.unwrap().unwrap();
        transaction.commit().await.unwrap();
    };
    let (report, ()) = tokio::join!(migrating, traffic);
    assert_eq!(troubled(&report), vec![]);
}

#[tokio::test]
async fn an_index_is_made_concurrently_outside_a_transaction() {
    let test = TestCluster::start().await.unwrap();
    let index = (
        "0002_index.sql",
        "-- howdah: no-transaction\nCREATE INDEX CONCURRENTLY by_likes ON photos (likes)",
    );
    let report = up(&test, &[PHOTOS, index]).await;
    assert_eq!((troubled(&report), report.applied()), (vec![], 16));
}

#[tokio::test]
async fn what_failed_outside_a_transaction_is_forgotten_only_if_it_left_nothing() {
    let test = TestCluster::builder().instances(1).shards(1).start().await.unwrap();
    let typo =
        ("0002_typo.sql", "-- howdah: no-transaction\nCREATE INDEX CONCURRENTLY i ON fotos (a)");
    let twice = ("0002_two.sql", "-- howdah: no-transaction\nVACUUM photos; VACUUM photos");
    assert!(troubled(&up(&test, &[PHOTOS, typo]).await)[0].2.contains("fotos"));
    assert!(troubled(&up(&test, &[PHOTOS, twice]).await)[0].2.contains("multiple commands"));

    let admin = test.admin("pg1").await.unwrap();
    let rows = "INSERT INTO shard_0000_e1.photos (likes) VALUES (1), (1)";
    admin.batch_execute(rows).await.unwrap();
    let unique = (
        "0002_unique.sql",
        "-- howdah: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY one ON photos (likes)",
    );
    let first = troubled(&up(&test, &[PHOTOS, unique]).await);
    assert!(first[0].2.contains("it left behind, unusable: one"), "{first:?}");
    let second = up(&test, &[PHOTOS, unique]).await;
    assert!(troubled(&second)[0].2.contains("0002_unique.sql began and was not seen to end"));
    assert!(second.shards()[0].error().unwrap().is_refused());

    let mend = "DROP INDEX shard_0000_e1.one; DELETE FROM shard_0000_e1.photos;
        DELETE FROM shard_0000_e1.howdah_migrations WHERE version = 2";
    admin.batch_execute(mend).await.unwrap();
    assert_eq!(troubled(&up(&test, &[PHOTOS, unique]).await), vec![]);
}

#[tokio::test]
async fn what_may_have_committed_a_part_is_not_run_twice() {
    let test = TestCluster::builder().instances(1).shards(1).start().await.unwrap();
    let halves = (
        "0002_halves.sql",
        "-- howdah: no-transaction\n\
         DO $$ BEGIN INSERT INTO photos DEFAULT VALUES; COMMIT; PERFORM 1 / 0; END $$",
    );
    let first = troubled(&up(&test, &[PHOTOS, halves]).await);
    assert!(first[0].2.contains("it may have committed a part"), "{first:?}");
    let second = troubled(&up(&test, &[PHOTOS, halves]).await);
    assert!(second[0].2.contains("0002_halves.sql began and was not seen to end"), "{second:?}");
    let admin = test.admin("pg1").await.unwrap();
    let rows = admin.query_one("SELECT count(*) FROM shard_0000_e1.photos", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);

    // What was not understood did nothing.
    let forget = "DELETE FROM shard_0000_e1.howdah_migrations WHERE version = 2";
    admin.batch_execute(forget).await.unwrap();
    let unknown = ("0002_call.sql", "-- howdah: no-transaction\nCALL nobody()");
    assert!(troubled(&up(&test, &[PHOTOS, unknown]).await)[0].2.contains("nobody"));
    let known = ("0002_call.sql", "-- howdah: no-transaction\nVACUUM photos");
    assert_eq!(troubled(&up(&test, &[PHOTOS, known]).await), vec![]);
}

#[tokio::test]
async fn a_shard_that_moves_before_its_turn_is_migrated_where_it_went() {
    let test = TestCluster::builder().instances(1).shards(2).start().await.unwrap();
    let mover = test.admin("pg1").await.unwrap();
    let hold = "SELECT pg_advisory_lock(x'686f7764'::int, 1)";
    mover.batch_execute(hold).await.unwrap();
    let moving = async {
        // By then the migration has read the map and waits for the shard.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let moved = "ALTER SCHEMA shard_0001_e1 RENAME TO shard_0001_e2;
            UPDATE howdah.home SET epoch = 2 WHERE shard = 1; SELECT pg_advisory_unlock_all()";
        mover.batch_execute(moved).await.unwrap();
    };
    let (report, ()) = tokio::join!(up(&test, &[PHOTOS]), moving);
    assert_eq!((troubled(&report), report.applied()), (vec![], 2));
    assert_eq!(report.shards()[1].home().schema(), "shard_0001_e2");
}

#[tokio::test]
async fn nothing_that_a_migration_sets_reaches_the_next_shard() {
    let test = TestCluster::builder().instances(1).shards(4).start().await.unwrap();
    let rude = (
        "0001_rude.sql",
        "CREATE TABLE t (); SET search_path = pg_catalog; SET statement_timeout = '300ms'; \
         CREATE TEMPORARY TABLE left_over ()",
    );
    let next = ("0002_next.sql", "SELECT pg_sleep(0.5); CREATE TABLE u AS SELECT * FROM t");
    let migrations = Migrations::new([rude, next]).unwrap();
    let report = migrations.up(&test.config(), 1, |_| {}).await.unwrap();
    assert_eq!(troubled(&report), vec![]);
}

#[tokio::test]
async fn applications_cannot_write_the_ledger() {
    let test = TestCluster::builder().instances(1).shards(1).start().await.unwrap();
    up(&test, &[PHOTOS]).await.into_result().unwrap();
    let app = test.servers().client("pg1", "howdah_app").await.unwrap();
    app.batch_execute("INSERT INTO shard_0000_e1.photos DEFAULT VALUES").await.unwrap();
    app.batch_execute("SELECT FROM shard_0000_e1.howdah_migrations").await.unwrap();
    for sql in [
        "DELETE FROM shard_0000_e1.howdah_migrations",
        "UPDATE shard_0000_e1.howdah_migrations SET checksum = ''",
        "CREATE TABLE shard_0000_e1.mine ()",
    ] {
        let error = app.batch_execute(sql).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{sql}");
    }
}

#[tokio::test]
async fn an_instance_that_is_down_fails_its_own_shards_alone() {
    let mut test = TestCluster::builder().own_servers().start().await.unwrap();
    test.kill("pg2").await.unwrap();
    let report = up(&test, &[PHOTOS]).await;
    let failed: Vec<_> = report.failed().map(|shard| shard.home().shard().get()).collect();
    assert_eq!(failed, [1, 3, 5, 7]);
    assert!(report.failed().all(|shard| shard.error().unwrap().is_unavailable()));
    assert_eq!(report.applied(), 4);
    let error = report.into_result().unwrap_err();
    assert_eq!(error.instance(), Some("pg2"), "{error}");
    test.start_server("pg2").await.unwrap();
    assert_eq!(up(&test, &[PHOTOS]).await.into_result().unwrap().len(), 8);
}

/// Its transaction holds every lock that the migration took, and the shard's own.
#[tokio::test]
async fn a_client_that_is_cut_off_keeps_its_locks_for_seconds_only() {
    const SLOW: (&str, &str) =
        ("0001_slow.sql", "CREATE TABLE slow (id int PRIMARY KEY); SELECT pg_sleep(1);");
    const AT_IT: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND query LIKE '%pg_sleep(1)%' AND pid <> pg_backend_pid()";

    let test = TestCluster::builder().shards(2).proxies().start().await.unwrap();
    let admin = test.admin("pg2").await.unwrap();
    let at_it = async || admin.query_one(AT_IT, &[]).await.unwrap().get::<_, i64>(0);
    let config = test.config();
    let cut_off = tokio::spawn(async move {
        Migrations::new([SLOW]).unwrap().up(&config, 2, |_| {}).await.map(drop)
    });
    until("the migration runs", async || at_it().await > 0).await;
    test.proxy("pg2").unwrap().blackhole();
    until("its session has ended, and its locks with it", async || at_it().await == 0).await;
    cut_off.abort();
    test.proxy("pg2").unwrap().heal();
    assert_eq!(troubled(&up(&test, &[SLOW]).await), vec![]);
}
