//! The number of a shard, and how many there are.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The number of a logical shard, `0..N`.
///
/// # Examples
///
/// ```
/// use howdah::ShardId;
///
/// let shard = ShardId::new(42)?;
/// assert_eq!(shard.to_string(), "42");
/// assert_eq!("42".parse::<ShardId>()?, shard);
/// assert!(ShardId::new(8192).unwrap_err().is_invalid_input());
/// # Ok::<(), howdah::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

impl ShardId {
    /// The number of shards that no cluster exceeds, as the default layout has 13 bits for them.
    pub const LIMIT: u16 = 8192;

    /// A shard's number.
    ///
    /// # Errors
    ///
    /// When it is not below [`ShardId::LIMIT`].
    pub fn new(number: u16) -> Result<Self> {
        if number < Self::LIMIT {
            Ok(Self(number))
        } else {
            Err(Error::input(format!(
                "there is no shard {number}: shards are numbered from 0 to {}",
                Self::LIMIT - 1
            )))
        }
    }

    /// For numbers whose bits were masked to fit.
    pub(crate) const fn from_masked(bits: u16) -> Self {
        Self(bits & (Self::LIMIT - 1))
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The number as an index into a slice of homes.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl TryFrom<u16> for ShardId {
    type Error = Error;

    fn try_from(number: u16) -> Result<Self> {
        Self::new(number)
    }
}

impl FromStr for ShardId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.parse().map_err(|_| {
            Error::input(format!("{text:?} is not the number of a shard"))
                .hint(format!("shards are numbered from 0 to {}", Self::LIMIT - 1))
        });
        Self::new(number?)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many shards a cluster has: from 1 to [`ShardId::LIMIT`], fixed at `init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardCount(u16);

impl ShardCount {
    /// A number of shards.
    ///
    /// # Errors
    ///
    /// When it is 0 or above [`ShardId::LIMIT`].
    pub fn new(count: u16) -> Result<Self> {
        if (1..=ShardId::LIMIT).contains(&count) {
            Ok(Self(count))
        } else {
            Err(Error::input(format!(
                "a cluster has from 1 to {} shards, not {count}",
                ShardId::LIMIT
            )))
        }
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// All shards, in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = ShardId> + Clone {
        (0..self.0).map(ShardId)
    }

    /// Whether the cluster has this shard.
    #[must_use]
    pub const fn contains(self, shard: ShardId) -> bool {
        shard.0 < self.0
    }

    /// Refuses a shard that the cluster does not have.
    #[inline]
    pub(crate) fn check(self, shard: ShardId) -> Result<()> {
        if self.contains(shard) { Ok(()) } else { Err(self.lacks(shard)) }
    }

    #[cold]
    fn lacks(self, shard: ShardId) -> Error {
        Error::input(format!("there is no shard {shard}: this cluster has {self}, numbered from 0"))
    }
}

impl fmt::Display for ShardCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
