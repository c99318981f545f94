//! The replicas, for those who read there.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::super::position::{Lsn, Timeline};
use super::sight::Sight;
use super::watch::{PATIENCE, SHORTEST};
use super::{Host, Hosts, Link, Standing};
use crate::error::Kind;
use crate::{Error, Result};

impl Hosts {
    /// Logs in to a replica, and tells the session the greeting.
    ///
    /// # Errors
    ///
    /// When it cannot be reached, or is none any more. Nothing was executed.
    pub(crate) async fn connect_to_replica(&self, host: usize, greeting: &str) -> Result<Link> {
        let limit = self.seen.connect_timeout();
        let (link, standing) = self.seen.greet(host, greeting, limit).await?;
        match standing {
            Standing::Replica { .. } => Ok(link),
            Standing::Primary { .. } => {
                let text = format!("{} is no replica any more", self.target(host));
                Err(Error::new(Kind::Unavailable, text))
            }
        }
    }

    /// The replicas that lag behind by no more, beginning with the shard's own: caches are warm there.
    pub(crate) fn replicas_within(&self, max_lag: Duration, own: usize) -> Vec<usize> {
        // What is asked more precisely has to be known more precisely.
        self.seen.precision.want((max_lag / 4).max(SHORTEST));
        self.replicas(own, |sight| sight.lag().is_some_and(|lag| lag <= max_lag))
    }

    /// The replicas that have come as far as a position of the instance's log, beginning with the shard's own. Where there
    /// is none yet, waits for that one a little.
    pub(crate) async fn replicas_at(&self, timeline: Timeline, lsn: Lsn, own: usize) -> Vec<usize> {
        let is_there = |sight: &Sight| sight.is_at(timeline, lsn);
        let there = self.replicas(own, is_there);
        if !there.is_empty() {
            return there;
        }
        let on_the_way = self.replicas(own, |sight| sight.follows(timeline));
        let Some(host) = on_the_way.first() else { return there };
        self.seen.hosts[*host].wait(is_there).await;
        self.replicas(own, is_there)
    }

    /// Waits until a host is no replica any more, or does not answer.
    pub(crate) async fn lost(&self, host: usize) {
        let mut sight = self.seen.hosts[host].sight.subscribe();
        // The sender lives as long as we do.
        let _ = sight.wait_for(|sight| !matches!(sight, Sight::Replica { .. })).await;
    }

    fn replicas(&self, own: usize, fit: impl Fn(&Sight) -> bool) -> Vec<usize> {
        let fits = |host: &usize| fit(&self.seen.hosts[*host].sight.borrow());
        let mut fitting: Vec<_> = (0..self.count()).filter(fits).collect();
        if !fitting.is_empty() {
            let first = own % fitting.len();
            fitting.rotate_left(first);
        }
        fitting
    }
}

impl Host {
    /// Looks often until the condition holds, for so long as it makes sense to wait.
    async fn wait(&self, until: impl Fn(&Sight) -> bool) {
        let _awaited = Awaited::begin(self);
        let mut sight = self.sight.subscribe();
        let _ = timeout(PATIENCE, sight.wait_for(|sight| until(sight))).await;
    }
}

/// Somebody waits for a host to come further.
struct Awaited<'a>(&'a Host);

impl<'a> Awaited<'a> {
    fn begin(host: &'a Host) -> Self {
        host.awaited.fetch_add(1, Ordering::Relaxed);
        host.wake.notify_one();
        Self(host)
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.awaited.fetch_sub(1, Ordering::Relaxed);
    }
}
