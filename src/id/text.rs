//! The text forms of an id: decimal, and the short form of photo links.

use std::str::FromStr;

use super::Id;
use crate::{Error, Result};

/// The digits of the short form, by value: RFC 4648's base64url alphabet, used as a number's digits.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Id {
    /// The short form, as in photo links: the number in base 64 without leading zeros, at most 11 characters.
    ///
    /// # Examples
    ///
    /// ```
    /// let id: howdah::Id = "2715604631366879010".parse()?;
    /// assert_eq!(id.to_code(), "CWvs5T8A1Mi");
    /// assert_eq!(howdah::Id::from_code("CWvs5T8A1Mi")?, id);
    /// # Ok::<(), howdah::Error>(())
    /// ```
    #[must_use]
    pub fn to_code(self) -> String {
        let mut code = Vec::with_capacity(11);
        let mut rest = self.bits();
        loop {
            code.push(char::from(DIGITS[(rest & 63) as usize]));
            rest >>= 6;
            if rest == 0 {
                return code.into_iter().rev().collect();
            }
        }
    }

    /// An id from its short form.
    ///
    /// # Errors
    ///
    /// When it is empty, has other characters, is too large, or is not what [`Id::to_code`] writes (a leading
    /// zero digit): every id has exactly one short form.
    pub fn from_code(code: &str) -> Result<Self> {
        let refused =
            || Error::input(format!("{:?} is not the short form of an id", shortened(code)));
        if code.is_empty() || code.len() > 11 || (code.len() > 1 && code.starts_with('A')) {
            return Err(refused());
        }
        let mut number = 0_u128;
        for byte in code.bytes() {
            let digit = DIGITS.iter().position(|&d| d == byte).ok_or_else(refused)?;
            number = number << 6 | digit as u128;
        }
        Self::new(i64::try_from(number).map_err(|_| refused())?)
    }
}

impl FromStr for Id {
    type Err = Error;

    /// Reads the decimal form: digits alone, no sign, no spaces.
    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::input(format!("{:?} is not an id", shortened(text)));
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refused().hint("an id is a whole number in decimal digits"));
        }
        let number =
            text.parse().map_err(|_| refused().hint("the greatest is 9223372036854775807"))?;
        Self::new(number)
    }
}

/// What is shown of a refused text: whoever sends a megabyte does not get it back.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
