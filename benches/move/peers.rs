//! How a shard's schema is copied to another server without howdah.

use std::process::Stdio;
use std::time::{Duration, Instant};

use howdah::ShardId;
use howdah::postgres::Client;
use howdah_benches::Result;
use tokio::process::Command;
use tokio::time::sleep;

use crate::arena::Arena;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// `pg_dump | psql`, as one stream.
    Dump,
    /// The schema by `pg_dump | psql`, then a publication and a subscription of everything in it.
    Replication,
}

impl Peer {
    pub(crate) const ALL: [Self; 2] = [Self::Dump, Self::Replication];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dump => "pg_dump",
            Self::Replication => "logical replication",
        }
    }

    /// Copies shards that live on one instance to the other, and drops the copy. How long the copy took.
    pub(crate) async fn copy(self, arena: &Arena, shards: &[ShardId]) -> Result<Duration> {
        let mut schemas = Vec::new();
        for shard in shards {
            schemas.push(arena.home(*shard).await?.1);
        }
        let (from, to) = (arena.home(shards[0]).await?.0, arena.elsewhere(shards[0]).await?);
        let dsns = [arena.dsn(&from)?, arena.dsn(&to)?];
        let (source, target) = (arena.admin(&from).await?, arena.admin(&to).await?);
        let programs = arena.folder_of_programs().await?;
        let names = schemas.join(", ");

        let began = Instant::now();
        match self {
            Self::Dump => dump(&programs, &dsns, &schemas, &[]).await?,
            Self::Replication => {
                dump(&programs, &dsns, &schemas, &["--schema-only"]).await?;
                let publish = format!("CREATE PUBLICATION bench FOR TABLES IN SCHEMA {names}");
                source.batch_execute(&publish).await?;
                let subscribe =
                    format!("CREATE SUBSCRIPTION bench CONNECTION '{}' PUBLICATION bench", dsns[0]);
                target.batch_execute(&subscribe).await?;
                follows(&target).await?;
            }
        }
        let took = began.elapsed();
        if self == Self::Replication {
            target.batch_execute("DROP SUBSCRIPTION bench").await?;
            source.batch_execute("DROP PUBLICATION bench").await?;
        }
        target.batch_execute(&format!("DROP SCHEMA {names} CASCADE")).await?;
        Ok(took)
    }
}

async fn dump(
    programs: &str,
    [from, to]: &[String; 2],
    schemas: &[String],
    more: &[&str],
) -> Result<()> {
    let mut dump = Command::new(format!("{programs}/pg_dump"));
    dump.args(["--dbname", from]).args(more);
    for schema in schemas {
        dump.args(["--schema", schema]);
    }
    let mut dump = dump.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let stream: Stdio = dump.stdout.take().ok_or("no stream")?.try_into()?;
    let mut psql = Command::new(format!("{programs}/psql"));
    psql.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", to]);
    let restored = psql.stdin(stream).stdout(Stdio::null()).kill_on_drop(true).status().await?;
    let dumped = dump.wait().await?;
    if !(dumped.success() && restored.success()) {
        return Err(format!("pg_dump {dumped}, psql {restored}").into());
    }
    Ok(())
}

/// Waits until every table was copied and follows.
async fn follows(target: &Client) -> Result<()> {
    const LEFT: &str = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";

    while target.query_one(LEFT, &[]).await?.get::<_, i64>(0) > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
