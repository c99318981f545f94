//! One statement for many shards of an instance: each shard's part in parentheses, joined by UNION ALL, which the
//! server merges and cuts off by itself.
//!
//! Sixty-four statements cost sixty-four times what PostgreSQL spends around each, and as many answers. Joined, a page
//! over thirty-two shards is one round trip and one answer of as many rows as the page can use. The text is made once
//! for each version of the map, and its plan is kept on the server like any other.
//!
//! A union is never the last word: where the server refuses it, because a shard has moved or because the text does not
//! bear it, the shards are asked one by one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio_postgres::Row;

use super::Cluster;
use crate::Result;
use crate::catalog::Snapshot;
use crate::connect::is_undefined_name;
use crate::error::Kind;
use crate::pool::Params;
use crate::shard::{Home, InstanceName, ShardId};
use crate::statement::Statement;

/// The most shards in one statement. Each costs the server two locks and more; past some tens, what is saved by not
/// asking apart is small.
const GROUP: usize = 32;
/// The limit in the text is rounded up to a multiple of this, and one: a plan must know it to be good, and a reader who
/// chooses the length of his pages should not make a plan of each length.
const LIMIT_STEP: usize = 10;
/// How many statements are remembered as unions; an application has few that go over all shards.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// How long a union that the database refused is not tried again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// The unions that a cluster's handle has made.
pub(super) struct Unions(Mutex<LruCache<Key, Arc<Union>>>);

#[derive(PartialEq, Eq, Hash)]
struct Key {
    statement: Statement,
    column: String,
    limit: usize,
}

/// A statement for all shards of one map.
pub(super) struct Union {
    snapshot: Arc<Snapshot>,
    groups: Box<[Group]>,
}

/// Shards of one instance that are asked together.
pub(super) struct Group {
    shards: Vec<ShardId>,
    /// The home of the first of them, for which the statement has its placeholder.
    home: Home,
    /// `None` where the shards have to be asked one by one.
    statement: Option<Statement>,
    refused: Mutex<Option<Instant>>,
}

impl Unions {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Cluster {
    /// The statement for all shards as they live now: ordered by the column, descending, and more than `limit` rows of
    /// each group, if it has them.
    pub(super) fn union(&self, statement: &Statement, column: &str, limit: usize) -> Arc<Union> {
        let limit = limit.div_ceil(LIMIT_STEP).saturating_mul(LIMIT_STEP).saturating_add(1);
        let key = Key { statement: statement.clone(), column: column.to_owned(), limit };
        let snapshot = self.snapshot();
        let mut unions = self.0.unions.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(union) = unions.get(&key)
            && Arc::ptr_eq(&union.snapshot, &snapshot)
        {
            return union.clone();
        }
        let union = Arc::new(Union::new(snapshot, &key));
        unions.put(key, union.clone());
        union
    }

    /// Asks the shards of a group at once. `None` when they have to be asked one by one; an error when their server
    /// cannot be.
    pub(super) async fn read_union(
        &self,
        union: &Union,
        group: &Group,
        params: Params<'_>,
    ) -> Option<Result<Vec<Row>>> {
        let statement = group.statement.as_ref().filter(|_| !group.is_refused())?;
        // The map that the text was made from, not a newer one: on another server the same names may be there too,
        // half copied.
        let snapshot = &union.snapshot;
        let pool = match self.0.pools.get(group.home.instance(), snapshot) {
            Ok(pool) => pool,
            Err(error) => return Some(Err(error)),
        };
        if let Some((rows, _)) = pool.read(statement, &group.home, params).await {
            return Some(Ok(rows));
        }
        let lent = match pool.lend().await {
            Ok(lent) => lent,
            Err(error) => return Some(Err(error)),
        };
        match lent.run(statement, &group.home, params).await {
            Ok((rows, _)) => Some(Ok(rows)),
            Err(error) if error.is_unavailable() => Some(Err(error.at(group.home.instance()))),
            Err(error) => {
                // A shard that has moved is found by asking for it; whatever else was refused stays so for a while.
                if error.kind() == Kind::Database && !is_undefined_name(&error) {
                    group.refuse();
                }
                None
            }
        }
    }
}

impl Union {
    fn new(snapshot: Arc<Snapshot>, key: &Key) -> Self {
        let mut by_instance = BTreeMap::<&InstanceName, Vec<&Home>>::new();
        for home in snapshot.map.homes() {
            by_instance.entry(home.instance()).or_default().push(home);
        }
        let groups = by_instance.values().flat_map(|homes| homes.chunks(GROUP));
        let groups = groups.filter_map(|homes| Group::new(homes, key)).collect();
        Self { snapshot, groups }
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }
}

impl Group {
    fn new(homes: &[&Home], key: &Key) -> Option<Self> {
        let (first, others) = homes.split_first()?;
        let shards = homes.iter().map(|home| home.shard()).collect();
        let statement = join(&key.statement, others, &key.column, key.limit);
        Some(Self { shards, home: (*first).clone(), statement, refused: Mutex::default() })
    }

    pub(super) fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    fn is_refused(&self) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some_and(|since| since.elapsed() < REFUSED_FOR)
    }

    fn refuse(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// The text for the shard that the placeholder names, and for others on the same server. `None` for what is not
/// provably one read.
fn join(statement: &Statement, others: &[&Home], column: &str, limit: usize) -> Option<Statement> {
    if others.is_empty() || !statement.is_single_read() {
        return None;
    }
    let text = statement.as_str().trim_end().trim_end_matches(';');
    // The line's end is for a comment that would take the parenthesis with it.
    let mut joined = format!("({text}\n)");
    let part = Statement::parse(text.to_owned()).ok()?;
    for home in others {
        let _ = write!(joined, " UNION ALL ({}\n)", part.render(home));
    }
    let column = column.replace('"', "\"\"");
    let _ = write!(joined, " ORDER BY \"{column}\" DESC LIMIT {limit}");
    Statement::parse(joined).ok().filter(Statement::is_single_read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Epoch;

    fn home(shard: u16) -> Home {
        let name = InstanceName::new("pg1").unwrap();
        Home::new(ShardId::new(shard).unwrap(), name, Epoch::FIRST)
    }

    #[test]
    fn each_shard_has_its_part() {
        let statement = Statement::new("SELECT id FROM {shard}.t WHERE id < $1 LIMIT $2 ; ");
        let joined = join(&statement, &[&home(2), &home(4)], "id", 20).unwrap();
        assert_eq!(
            joined.render(&home(0)),
            "(SELECT id FROM shard_0000_e1.t WHERE id < $1 LIMIT $2 \n) UNION ALL \
             (SELECT id FROM shard_0002_e1.t WHERE id < $1 LIMIT $2 \n) UNION ALL \
             (SELECT id FROM shard_0004_e1.t WHERE id < $1 LIMIT $2 \n) ORDER BY \"id\" DESC LIMIT 20"
        );
    }

    #[test]
    fn what_cannot_be_joined_is_left_apart() {
        let others = [home(2)];
        let others: Vec<_> = others.iter().collect();
        for text in [
            "SELECT id FROM {shard}.t FOR UPDATE",
            "DELETE FROM {shard}.t RETURNING id",
            "SELECT id FROM {shard}.t /* unfinished",
            "SELECT id FROM {shard}.t;;",
        ] {
            let statement = Statement::parse(text).unwrap();
            assert!(join(&statement, &others, "id", 10).is_none(), "{text}");
        }
        let commented = Statement::new("SELECT id FROM {shard}.t -- all of them");
        assert!(join(&commented, &others, "id", 10).is_some());
        assert!(join(&commented, &[], "id", 10).is_none(), "one shard is asked as it is");
        assert!(join(&commented, &others, "id\" (1", 10).is_some());
    }
}
