//! SQL that is written for any shard: `{shard}` stands for the schema of the one it runs on.

mod classify;

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub(crate) use classify::Nature;

use crate::shard::Home;
use crate::{Error, Result};

const PLACEHOLDER: &str = "{shard}";

/// SQL with a `{shard}` placeholder, usually a constant of the program.
///
/// A statement without the placeholder is refused: it would name tables that no shard owns, and so bypass
/// the check of the shard's home that PostgreSQL makes whenever a name is resolved.
///
/// Values never become part of the text; they are passed as parameters `$1`, `$2`…
///
/// # Examples
///
/// ```
/// use howdah::Statement;
///
/// const BY_ID: Statement = Statement::new("SELECT caption FROM {shard}.photos WHERE id = $1");
///
/// let made = format!("SELECT count(*) FROM {{shard}}.{}", "photos");
/// let count = Statement::parse(made)?;
/// assert!(Statement::parse("SELECT 1").unwrap_err().is_invalid_input());
/// # Ok::<(), howdah::Error>(())
/// ```
#[derive(Clone)]
pub struct Statement {
    text: Text,
    nature: Nature,
    /// Of the text, worked out once: a statement is looked up at each call.
    hash: u64,
}

#[derive(Clone)]
enum Text {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Statement {
    /// A statement known when the program is compiled.
    ///
    /// # Panics
    ///
    /// When the text has no `{shard}`; in a `const`, that is an error of the compiler.
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        assert!(has_placeholder(text.as_bytes()), "a statement for a shard must contain {{shard}}");
        let (nature, hash) = (classify::nature(text), hash_of(text.as_bytes()));
        Self { text: Text::Static(text), nature, hash }
    }

    /// A statement made at run time. Never build one from the values of a user: pass those as parameters.
    ///
    /// # Errors
    ///
    /// When the text has no `{shard}`.
    pub fn parse(text: impl Into<Cow<'static, str>>) -> Result<Self> {
        let text = text.into();
        if !has_placeholder(text.as_bytes()) {
            return Err(Error::input(format!("the statement {text:?} has no {PLACEHOLDER}"))
                .hint("name tables as {shard}.table, or use the instance's raw client"));
        }
        Ok(Self {
            nature: classify::nature(&text),
            hash: hash_of(text.as_bytes()),
            text: match text {
                Cow::Borrowed(text) => Text::Static(text),
                Cow::Owned(text) => Text::Shared(text.into()),
            },
        })
    }

    /// A single read made of others that are, known to be one by how it is made.
    pub(crate) fn single_read(text: String) -> Self {
        let hash = hash_of(text.as_bytes());
        Self { text: Text::Shared(text.into()), nature: Nature::SingleRead, hash }
    }

    /// The text, with its placeholders.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }

    /// A number made of the text; another text may have the same.
    pub(crate) const fn hashed(&self) -> u64 {
        self.hash
    }

    /// What it may do, as far as its text tells.
    pub(crate) const fn nature(&self) -> Nature {
        self.nature
    }

    /// Whether it reads and does nothing else: it may be sent on a connection that others read on too, and be done
    /// again.
    pub(crate) const fn is_single_read(&self) -> bool {
        matches!(self.nature, Nature::SingleRead)
    }

    /// Whether it leaves the session as it was, all or nothing: a query, or a change of rows.
    pub(crate) const fn is_bounded(&self) -> bool {
        matches!(self.nature, Nature::SingleRead | Nature::Rows)
    }

    /// The SQL for one home.
    pub(crate) fn render(&self, home: &Home) -> String {
        self.as_str().replace(PLACEHOLDER, &home.schema())
    }
}

impl Text {
    fn as_str(&self) -> &str {
        match self {
            Self::Static(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl PartialEq for Statement {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (self.as_str(), other.as_str());
        self.hash == other.hash && (std::ptr::eq(one, two) || one == two)
    }
}

impl Eq for Statement {}

impl Hash for Statement {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// FNV-1a, which the compiler can run.
const fn hash_of(text: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut n = 0;
    while n < text.len() {
        hash = (hash ^ text[n] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        n += 1;
    }
    hash
}

/// Whether the text contains the placeholder; a plain search that the compiler can run.
const fn has_placeholder(text: &[u8]) -> bool {
    let wanted = PLACEHOLDER.as_bytes();
    let mut start = 0;
    while start + wanted.len() <= text.len() {
        let mut same = 0;
        while same < wanted.len() && text[start + same] == wanted[same] {
            same += 1;
        }
        if same == wanted.len() {
            return true;
        }
        start += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{Epoch, InstanceName, ShardId};

    #[test]
    fn every_placeholder_becomes_the_schema() {
        let home = Home::new(
            ShardId::new(42).unwrap(),
            InstanceName::new("pg1").unwrap(),
            Epoch::new(3).unwrap(),
        );
        let statement =
            Statement::new("INSERT INTO {shard}.a SELECT * FROM {shard}.b WHERE id = $1");
        assert_eq!(
            statement.render(&home),
            "INSERT INTO shard_0042_e3.a SELECT * FROM shard_0042_e3.b WHERE id = $1"
        );
    }

    #[test]
    fn a_statement_without_the_placeholder_is_refused() {
        for text in ["", "SELECT 1", "SELECT * FROM {shar}.t", "{shard", "shard}"] {
            assert!(Statement::parse(text).unwrap_err().is_invalid_input(), "{text}");
        }
    }

    #[test]
    fn equal_texts_are_equal_statements_wherever_they_live() {
        let made = Statement::parse(String::from("SELECT {shard}.f()")).unwrap();
        assert_eq!(made, Statement::new("SELECT {shard}.f()"));
    }
}
