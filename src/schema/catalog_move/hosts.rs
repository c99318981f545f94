//! All hosts of an address: whichever of them is promoted must know where the catalog is.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use crate::config::Dsn;
use crate::connect::{Connector, is_absent, statement_failure};
use crate::error::Kind;
use crate::{Error, Result};

/// How long a host may take to answer, and how often it is asked.
const ANSWER: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What each host is asked itself; positions are of one history, and compared where nothing is decided by it.
#[derive(Debug)]
pub(super) enum Fact<'a> {
    /// Whether it has replayed what the primary had written.
    Follows { at: &'a str },
    /// Whether it has the signpost with this mark.
    HasSignpost { mark: &'a str },
}

impl Fact<'_> {
    async fn holds(&self, client: &Client) -> Result<bool> {
        const FOLLOWS: &str = "SELECT NOT pg_is_in_recovery() \
                               OR coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)";
        const HAS: &str = "SELECT EXISTS (SELECT FROM howdah.signpost WHERE mark = $1::text::uuid)";

        let answer = match self {
            Self::Follows { at } => client.query_one(FOLLOWS, &[at]).await,
            Self::HasSignpost { mark } => client.query_one(HAS, &[mark]).await,
        };
        match answer {
            Ok(row) => Ok(row.get(0)),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(statement_failure(error, "cannot ask it")),
        }
    }
}

impl fmt::Display for Fact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follows { .. } => "follow",
            Self::HasSignpost { .. } => "learn where the catalog is",
        })
    }
}

/// Waits until a fact holds on each host.
///
/// # Errors
///
/// When it does not within `patience` on one, or that cannot be reached.
pub(super) async fn all(
    connector: &Connector,
    dsn: &Dsn,
    fact: Fact<'_>,
    patience: Duration,
) -> Result<()> {
    // What it is about was committed on that host.
    if dsn.hosts().len() < 2 {
        return Ok(());
    }
    let give_up = Instant::now() + patience;
    let waits = |host: &str, port: u16| format!("host {host}:{port} has still to {fact}");
    loop {
        let mut lacking = None;
        for (host, port, client) in connector.connect_each(dsn).await {
            let asked = timeout(ANSWER, async { fact.holds(&client?).await }).await;
            match asked.unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "it does not answer"))) {
                Ok(true) => {}
                Ok(false) => lacking = Some(Error::new(Kind::Timeout, waits(&host, port))),
                Err(error) => {
                    lacking = Some(Error::new(Kind::Timeout, waits(&host, port)).because(error));
                }
            }
        }
        match lacking {
            None => return Ok(()),
            Some(error) if Instant::now() > give_up => {
                return Err(error.hint("bring it back, then run this again"));
            }
            Some(_) => sleep(ASK_AGAIN).await,
        }
    }
}
