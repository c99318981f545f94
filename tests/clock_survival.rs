//! What ids survive: a dump and its return, whole or of the schema alone; the promotion of a standby whose clock is
//! behind; another name for the schema. None is repeated, and none is earlier than those before.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

mod clock;

use std::process::{Command, Stdio};
use std::time::Duration;

use clock::{
    CLOCK, SCHEMA, SHARD, VERSIONS, app, next_id, number, one_instance, refusal, set_the_clock,
    take_the_clock,
};
use howdah::Id;
use howdah::postgres::{Client, NoTls};
use howdah::testing::TestCluster;

const HOUR_MS: i64 = 3_600_000;

/// Fills the table, and returns the greatest id.
async fn fill(client: &Client) -> Id {
    client
        .batch_execute(&format!("INSERT INTO {SCHEMA}.ids SELECT FROM generate_series(1, 3000)"))
        .await
        .unwrap();
    Id::new(number(client, &format!("SELECT max(id) FROM {SCHEMA}.ids")).await).unwrap()
}

/// Dumps the test's database into a new one beside it, and connects to that.
async fn dump_and_restore(test: &TestCluster, options: &[&str]) -> (String, Client, Client) {
    let server = test.servers().server("pg1").unwrap();
    let (bin, from) = (server.bin_dir(), test.servers().database());
    let to = format!("{from}_restored");
    let admin = test.admin("pg1").await.unwrap();
    admin.batch_execute(&format!("CREATE DATABASE {to} OWNER howdah_owner")).await.unwrap();
    let dsn = |role: &str, database: &str| {
        format!("postgres://{role}@127.0.0.1:{}/{database}", server.port())
    };
    let mut dump = Command::new(bin.join("pg_dump"))
        .args(options)
        .arg(dsn("postgres", from))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let restored = Command::new(bin.join("psql"))
        .args(["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--output=/dev/null"])
        .arg(dsn("postgres", &to))
        .stdin(dump.stdout.take().unwrap())
        .status()
        .unwrap();
    assert!(dump.wait().unwrap().success() && restored.success());
    let connect = async |role| {
        let (client, connection) = howdah::postgres::connect(&dsn(role, &to), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    (to.clone(), connect("postgres").await, connect("howdah_app").await)
}

#[tokio::test]
async fn a_restored_dump_goes_on_though_its_clock_is_behind() {
    for version in VERSIONS {
        let test = one_instance().postgres(version).start().await.unwrap();
        let last = fill(&app(&test).await).await;
        let (database, admin, client) = dump_and_restore(&test, &[]).await;
        take_the_clock(&admin).await;
        set_the_clock(&admin, -HOUR_MS).await;
        assert!(next_id(&client).await > last);
        assert!(fill(&client).await > last);
        let repeated = format!("SELECT count(*) - count(DISTINCT id) FROM {SCHEMA}.ids");
        assert_eq!(number(&admin, &repeated).await, 0);
        drop_database(&test, database, [admin, client]).await;
    }
}

/// A dump of the schema alone leaves the clock unstarted: it refuses to guess, until init starts it from the time.
#[tokio::test]
async fn a_schema_without_its_data_gives_no_ids_until_it_is_started() {
    for version in VERSIONS {
        let test = one_instance().postgres(version).start().await.unwrap();
        let last = fill(&app(&test).await).await;
        let (database, admin, client) = dump_and_restore(&test, &["--schema-only"]).await;
        for _ in 0..2 {
            assert_eq!(refusal(&client, &format!("SELECT {SCHEMA}.next_id()")).await, "55000");
        }
        // What init runs for every shard.
        admin.batch_execute(&format!("SELECT howdah.start_clock({CLOCK}, {SHARD})")).await.unwrap();
        assert!(next_id(&client).await > last);
        drop_database(&test, database, [admin, client]).await;
    }
}

#[tokio::test]
async fn a_promoted_standby_goes_on_though_its_clock_is_behind() {
    let mut test = one_instance().replicas(1).start().await.unwrap();
    let admin = test.admin("pg1").await.unwrap();
    take_the_clock(&admin).await;
    let last = fill(&app(&test).await).await;
    test.replicated("pg1").await.unwrap();
    test.kill("pg1").await.unwrap();
    test.promote("pg1-r1").await.unwrap();

    let admin = test.servers().client("pg1-r1", "postgres").await.unwrap();
    set_the_clock(&admin, -HOUR_MS).await;
    let client = test.servers().client("pg1-r1", "howdah_app").await.unwrap();
    assert!(next_id(&client).await > last);
    fill(&client).await;
    let repeated = format!("SELECT count(*) - count(DISTINCT id) FROM {SCHEMA}.ids");
    assert_eq!(number(&admin, &repeated).await, 0);
}

/// As a move does it: by the same functions, in sessions that had drawn before.
#[tokio::test]
async fn a_renamed_schema_goes_on() {
    for version in VERSIONS {
        let test = one_instance().postgres(version).start().await.unwrap();
        let owner = test.servers().client("pg1", "howdah_owner").await.unwrap();
        let client = app(&test).await;
        let renamed = SCHEMA.replace("_e1", "_e2");
        let before = next_id(&client).await;
        owner.batch_execute(&format!("ALTER SCHEMA {SCHEMA} RENAME TO {renamed}")).await.unwrap();
        assert_eq!(refusal(&client, &format!("SELECT {SCHEMA}.next_id()")).await, "3F000");
        let after = number(&client, &format!("SELECT {renamed}.next_id()")).await;
        assert!(after > before.get());
        client.batch_execute(&format!("INSERT INTO {renamed}.ids DEFAULT VALUES")).await.unwrap();
        assert!(number(&client, &format!("SELECT max(id) FROM {renamed}.ids")).await > after);
    }
}

/// How a move closes a clock: it waits for every transaction that drew; from then on nobody draws, whatever name or OID
/// he uses, and what both sequences say is final.
#[tokio::test]
async fn a_clock_that_is_capped_gives_no_id() {
    const CAP: &str = "DO $$ DECLARE name text; BEGIN
           FOREACH name IN ARRAY ARRAY['shard_0001_e1.howdah_id', 'shard_0001_e1.howdah_block'] LOOP
             EXECUTE format('ALTER SEQUENCE %s MAXVALUE 9223372036854775806', name);
             EXECUTE format('ALTER SEQUENCE %s MAXVALUE %s', name, pg_sequence_last_value(name::regclass));
           END LOOP;
         END $$";
    for version in VERSIONS {
        let test = one_instance().postgres(version).start().await.unwrap();
        let owner = test.servers().client("pg1", "howdah_owner").await.unwrap();
        owner.batch_execute("SET lock_timeout = '200ms'").await.unwrap();
        let client = app(&test).await;
        let draw = format!("SELECT {SCHEMA}.next_id()");
        client.batch_execute(&format!("BEGIN; {draw}")).await.unwrap();
        assert_eq!(refusal(&owner, CAP).await, "55P03", "an open transaction has drawn");
        client.batch_execute("COMMIT").await.unwrap();

        owner.batch_execute(&format!("BEGIN; {CAP}")).await.unwrap();
        let drawing = tokio::spawn(async move { refusal(&client, &draw).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!drawing.is_finished(), "it waits for the fence");
        owner.batch_execute("COMMIT").await.unwrap();
        assert_eq!(drawing.await.unwrap(), "2200H");
    }
}

async fn drop_database(test: &TestCluster, database: String, clients: [Client; 2]) {
    drop(clients);
    let admin = test.admin("pg1").await.unwrap();
    admin.batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)")).await.unwrap();
}
