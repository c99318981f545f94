//! What a process does about transactions over shards besides running them: it bounds how many are under way, and sees to
//! what it, or others, left behind.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::gid::Gid;
use super::in_doubt::InDoubt;
use crate::cluster::{Cluster, Inner};
use crate::config::Settings;
use crate::error::{Kind, Phase};
use crate::observe;
use crate::shard::{InstanceName, ShardId};
use crate::{Error, Result};

/// How often all instances are asked what they have prepared.
const INTERVAL: Duration = Duration::from_secs(30);
/// The least time between two sweeps, however many ask for one.
const SPACING: Duration = Duration::from_secs(1);
/// A part that is younger is left to its own process, unless that is this one and knows better. It need not be long: whoever
/// still decides makes others wait.
const IDLE: Duration = Duration::from_secs(2);
/// The pauses between two attempts at what this process has left behind, from the first to the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), INTERVAL);
/// How many parts a process may have left behind before it begins no more transactions over shards: each holds locks, and a
/// place of the server's `max_prepared_transactions`.
const MAX_LEFT: usize = 64;

pub(in crate::cluster) struct Sweeper {
    /// A transaction over shards holds a connection while it waits for another one. So there are never more of them than
    /// a pool has connections to lend: then of any pool that they have exhausted each of them has its connection already,
    /// and nobody waits in a circle. Where a pool was made smaller since, the queue's timeout ends that.
    turns: Arc<Semaphore>,
    queue_timeout: Duration,
    /// What this process could not finish itself.
    left: Mutex<BTreeSet<(Gid, InstanceName)>>,
    /// The shards that hold decisions of this process's.
    deciding: Mutex<BTreeSet<ShardId>>,
    again: Arc<Notify>,
    task: OnceLock<AbortHandle>,
}

impl Sweeper {
    pub(in crate::cluster) fn new(settings: &Settings, instances: usize) -> Self {
        let pool = &settings.pool;
        let share = pool.total_max_size as usize / instances.max(1);
        let size = share.min(pool.max_size as usize);
        let lendable = size.saturating_sub(pool.pipelines as usize).max(1);
        Self {
            turns: Arc::new(Semaphore::new(lendable)),
            queue_timeout: pool.queue_timeout,
            left: Mutex::default(),
            deciding: Mutex::default(),
            again: Arc::default(),
            task: OnceLock::new(),
        }
    }

    /// The right to run a transaction over shards, in the order of asking.
    pub(super) async fn turn(&self, cluster: &Cluster) -> Result<OwnedSemaphorePermit> {
        self.task.get_or_init(|| {
            tokio::spawn(run(Arc::downgrade(&cluster.0), self.again.clone())).abort_handle()
        });
        let left = self.left().len();
        if left >= MAX_LEFT {
            return Err(Error::new(Kind::Unavailable, format!(
                "{left} parts of transactions over shards are in doubt, and wait for a server that is away"
            ))
            .hint("`howdah tx list` shows them"));
        }
        match timeout(self.queue_timeout, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Error::new(
                Kind::Timeout,
                format!("waited {:?} for other transactions over shards", self.queue_timeout),
            )
            .in_phase(Phase::Queue)),
        }
    }

    /// Remembers the shard of a decision, to forget that in time.
    pub(super) fn decides(&self, shard: ShardId) {
        self.deciding().insert(shard);
    }

    /// A part that could not be finished, or may have been prepared.
    pub(super) fn leave(&self, gid: &Gid, instance: &InstanceName) {
        self.left().insert((gid.clone(), instance.clone()));
        self.look();
    }

    /// Asks for a sweep soon: somebody waited for a lock in vain, which a part may hold that was left behind.
    pub(super) fn look(&self) {
        self.again.notify_one();
    }

    fn deciding(&self) -> MutexGuard<'_, BTreeSet<ShardId>> {
        self.deciding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, BTreeSet<(Gid, InstanceName)>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sweep(&self, cluster: &Cluster) {
        let shards = std::mem::take(&mut *self.deciding());
        let before = self.left().clone();
        let is_left =
            |gid: &Gid, part: &InstanceName| before.contains(&(gid.clone(), part.clone()));
        let due = |gid: &Gid, part: &InDoubt| part.age >= IDLE || is_left(gid, &part.instance);
        let swept = cluster.sweep(shards, due).await;
        self.deciding().extend(swept.untidied.iter().copied());
        for (part, error) in &swept.left {
            observe::in_doubt(&part.instance, part.shard, error);
        }
        // What is still in doubt, and what nobody could look for, stays.
        self.left().retain(|(gid, instance)| {
            !before.contains(&(gid.clone(), instance.clone()))
                || swept.unreachable.iter().any(|(name, _)| name == instance)
                || swept
                    .left
                    .iter()
                    .any(|(part, _)| part.id == gid.id && part.instance == *instance)
        });
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweeper").field("left", &self.left().len()).finish_non_exhaustive()
    }
}

/// Sweeps now and then, and soon after something was left behind, as long as anybody holds the cluster.
async fn run(cluster: Weak<Inner>, again: Arc<Notify>) {
    let mut pause = RETRY.0;
    while let Some(inner) = cluster.upgrade() {
        let cluster = Cluster(inner);
        cluster.0.sweeper.sweep(&cluster).await;
        let is_clean = cluster.0.sweeper.left().is_empty();
        drop(cluster);
        if is_clean {
            pause = RETRY.0;
            sleep(SPACING).await;
            let _ = timeout(INTERVAL, again.notified()).await;
        } else {
            sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }
}
