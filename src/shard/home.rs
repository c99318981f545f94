//! Where a shard lives: an instance and an epoch, and the schema's name that follows from them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::ShardId;
use crate::{Error, Result};

/// The name of an instance, such as `pg1`: lower-case letters, digits, `_` and `-`, at most 63 bytes.
///
/// # Examples
///
/// ```
/// use howdah::InstanceName;
///
/// assert_eq!(InstanceName::new("pg1")?.as_str(), "pg1");
/// assert_eq!("pg1".parse::<InstanceName>()?.as_str(), "pg1");
/// assert!(InstanceName::new("pg 1").is_err());
/// # Ok::<(), howdah::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName(Arc<str>);

impl InstanceName {
    /// The length in bytes that PostgreSQL allows a name.
    const MAX_BYTES: usize = 63;

    /// An instance's name.
    ///
    /// # Errors
    ///
    /// When it is empty, too long, or has other characters than the ones allowed.
    pub fn new(name: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        if !name.is_empty() && name.len() <= Self::MAX_BYTES && name.chars().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err(Error::input(format!("{name:?} is not an instance's name"))
                .hint(format!("use up to {} of a-z, 0-9, _ and -", Self::MAX_BYTES)))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for InstanceName {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl FromStr for InstanceName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

/// So that maps keyed by instance can be asked with plain text.
impl std::borrow::Borrow<str> for InstanceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many times a shard's home has changed, counted from 1; part of its schema's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch of a shard that never moved.
    pub const FIRST: Self = Self(1);

    /// An epoch, as the catalog holds it.
    ///
    /// # Errors
    ///
    /// When it is not positive.
    pub fn new(number: i32) -> Result<Self> {
        match u32::try_from(number) {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Err(Error::input(format!("{number} is not an epoch: they count from 1"))),
        }
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a shard lives now. Instance and epoch are always read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    shard: ShardId,
    instance: InstanceName,
    epoch: Epoch,
}

impl Home {
    pub(crate) fn new(shard: ShardId, instance: InstanceName, epoch: Epoch) -> Self {
        Self { shard, instance, epoch }
    }

    /// The shard that lives there.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The instance it lives on.
    #[must_use]
    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }

    /// How many times its home has changed.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The name of its schema there, such as `shard_0042_e3`: made from numbers alone, so that it can stand
    /// in SQL without quotes.
    #[must_use]
    pub fn schema(&self) -> String {
        format!("shard_{:04}_e{}", self.shard.get(), self.epoch)
    }
}
