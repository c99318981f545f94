//! The prepared statements of one connection: one for each statement and home, the least used of them forgotten
//! when there are too many.
//!
//! Statements times shards times connections is the classic leak of schema sharding; so the cache has a cap in
//! number and in bytes of SQL text, and a forgotten statement is closed on the server.

use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use postgres_types::Type;

use super::stats::Counters;
use crate::config::StatementCache;
use crate::shard::{Epoch, Home, ShardId};
use crate::statement::Statement;

/// A statement that the server knows, or what is needed to send it whole.
#[derive(Clone)]
pub(super) enum Prepared {
    /// Kept on the server under a name.
    Named(tokio_postgres::Statement),
    /// Sent with its text and the types of its parameters each time.
    Typed(Arc<str>, Arc<[Type]>),
}

type Key = (Statement, ShardId, Epoch);

pub(super) struct Statements {
    cap: StatementCache,
    cache: Mutex<Cache>,
    counters: Arc<Counters>,
}

struct Cache {
    lru: LruCache<Key, (Prepared, usize)>,
    bytes: usize,
}

impl Statements {
    pub(super) fn new(cap: StatementCache, counters: Arc<Counters>) -> Self {
        let cache = Mutex::new(Cache { lru: LruCache::unbounded(), bytes: 0 });
        Self { cap, cache, counters }
    }

    pub(super) fn get(&self, statement: &Statement, home: &Home) -> Option<Prepared> {
        let key = key(statement, home);
        let mut cache = self.lock();
        // Who was used last matters when some have to go, and not while there is room for twice as many.
        let is_crowded = cache.lru.len() > self.cap.entries as usize / 2
            || cache.bytes as u64 > self.cap.bytes / 2;
        let found = if is_crowded { cache.lru.get(&key) } else { cache.lru.peek(&key) };
        let found = found.map(|(prepared, _)| prepared.clone());
        drop(cache);
        if found.is_some() {
            self.counters.found_prepared();
        }
        found
    }

    /// Remembers a statement, and forgets the least used ones that are too many or too long.
    pub(super) fn insert(&self, statement: &Statement, home: &Home, prepared: Prepared) {
        let bytes = statement.as_str().len();
        let mut forgotten = Vec::new();
        let mut cache = self.lock();
        self.counters.prepared(bytes);
        cache.bytes += bytes;
        // Two tasks on one pipeline may have prepared it side by side.
        if let Some((_, (twin, bytes))) = cache.lru.push(key(statement, home), (prepared, bytes)) {
            self.lose(&mut cache, bytes);
            forgotten.push(twin);
        }
        while cache.lru.len() > self.cap.entries as usize || cache.bytes as u64 > self.cap.bytes {
            let Some((_, (prepared, bytes))) = cache.lru.pop_lru() else { break };
            self.lose(&mut cache, bytes);
            self.counters.evicted(1);
            forgotten.push(prepared);
        }
        // Closing a statement sends a message: not under the lock.
        drop(cache);
    }

    pub(super) fn forget(&self, statement: &Statement, home: &Home) {
        let mut cache = self.lock();
        let forgotten = cache.lru.pop(&key(statement, home));
        if let Some((_, bytes)) = &forgotten {
            self.lose(&mut cache, *bytes);
        }
        drop(cache);
    }

    fn lose(&self, cache: &mut Cache, bytes: usize) {
        cache.bytes -= bytes;
        self.counters.forgot(1, bytes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        // Nothing in here panics half-way through a change.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Statements {
    fn drop(&mut self) {
        let cache = self.lock();
        self.counters.forgot(cache.lru.len(), cache.bytes);
    }
}

fn key(statement: &Statement, home: &Home) -> Key {
    (statement.clone(), home.shard(), home.epoch())
}
