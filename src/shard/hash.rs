//! The frozen hash that places a key on a shard: PostgreSQL's own, so that SQL can compute it too.
//!
//! `hashint8extended(key, 0)` for integers and `hashtextextended(key, 0)` for text, then
//! `((h % N) + N) % N`. Both are Bob Jenkins' lookup3 as PostgreSQL uses it for hash partitioning, which
//! fixes it for good (`src/common/hashfn.c`). The values are part of every cluster's data: nothing here
//! may ever change.

use super::{ShardCount, ShardId};

/// A key that decides on which shard a family of rows lives.
///
/// Integers hash as PostgreSQL's `bigint`, text as `text` with a deterministic collation (its UTF-8
/// bytes), so `31341` and `"31341"` are different keys.
///
/// # Examples
///
/// ```
/// use howdah::{ShardCount, ShardKey};
///
/// let count = ShardCount::new(64)?;
/// assert_eq!(ShardKey::from("alice").shard(count).get(), 61);
/// assert_eq!(ShardKey::from(31341).shard(count).get(), 16);
/// # Ok::<(), howdah::Error>(())
/// ```
///
/// The same in SQL, for `N` shards:
///
/// ```sql
/// SELECT ((hashtextextended('alice', 0) % 64) + 64) % 64;    -- 61
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShardKey<'a> {
    /// A 64-bit integer; smaller ones are widened.
    Int(i64),
    /// Text in UTF-8.
    Text(&'a str),
}

impl ShardKey<'_> {
    /// The shard of this key in a cluster of so many.
    #[must_use]
    pub fn shard(self, count: ShardCount) -> ShardId {
        let shard = self.hash().rem_euclid(i64::from(count.get()));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 ≤ shard < count ≤ 8192"
        )]
        ShardId::from_masked(shard as u16)
    }

    /// PostgreSQL's extended hash of the key, with seed 0.
    fn hash(self) -> i64 {
        match self {
            Self::Int(key) => hash_int8(key),
            Self::Text(key) => hash_bytes(key.as_bytes()),
        }
    }
}

impl From<i64> for ShardKey<'_> {
    fn from(key: i64) -> Self {
        Self::Int(key)
    }
}

impl From<i32> for ShardKey<'_> {
    fn from(key: i32) -> Self {
        Self::Int(key.into())
    }
}

impl<'a> From<&'a str> for ShardKey<'a> {
    fn from(key: &'a str) -> Self {
        Self::Text(key)
    }
}

impl<'a> From<&'a String> for ShardKey<'a> {
    fn from(key: &'a String) -> Self {
        Self::Text(key)
    }
}

/// The golden ratio and PostgreSQL's own offset, from which every hash starts with the key's length.
const START: u32 = 0x9e37_79b9_u32.wrapping_add(3_923_095);

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "takes the halves apart"
)]
fn hash_int8(key: i64) -> i64 {
    // Folds the halves so that an integer hashes alike in every width that can hold it.
    let (high, low) = ((key >> 32) as u32, key as u32);
    let folded = low ^ if key >= 0 { high } else { !high };
    let mut state = State::new(4);
    state.0 = state.0.wrapping_add(folded);
    state.finish()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "PostgreSQL takes the length as 32 bits; text is at most 1 GiB"
)]
fn hash_bytes(key: &[u8]) -> i64 {
    let mut state = State::new(key.len() as u32);
    let (blocks, rest) = key.as_chunks::<12>();
    for block in blocks {
        state.absorb(*block);
        state.mix();
    }
    // The lowest byte of the third word is left to the length: the last bytes there stand one place higher.
    let mut last = [0; 12];
    last[..rest.len()].copy_from_slice(rest);
    if rest.len() > 8 {
        last.copy_within(8..11, 9);
        last[8] = 0;
    }
    state.absorb(last);
    state.finish()
}

/// The three words of lookup3.
struct State(u32, u32, u32);

impl State {
    fn new(length: u32) -> Self {
        let start = START.wrapping_add(length);
        Self(start, start, start)
    }

    fn absorb(&mut self, block: [u8; 12]) {
        let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = block;
        self.0 = self.0.wrapping_add(u32::from_le_bytes([a0, a1, a2, a3]));
        self.1 = self.1.wrapping_add(u32::from_le_bytes([b0, b1, b2, b3]));
        self.2 = self.2.wrapping_add(u32::from_le_bytes([c0, c1, c2, c3]));
    }

    fn mix(&mut self) {
        let Self(a, b, c) = self;
        step(a, c, 4, b);
        step(b, a, 6, c);
        step(c, b, 8, a);
        step(a, c, 16, b);
        step(b, a, 19, c);
        step(c, b, 4, a);

        fn step(x: &mut u32, y: &mut u32, turn: u32, z: &mut u32) {
            *x = x.wrapping_sub(*y) ^ y.rotate_left(turn);
            *y = y.wrapping_add(*z);
        }
    }

    #[expect(
        clippy::cast_possible_wrap,
        reason = "SQL has no unsigned integers: the same bits, signed"
    )]
    fn finish(self) -> i64 {
        let Self(mut a, mut b, mut c) = self;
        let step = |x: &mut u32, y: u32, turn: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(turn));
        step(&mut c, b, 14);
        step(&mut a, c, 11);
        step(&mut b, a, 25);
        step(&mut c, b, 16);
        step(&mut a, c, 4);
        step(&mut b, a, 14);
        step(&mut c, b, 24);
        (u64::from(b) << 32 | u64::from(c)) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_values_hold() {
        for (key, hash, of_64, of_8192) in [
            (ShardKey::from("alice"), -6_283_343_261_252_860_035, 61, 1917),
            (ShardKey::from(""), -6_939_563_903_564_495_251, 45, 1645),
            (ShardKey::from("Zoë"), 4_022_497_667_079_498_591, 31, 2911),
            (
                ShardKey::from("a much longer key than twelve bytes, to pass the block size"),
                -4_147_338_335_989_241_267,
                13,
                2637,
            ),
            (ShardKey::from(0), 4_154_612_158_245_552_303, 47, 175),
            (ShardKey::from(-1), -1_888_257_769_727_981_238, 10, 2378),
            (ShardKey::from(31341), -4_748_115_699_093_219_376, 16, 6096),
            (ShardKey::from(i64::MAX), 1_977_219_185_673_256_887, 55, 8119),
        ] {
            assert_eq!(key.hash(), hash, "{key:?}");
            assert_eq!(key.shard(ShardCount::new(64).unwrap()).get(), of_64, "{key:?}");
            assert_eq!(key.shard(ShardCount::new(8192).unwrap()).get(), of_8192, "{key:?}");
        }
    }
}
