//! Who may do what to a clock: applications draw, and nothing else; whoever has no right gets an error, never an
//! id from a clock that stands.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

mod clock;

use clock::{CLOCK, SCHEMA, VERSIONS, app, next_id, number, one_instance, refusal};

const DENIED: &str = "42501";

#[tokio::test]
async fn an_application_draws_and_sets_nothing() {
    for version in VERSIONS {
        let test = one_instance().postgres(version).start().await.unwrap();
        let client = app(&test).await;
        next_id(&client).await;
        for sql in [
            "SELECT setval('S.howdah_id', 1)",
            "SELECT setval('S.howdah_block', 1)",
            "SELECT nextval('S.howdah_block')",
            "ALTER SEQUENCE S.howdah_id RESTART",
            "DROP SEQUENCE S.howdah_block CASCADE",
            "SELECT howdah.start_clock('S.howdah_id', 'S.howdah_block', 1)",
            "CREATE OR REPLACE FUNCTION S.next_id() RETURNS bigint LANGUAGE sql RETURN 1",
            "CREATE TABLE S.mine ()",
        ] {
            assert_eq!(
                refusal(&client, &sql.replace("S.", "shard_0001_e1.")).await,
                DENIED,
                "{version}: {sql}"
            );
        }
    }
}

/// The function that opens blocks has its owner's rights: it must set no other sequence than a clock's, and only
/// forwards.
#[tokio::test]
async fn opening_a_block_touches_nothing_but_clocks() {
    let test = one_instance().start().await.unwrap();
    let owner = test.servers().client("pg1", "howdah_owner").await.unwrap();
    owner.batch_execute(&format!("CREATE SEQUENCE {SCHEMA}.invoice")).await.unwrap();
    number(&owner, &format!("SELECT nextval('{SCHEMA}.invoice')")).await;

    let client = app(&test).await;
    next_id(&client).await;
    // The clock falls behind, so that there is reason to open one.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    for (id, block) in [
        ("shard_0001_e1.invoice", "shard_0001_e1.invoice"),
        ("shard_0001_e1.howdah_id", "shard_0001_e1.invoice"),
        ("shard_0001_e1.invoice", "shard_0001_e1.howdah_block"),
        ("shard_0001_e1.howdah_id", "shard_0000_e1.howdah_block"),
    ] {
        assert_eq!(
            refusal(&client, &format!("SELECT howdah.open_block('{id}', '{block}', true)")).await,
            "22023"
        );
    }
    assert_eq!(number(&owner, &format!("SELECT nextval('{SCHEMA}.invoice')")).await, 2);

    let before = next_id(&client).await;
    client.batch_execute(&format!("SELECT howdah.open_block({CLOCK}, false)")).await.unwrap();
    assert!(next_id(&client).await > before);
}

#[tokio::test]
async fn a_role_without_rights_gets_an_error() {
    for version in VERSIONS {
        let test = one_instance().postgres(version).start().await.unwrap();
        let admin = test.admin("pg1").await.unwrap();
        let client = app(&test).await;
        let draw = format!("SELECT {SCHEMA}.next_id()");
        next_id(&client).await;

        admin
            .batch_execute(&format!("REVOKE ALL ON {SCHEMA}.howdah_block FROM howdah_app"))
            .await
            .unwrap();
        // PostgreSQL 15 refuses the reading, 18 answers it with NULL, which the clock refuses.
        let expected = if version == 15 { DENIED } else { "55000" };
        assert_eq!(refusal(&client, &draw).await, expected);

        admin
            .batch_execute(&format!(
                "GRANT SELECT ON {SCHEMA}.howdah_block TO howdah_app; REVOKE ALL ON {SCHEMA}.howdah_id FROM howdah_app"
            ))
            .await
            .unwrap();
        assert_eq!(refusal(&client, &draw).await, DENIED);
    }
}

/// A half-made shard is finished, and a clock that runs is never set back, when init runs again.
#[tokio::test]
async fn init_again_restores_rights_and_sets_no_clock_back() {
    let test = one_instance().start().await.unwrap();
    let admin = test.admin("pg1").await.unwrap();
    let client = app(&test).await;
    let before = next_id(&client).await;
    admin
        .batch_execute(&format!(
            "REVOKE ALL ON SCHEMA {SCHEMA} FROM howdah_app;
             REVOKE ALL ON {SCHEMA}.howdah_id FROM howdah_app;
             GRANT ALL ON {SCHEMA}.howdah_block TO howdah_app;
             DROP FUNCTION {SCHEMA}.next_id() CASCADE"
        ))
        .await
        .unwrap();
    let sql = format!("SELECT last_value FROM {SCHEMA}.howdah_block");
    let block = number(&admin, &sql).await;
    let dsn = test.servers().dsn("pg1", "howdah_app").unwrap();
    howdah::Init::new(howdah::ShardCount::new(2).unwrap())
        .instance(howdah::InstanceName::new("pg1").unwrap(), dsn.parse().unwrap())
        .run(&test.config())
        .await
        .unwrap();
    assert_eq!(number(&admin, &sql).await, block);
    assert!(next_id(&client).await > before);
    assert_eq!(
        refusal(&client, &format!("SELECT setval('{SCHEMA}.howdah_block', 1)")).await,
        DENIED
    );
}
