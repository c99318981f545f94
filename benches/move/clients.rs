//! Clients that never rest, and the ledger of what they were told.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use howdah::{Id, Outcome, Shard, Statement};
use howdah_benches::{Result, Sample};
use tokio::task::JoinHandle;
use tokio::time::sleep;

const WRITERS: usize = 8;
const READERS: usize = 8;
/// How many photos of a writer's own a shard has: from then on it deletes one for each that it adds.
const KEPT: usize = 100;
/// How long they work before anything counts: by then all connections are made.
const WARM: Duration = Duration::from_millis(300);

const ADD: Statement = Statement::new(
    "INSERT INTO {shard}.photos (user_id, caption) VALUES ($1, 'of a writer') RETURNING id",
);
const COUNT: Statement = Statement::new("UPDATE {shard}.users SET added = added + 1 WHERE id = $1");
const DELETE: Statement = Statement::new("DELETE FROM {shard}.photos WHERE id = $1");
const READ: Statement = Statement::new("SELECT caption FROM {shard}.photos WHERE id = $1");
const ALL: Statement = Statement::new("SELECT id FROM {shard}.photos");
const ADDED: Statement = Statement::new("SELECT added FROM {shard}.users WHERE id = $1");
const CLEAR: Statement = Statement::new("DELETE FROM {shard}.photos WHERE id = ANY ($1)");

/// Eight writers and eight readers, each of one of some shards.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Worked>>,
    began: Instant,
}

/// What a client worked on, and what it was told.
type Worked = (Shard, Arc<[Id]>, Ledger);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
    longest_us: AtomicU64,
}

/// What one client was told.
#[derive(Default)]
struct Ledger {
    user: i32,
    /// What `users.added` was at first, and how often it was raised: certainly, and perhaps beside.
    before: i64,
    certain: i64,
    perhaps: i64,
    /// Photos of its own that are there, and those that are not.
    live: VecDeque<Id>,
    deleted: Vec<Id>,
    writes: u64,
    reads: u64,
    /// Photos that a reader did not find.
    missed: u64,
    errors: u64,
}

impl Clients {
    /// Returns when they are at work.
    pub(crate) async fn start(shards: Vec<(Shard, Arc<[Id]>)>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut tasks = Vec::new();
        for number in 0..WRITERS + READERS {
            let (shard, photos) = shards[number % shards.len()].clone();
            let mut ledger = Ledger { user: i32::try_from(number)?, ..Ledger::default() };
            ledger.before = ledger.added(&shard).await?;
            let shared = shared.clone();
            tasks.push(tokio::spawn(async move {
                while !shared.stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let done = if number < WRITERS {
                        ledger.write(&shard).await
                    } else {
                        ledger.read(&shard, &photos).await
                    };
                    ledger.errors += u64::from(done.is_err());
                    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    shared.longest_us.fetch_max(took, Ordering::Relaxed);
                    shared.done.fetch_add(1, Ordering::Relaxed);
                }
                (shard, photos, ledger)
            }));
        }
        sleep(WARM).await;
        shared.longest_us.store(0, Ordering::Relaxed);
        shared.done.store(0, Ordering::Relaxed);
        Ok(Self { shared, tasks, began: Instant::now() })
    }

    /// The longest that one of them waited since this was last asked.
    pub(crate) fn longest_stall(&self) -> Duration {
        Duration::from_micros(self.shared.longest_us.swap(0, Ordering::Relaxed))
    }

    /// How many reads and writes they do in a second; a transaction is one.
    pub(crate) fn rate(&self) -> f64 {
        self.shared.done.load(Ordering::Relaxed) as f64 / self.began.elapsed().as_secs_f64()
    }

    /// Ends them, compares the servers with what they were told, and says so in the sample.
    pub(crate) async fn stop(self, sample: Sample) -> Result<Sample> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.push(task.await?);
        }
        let mut lost = 0;
        let mut issued = HashSet::new();
        let mut repeated = 0;
        for (shard, photos, ledger) in &all {
            lost += ledger.lost(shard, photos).await?;
            let own = ledger.live.iter().chain(&ledger.deleted);
            repeated += own.filter(|id| !issued.insert(**id)).count();
            let live: Vec<Id> = ledger.live.iter().copied().collect();
            shard.execute(&CLEAR, &[&live]).await?;
        }
        let sum = |of: fn(&Ledger) -> u64| all.iter().map(|(.., ledger)| of(ledger)).sum();
        Ok(sample
            .figure("writers", WRITERS as f64)
            .figure("readers", READERS as f64)
            .count("writes", sum(|ledger| ledger.writes))
            .count("reads", sum(|ledger| ledger.reads))
            .count("errors", sum(|ledger| ledger.errors))
            .count("lost", lost)
            .count("repeated", repeated as u64))
    }
}

impl Ledger {
    /// Half of the writers change two tables in each transaction.
    async fn write(&mut self, shard: &Shard) -> howdah::Result<()> {
        let oldest = self.live.front().copied().filter(|_| self.live.len() >= KEPT);
        if self.user % 2 == 0 {
            let user = self.user;
            let done = shard
                .transaction(async |tx| {
                    let id: Id = tx.query_one(&ADD, &[&user]).await?.get(0);
                    if let Some(oldest) = oldest {
                        tx.execute(&DELETE, &[&oldest]).await?;
                    }
                    tx.execute(&COUNT, &[&user]).await?;
                    Ok(id)
                })
                .await;
            match done {
                Ok(id) => {
                    self.live.push_back(id);
                    self.deleted.extend(oldest.and_then(|_| self.live.pop_front()));
                    self.certain += 1;
                }
                Err(error) => {
                    if error.outcome() == Outcome::Unknown {
                        self.perhaps += 1;
                        // Whether the oldest is there nobody knows.
                        oldest.and_then(|_| self.live.pop_front());
                    }
                    return Err(error);
                }
            }
        } else if oldest.is_some() {
            let oldest = self.live.pop_front();
            shard.execute(&DELETE, &[&oldest]).await?;
            self.deleted.extend(oldest);
        } else {
            self.live.push_back(shard.query_one(&ADD, &[&self.user]).await?.get(0));
        }
        self.writes += 1;
        Ok(())
    }

    async fn read(&mut self, shard: &Shard, photos: &[Id]) -> howdah::Result<()> {
        // A step that shares no factor with the number of photos meets each once.
        let next = self.reads.wrapping_mul(7919) + u64::from(self.user.unsigned_abs()) * 997;
        let next = usize::try_from(next % photos.len() as u64).unwrap_or(0);
        let found = shard.query_opt(&READ, &[&photos[next]]).await?;
        self.missed += u64::from(found.is_none());
        self.reads += 1;
        Ok(())
    }

    async fn added(&self, shard: &Shard) -> howdah::Result<i64> {
        Ok(shard.query_one(&ADDED, &[&self.user]).await?.get(0))
    }

    /// How many acknowledged writes are not there, or are there twice.
    async fn lost(&self, shard: &Shard, photos: &[Id]) -> howdah::Result<u64> {
        let rows = shard.query(&ALL, &[]).await?;
        let there: HashSet<Id> = rows.iter().map(|row| row.get(0)).collect();
        let missing = photos.iter().chain(&self.live).filter(|id| !there.contains(id)).count();
        let back = self.deleted.iter().filter(|id| there.contains(id)).count();
        let added = self.added(shard).await? - self.before;
        let miscounted = u64::from(!(self.certain..=self.certain + self.perhaps).contains(&added));
        Ok((missing + back) as u64 + miscounted + self.missed)
    }
}
