//! A mark of how far a shard's instance has come, so that a session reads what it has written.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio_postgres::types::PgLsn;

use super::Shard;
use crate::connect::{Lsn, Timeline};
use crate::shard::InstanceName;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// The end of what has been written, flushed or not, for an asynchronous commit counts too. The shard is named so that
/// its home is checked.
const POSITION: Statement = Statement::new(
    "SELECT (SELECT instance FROM howdah.identity), pg_walfile_name(pg_current_wal_insert_lsn()),
            pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn(), {shard}.is_local(0)",
);

/// The pages of the log, as PostgreSQL is built everywhere.
const PAGE: u64 = 8192;
/// The header of a page; that of a file's first page is longer.
const HEADERS: [u64; 2] = [24, 40];

/// How far a shard's instance had come at some moment: whoever reads
/// [at least as fresh](crate::ReadFrom::AtLeast) sees all that was committed there before.
///
/// Its text is short and fit for a cookie or a header, so that a user's next request, wherever it is served, sees what
/// the last one wrote. A user may tamper with it: it only ever decides which server is asked, and is worth a short wait at
/// most.
///
/// # Examples
///
/// ```no_run
/// use howdah::{ReadFrom, Shard, Statement, Token};
/// # const ADD: Statement = Statement::new("INSERT INTO {shard}.notes (text) VALUES ($1)");
/// # const ALL: Statement = Statement::new("SELECT text FROM {shard}.notes");
///
/// # async fn example(shard: Shard) -> howdah::Result<()> {
/// shard.execute(&ADD, &[&"first light"]).await?;
/// let cookie = shard.token().await?.to_string();
///
/// // In the next request:
/// let token: Token = cookie.parse()?;
/// let notes = shard.read(ReadFrom::AtLeast(token)).query(&ALL, &[]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    /// Positions of different instances have nothing to do with each other.
    pub(super) instance: InstanceName,
    pub(super) timeline: Timeline,
    pub(super) lsn: Lsn,
}

/// The format of a token's text; another one is refused.
const FORMAT: u8 = 1;

impl Shard {
    /// Asks the shard's primary how far it is: one round trip. Ask after a write, and read
    /// [at least as fresh](crate::ReadFrom::AtLeast) from then on.
    ///
    /// # Errors
    ///
    /// As [`Shard::query`].
    pub async fn token(&self) -> Result<Token> {
        // Asking changes nothing, whatever became of it.
        let asked = self.query_one(&POSITION, &[]).await;
        let row = asked.map_err(|error| error.with_outcome(Outcome::NotExecuted))?;
        let timeline = Timeline::of_file(row.get(1));
        let position = |column| Lsn::new(row.get::<_, PgLsn>(column).into());
        Ok(Token {
            instance: InstanceName::new(row.get(0))?,
            timeline: timeline.ok_or_else(|| Error::system("the server names no timeline"))?,
            lsn: end_of_the_last_record(position(2), position(3)),
        })
    }
}

/// Where a record ends exactly with a page, the next one is inserted after the next page's header, and until there is
/// one, no replica comes as far.
fn end_of_the_last_record(insert: Lsn, flushed: Lsn) -> Lsn {
    let is_header = HEADERS.contains(&insert.since(flushed)) && flushed.get().is_multiple_of(PAGE);
    if is_header { flushed } else { insert }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.timeline.get().to_be_bytes());
        bytes.extend(self.lsn.get().to_be_bytes());
        bytes.extend(self.instance.as_str().bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Token {
    type Err = Error;

    /// Reads what `to_string` wrote.
    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::input("this is not a token of a shard");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
        let rest = bytes.strip_prefix(&[FORMAT]).ok_or_else(refused)?;
        let (timeline, rest) = rest.split_first_chunk().ok_or_else(refused)?;
        let (lsn, instance) = rest.split_first_chunk().ok_or_else(refused)?;
        let instance = str::from_utf8(instance).map_err(|_| refused())?;
        Ok(Self {
            instance: InstanceName::new(instance).map_err(|_| refused())?,
            timeline: Timeline::new(u32::from_be_bytes(*timeline)),
            lsn: Lsn::new(u64::from_be_bytes(*lsn)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn its_text_is_for_ever() {
        let token = Token {
            instance: InstanceName::new("pg1").unwrap(),
            timeline: Timeline::new(2),
            lsn: Lsn::new(0x16_B374_D848),
        };
        assert_eq!(token.to_string(), "AQAAAAIAAAAWs3TYSHBnMQ");
        assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
    }

    #[test]
    fn at_the_end_of_a_page_the_header_of_the_next_is_not_waited_for() {
        let end =
            |insert, flushed| end_of_the_last_record(Lsn::new(insert), Lsn::new(flushed)).get();
        assert_eq!(end(3 * PAGE + 24, 3 * PAGE), 3 * PAGE);
        assert_eq!(end(3 * PAGE + 40, 3 * PAGE), 3 * PAGE);
        assert_eq!(end(3 * PAGE + 24, 3 * PAGE - 8), 3 * PAGE + 24);
        assert_eq!(end(3 * PAGE + 32, 3 * PAGE), 3 * PAGE + 32);
        assert_eq!(end(100, 100), 100);
    }

    proptest! {
        #[test]
        fn what_was_tampered_with_is_a_token_or_refused(text in "[A-Za-z0-9_-]{0,40}|.{0,20}") {
            match text.parse::<Token>() {
                Ok(token) => prop_assert_eq!(token.to_string(), text),
                Err(error) => prop_assert!(error.is_invalid_input()),
            }
        }

        #[test]
        fn its_text_says_it_all(timeline: u32, lsn: u64, name in "[a-z0-9_-]{1,63}") {
            let (timeline, lsn) = (Timeline::new(timeline), Lsn::new(lsn));
            let token = Token { instance: InstanceName::new(&name).unwrap(), timeline, lsn };
            prop_assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        }
    }
}
