//! Where a server is in its write-ahead log, and in which history.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// A position in a write-ahead log: bytes since its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lsn(u64);

impl Lsn {
    pub(crate) const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    /// The bytes from an earlier position to this one; none where that is not earlier.
    pub(crate) const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    /// Reads what PostgreSQL writes, such as `16/B374D848`.
    fn from_str(text: &str) -> Result<Self> {
        let halves = text.split_once('/').and_then(|(high, low)| {
            let half = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
            Some(half(high)? << 32 | half(low)?)
        });
        halves.map(Self).ok_or_else(|| Error::input(format!("{text:?} is no position in a WAL")))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Which history a server goes on with: every promotion begins a new one, with a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Timeline(u32);

impl Timeline {
    pub(crate) const fn new(number: u32) -> Self {
        Self(number)
    }

    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    /// The timeline of a file of the log, whose name begins with it.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        u32::from_str_radix(name.get(..8)?, 16).ok().map(Self)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_tells_its_timeline() {
        assert_eq!(Timeline::of_file("0000001A000000160000004F"), Some(Timeline::new(26)));
        assert_eq!(Timeline::of_file("0000"), None);
    }

    proptest! {
        #[test]
        fn a_position_is_read_as_it_is_written(bytes: u64) {
            let lsn = Lsn::new(bytes);
            prop_assert_eq!(lsn.to_string().parse::<Lsn>().unwrap(), lsn);
        }

        #[test]
        fn any_text_is_a_position_or_refused(text in "[0-9A-Fa-f/+ g-]{0,20}") {
            if let Ok(lsn) = text.parse::<Lsn>() {
                prop_assert_eq!(lsn.to_string().parse::<Lsn>().unwrap(), lsn);
            }
        }
    }
}
