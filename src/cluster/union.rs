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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio_postgres::Row;

use super::Cluster;
use super::reach::Reach;
use crate::Result;
use crate::catalog::Snapshot;
use crate::connect::is_undefined_name;
use crate::error::Kind;
use crate::pool::Params;
use crate::shard::{Home, InstanceName, ShardId, ShardMap};
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
    groups: Box<[Arc<Group>]>,
    reach: Arc<Reach>,
}

/// Shards of one instance that are asked together.
pub(super) struct Group {
    shards: Vec<ShardId>,
    /// For the first of them the statement has its placeholder.
    homes: Box<[Home]>,
    /// `None` where the shards have to be asked one by one.
    statement: Option<Statement>,
    refused: Mutex<Option<Instant>>,
}

impl Unions {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Key, Arc<Union>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster {
    /// The statement for all shards as they live now: ordered by the column, descending, and more than `limit` rows of
    /// each group, if it has them.
    pub(super) fn union(&self, statement: &Statement, column: &str, limit: usize) -> Arc<Union> {
        let limit = limit.div_ceil(LIMIT_STEP).saturating_mul(LIMIT_STEP).saturating_add(1);
        let key = Key { statement: statement.clone(), column: column.to_owned(), limit };
        let snapshot = self.snapshot();
        let known = self.0.unions.lock().get(&key).cloned();
        if let Some(union) = &known
            && Arc::ptr_eq(&union.snapshot, &snapshot)
        {
            return union.clone();
        }
        // Not under the lock: it takes a while, and others have unions of their own.
        let union = Arc::new(Union::new(snapshot, &key, known.as_deref()));
        self.0.unions.lock().put(key, union.clone());
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
        let home = group.home();
        let pool = match self.0.pools.get(home.instance(), snapshot) {
            Ok(pool) => pool,
            Err(error) => return Some(Err(error)),
        };
        if let Some((rows, _)) = pool.read(statement, home, params).await {
            return Some(Ok(rows));
        }
        let lent = match pool.lend().await {
            Ok(lent) => lent,
            Err(error) => return Some(Err(error)),
        };
        match lent.run(statement, home, params).await {
            Ok((rows, _)) => Some(Ok(rows)),
            Err(error) if error.is_unavailable() => Some(Err(error.at(home.instance()))),
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
    /// What is the same on an older map is taken from there.
    fn new(snapshot: Arc<Snapshot>, key: &Key, older: Option<&Self>) -> Self {
        let reach = older.map(|older| older.reach.clone()).unwrap_or_default();
        let older = older.map_or(&[][..], |older| &older.groups);
        let groups = group(&snapshot.map, key, older);
        Self { snapshot, groups, reach }
    }

    /// How far down its pages reach.
    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().map(Arc::as_ref)
    }
}

/// The groups of a map; those of the same homes are the older ones.
fn group(map: &ShardMap, key: &Key, older: &[Arc<Group>]) -> Box<[Arc<Group>]> {
    let mut by_instance = BTreeMap::<&InstanceName, Vec<&Home>>::new();
    for home in map.homes() {
        by_instance.entry(home.instance()).or_default().push(home);
    }
    let seam = map.homes().next().and_then(|any| Seam::of(key, any));
    let group = |homes: &[&Home]| {
        let same = older.iter().find(|group| group.homes.iter().eq(homes.iter().copied()));
        same.cloned().unwrap_or_else(|| Arc::new(Group::new(homes, seam.as_ref())))
    };
    by_instance.values().flat_map(|homes| homes.chunks(GROUP)).map(group).collect()
}

impl Group {
    /// Of homes on one instance, at least one.
    fn new(homes: &[&Home], seam: Option<&Seam>) -> Self {
        let shards = homes.iter().map(|home| home.shard()).collect();
        let others = &homes[1..];
        // One shard is asked as it is.
        let seam = seam.filter(|_| !others.is_empty());
        let statement = seam.map(|seam| Statement::single_read(seam.join(others)));
        let homes = homes.iter().map(|home| (*home).clone()).collect();
        Self { shards, homes, statement, refused: Mutex::default() }
    }

    fn home(&self) -> &Home {
        &self.homes[0]
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

/// How a statement is joined to itself.
struct Seam {
    part: Statement,
    /// What comes behind the last part.
    end: String,
}

impl Seam {
    /// `None` for what is not provably one read when it is joined. Two parts tell it for any number: the others differ from the
    /// second in the names of their schemas alone.
    fn of(key: &Key, any: &Home) -> Option<Self> {
        let Key { statement, column, limit } = key;
        if !statement.is_single_read() {
            return None;
        }
        let text = statement.as_str().trim_end().trim_end_matches(';');
        let part = Statement::parse(text.to_owned()).ok()?;
        let column = column.replace('"', "\"\"");
        let seam = Self { part, end: format!(" ORDER BY \"{column}\" DESC LIMIT {limit}") };
        let joined = Statement::parse(seam.join(&[any])).ok()?;
        joined.is_single_read().then_some(seam)
    }

    /// The text for the shard that the placeholder names, and for others on the same server.
    fn join(&self, others: &[&Home]) -> String {
        // The line's end is for a comment that would take the parenthesis with it.
        let mut joined = format!("({}\n)", self.part.as_str());
        for home in others {
            // Writing to a string does not fail.
            let _ = write!(joined, " UNION ALL ({}\n)", self.part.render(home));
        }
        joined.push_str(&self.end);
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{Epoch, MapVersion};

    fn home(shard: u16) -> Home {
        home_on("pg1", shard, Epoch::FIRST)
    }

    fn home_on(instance: &str, shard: u16, epoch: Epoch) -> Home {
        Home::new(ShardId::new(shard).unwrap(), InstanceName::new(instance).unwrap(), epoch)
    }

    fn key(text: &'static str, column: &str) -> Key {
        Key { statement: Statement::parse(text).unwrap(), column: column.to_owned(), limit: 20 }
    }

    #[test]
    fn each_shard_has_its_part() {
        let key = key("SELECT id FROM {shard}.t WHERE id < $1 LIMIT $2 ; ", "id");
        let homes = [home(0), home(2), home(4)];
        let seam = Seam::of(&key, &homes[0]);
        let group = Group::new(&homes.iter().collect::<Vec<_>>(), seam.as_ref());
        let joined = group.statement.unwrap();
        assert_eq!(
            joined.render(&homes[0]),
            "(SELECT id FROM shard_0000_e1.t WHERE id < $1 LIMIT $2 \n) UNION ALL \
             (SELECT id FROM shard_0002_e1.t WHERE id < $1 LIMIT $2 \n) UNION ALL \
             (SELECT id FROM shard_0004_e1.t WHERE id < $1 LIMIT $2 \n) ORDER BY \"id\" DESC LIMIT 20"
        );
        assert_eq!(Statement::parse(joined.as_str().to_owned()).unwrap(), joined);
        assert!(Statement::parse(joined.as_str().to_owned()).unwrap().is_single_read());
    }

    #[test]
    fn what_cannot_be_joined_is_left_apart() {
        for text in [
            "SELECT id FROM {shard}.t FOR UPDATE",
            "DELETE FROM {shard}.t RETURNING id",
            "SELECT id FROM {shard}.t /* unfinished",
            "SELECT id FROM {shard}.t;;",
        ] {
            assert!(Seam::of(&key(text, "id"), &home(2)).is_none(), "{text}");
        }
        const COMMENTED: &str = "SELECT id FROM {shard}.t -- all of them";
        let seam = Seam::of(&key(COMMENTED, "id"), &home(2));
        assert!(seam.is_some());
        let alone = Group::new(&[&home(2)], seam.as_ref());
        assert!(alone.statement.is_none(), "one shard is asked as it is");
        assert!(Seam::of(&key(COMMENTED, "id\" (1"), &home(2)).is_some());
    }

    #[test]
    fn groups_that_a_move_does_not_touch_stay() {
        let key = key("SELECT id FROM {shard}.t WHERE id < $1 ORDER BY id DESC LIMIT $2", "id");
        let mut homes: Vec<_> = (0..8)
            .map(|shard| {
                home_on(["pg1", "pg2", "pg3", "pg4"][usize::from(shard / 2)], shard, Epoch::FIRST)
            })
            .collect();
        let map = ShardMap::new(MapVersion::new(1), homes.clone()).unwrap();
        let before = group(&map, &key, &[]);
        homes[2] = home_on("pg3", 2, Epoch::new(2).unwrap());
        let map = ShardMap::new(MapVersion::new(2), homes).unwrap();
        let after = group(&map, &key, &before);
        let is_kept: Vec<_> =
            before.iter().zip(&after).map(|(before, after)| Arc::ptr_eq(before, after)).collect();
        assert_eq!(is_kept, [true, false, false, true]);
        assert_eq!((after[1].shards.len(), after[2].shards.len()), (1, 3));
    }
}
