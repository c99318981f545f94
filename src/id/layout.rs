//! How the 63 bits of an id are shared out: time, shard, sequence.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{Id, text::shortened};
use crate::shard::ShardId;
use crate::{Error, Result};

/// The bits that an id has in all: the sign is never used.
const ID_BITS: u8 = 63;

/// How an id is made up, from its highest bit on: milliseconds since an epoch, the shard, a sequence.
///
/// Chosen once, at `init`, and never changed: every id made is read by it. The default is the layout that Instagram
/// published in 2012: the epoch 1314220021721 (2011-08-24T21:07:01.721Z), 13 bits of shard and 10 of sequence. As an
/// id is never negative, 40 bits are left for the time, and the default ends on 2046-06-27; a later epoch or
/// fewer bits elsewhere last longer.
///
/// # Examples
///
/// ```
/// use howdah::{Id, Layout};
///
/// let parts = Layout::default().decode("11637205501278089".parse::<Id>()?);
/// assert_eq!(parts.shard.get(), 1341);
/// assert_eq!(parts.sequence, 905);
/// assert_eq!(parts.unix_ms - Layout::default().epoch_ms(), 1_387_263_000);
///
/// let longer: Layout = "epoch=2025-01-01T00:00:00Z,shard=11,sequence=10".parse()?;
/// assert_eq!(
///     longer.summary(),
///     "2048 shards, 1024 ids a millisecond on each, from 2025-01-01 to 2164-05-15"
/// );
/// # Ok::<(), howdah::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    epoch_ms: i64,
    shard_bits: u8,
    sequence_bits: u8,
}

/// What an id says, taken apart by [`Layout::decode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdParts {
    /// The shard on which its row lives.
    pub shard: ShardId,
    /// The number among the ids of that shard and millisecond.
    pub sequence: u32,
    /// When it was made, in milliseconds since 1970 (UTC).
    pub unix_ms: i64,
}

impl IdParts {
    /// When the id was made.
    #[must_use]
    pub fn time(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.unix_ms).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// The parts of an id that is made at a moment.
    #[must_use]
    pub fn at(time: DateTime<Utc>, shard: ShardId, sequence: u32) -> Self {
        Self { shard, sequence, unix_ms: time.timestamp_millis() }
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self { epoch_ms: 1_314_220_021_721, shard_bits: 13, sequence_bits: 10 }
    }
}

impl Layout {
    /// A layout of one's own.
    ///
    /// # Errors
    ///
    /// When the split leaves no sense: no bits, more than 13, for the shard; fewer than 1 or more than 20 for the
    /// sequence; less than 36 (two years) for the time; an epoch before 1970 or later than the year 9999.
    pub fn new(epoch_ms: i64, shard_bits: u8, sequence_bits: u8) -> Result<Self> {
        let layout = Self { epoch_ms, shard_bits, sequence_bits };
        let sensible = (1..=13).contains(&shard_bits)
            && (1..=20).contains(&sequence_bits)
            && shard_bits + sequence_bits <= ID_BITS - 36
            && (0..=253_402_300_799_999).contains(&epoch_ms);
        if sensible {
            Ok(layout)
        } else {
            Err(Error::input(format!(
                "no layout of ids: {shard_bits} bits of shard, {sequence_bits} of sequence, \
                 from {epoch_ms} ms after 1970"
            ))
            .hint(
                "1 to 13 bits of shard, 1 to 20 of sequence, at most 27 in all, from 1970 to 9999",
            ))
        }
    }

    /// The moment from which the time of an id counts, in milliseconds since 1970 (UTC).
    #[must_use]
    pub const fn epoch_ms(&self) -> i64 {
        self.epoch_ms
    }

    /// How many bits carry the shard.
    #[must_use]
    pub const fn shard_bits(&self) -> u8 {
        self.shard_bits
    }

    /// How many bits carry the sequence.
    #[inline]
    #[must_use]
    pub const fn sequence_bits(&self) -> u8 {
        self.sequence_bits
    }

    /// The shard that an id names.
    #[inline]
    #[must_use]
    pub const fn shard_of(&self, id: Id) -> ShardId {
        #[expect(clippy::cast_possible_truncation, reason = "masked to 13 bits at most")]
        ShardId::from_masked((id.bits() >> self.sequence_bits & mask(self.shard_bits)) as u16)
    }

    /// Takes an id apart.
    #[inline]
    #[must_use]
    pub const fn decode(&self, id: Id) -> IdParts {
        #[expect(clippy::cast_possible_truncation, reason = "masked to 20 bits at most")]
        let sequence = (id.bits() & mask(self.sequence_bits)) as u32;
        #[expect(clippy::cast_possible_wrap, reason = "at least two bits were shifted out")]
        let since_epoch = (id.bits() >> (self.shard_bits + self.sequence_bits)) as i64;
        IdParts { shard: self.shard_of(id), sequence, unix_ms: self.epoch_ms + since_epoch }
    }

    /// Puts an id together.
    ///
    /// # Errors
    ///
    /// When the layout has no room for the shard or the sequence, or the time is outside it.
    pub fn encode(&self, parts: IdParts) -> Result<Id> {
        let IdParts { shard, sequence, unix_ms } = parts;
        if u64::from(shard.get()) > mask(self.shard_bits) {
            return Err(Error::input(format!(
                "shard {shard} does not fit {} bits",
                self.shard_bits
            )));
        }
        if u64::from(sequence) > mask(self.sequence_bits) {
            return Err(Error::input(format!(
                "sequence {sequence} does not fit {} bits",
                self.sequence_bits
            )));
        }
        let since_epoch = unix_ms.checked_sub(self.epoch_ms).and_then(|ms| u64::try_from(ms).ok());
        let time =
            since_epoch.filter(|ms| *ms <= mask(self.time_bits())).ok_or_else(|| {
                Error::input(format!("{unix_ms} ms after 1970 is outside the layout"))
                    .hint(format!("it reaches from {} to {}", self.starts_at(), self.ends_at()))
            })?;
        Ok(Id::from_masked(
            time << (self.shard_bits + self.sequence_bits)
                | u64::from(shard.get()) << self.sequence_bits
                | u64::from(sequence),
        ))
    }

    /// The first moment of the layout.
    #[must_use]
    pub fn starts_at(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.epoch_ms).unwrap_or(DateTime::<Utc>::MIN_UTC)
    }

    /// The last moment for which the layout has ids; 2046-06-27 for the default.
    #[must_use]
    pub fn ends_at(&self) -> DateTime<Utc> {
        let last =
            i64::try_from(mask(self.time_bits())).ok().and_then(|ms| self.epoch_ms.checked_add(ms));
        last.and_then(DateTime::from_timestamp_millis).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// How many shards there can be.
    #[must_use]
    pub const fn max_shards(&self) -> u16 {
        1 << self.shard_bits
    }

    /// How many ids a shard can make in a millisecond before it runs ahead of the clock.
    #[inline]
    #[must_use]
    pub const fn ids_per_ms(&self) -> u32 {
        1 << self.sequence_bits
    }

    /// What the layout gives room for, in one line for a person.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} shards, {} ids a millisecond on each, from {} to {}",
            self.max_shards(),
            self.ids_per_ms(),
            self.starts_at().format("%F"),
            self.ends_at().format("%F")
        )
    }

    const fn time_bits(&self) -> u8 {
        ID_BITS - self.shard_bits - self.sequence_bits
    }
}

impl fmt::Display for Layout {
    /// Writes what [`Layout::from_str`] reads: `epoch=2011-08-24T21:07:01.721Z,shard=13,sequence=10`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let epoch = self.starts_at().to_rfc3339_opts(SecondsFormat::Millis, true);
        write!(f, "epoch={epoch},shard={},sequence={}", self.shard_bits, self.sequence_bits)
    }
}

impl FromStr for Layout {
    type Err = Error;

    /// Reads `epoch=…,shard=…,sequence=…`: a time as in RFC 3339, and numbers of bits. What is left out is as in the
    /// default.
    fn from_str(text: &str) -> Result<Self> {
        let refused = || {
            Error::input(format!("{:?} is not a layout", shortened(text)))
                .hint("write epoch=2025-01-01T00:00:00Z,shard=13,sequence=10, or a part of it")
        };
        let (mut epoch, mut shard, mut sequence) = (None, None, None);
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(refused)?;
            let repeated = match key {
                "epoch" => {
                    let time = DateTime::parse_from_rfc3339(value).map_err(|_| refused())?;
                    epoch.replace(time.timestamp_millis()).is_some()
                }
                "shard" => shard.replace(value.parse().map_err(|_| refused())?).is_some(),
                "sequence" => sequence.replace(value.parse().map_err(|_| refused())?).is_some(),
                _ => return Err(refused()),
            };
            if repeated {
                return Err(refused());
            }
        }
        let default = Self::default();
        Self::new(
            epoch.unwrap_or(default.epoch_ms),
            shard.unwrap_or(default.shard_bits),
            sequence.unwrap_or(default.sequence_bits),
        )
    }
}

const fn mask(bits: u8) -> u64 {
    (1 << bits) - 1
}
