//! What a contender has to do, how it is loaded, and howdah as one of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use howdah::postgres::Client;
use howdah::{Cluster, Config, Id, Layout, Statement};
use howdah_benches::{Latencies, Result, Sample, Unit};
use tokio::task::JoinSet;

use crate::SHARDS;

/// Connections that each contender has to the server.
pub(crate) const CONNECTIONS: u32 = 8;

/// How many of them carry many reads at once, where a contender can do that. Here more are better than fewer, but for the
/// last two.
pub(crate) const PIPELINES: u32 = 6;

/// A way to the rows. Each knows its tasks by number, so that a task can have something of its own.
pub(crate) trait Contender: Send + Sync + 'static {
    /// What it is called in the report, and the `application_name` of its connections.
    const NAME: &'static str;

    /// Whether it takes hundredths to tell it from howdah.
    const IS_CLOSE: bool = false;

    /// One row by its id, on its own.
    fn read(&self, task: usize, id: Id) -> impl Future<Output = Result<String>> + Send;

    /// One row changed, on its own.
    fn write(&self, task: usize, id: Id) -> impl Future<Output = Result<()>> + Send;

    /// The same row read, then changed, in a transaction.
    fn transact(&self, task: usize, id: Id) -> impl Future<Output = Result<()>> + Send;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Read,
    Write,
    Transaction,
}

impl Work {
    pub(crate) fn case(self, tasks: usize) -> String {
        let name = match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Transaction => "transaction",
        };
        format!("{name} {tasks}")
    }

    pub(crate) fn unit(self) -> Unit {
        Unit::Rate(match self {
            Self::Read => "reads/s",
            Self::Write => "writes/s",
            Self::Transaction => "transactions/s",
        })
    }
}

const READ: &str = "SELECT text FROM {shard}.items WHERE id = $1";
const WRITE: &str = "UPDATE {shard}.items SET hits = hits + 1 WHERE id = $1";

/// The statements of every shard, by its number.
pub(crate) struct Sql {
    pub(crate) read: Vec<String>,
    pub(crate) write: Vec<String>,
}

impl Sql {
    pub(crate) fn new() -> Self {
        let rendered = |text: &str| {
            let render = |shard| text.replace("{shard}", &format!("shard_{shard:04}_e1"));
            (0..SHARDS).map(render).collect()
        };
        Self { read: rendered(READ), write: rendered(WRITE) }
    }
}

/// The number of the shard that an id names.
pub(crate) fn shard_of(id: Id) -> usize {
    Layout::default().shard_of(id).get().into()
}

/// The rows that all work on, and a view of the server.
pub(crate) struct Arena {
    ids: Arc<[Id]>,
    admin: Client,
}

impl Arena {
    pub(crate) fn new(ids: Vec<Id>, admin: Client) -> Self {
        Self { ids: ids.into(), admin }
    }

    /// So many tasks that work as fast as they are served.
    pub(crate) async fn load<C: Contender>(
        &self,
        contender: &Arc<C>,
        work: Work,
        tasks: usize,
        length: Duration,
    ) -> Result<Sample> {
        let worked = processor_time();
        let served = self.server_time(C::NAME).await?;
        let started = Instant::now();
        let mut running = JoinSet::new();
        for task in 0..tasks {
            let (contender, ids) = (contender.clone(), self.ids.clone());
            running.spawn(async move {
                let mut times = Vec::with_capacity(4096);
                let mut random = Random(task as u64);
                loop {
                    let asked = Instant::now();
                    if asked - started >= length {
                        return Result::<_>::Ok(times);
                    }
                    let id = ids[random.below(ids.len())];
                    match work {
                        Work::Read => drop(contender.read(task, id).await?),
                        Work::Write => contender.write(task, id).await?,
                        Work::Transaction => contender.transact(task, id).await?,
                    }
                    times.push(asked.elapsed());
                }
            });
        }
        let mut times = Vec::new();
        while let Some(ended) = running.join_next().await {
            times.append(&mut ended??);
        }
        let rate = times.len() as f64 / started.elapsed().as_secs_f64();
        let worked = processor_time().saturating_sub(worked);
        let served = self.server_time(C::NAME).await?.saturating_sub(served);
        let each = |time: Duration| time.as_secs_f64() * 1e6 / times.len() as f64;
        let (worked, served) = (each(worked), each(served));
        let latencies = Latencies::new(times);
        let sample = Sample::new(rate)
            .figure("cpu_us", worked)
            .figure("server_cpu_us", served)
            .figure("p50_us", latencies.us(500))
            .figure("p99_us", latencies.us(990))
            .figure("p99.9_us", latencies.us(999))
            .figure("worst_us", latencies.us(1000));
        Ok(match self.server_memory(C::NAME).await? {
            Some(bytes) => sample.figure("server_mib", bytes / 1024.0 / 1024.0),
            None => sample,
        })
    }

    /// The memory in bytes that the server's processes for a contender's connections have for themselves, where the
    /// system tells.
    async fn server_memory(&self, contender: &str) -> Result<Option<f64>> {
        let mut kilobytes = 0;
        for process in self.server_processes(contender).await? {
            let path = format!("/proc/{process}/smaps_rollup");
            let Ok(text) = std::fs::read_to_string(path) else { return Ok(None) };
            let private = text.lines().filter_map(|line| line.strip_prefix("Private_"));
            let numbers =
                private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            kilobytes += numbers.sum::<u64>();
        }
        Ok(Some(kilobytes as f64 * 1024.0))
    }

    /// The time for which processors have worked for them.
    async fn server_time(&self, contender: &str) -> Result<Duration> {
        let processes = self.server_processes(contender).await?;
        let times = processes.iter().map(|process| worked(&format!("/proc/{process}")));
        Ok(times.map(Option::unwrap_or_default).sum())
    }

    async fn server_processes(&self, contender: &str) -> Result<Vec<i32>> {
        const PROCESSES: &str = "SELECT pid FROM pg_stat_activity WHERE application_name = $1";

        let rows = self.admin.query(PROCESSES, &[&contender]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// The time for which processors have worked for this process, where the system tells.
fn processor_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    threads.filter_map(|thread| worked(thread.path().to_str()?)).sum()
}

/// The same for one thread or process of one thread.
fn worked(folder: &str) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("{folder}/schedstat")).ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

/// SplitMix64: the same rows in the same order for everybody.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % bound as u64).unwrap_or(0)
    }
}

pub(crate) struct Howdah(Cluster);

impl Howdah {
    pub(crate) async fn open(config: Config) -> Result<Self> {
        let config = config.max_size(CONNECTIONS).pipelines(PIPELINES);
        Ok(Self(Cluster::connect(config).await?))
    }
}

const READ_ROW: Statement = Statement::new(READ);
const WRITE_ROW: Statement = Statement::new(WRITE);

impl Contender for Howdah {
    const NAME: &'static str = "howdah";

    async fn read(&self, _task: usize, id: Id) -> Result<String> {
        let row = self.0.shard_of_id(id)?.query_one(&READ_ROW, &[&id]).await?;
        Ok(row.get(0))
    }

    async fn write(&self, _task: usize, id: Id) -> Result<()> {
        self.0.shard_of_id(id)?.execute(&WRITE_ROW, &[&id]).await?;
        Ok(())
    }

    async fn transact(&self, _task: usize, id: Id) -> Result<()> {
        self.0
            .shard_of_id(id)?
            .transaction(async |tx| {
                tx.query_one(&READ_ROW, &[&id]).await?;
                tx.execute(&WRITE_ROW, &[&id]).await
            })
            .await?;
        Ok(())
    }
}
