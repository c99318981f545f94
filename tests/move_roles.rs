//! Who moves shards needs no superuser from PostgreSQL 16 on; what a role or a server lacks is named before anything is touched.
#![cfg(test)]

mod moving;

use std::time::Duration;

use howdah::postgres::Client;
use howdah::{InstanceName, MovePhase, Mover, Result};
use moving::{Load, cluster_with_tables, leftovers, schemas, shard};

const PASSWORD: &str = r"it's \ a secret";

/// Takes all rights from the role that moves shards, and has the server ask it for a password.
async fn humble_mover(admin: &Client) {
    let script = "{ echo host all howdah_mover all scram-sha-256; cat pg_hba.conf; } > hba.new && mv hba.new pg_hba.conf";
    let password = PASSWORD.replace('\'', "''");
    let make = format!(
        "ALTER ROLE howdah_mover NOSUPERUSER NOREPLICATION PASSWORD '{password}';
         COPY (SELECT 1) TO PROGRAM $$cat > /dev/null; {script}$$;
         SELECT pg_reload_conf()"
    );
    admin.batch_execute(&make).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_used_to_the_full_is_told_what_to_raise() -> Result<()> {
    let mut test = cluster_with_tables()?.own_servers().start().await?;
    let admin = test.admin("pg1").await?;
    for setting in ["max_wal_senders = 1", "max_logical_replication_workers = 0"] {
        admin.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    let fill = "SELECT pg_replication_origin_create('filler_' || n) FROM generate_series(1, 31) n";
    admin.query(fill, &[]).await.unwrap();
    test.kill("pg1").await?;
    test.start_server("pg1").await?;
    let mover = Mover::new(&test.config())?;
    let error = mover.run(shard(), &InstanceName::new("pg1")?).await.unwrap_err();
    let message = error.to_string();
    assert!(error.is_refused() && !message.contains("pg2 has"), "{message}");
    for full in [
        "pg1 has 0 walsenders, and a move takes up to two more: raise max_wal_senders, which is 1",
        "pg1 has 0 subscriptions at work",
        "raise max_logical_replication_workers, which is 0",
        "pg1 has 31 replication origins",
    ] {
        assert!(message.contains(full), "{full}: {message}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_a_few_rights_moves_shards() -> Result<()> {
    const FILL: &str = "SELECT pg_create_physical_replication_slot('filler_' || n) FROM generate_series(1, \
        current_setting('max_replication_slots')::int - 1) n";

    let test = cluster_with_tables()?.own_servers().postgres(18).start().await?;
    let [pg1, pg2] = ["pg1", "pg2"].map(|name| InstanceName::new(name).unwrap());
    let admins = [test.admin("pg1").await?, test.admin("pg2").await?];
    for admin in &admins {
        humble_mover(admin).await;
    }
    for instance in ["pg1", "pg2"] {
        // Until the server has read its new rules.
        while test.servers().client(instance, "howdah_mover").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    admins[0].query(FILL, &[]).await.unwrap();
    let config = test.config().password(PASSWORD);

    let error = Mover::new(&config)?.run(shard(), &pg1).await.unwrap_err();
    assert!(error.is_refused(), "{error}");
    let message = error.to_string();
    for instance in ["pg1", "pg2"] {
        for lack in [
            "lacks REPLICATION",
            "lacks pg_checkpoint",
            "lacks pg_create_subscription",
            "may not create subscriptions in the database: GRANT CREATE ON DATABASE",
            "is no member of howdah_owner",
        ] {
            let lack = format!("{instance} role howdah_mover {lack}");
            assert!(message.contains(&lack), "{lack}: {message}");
        }
    }
    assert!(message.contains("pg1 all 32 replication slots"), "{message}");
    assert!(!message.contains("secret"), "{message}");

    let database = test.servers().database();
    let grant = format!(
        "ALTER ROLE howdah_mover REPLICATION;
         GRANT pg_create_subscription, pg_checkpoint, pg_monitor, howdah_owner TO howdah_mover;
         GRANT CREATE ON DATABASE {database} TO howdah_mover;
         SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'filler_%'"
    );
    for admin in &admins {
        admin.batch_execute(&grant).await.unwrap();
    }
    let error = Mover::new(&test.config())?.run(shard(), &pg1).await.unwrap_err();
    assert!(error.is_config(), "{error}");
    assert_eq!(schemas(&test).await?, ["pg2 shard_0001_e1"]);
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());

    // Only a superuser is told by the server where its programs are.
    let mover = Mover::new(&config)?.pg_bin(test.servers().server("pg1")?.bin_dir());
    let load = Load::start(&test, 3).await?;
    let moved = mover.run(shard(), &pg1).await?;
    assert_eq!(mover.rollback(moved.id).await?.phase, MovePhase::RolledBack);
    let ledger = load.stop().await;
    assert_eq!(ledger.errors, Vec::<String>::new());
    let shard = test.cluster().await?.shard(shard())?;
    assert_eq!(*shard.home()?.instance(), pg2);
    ledger.check(&shard).await?;
    assert_eq!(leftovers(&test).await?, Vec::<String>::new());
    Ok(())
}
