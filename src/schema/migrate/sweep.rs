//! A job for every shard, on a bounded number of connections to each instance, whatever fails on the way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{join, join_all};
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::shard::Job;
use super::{MigrationProgress, ShardMigration};
use crate::catalog::{Catalog, Snapshot};
use crate::config::{Config, Dsn};
use crate::connect::{Connector, Identity, Role};
use crate::error::Kind;
use crate::shard::Home;
use crate::{Error, Result};

/// The most connections to one instance; beyond that a server only gets slower.
const MAX_PARALLEL: usize = 64;
/// How often the map is read again for shards that moved before their turn came.
const ROUNDS: usize = 3;

/// Runs the job for all shards and collects what became of each.
pub(super) async fn sweep(
    config: &Config,
    parallel: usize,
    job: Job<'_>,
    mut on_progress: impl FnMut(MigrationProgress<'_>) + Send,
) -> Result<Vec<ShardMigration>> {
    if !(1..=MAX_PARALLEL).contains(&parallel) {
        return Err(Error::input(format!("{parallel} connections to an instance"))
            .hint(format!("from 1 to {MAX_PARALLEL} are possible")));
    }
    let connector = Connector::new(Arc::new(config.settings()?))?;
    let mut catalog = Catalog::new(connector.clone());
    let mut snapshot = catalog.load().await?;
    let mut due: Vec<Home> = snapshot.map.homes().cloned().collect();
    let total = due.len();
    let mut through = Vec::with_capacity(total);
    for round in 1..=ROUNDS {
        let mut moved = Vec::new();
        let each = |shard: ShardMigration| {
            let is_stale = shard.error().is_some_and(|error| error.kind() == Kind::StaleHome);
            if is_stale && round < ROUNDS {
                moved.push(shard.home().shard());
                return;
            }
            on_progress(MigrationProgress { shard: &shard, done: through.len() + 1, total });
            through.push(shard);
        };
        run(&connector, &snapshot, due, parallel, job, each).await;
        if moved.is_empty() {
            break;
        }
        snapshot = catalog.load().await?;
        let home = |shard| snapshot.map.home(shard).cloned();
        due = moved.into_iter().map(home).collect::<Result<_>>()?;
    }
    Ok(through)
}

/// One round: every instance with connections of its own.
async fn run(
    connector: &Connector,
    snapshot: &Snapshot,
    due: Vec<Home>,
    parallel: usize,
    job: Job<'_>,
    mut each: impl FnMut(ShardMigration),
) {
    let queues: Vec<_> = snapshot
        .instances
        .iter()
        .map(|(name, record)| Queue {
            connector,
            dsn: &record.dsn,
            identity: snapshot.identity(name, record),
            state: Mutex::new(QueueState {
                homes: due.iter().filter(|home| home.instance() == name).cloned().collect(),
                workers: 0,
            }),
        })
        .collect();
    // Every worker is a shard ahead of the collector at most.
    let (sender, mut outcomes) = mpsc::channel(1);
    let workers = queues.iter().flat_map(|queue| {
        let workers = parallel.min(queue.state().homes.len());
        queue.state().workers = workers;
        let sender = sender.clone();
        (0..workers).map(move |_| queue.work(job, sender.clone()))
    });
    let working = join_all(workers.collect::<Vec<_>>());
    drop(sender);
    let collecting = async {
        while let Some(outcome) = outcomes.recv().await {
            each(outcome);
        }
    };
    join(working, collecting).await;
}

/// The shards of one instance that still have to be seen to.
struct Queue<'a> {
    connector: &'a Connector,
    dsn: &'a Dsn,
    identity: Identity,
    state: Mutex<QueueState>,
}

struct QueueState {
    homes: VecDeque<Home>,
    /// How many may still take a shard. Whoever leaves last sees to what nobody could.
    workers: usize,
}

impl Queue<'_> {
    /// Takes one shard after the other, over one connection as long as that is sound.
    async fn work(&self, job: Job<'_>, outcomes: mpsc::Sender<ShardMigration>) {
        let mut kept: Option<Client> = None;
        while let Some(home) = self.take() {
            let client = match kept.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => match self.connect().await {
                    Ok(client) => client,
                    Err(error) => {
                        for home in self.give_up(home) {
                            let failed = ShardMigration::failed(home, error.clone());
                            let _ = outcomes.send(failed).await;
                        }
                        return;
                    }
                },
            };
            let instance = home.instance().clone();
            let mut outcome = job.run(&client, home).await;
            match outcome.error.take() {
                // Its locks and its transaction end with the connection.
                Some(error) => outcome.error = Some(error.at(instance)),
                None => kept = Some(client),
            }
            // The collector outlives the workers.
            let _ = outcomes.send(outcome).await;
        }
    }

    async fn connect(&self) -> Result<Client> {
        let client = self.connector.connect(self.dsn, Role::Owner).await;
        let client = client.map_err(|error| error.at(&self.identity.instance))?;
        self.identity.greet(&client, "").await?;
        Ok(client)
    }

    /// The next shard; without one, the worker leaves.
    fn take(&self) -> Option<Home> {
        let mut state = self.state();
        let home = state.homes.pop_front();
        if home.is_none() {
            state.workers -= 1;
        }
        home
    }

    /// Leaves without a connection: others may have one, so the shard goes back to them. The last takes all that is left.
    fn give_up(&self, home: Home) -> VecDeque<Home> {
        let mut state = self.state();
        state.homes.push_front(home);
        state.workers -= 1;
        if state.workers == 0 { std::mem::take(&mut state.homes) } else { VecDeque::new() }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
