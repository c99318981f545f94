//! What the tests of the database's clock share: a cluster with one table, and hands on its time.

#![allow(dead_code, reason = "every test uses a part of it")]

use howdah::postgres::Client;
use howdah::testing::{TestCluster, TestClusterBuilder, TestServers};
use howdah::{Id, Init, InstanceName, Layout, Migrations, ShardCount};

/// The shard that the tests draw from: not 0, so that a number left out would show.
pub(crate) const SHARD: u16 = 1;
pub(crate) const SCHEMA: &str = "shard_0001_e1";
/// The clock of that shard, as arguments.
pub(crate) const CLOCK: &str = "'shard_0001_e1.howdah_id', 'shard_0001_e1.howdah_block'";

/// The oldest and the newest PostgreSQL that is supported.
pub(crate) const VERSIONS: [u32; 2] = [15, 18];

pub(crate) fn one_instance() -> TestClusterBuilder {
    TestCluster::builder().instances(1).shards(2).migrations(
        Migrations::new([(
            "0001_ids.sql",
            "CREATE TABLE ids (id bigint NOT NULL DEFAULT next_id() CHECK (is_local(id)), session int)",
        )])
        .unwrap(),
    )
}

/// A server with one instance in a layout, and a connection as applications have it.
pub(crate) async fn with_layout(layout: Layout) -> (TestServers, Client) {
    let servers = TestServers::start(1).await.unwrap();
    let dsn = servers.dsn("pg1", "howdah_app").unwrap();
    Init::new(ShardCount::new(2).unwrap())
        .layout(layout)
        .instance(InstanceName::new("pg1").unwrap(), dsn.parse().unwrap())
        .run(&howdah::Config::new(dsn))
        .await
        .unwrap();
    let client = servers.client("pg1", "howdah_app").await.unwrap();
    (servers, client)
}

/// A connection as applications have it.
pub(crate) async fn app(test: &TestCluster) -> Client {
    test.servers().client("pg1", "howdah_app").await.unwrap()
}

pub(crate) async fn next_id(client: &Client) -> Id {
    Id::new(number(client, &format!("SELECT {SCHEMA}.next_id()")).await).unwrap()
}

pub(crate) async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// The SQLSTATE with which a statement is refused.
pub(crate) async fn refusal(client: &Client, sql: &str) -> String {
    match client.batch_execute(sql).await {
        Ok(()) => panic!("{sql} went through"),
        Err(error) => error.code().unwrap_or_else(|| panic!("{sql}: {error}")).code().to_owned(),
    }
}

/// How far an id is ahead of this machine's clock, in milliseconds.
pub(crate) fn lead_ms(id: Id) -> i64 {
    (Layout::default().decode(id).time() - chrono::Utc::now()).num_milliseconds()
}

/// Puts the server's clock into the test's hands: the one function in which the shipped SQL reads it is replaced
/// by one that adds what a sequence says, which all sessions see at once. All else is what ships.
pub(crate) async fn take_the_clock(admin: &Client) {
    admin
        .batch_execute(
            "CREATE SEQUENCE IF NOT EXISTS howdah.test_offset_ms MINVALUE -1000000000000;
             SELECT setval('howdah.test_offset_ms', 0);
             GRANT SELECT ON howdah.test_offset_ms TO PUBLIC;
             CREATE OR REPLACE FUNCTION howdah.clock() RETURNS timestamptz LANGUAGE sql VOLATILE
             RETURN clock_timestamp() + pg_sequence_last_value('howdah.test_offset_ms') * interval '1 ms';",
        )
        .await
        .unwrap();
}

/// Sets the server's clock off by so much from the true time.
pub(crate) async fn set_the_clock(admin: &Client, offset_ms: i64) {
    number(admin, &format!("SELECT setval('howdah.test_offset_ms', {offset_ms})")).await;
}
