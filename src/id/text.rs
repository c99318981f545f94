//! The text forms of an id: decimal, the short form of photo links, and one that sorts. Permanent formats.

use std::str::FromStr;

use super::Id;
use crate::{Error, Result};

/// The digits of the short form, by value: RFC 4648's base64url alphabet, used as a number's digits.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The digits of the sortable form: those of the short form, in the order of their bytes.
const SORTED_DIGITS: &[u8; 64] =
    b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";

/// The width of the sortable form: 63 bits in digits of six.
const SORTABLE_WIDTH: usize = 11;

impl Id {
    /// The short form, as in photo links: the number in base 64 without leading zeros, at most 11 characters.
    ///
    /// # Examples
    ///
    /// ```
    /// let id: howdah::Id = "2715604631366879010".parse()?;
    /// assert_eq!(id.to_code(), "CWvxAY7B0ci");
    /// assert_eq!(howdah::Id::from_code("CWvxAY7B0ci")?, id);
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
        from_digits(code, DIGITS).ok_or_else(refused)
    }

    /// The form whose texts sort, byte by byte, as the ids do: 11 characters that need no escaping in URLs or file
    /// names, for keys of object stores and the like. In a database, sort it with `COLLATE "C"`.
    ///
    /// # Examples
    ///
    /// ```
    /// let id: howdah::Id = "2715604631366879010".parse()?;
    /// assert_eq!(id.to_sortable(), "1Ljl-Nv0oRX");
    /// assert_eq!(howdah::Id::from_sortable("1Ljl-Nv0oRX")?, id);
    /// # Ok::<(), howdah::Error>(())
    /// ```
    #[must_use]
    pub fn to_sortable(self) -> String {
        let digit = |place| char::from(SORTED_DIGITS[(self.bits() >> (6 * place) & 63) as usize]);
        (0..SORTABLE_WIDTH).rev().map(digit).collect()
    }

    /// An id from its sortable form.
    ///
    /// # Errors
    ///
    /// When it is not 11 characters of its alphabet, or too large.
    pub fn from_sortable(text: &str) -> Result<Self> {
        let id = (text.len() == SORTABLE_WIDTH).then(|| from_digits(text, SORTED_DIGITS));
        id.flatten().ok_or_else(|| {
            Error::input(format!("{:?} is not the sortable form of an id", shortened(text)))
        })
    }
}

/// The id that at most 11 digits of base 64 stand for, if they do.
fn from_digits(text: &str, digits: &[u8; 64]) -> Option<Id> {
    let number = text.bytes().try_fold(0_u128, |number, byte| {
        let digit = digits.iter().position(|&digit| digit == byte)?;
        Some(number << 6 | digit as u128)
    })?;
    Id::new(i64::try_from(number).ok()?).ok()
}

impl FromStr for Id {
    type Err = Error;

    /// Reads the decimal form: digits alone, no sign, no spaces, no leading zero.
    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::input(format!("{:?} is not an id", shortened(text)));
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refused().hint("an id is a whole number in decimal digits"));
        }
        if text.len() > 1 && text.starts_with('0') {
            return Err(refused().hint("an id has no leading zeros"));
        }
        let number =
            text.parse().map_err(|_| refused().hint("the greatest is 9223372036854775807"))?;
        Self::new(number)
    }
}

/// What is shown of a refused text: whoever sends a megabyte does not get it back.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
