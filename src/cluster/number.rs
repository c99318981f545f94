//! Numbers as PostgreSQL's sums return them, of whatever type.

use std::error::Error as StdError;

use tokio_postgres::types::{FromSql, Type, accepts};

use crate::error::Kind;
use crate::{Error, Outcome, Result};

/// A number of one of the types that `sum` returns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// `smallint`, `integer`, `bigint`, and a `numeric` without decimals: what `sum(bigint)` returns.
    Whole(i128),
    /// `real` and `double precision`.
    Floating(f64),
}

impl Number {
    /// The sum, as floating as either of the two.
    pub(super) fn plus(self, other: Self) -> Result<Self> {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => {
                one.checked_add(other).map(Self::Whole).ok_or_else(|| {
                    Error::new(Kind::Rows, "the sum is beyond 128 bits")
                        .with_outcome(Outcome::Failed)
                })
            }
            (one, other) => Ok(Self::Floating(one.to_f64() + other.to_f64())),
        }
    }

    /// The nearest floating number.
    pub(super) fn to_f64(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Floating(number) => number,
        }
    }
}

impl<'a> FromSql<'a> for Number {
    accepts!(INT2, INT4, INT8, FLOAT4, FLOAT8, NUMERIC);

    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(match *ty {
            Type::INT2 => Self::Whole(i16::from_sql(ty, raw)?.into()),
            Type::INT4 => Self::Whole(i32::from_sql(ty, raw)?.into()),
            Type::INT8 => Self::Whole(i64::from_sql(ty, raw)?.into()),
            Type::FLOAT4 => Self::Floating(f32::from_sql(ty, raw)?.into()),
            Type::FLOAT8 => Self::Floating(f64::from_sql(ty, raw)?),
            _ => Self::Whole(whole_numeric(raw)?),
        })
    }
}

/// Reads a `numeric` as it is sent: how many digits to the base 10,000, the power of the first, the sign, how many
/// decimals to show, and the digits.
fn whole_numeric(raw: &[u8]) -> Result<i128, &'static str> {
    const NEGATIVE: [u8; 2] = [0x40, 0];
    const SPECIAL: u8 = 0xc0;

    let (words, []) = raw.as_chunks::<2>() else { return Err("a numeric is made of words") };
    let [_, weight, sign, _, digits @ ..] = words else { return Err("a numeric has a head") };
    if sign[0] >= SPECIAL {
        return Err("it is no finite number");
    }
    let weight = i32::from(i16::from_be_bytes(*weight));
    let mut number = 0_i128;
    let mut power = weight;
    for digit in digits {
        let digit = i128::from(u16::from_be_bytes(*digit));
        if power < 0 && digit != 0 {
            return Err("it has decimals: add up the smallest unit, or cast it to float8");
        }
        if power >= 0 {
            let next = number.checked_mul(10_000).and_then(|number| number.checked_add(digit));
            number = next.ok_or("it is beyond 128 bits")?;
        }
        power -= 1;
    }
    // Zeros at the end are not sent.
    while power >= 0 && number != 0 {
        number = number.checked_mul(10_000).ok_or("it is beyond 128 bits")?;
        power -= 1;
    }
    Ok(if *sign == NEGATIVE { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(words: &[i16]) -> Result<i128, &'static str> {
        let raw: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        whole_numeric(&raw)
    }

    #[test]
    fn whole_numerics_are_read_and_others_refused() {
        assert_eq!(numeric(&[0, 0, 0, 0]), Ok(0));
        assert_eq!(numeric(&[1, 0, 0, 0, 7]), Ok(7));
        assert_eq!(numeric(&[1, 2, 0, 0, 3]), Ok(300_000_000));
        assert_eq!(numeric(&[2, 1, 0x4000, 0, 12, 3456]), Ok(-123_456));
        assert_eq!(numeric(&[2, 0, 0, 2, 5, 0]), Ok(5), "5.00");
        assert!(numeric(&[2, 0, 0, 2, 5, 5000]).is_err(), "5.50");
        assert!(numeric(&[0, 0, 0xc000_u16.cast_signed(), 0]).is_err(), "NaN");
        assert!(numeric(&[1, 12, 0, 0, 1]).is_err(), "10^48");
        assert!(numeric(&[1, 0]).is_err());
    }
}
