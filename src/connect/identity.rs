//! Is this the server we were told of? Every instance carries an identity row that answers.

use std::fmt;

use tokio_postgres::SimpleQueryMessage::Row;
use tokio_postgres::{Client, SimpleQueryRow};

use super::failure::{is_absent, statement_failure};
use super::standing::{self, Standing};
use crate::error::Kind;
use crate::id::Layout;
use crate::shard::InstanceName;
use crate::{Error, Result};

/// The identity of a cluster, made at `init`: a UUID in its text form.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct ClusterId(String);

impl ClusterId {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number of an instance that rises each time its primary is fenced. A connection below the lowest that the catalog allows is
/// refused: it reached a primary that does not know of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(pub(crate) i64);

/// Who a server must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) instance: InstanceName,
    pub(crate) generation: Generation,
    /// The layout that is baked into the functions which make its ids.
    pub(crate) layout: Layout,
}

impl Identity {
    /// What the server says of itself; `None` when it is no instance of any cluster.
    pub(crate) async fn read(client: &Client) -> Result<Option<Self>> {
        Ok(Self::read_after(client, "").await?.map(|(identity, _)| identity))
    }

    /// The same after some settings of the session, with what the server is at the moment, in one round trip.
    async fn read_after(client: &Client, settings: &str) -> Result<Option<(Self, Standing)>> {
        let read = format!(
            "{settings}SELECT cluster, instance, generation, epoch_ms, shard_bits, sequence_bits, {} \
             FROM howdah.identity",
            standing::COLUMNS
        );
        let answer = match client.simple_query(&read).await {
            Ok(answer) => answer,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => {
                return Err(statement_failure(error, "cannot read the server's identity"));
            }
        };
        let row = answer.iter().find_map(|message| match message {
            Row(row) => Some(row),
            _ => None,
        });
        let found = row.map(|row| Ok((Self::from_text(row)?, Standing::from_text(row, 6))));
        found.transpose()
    }

    fn from_text(row: &SimpleQueryRow) -> Result<Self> {
        let text = |column| row.get(column).unwrap_or_default();
        let number = |column| text(column).parse::<i64>().unwrap_or(-1);
        let bits = |column| u8::try_from(number(column)).unwrap_or(u8::MAX);
        Ok(Self {
            cluster: ClusterId::new(text(0)),
            instance: InstanceName::new(text(1))?,
            generation: Generation(number(2)),
            layout: Layout::new(number(3), bits(4), bits(5))?,
        })
    }

    /// Applies the settings to a new session and checks that it reached the right server; tells what that is at the
    /// moment.
    ///
    /// # Errors
    ///
    /// When the server is another instance, of another cluster, behind in its generation, or makes ids in another layout.
    pub(crate) async fn greet(&self, client: &Client, settings: &str) -> Result<Standing> {
        let wrong = |found: String| {
            Err(Error::new(Kind::WrongServer, format!("the server that answered is {found}"))
                .hint(format!("expected instance {} of cluster {}", self.instance, self.cluster))
                .at(&self.instance))
        };
        let Some((found, standing)) = Self::read_after(client, settings).await? else {
            return wrong("no instance of any cluster".into());
        };
        if found.cluster != self.cluster {
            return wrong(format!("instance {} of cluster {}", found.instance, found.cluster));
        }
        if found.instance != self.instance {
            return wrong(format!("instance {}", found.instance));
        }
        if found.generation < self.generation {
            return wrong(format!(
                "of generation {}, and the catalog allows none below {}",
                found.generation.0, self.generation.0
            ));
        }
        if found.layout != self.layout {
            return wrong(format!(
                "set up to make ids as {}, and the catalog says {}",
                found.layout, self.layout
            ));
        }
        Ok(standing)
    }
}
