//! What an operator does to a pool while it is used.

use std::sync::OnceLock;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Pool, PoolStats, pipelines};

impl Pool {
    /// Lends nothing more, and waits until everything has come back. Who asks meanwhile waits, and keeps the place.
    pub(crate) async fn pause(&self) {
        self.each().for_each(|pool| pool.gate.pause());
        join_all(self.each().map(Self::empty)).await;
    }

    async fn empty(&self) {
        loop {
            // One may have been opened just then.
            self.pipelines.give_up();
            if timeout(pipelines::IDLE, self.gate.emptied()).await.is_ok() || !self.gate.is_paused()
            {
                return;
            }
        }
    }

    /// Lends again.
    pub(crate) fn resume(&self) {
        self.each().for_each(|pool| pool.gate.resume());
    }

    /// Closes every connection: an idle one now, the others when they come back.
    pub(crate) fn reconnect(&self) {
        for pool in self.each() {
            pool.source.turn_over();
            pool.pipelines.give_up();
            pool.sweep();
        }
    }

    /// Closes every connection now, whatever it is used for; those to replicas as [`Pool::reconnect`] does.
    pub(crate) fn kill(&self) {
        self.reconnect();
        self.hosts().cut();
    }

    /// Changes how many connections there may be. What is too many is closed as [`Pool::reconnect`] does.
    pub(crate) fn resize(&self, size: u32) {
        for pool in self.each() {
            pool.source.resize(size);
            pool.gate.resize(size);
            // One connection is left to lend.
            pool.pipelines.narrow(size.saturating_sub(1) as usize);
            if pool.source.has_too_many() {
                pool.pipelines.give_up();
                pool.sweep();
            }
        }
    }

    /// How it is now, and what it did so far; then the same of each replica that is read from.
    pub(crate) fn stats(&self) -> impl Iterator<Item = PoolStats> {
        self.each().map(Self::own_stats)
    }

    /// Itself, and those of the replicas.
    fn each(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.replicas.iter().filter_map(OnceLock::get))
    }

    fn own_stats(&self) -> PoolStats {
        let state = self.connections.state();
        let (open, idle) = (state.connections as usize, state.idle_connections as usize);
        let lent = open.saturating_sub(idle);
        let (queued, longest_wait) = self.gate.waiting();

        let mut stats = self.source.counters.stats(self.instance().clone());
        stats.replica = self.source.replica();
        stats.size = self.size();
        stats.pipelines = self.pipelines.open();
        stats.active = lent.saturating_sub(stats.pipelines);
        stats.idle = idle;
        stats.connecting = self.source.open().saturating_sub(open);
        // Some are past the gate, and wait for a connection that is being made.
        stats.waiting = queued + self.gate.inside().saturating_sub(lent);
        stats.longest_wait = longest_wait;
        stats.paused = self.gate.is_paused();
        stats.trouble = self.source.breaker.trouble().reason.clone();
        stats
    }

    /// Has bb8 look at its idle connections, and close those that nobody wants.
    fn sweep(&self) {
        if self.connections.state().idle_connections > 0 {
            let connections = self.connections.clone();
            self.source.runtime().spawn(async move { drop(connections.get().await) });
        }
    }
}
