//! What does a connection cost? The same reads, writes and transactions over the tables of 64 shards on one server, with
//! 8 connections to it for each: through howdah and through its peers.
//!
//! Everybody does the work as well as he can: statements are prepared once a connection and kept, where the peer can
//! do that, and the SQL for each shard is there beforehand. The tasks of a case work as fast as they are served. A latency is from asking for a
//! connection to the answer, so the worst one is mostly a wait in the queue.

#[path = "pool/contender.rs"]
mod contender;
#[path = "pool/peers.rs"]
mod peers;
#[path = "pool/pgbouncer.rs"]
mod pgbouncer;

use std::sync::Arc;
use std::time::Duration;

use contender::{Arena, Contender, Howdah, Work};
use howdah_benches::{Bench, Result, fill, full_or_quick, servers};
use peers::{Bb8, ByHand, Deadpool, Sqlx};
use pgbouncer::{PgBouncer, Pooled};

const SHARDS: u16 = 64;
const TASKS: [usize; 4] = [1, 16, 64, 256];

/// Rows of each shard: so many that the planner takes the index for everybody, whenever it plans.
const ROWS: usize = 2000;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let mut bench = Bench::new("pool");
    let test = servers(1, SHARDS).await?;
    let ids = fill(&test, ROWS).await?;
    let dsn = test.servers().dsn("pg1", "howdah_app")?;
    let admin = test.admin("pg1").await?;
    bench.note("postgres", admin.query_one("SHOW server_version", &[]).await?.get::<_, String>(0));
    bench.note("fsync", "off");
    let arena = Arena::new(ids, admin);

    let ours = Arc::new(Howdah::open(test.config()).await?);
    let deadpool = Arc::new(Deadpool::open(&dsn)?);
    let sqlx = Arc::new(Sqlx::open(&dsn).await?);
    let bb8 = Arc::new(Bb8::open(&dsn).await?);
    let by_hand = Arc::new(ByHand::open(&dsn).await?);
    let pgbouncer = match PgBouncer::start(&dsn)? {
        Ok(server) => {
            bench.note("pgbouncer", server.version());
            Some(Arc::new(Pooled::open(server, TASKS[3]).await?))
        }
        Err(reason) => {
            bench.note("pgbouncer", format!("left out: {reason}"));
            None
        }
    };
    for work in [Work::Read, Work::Write, Work::Transaction] {
        if !TASKS.iter().any(|tasks| bench.wants(&work.case(*tasks))) {
            continue;
        }
        warm(&arena, &ours, work).await?;
        warm(&arena, &deadpool, work).await?;
        warm(&arena, &sqlx, work).await?;
        warm(&arena, &bb8, work).await?;
        for tasks in TASKS {
            let mut duel = Duel { bench: &mut bench, arena: &arena, ours: &ours, work, tasks };
            duel.against(&deadpool).await?;
            duel.against(&sqlx).await?;
            duel.against(&bb8).await?;
            if let Some(pgbouncer) = &pgbouncer {
                duel.against(pgbouncer).await?;
            }
            if work == Work::Read {
                duel.against(&by_hand).await?;
            }
        }
    }
    bench.write()
}

/// Lets a contender make the connections and prepare the statements that it needs for a kind of work, before anything
/// counts.
async fn warm<C: Contender>(arena: &Arena, contender: &Arc<C>, work: Work) -> Result<()> {
    arena.load(contender, work, 64, Duration::from_secs(1)).await.map(drop)
}

/// One case, for one peer after the other.
struct Duel<'a> {
    bench: &'a mut Bench,
    arena: &'a Arena,
    ours: &'a Arc<Howdah>,
    work: Work,
    tasks: usize,
}

impl Duel<'_> {
    async fn against<C: Contender>(&mut self, peer: &Arc<C>) -> Result<()> {
        let Self { arena, ours, work, tasks, .. } = *self;
        let length = full_or_quick(Duration::from_millis(350), Duration::from_millis(150));
        let ours = async || arena.load(ours, work, tasks, length).await;
        let theirs = async || arena.load(peer, work, tasks, length).await;
        let (bench, case) = (&mut *self.bench, work.case(tasks));
        if C::IS_CLOSE {
            bench.compare_closely(&case, C::NAME, work.unit(), ours, theirs).await
        } else {
            bench.compare(&case, C::NAME, work.unit(), ours, theirs).await
        }
    }
}
