//! The id itself: a positive `bigint`.

use std::fmt;

use bytes::BytesMut;
use postgres_types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::{Error, Result};

/// The id of a row: a positive 64-bit integer that carries when it was made and on which shard.
///
/// Ids of one shard increase. Ids of different shards compare by the milliseconds that they carry, which may be up to 12
/// behind the clock and, after a burst, up to a second ahead of it. What the bits mean is up to the cluster's
/// [`Layout`](crate::Layout).
///
/// In PostgreSQL it is a `bigint`. Serialised for people and JavaScript (JSON and other readable formats) it is
/// a string, because JavaScript loses integers above 2^53.
///
/// # Examples
///
/// ```
/// use howdah::Id;
///
/// let id: Id = "11637205501278089".parse()?;
/// assert_eq!(id.get(), 11_637_205_501_278_089);
/// assert_eq!((i64::from(id), Id::try_from(id.get())?), (id.get(), id));
/// assert!("-1".parse::<Id>().unwrap_err().is_invalid_input());
/// # Ok::<(), howdah::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(i64);

impl Id {
    /// The greatest id there can be.
    pub const MAX: Self = Self(i64::MAX);

    /// An id from its number.
    ///
    /// # Errors
    ///
    /// When the number is negative: ids never use the sign.
    pub fn new(number: i64) -> Result<Self> {
        if number >= 0 {
            Ok(Self(number))
        } else {
            Err(Error::input(format!("{number} is not an id: ids are not negative")))
        }
    }

    /// For numbers that were put together from masked bits.
    #[inline]
    pub(crate) const fn from_masked(bits: u64) -> Self {
        #[expect(clippy::cast_possible_wrap, reason = "the sign bit is masked off")]
        Self((bits & (u64::MAX >> 1)) as i64)
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The bits, of which the highest is never set.
    #[expect(clippy::cast_sign_loss, reason = "ids are not negative")]
    pub(crate) const fn bits(self) -> u64 {
        self.0 as u64
    }
}

impl TryFrom<i64> for Id {
    type Error = Error;

    fn try_from(number: i64) -> Result<Self> {
        Self::new(number)
    }
}

impl From<Id> for i64 {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({})", self.0)
    }
}

impl ToSql for Id {
    accepts!(INT8);
    to_sql_checked!();

    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.0.to_sql(ty, out)
    }
}

impl<'a> FromSql<'a> for Id {
    accepts!(INT8);

    fn from_sql(
        ty: &Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self::new(i64::from_sql(ty, raw)?)?)
    }
}

impl serde::Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> serde::Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;

        if deserializer.is_human_readable() {
            let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
            text.parse().map_err(D::Error::custom)
        } else {
            Self::new(i64::deserialize(deserializer)?).map_err(D::Error::custom)
        }
    }
}
