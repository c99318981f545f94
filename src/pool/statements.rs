//! The prepared statements of one connection: one for each statement and home, the least used of them forgotten
//! when there are too many.
//!
//! Statements times shards times connections is the classic leak of schema sharding; so the cache has a cap in
//! number and in bytes of SQL text, and a forgotten statement is closed on the server.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use postgres_types::Type;

use super::stats::{Counters, Tally};
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

/// The statement by its hash: the statement itself stands beside what is kept for it.
type Key = (u64, ShardId, Epoch);

pub(super) struct Statements {
    cap: StatementCache,
    cache: Mutex<Cache>,
    counters: Arc<Counters>,
    tally: Arc<Tally>,
}

struct Cache {
    lru: LruCache<Key, Kept, BuildHasherDefault<Mixer>>,
    bytes: usize,
}

struct Kept {
    statement: Statement,
    prepared: Prepared,
}

impl Kept {
    /// The bytes of its SQL.
    fn bytes(&self) -> usize {
        self.statement.as_str().len()
    }
}

impl Statements {
    pub(super) fn new(cap: StatementCache, counters: Arc<Counters>, tally: Arc<Tally>) -> Self {
        let cache = Mutex::new(Cache {
            lru: LruCache::unbounded_with_hasher(BuildHasherDefault::default()),
            bytes: 0,
        });
        Self { cap, cache, counters, tally }
    }

    pub(super) fn get(&self, statement: &Statement, home: &Home) -> Option<Prepared> {
        let key = key(statement, home);
        let mut cache = self.lock();
        // Who was used last matters when some have to go, and not while there is room for twice as many.
        let is_crowded = cache.lru.len() > self.cap.entries as usize / 2
            || cache.bytes as u64 > self.cap.bytes / 2;
        let found = if is_crowded { cache.lru.get(&key) } else { cache.lru.peek(&key) };
        let found = found.filter(|kept| kept.statement == *statement);
        let found = found.map(|kept| kept.prepared.clone());
        drop(cache);
        if found.is_some() {
            self.tally.found_prepared();
        }
        found
    }

    /// Remembers a statement, and forgets the least used ones that are too many or too long.
    pub(super) fn insert(&self, statement: &Statement, home: &Home, prepared: Prepared) {
        let kept = Kept { statement: statement.clone(), prepared };
        let mut forgotten = Vec::new();
        let mut cache = self.lock();
        self.counters.prepared(kept.bytes());
        cache.bytes += kept.bytes();
        // Two tasks on one pipeline may have prepared it side by side; and two statements may have one hash.
        if let Some((_, twin)) = cache.lru.push(key(statement, home), kept) {
            self.lose(&mut cache, &twin);
            forgotten.push(twin);
        }
        while cache.lru.len() > self.cap.entries as usize || cache.bytes as u64 > self.cap.bytes {
            let Some((_, oldest)) = cache.lru.pop_lru() else { break };
            self.lose(&mut cache, &oldest);
            self.counters.evicted(1);
            forgotten.push(oldest);
        }
        // Closing a statement sends a message: not under the lock.
        drop(cache);
    }

    pub(super) fn forget(&self, statement: &Statement, home: &Home) {
        let mut cache = self.lock();
        let forgotten = cache.lru.pop(&key(statement, home));
        if let Some(forgotten) = &forgotten {
            self.lose(&mut cache, forgotten);
        }
        drop(cache);
    }

    fn lose(&self, cache: &mut Cache, lost: &Kept) {
        cache.bytes -= lost.bytes();
        self.counters.forgot(1, lost.bytes());
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
    (statement.hashed(), home.shard(), home.epoch())
}

/// Mixes the numbers of a key. Nobody outside chooses statements or shards, so nothing stronger is needed.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        // The table takes its place from the lowest bits and a tag from the highest.
        self.0 ^ (self.0 >> 32)
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn keys_that_differ_in_one_part_only_are_spread() {
        let hasher = BuildHasherDefault::<Mixer>::default();
        let shards = (0..64).map(|n| ShardId::new(n).unwrap());
        let keys = shards.flat_map(|shard| (0..64_u64).map(move |n| (n, shard, Epoch::FIRST)));
        let hashes: Vec<_> = keys.map(|key: Key| hasher.hash_one(key)).collect();
        let places = |shift: u32, mask: u64| {
            hashes.iter().map(|hash| (hash >> shift) & mask).collect::<HashSet<_>>().len()
        };
        // Of so many places as there are keys, 63 of 100 are hit by chance.
        assert!(places(0, 4095) > 2000, "{}", places(0, 4095));
        assert_eq!(places(57, 127), 128);
    }
}
