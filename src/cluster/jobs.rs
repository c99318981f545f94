//! Work on every shard: a bounded number at a time on each instance, and an account of what was done.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;

use super::selection::Selection;
use super::{Cluster, Instance, Shard};
use crate::shard::{InstanceName, ShardId};
use crate::{Error, Result};

/// The most shards of one instance, or instances, at work at once.
const MAX_PARALLEL: usize = 256;

/// Work on many shards; made by [`Cluster::jobs`].
///
/// Each instance has its own few workers, so that a slow one does not hold up the others, and no server has all of them
/// at once.
///
/// # Examples
///
/// ```no_run
/// # use howdah::{Cluster, Statement};
/// const TIDY: Statement = Statement::new("DELETE FROM {shard}.sessions WHERE expires_at < now()");
///
/// # async fn example(cluster: Cluster) -> howdah::Result<()> {
/// let report = cluster.jobs().for_each_shard(async |shard| shard.execute(&TIDY, &[]).await).await?;
/// for (shard, error) in &report.failed {
///     eprintln!("{shard}: {error}");
/// }
/// let deleted: u64 = report.into_result()?.into_iter().map(|(_, rows)| rows).sum();
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is done before `for_each_shard` or `for_each_instance` is awaited"]
pub struct Jobs<'a> {
    cluster: Cluster,
    shards: Selection,
    parallel: usize,
    keep_going: bool,
    on_progress: Box<dyn FnMut(&JobProgress) + Send + 'a>,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobProgress {
    /// How many shards, or instances, are done.
    pub done: usize,
    /// How many failed.
    pub failed: usize,
    /// How many there are.
    pub total: usize,
}

/// What became of a job: for each shard [`Jobs::for_each_shard`], for each instance [`Jobs::for_each_instance`].
#[derive(Debug)]
#[must_use = "a job may have failed in places"]
#[non_exhaustive]
pub struct JobReport<P, T> {
    /// Where it was done, in order, with what it returned.
    pub done: Vec<(P, T)>,
    /// Where it failed, in order, and why.
    pub failed: Vec<(P, Error)>,
    /// Where it was not begun, in order, because it had failed elsewhere.
    pub not_begun: Vec<P>,
}

impl Cluster {
    /// Work on all shards.
    pub fn jobs<'a>(&self) -> Jobs<'a> {
        Jobs {
            cluster: self.clone(),
            shards: Selection::default(),
            parallel: 2,
            keep_going: false,
            on_progress: Box::new(|_| {}),
        }
    }
}

impl<'a> Jobs<'a> {
    /// These shards alone, each once; where there are none, nothing is done. Default: all.
    pub fn shards(mut self, shards: impl IntoIterator<Item = ShardId>) -> Self {
        self.shards.add(shards);
        self
    }

    /// How many shards of an instance are worked on at once, from 1 to 256; for
    /// [`for_each_instance`](Jobs::for_each_instance), how many instances. Default: 2.
    pub fn parallel(mut self, count: usize) -> Self {
        self.parallel = count;
        self
    }

    /// Goes on with the others when one has failed. Default: what is under way is finished, and nothing more begun.
    pub fn keep_going(mut self) -> Self {
        self.keep_going = true;
        self
    }

    /// Is told each time that a shard, or an instance, is done or has failed.
    pub fn on_progress(mut self, on_progress: impl FnMut(&JobProgress) + Send + 'a) -> Self {
        self.on_progress = Box::new(on_progress);
        self
    }

    /// Does the work on each shard.
    ///
    /// A shard that moves meanwhile is followed, as everywhere. The work is done once for each shard; whether it is safe to do
    /// it again after a failure is up to what it does.
    ///
    /// # Errors
    ///
    /// When nothing was begun: a shard does not exist, or `parallel` is out of bounds. What goes wrong on a shard is in the
    /// report.
    pub async fn for_each_shard<T, F, Fut>(self, work: F) -> Result<JobReport<ShardId, T>>
    where
        T: Send,
        F: Fn(Shard) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let by_instance = self.check()?;
        let lanes = by_instance
            .into_values()
            .map(|shards| shards.into_iter().map(|shard| (shard.id(), shard)).collect::<Vec<_>>());
        Ok(self.run(lanes.collect(), work).await)
    }

    /// Does the work on each instance, which gets the shards that live there as the job begins.
    ///
    /// For work that goes through an instance's shards by itself, one batch after the other.
    ///
    /// # Errors
    ///
    /// As [`Jobs::for_each_shard`].
    pub async fn for_each_instance<T, F, Fut>(self, work: F) -> Result<JobReport<InstanceName, T>>
    where
        T: Send,
        F: Fn(Instance, Vec<Shard>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let mut lane = Vec::new();
        for (name, shards) in self.check()? {
            let instance = self.cluster.instance(&name)?;
            lane.push((name, (instance, shards)));
        }
        Ok(self.run(vec![lane], |(instance, shards)| work(instance, shards)).await)
    }

    /// The shards to work on, by instance.
    fn check(&self) -> Result<BTreeMap<InstanceName, Vec<Shard>>> {
        if !(1..=MAX_PARALLEL).contains(&self.parallel) {
            return Err(Error::input(format!("{} at once", self.parallel))
                .hint(format!("from 1 to {MAX_PARALLEL} are possible")));
        }
        let map = self.cluster.map();
        let mut by_instance = BTreeMap::<_, Vec<_>>::new();
        for shard in self.shards.of(&map) {
            let home = map.home(shard)?;
            by_instance
                .entry(home.instance().clone())
                .or_default()
                .push(self.cluster.shard(shard)?);
        }
        Ok(by_instance)
    }

    /// Works through all lanes side by side, and through each a few at a time.
    async fn run<P, I, T, F, Fut>(self, lanes: Vec<Vec<(P, I)>>, work: F) -> JobReport<P, T>
    where
        P: Ord + Send,
        I: Send,
        T: Send,
        F: Fn(I) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        let total = lanes.iter().map(Vec::len).sum();
        let account = Account {
            report: JobReport { done: Vec::new(), failed: Vec::new(), not_begun: Vec::new() },
            progress: JobProgress { done: 0, failed: 0, total },
            on_progress: self.on_progress,
        };
        let account = Mutex::new(account);
        let (parallel, keep_going) = (self.parallel, self.keep_going);
        join_all(
            lanes.into_iter().map(|lane| work_through(lane, parallel, keep_going, &work, &account)),
        )
        .await;
        let mut report = account.into_inner().unwrap_or_else(PoisonError::into_inner).report;
        report.done.sort_by(|(one, _), (other, _)| one.cmp(other));
        report.failed.sort_by(|(one, _), (other, _)| one.cmp(other));
        report.not_begun.sort();
        report
    }
}

/// What was done so far.
struct Account<'a, P, T> {
    report: JobReport<P, T>,
    progress: JobProgress,
    on_progress: Box<dyn FnMut(&JobProgress) + Send + 'a>,
}

async fn work_through<P, I, T, F, Fut>(
    lane: Vec<(P, I)>,
    parallel: usize,
    keep_going: bool,
    work: &F,
    account: &Mutex<Account<'_, P, T>>,
) where
    F: Fn(I) -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let mut waiting = lane.into_iter();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < parallel
            && (keep_going || lock(account).report.failed.is_empty())
            && let Some((place, item)) = waiting.next()
        {
            let result = work(item);
            running.push(async move { (place, result.await) });
        }
        let Some((place, result)) = running.next().await else { break };
        lock(account).enter(place, result);
    }
    lock(account).report.not_begun.extend(waiting.map(|(place, _)| place));
}

fn lock<'m, 'a, P, T>(account: &'m Mutex<Account<'a, P, T>>) -> MutexGuard<'m, Account<'a, P, T>> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P, T> Account<'_, P, T> {
    fn enter(&mut self, place: P, result: Result<T>) {
        match result {
            Ok(value) => {
                self.progress.done += 1;
                self.report.done.push((place, value));
            }
            Err(error) => {
                self.progress.failed += 1;
                self.report.failed.push((place, error));
            }
        }
        (self.on_progress)(&self.progress);
    }
}

impl<P, T> JobReport<P, T> {
    /// What was done, if that is all; else the first failure.
    ///
    /// # Errors
    ///
    /// The first failure.
    pub fn into_result(self) -> Result<Vec<(P, T)>> {
        match self.failed.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(self.done),
        }
    }
}

impl fmt::Debug for Jobs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs")
            .field("shards", &self.shards)
            .field("parallel", &self.parallel)
            .field("keep_going", &self.keep_going)
            .finish_non_exhaustive()
    }
}
