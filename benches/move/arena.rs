//! Two servers, the shards on them, and where each of them is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use howdah::postgres::Client;
use howdah::testing::TestCluster;
use howdah::{Cluster, Config, Id, InstanceName, ShardId};
use howdah_benches::{Result, servers_with};

use crate::clients::Clients;

/// Photos, and how many each user has. Each writer is a user.
const TABLES: &str = "
    CREATE TABLE photos (
        id      bigint PRIMARY KEY DEFAULT next_id() CHECK (is_local(id)),
        user_id int NOT NULL,
        caption text NOT NULL
    );
    CREATE INDEX photos_by_user ON photos (user_id, id DESC);
    CREATE TABLE users (id int PRIMARY KEY, added bigint NOT NULL DEFAULT 0);
    INSERT INTO users SELECT generate_series(0, 99);
";

/// Those with even numbers begin on pg1, the others on pg2.
const SHARDS: u16 = 66;

pub(crate) struct Arena {
    test: TestCluster,
    cluster: Cluster,
    /// Has the catalog, too.
    pg1: Client,
    /// The photos that each shard begins with, and that nobody deletes.
    photos: Mutex<BTreeMap<ShardId, Arc<[Id]>>>,
}

impl Arena {
    pub(crate) async fn open() -> Result<Self> {
        let test = servers_with(TABLES, 2, SHARDS).await?;
        for name in ["pg1", "pg2"] {
            // A move has to live with it.
            let admin = test.admin(name).await?;
            admin.batch_execute("ALTER SYSTEM RESET autovacuum").await?;
            admin.batch_execute("SELECT pg_reload_conf()").await?;
        }
        let cluster = Cluster::connect(test.config().max_size(16)).await?;
        let pg1 = test.admin("pg1").await?;
        Ok(Self { test, cluster, pg1, photos: Mutex::default() })
    }

    pub(crate) fn config(&self) -> Config {
        self.test.config()
    }

    pub(crate) async fn version(&self) -> Result<String> {
        Ok(self.pg1.query_one("SHOW server_version", &[]).await?.get(0))
    }

    pub(crate) async fn folder_of_programs(&self) -> Result<String> {
        const FOLDER: &str = "SELECT setting FROM pg_config WHERE name = 'BINDIR'";

        Ok(self.pg1.query_one(FOLDER, &[]).await?.get(0))
    }

    pub(crate) fn shard(&self, number: u16) -> Result<ShardId> {
        Ok(ShardId::new(number)?)
    }

    /// 32 shards that live on one instance.
    pub(crate) fn small(&self) -> Result<Vec<ShardId>> {
        (2..SHARDS).step_by(2).map(|number| self.shard(number)).collect()
    }

    /// Eight shards on each instance.
    pub(crate) fn neighbours(&self) -> Result<Vec<ShardId>> {
        (2..18).map(|number| self.shard(number)).collect()
    }

    /// Puts so many photos into a shard.
    pub(crate) async fn fill(&self, shard: ShardId, rows: u32) -> Result<()> {
        if self.photos(shard).len() == rows as usize {
            return Ok(());
        }
        let (instance, schema) = self.home(shard).await?;
        let admin = self.test.admin(instance.as_str()).await?;
        let insert = format!(
            "INSERT INTO {schema}.photos (user_id, caption) \
             SELECT n % 100, 'the caption of the photo number ' || n FROM generate_series(1, {rows}) n RETURNING id"
        );
        let ids = admin.query(&insert, &[]).await?.iter().map(|row| row.get(0)).collect();
        self.photos.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, ids);
        let tables = format!("{schema}.photos, {schema}.users");
        Ok(admin.batch_execute(&format!("VACUUM ANALYZE {tables}")).await?)
    }

    pub(crate) fn photos(&self, shard: ShardId) -> Arc<[Id]> {
        let photos = self.photos.lock().unwrap_or_else(PoisonError::into_inner);
        photos.get(&shard).cloned().unwrap_or_default()
    }

    /// Clients of these shards, at work.
    pub(crate) async fn load(&self, shards: &[ShardId]) -> Result<Clients> {
        let shards = shards.iter().map(|id| Ok((self.cluster.shard(*id)?, self.photos(*id))));
        Clients::start(shards.collect::<Result<_>>()?).await
    }

    /// Where a shard lives, and what its schema is called there.
    pub(crate) async fn home(&self, shard: ShardId) -> Result<(InstanceName, String)> {
        const HOME: &str = "SELECT instance, epoch FROM howdah.home WHERE shard = $1";

        let row = self.pg1.query_one(HOME, &[&i32::from(shard.get())]).await?;
        let schema = format!("shard_{:04}_e{}", shard.get(), row.get::<_, i32>(1));
        Ok((InstanceName::new(row.get(0))?, schema))
    }

    /// The instance where it does not live.
    pub(crate) async fn elsewhere(&self, shard: ShardId) -> Result<InstanceName> {
        let (home, _) = self.home(shard).await?;
        Ok(InstanceName::new(if home.as_str() == "pg1" { "pg2" } else { "pg1" })?)
    }

    /// How a superuser reaches an instance.
    pub(crate) fn dsn(&self, instance: &InstanceName) -> Result<String> {
        Ok(self.test.servers().dsn(instance.as_str(), "howdah_mover")?)
    }

    pub(crate) async fn admin(&self, instance: &InstanceName) -> Result<Client> {
        Ok(self.test.admin(instance.as_str()).await?)
    }
}
