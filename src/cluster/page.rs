//! Keyset pages over many shards: the merge, and the cursor between one page and the next.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio_postgres::Row;

use crate::error::Kind;
use crate::shard::ShardId;
use crate::{Error, Outcome, Result};

/// A page of rows, from [`Scatter::page`](crate::Scatter::page).
#[derive(Debug)]
#[non_exhaustive]
pub struct Page {
    /// The rows, newest first.
    pub rows: Vec<Row>,
    /// Where the next page starts; `None` when there is nothing more.
    pub next: Option<Cursor>,
    /// The shards that could not be reached, in order. While there are any, there is a next page.
    pub missing: Vec<ShardId>,
}

/// Where a page over many shards starts. An opaque text to whoever passes it around.
///
/// It says how far each shard has been read: all of them to the same key, but for those that could not be reached and
/// stay where they were. It grows by a few bytes for each of these.
///
/// # Examples
///
/// ```
/// use howdah::Cursor;
///
/// assert!("tampered with".parse::<Cursor>().unwrap_err().is_invalid_input());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// All shards but those below are read down to here; what follows is less than it.
    position: i64,
    /// How far the shards are read that were behind; each is above `position`.
    behind: BTreeMap<ShardId, i64>,
}

/// The format of a cursor's text; another one is refused.
const FORMAT: u8 = 1;

impl Default for Cursor {
    /// Before the first row.
    fn default() -> Self {
        Self { position: i64::MAX, behind: BTreeMap::new() }
    }
}

impl Cursor {
    /// The key below which all unread rows are, but for those of shards that were behind.
    pub(super) fn lowest(&self) -> i64 {
        self.position
    }

    /// The key below which a shard's unread rows are.
    pub(super) fn position(&self, shard: ShardId) -> i64 {
        self.behind.get(&shard).copied().unwrap_or(self.position)
    }
}

/// What some shards that were asked together have for a page: `None` where they could not be reached.
pub(super) struct Part<R> {
    shards: Vec<ShardId>,
    rows: Option<Vec<(i64, R)>>,
}

impl Part<Row> {
    /// Reads the key of every row.
    pub(super) fn new(shards: &[ShardId], rows: Option<Vec<Row>>, key: &str) -> Result<Self> {
        let with_key = |row: Row| match row.try_get(key) {
            Ok(value) if value >= 0 => Ok((value, row)),
            Ok(value) => Err(Error::input(format!("{value} is no key of a page: it is negative"))),
            Err(error) => Err(Error::new(Kind::Rows, format!("{key:?} is no key of a page"))
                .because(error)
                .with_outcome(Outcome::Failed)
                .hint("return a column of that name that is a bigint and not null")),
        };
        let rows = rows.map(|rows| rows.into_iter().map(with_key).collect::<Result<_>>());
        Ok(Self { shards: shards.to_vec(), rows: rows.transpose()? })
    }
}

/// A page that is put together while its parts come. Each part has one row more than the limit where it could.
pub(super) struct Merge<'a, R> {
    start: &'a Cursor,
    limit: usize,
    found: Vec<(i64, R)>,
    reached: Vec<ShardId>,
    missing: Vec<ShardId>,
}

impl<'a, R> Merge<'a, R> {
    pub(super) fn new(start: &'a Cursor, limit: usize) -> Self {
        Self { start, limit, found: Vec::new(), reached: Vec::new(), missing: Vec::new() }
    }

    pub(super) fn add(&mut self, part: Part<R>) {
        let Some(rows) = part.rows else {
            self.missing.extend(part.shards);
            return;
        };
        self.reached.extend(part.shards);
        self.found.extend(rows);
        // However many shards there are, only what may still be returned is kept.
        if self.found.len() / 4 > self.limit {
            self.cut();
        }
    }

    /// Leaves the newest rows, one more than the limit: it tells that there are more.
    fn cut(&mut self) {
        self.found.sort_by(|(one, _), (other, _)| other.cmp(one));
        self.found.truncate(self.limit + 1);
    }

    /// The first and the last key of a page that is full, with more to come; none where it is not.
    pub(super) fn ends_if_full(&mut self) -> Option<(i64, i64)> {
        self.cut();
        let (first, last) = (self.found.first()?, self.found.get(self.limit - 1)?);
        (self.found.len() > self.limit).then_some((first.0, last.0))
    }

    fn finish(mut self) -> Merged<R> {
        self.cut();
        let Self { start, limit, mut found, reached, mut missing } = self;
        missing.sort_unstable();
        let more = found.len() > limit;
        found.truncate(limit);
        // Everything that was reached is read down to the last row returned, or to its end.
        let down_to = found.last().filter(|_| more).map_or(0, |(key, _)| *key);
        let next = (more || !missing.is_empty()).then(|| {
            let mut behind = start.behind.clone();
            behind.extend(missing.iter().map(|shard| (*shard, start.position(*shard))));
            for shard in reached {
                if let Some(position) = behind.get_mut(&shard) {
                    *position = down_to.min(*position);
                }
            }
            let position = start.position.min(down_to);
            behind.retain(|_, own| *own > position);
            Cursor { position, behind }
        });
        Merged { rows: found.into_iter().map(|(_, row)| row).collect(), next, missing }
    }
}

impl Merge<'_, Row> {
    pub(super) fn into_page(self) -> Page {
        let Merged { rows, next, missing } = self.finish();
        Page { rows, next, missing }
    }
}

struct Merged<R> {
    rows: Vec<R>,
    next: Option<Cursor>,
    missing: Vec<ShardId>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.position.to_be_bytes());
        for (shard, position) in &self.behind {
            bytes.extend(shard.get().to_be_bytes());
            bytes.extend(position.to_be_bytes());
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = Error;

    /// Reads what `to_string` wrote.
    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::input("this is not a cursor of a page");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
        let rest = bytes.strip_prefix(&[FORMAT]).ok_or_else(refused)?;
        let (position, rest) = rest.split_first_chunk().ok_or_else(refused)?;
        let position = i64::from_be_bytes(*position);
        let (entries, []) = rest.as_chunks::<10>() else { return Err(refused()) };
        let mut behind = BTreeMap::new();
        for [high, low, own @ ..] in entries {
            let shard = ShardId::new(u16::from_be_bytes([*high, *low]))?;
            let own = i64::from_be_bytes(*own);
            let in_order = behind.last_key_value().is_none_or(|(last, _)| *last < shard);
            if !in_order || own <= position {
                return Err(refused());
            }
            behind.insert(shard, own);
        }
        if position < 0 {
            return Err(refused());
        }
        Ok(Self { position, behind })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    type Shards = BTreeMap<ShardId, BTreeSet<i64>>;

    /// What the shards answer to a request for a page, two that stand at the same place together; `down` ones answer
    /// nothing.
    fn page(
        shards: &Shards,
        start: &Cursor,
        limit: usize,
        down: &BTreeSet<ShardId>,
    ) -> Merged<i64> {
        let mut merge = Merge::new(start, limit);
        let mut waiting = shards.iter().peekable();
        while let Some((shard, keys)) = waiting.next() {
            let bound = start.position(*shard);
            let together = |(other, _): &(&ShardId, &BTreeSet<i64>)| {
                start.position(**other) == bound && down.contains(other) == down.contains(shard)
            };
            let other = waiting.next_if(together);
            let asked: Vec<_> = std::iter::once((shard, keys)).chain(other).collect();
            let mut rows: Vec<_> = asked.iter().flat_map(|(_, keys)| keys.range(..bound)).collect();
            rows.sort_unstable_by(|one, other| other.cmp(one));
            let rows = rows.into_iter().take(limit + 1).map(|key| (*key, *key)).collect();
            let shards = asked.iter().map(|(shard, _)| **shard).collect();
            merge.add(Part { shards, rows: (!down.contains(shard)).then_some(rows) });
        }
        merge.finish()
    }

    fn number(shard: u16) -> ShardId {
        ShardId::new(shard).unwrap()
    }

    prop_compose! {
        /// Up to eight shards with keys that no two of them share.
        fn any_shards()(keys in prop::collection::btree_map(1_i64..10_000, 0_u16..8, 0..200)) -> Shards {
            let mut shards: Shards = (0..8).map(|shard| (number(shard), BTreeSet::new())).collect();
            for (key, shard) in keys {
                shards.get_mut(&number(shard)).unwrap().insert(key);
            }
            shards
        }
    }

    proptest! {
        #[test]
        fn all_pages_together_are_all_rows_in_order(shards in any_shards(), limit in 1_usize..30) {
            let mut expected: Vec<i64> = shards.values().flatten().copied().collect();
            expected.sort_unstable_by(|one, other| other.cmp(one));
            let mut seen = Vec::new();
            let mut cursor = Some(Cursor::default());
            while let Some(start) = cursor {
                let page = page(&shards, &start, limit, &BTreeSet::new());
                prop_assert!(page.rows.len() == limit || page.next.is_none());
                seen.extend(page.rows);
                cursor = page.next.map(|next| next.to_string().parse().unwrap());
            }
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn shards_that_come_and_go_lose_nothing_and_repeat_nothing(
            shards in any_shards(),
            limit in 1_usize..30,
            outages in prop::collection::vec(prop::collection::btree_set((0_u16..8).prop_map(number), 0..8), 0..30),
        ) {
            let expected: BTreeSet<i64> = shards.values().flatten().copied().collect();
            let mut outages = outages.into_iter();
            let mut seen = Vec::new();
            let mut cursor = Some(Cursor::default());
            while let Some(start) = cursor {
                let down = outages.next().unwrap_or_default();
                let page = page(&shards, &start, limit, &down);
                prop_assert_eq!(&page.missing, &down.iter().copied().collect::<Vec<_>>());
                prop_assert!(page.rows.is_sorted_by(|one, other| one > other));
                prop_assert!(page.missing.is_empty() || page.next.is_some());
                seen.extend(page.rows);
                cursor = page.next;
            }
            prop_assert_eq!(seen.len(), expected.len());
            prop_assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
        }

        #[test]
        fn a_cursor_survives_its_text(
            position in 0..i64::MAX - 1,
            behind in prop::collection::btree_map((0..ShardId::LIMIT).prop_map(number), 1_i64..1000, 0..50),
        ) {
            let above = |(shard, more)| (shard, position.saturating_add(more));
            let cursor = Cursor { position, behind: behind.into_iter().map(above).collect() };
            prop_assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }

        #[test]
        fn any_text_is_a_cursor_or_an_error(text in "[A-Za-z0-9_-]{0,60}") {
            match text.parse::<Cursor>() {
                Ok(cursor) => prop_assert_eq!(cursor.to_string(), text),
                Err(error) => prop_assert!(error.is_invalid_input()),
            }
        }
    }

    #[test]
    fn a_cursor_of_another_format_is_refused() {
        let mut bytes = URL_SAFE_NO_PAD.decode(Cursor::default().to_string()).unwrap();
        bytes[0] += 1;
        assert!(URL_SAFE_NO_PAD.encode(bytes).parse::<Cursor>().is_err());
    }
}
