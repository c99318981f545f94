//! The peers that live in the process.

use std::str::FromStr as _;

use bb8_postgres::PostgresConnectionManager;
use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod, Runtime};
use howdah::Id;
use howdah::postgres::types::Type;
use howdah::postgres::{self, Client, NoTls, Statement};
use howdah_benches::Result;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::contender::{CONNECTIONS, Contender, PIPELINES, Sql, shard_of};

/// Statements that sqlx may keep on a connection; its default of 100 is not enough for the two of every shard.
const STATEMENTS: usize = 1000;

/// How many connections carry everything by hand: as many as howdah's pipelines.
const LINES: usize = PIPELINES as usize;

fn driver_config(dsn: &str, name: &str) -> Result<postgres::Config> {
    let mut config = postgres::Config::from_str(dsn)?;
    config.application_name(name);
    Ok(config)
}

/// A connection that is served in the background until its client is dropped.
pub(crate) async fn connect(dsn: &str, name: &str) -> Result<Client> {
    let (client, connection) = driver_config(dsn, name)?.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// With its cache of statements.
pub(crate) struct Deadpool {
    pool: deadpool_postgres::Pool,
    sql: Sql,
}

impl Deadpool {
    pub(crate) fn open(dsn: &str) -> Result<Self> {
        let fast = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(driver_config(dsn, Self::NAME)?, NoTls, fast);
        let pool = deadpool_postgres::Pool::builder(manager)
            .max_size(CONNECTIONS as usize)
            .runtime(Runtime::Tokio1)
            .build()?;
        Ok(Self { pool, sql: Sql::new() })
    }
}

impl Contender for Deadpool {
    const NAME: &'static str = "deadpool-postgres";
    const IS_CLOSE: bool = true;

    async fn read(&self, _task: usize, id: Id) -> Result<String> {
        let client = self.pool.get().await?;
        let statement = client.prepare_cached(&self.sql.read[shard_of(id)]).await?;
        Ok(client.query_one(&statement, &[&id]).await?.get(0))
    }

    async fn write(&self, _task: usize, id: Id) -> Result<()> {
        let client = self.pool.get().await?;
        let statement = client.prepare_cached(&self.sql.write[shard_of(id)]).await?;
        client.execute(&statement, &[&id]).await?;
        Ok(())
    }

    async fn transact(&self, _task: usize, id: Id) -> Result<()> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        let read = transaction.prepare_cached(&self.sql.read[shard_of(id)]).await?;
        transaction.query_one(&read, &[&id]).await?;
        let write = transaction.prepare_cached(&self.sql.write[shard_of(id)]).await?;
        transaction.execute(&write, &[&id]).await?;
        Ok(transaction.commit().await?)
    }
}

pub(crate) struct Sqlx {
    pool: sqlx::PgPool,
    sql: Sql,
}

impl Sqlx {
    pub(crate) async fn open(dsn: &str) -> Result<Self> {
        let options = PgConnectOptions::from_str(dsn)?
            .application_name(Self::NAME)
            .statement_cache_capacity(STATEMENTS);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .min_connections(CONNECTIONS)
            // It would cost a round trip each time, which none of the others makes.
            .test_before_acquire(false)
            .connect_with(options)
            .await?;
        Ok(Self { pool, sql: Sql::new() })
    }
}

impl Contender for Sqlx {
    const NAME: &'static str = "sqlx";

    async fn read(&self, _task: usize, id: Id) -> Result<String> {
        let read = sqlx::query_scalar(&self.sql.read[shard_of(id)]).bind(id.get());
        Ok(read.fetch_one(&self.pool).await?)
    }

    async fn write(&self, _task: usize, id: Id) -> Result<()> {
        let write = sqlx::query(&self.sql.write[shard_of(id)]).bind(id.get());
        write.execute(&self.pool).await?;
        Ok(())
    }

    async fn transact(&self, _task: usize, id: Id) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        let read = sqlx::query(&self.sql.read[shard_of(id)]).bind(id.get());
        read.fetch_one(&mut *transaction).await?;
        let write = sqlx::query(&self.sql.write[shard_of(id)]).bind(id.get());
        write.execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }
}

/// As it comes: it keeps no statements, so each is sent whole, in a single round trip.
pub(crate) struct Bb8 {
    pool: bb8::Pool<PostgresConnectionManager<NoTls>>,
    sql: Sql,
}

impl Bb8 {
    pub(crate) async fn open(dsn: &str) -> Result<Self> {
        let manager = PostgresConnectionManager::new(driver_config(dsn, Self::NAME)?, NoTls);
        let pool = bb8::Pool::builder()
            .max_size(CONNECTIONS)
            .test_on_check_out(false)
            .build(manager)
            .await?;
        Ok(Self { pool, sql: Sql::new() })
    }
}

impl Contender for Bb8 {
    const NAME: &'static str = "bb8-postgres";

    async fn read(&self, _task: usize, id: Id) -> Result<String> {
        let client = self.pool.get().await?;
        read_whole(&client, &self.sql, id).await
    }

    async fn write(&self, _task: usize, id: Id) -> Result<()> {
        let client = self.pool.get().await?;
        write_whole(&client, &self.sql, id).await
    }

    async fn transact(&self, _task: usize, id: Id) -> Result<()> {
        let client = self.pool.get().await?;
        transact_whole(&client, &self.sql, id).await
    }
}

/// A read whose text and types go along.
pub(crate) async fn read_whole(client: &Client, sql: &Sql, id: Id) -> Result<String> {
    let rows = client.query_typed(&sql.read[shard_of(id)], &[(&id, Type::INT8)]).await?;
    Ok(rows.first().ok_or("no such row")?.get(0))
}

/// A write whose text and types go along.
pub(crate) async fn write_whole(client: &Client, sql: &Sql, id: Id) -> Result<()> {
    client.query_typed(&sql.write[shard_of(id)], &[(&id, Type::INT8)]).await?;
    Ok(())
}

/// A transaction of both. None of this is dropped in the middle.
pub(crate) async fn transact_whole(client: &Client, sql: &Sql, id: Id) -> Result<()> {
    client.batch_execute("BEGIN").await?;
    read_whole(client, sql, id).await?;
    write_whole(client, sql, id).await?;
    Ok(client.batch_execute("COMMIT").await?)
}

/// The driver alone, as who knows it well would use it: a shard's reads follow one another on one connection, where its
/// statement is prepared. No pool, no limit, no timeouts, no way for a shard to move.
pub(crate) struct ByHand {
    lines: Vec<Client>,
    read: Vec<Statement>,
}

impl ByHand {
    pub(crate) async fn open(dsn: &str) -> Result<Self> {
        let mut lines = Vec::new();
        for _ in 0..LINES {
            lines.push(connect(dsn, Self::NAME).await?);
        }
        let mut read = Vec::new();
        for (shard, sql) in Sql::new().read.iter().enumerate() {
            read.push(lines[shard % LINES].prepare(sql).await?);
        }
        Ok(Self { lines, read })
    }
}

impl Contender for ByHand {
    const NAME: &'static str = "pipelined by hand";

    async fn read(&self, _task: usize, id: Id) -> Result<String> {
        let shard = shard_of(id);
        let row = self.lines[shard % LINES].query_one(&self.read[shard], &[&id]).await?;
        Ok(row.get(0))
    }

    async fn write(&self, _task: usize, _id: Id) -> Result<()> {
        Err("writes are not pipelined".into())
    }

    async fn transact(&self, _task: usize, _id: Id) -> Result<()> {
        Err("transactions are not pipelined".into())
    }
}
