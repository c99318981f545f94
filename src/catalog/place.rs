//! Where the catalog is. A database that it was moved away from keeps a signpost (`sql/signpost.sql`), and whoever logs in
//! there is led on: so programs find the catalog whose configuration still names the place where it was.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Row};

use crate::config::Dsn;
use crate::connect::{Connector, Role, is_absent, sqlstate, statement_failure};
use crate::error::Kind;
use crate::shard::MapVersion;
use crate::{Error, Result};

/// A signpost leads straight to the catalog, unless somebody could not be reached when it was moved again.
pub(crate) const MOST_SIGNPOSTS: usize = 16;
/// How long whoever writes waits for a copy to become the catalog, which takes milliseconds once it was decided.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a database says of where the catalog is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signpost {
    pub(crate) dsn: Dsn,
    pub(crate) map_version: MapVersion,
    pub(crate) mark: String,
}

impl Signpost {
    /// The one that stands in a database.
    ///
    /// # Errors
    ///
    /// When the database cannot be asked, or says what makes no sense.
    pub(crate) async fn read(client: &Client) -> Result<Option<Self>> {
        const STANDS: &str = "SELECT to_regclass('howdah.signpost') IS NOT NULL";
        const READ: &str = "SELECT dsn, map_version, mark::text FROM howdah.signpost";

        let row = async {
            if !client.query_typed_one(STANDS, &[]).await?.get::<_, bool>(0) {
                return Ok(None);
            }
            client.query_typed_opt(READ, &[]).await
        };
        match row.await {
            Ok(row) => row.as_ref().map(Self::from_row).transpose(),
            // Taken away just now; or a schema that is not ours, which is told when the catalog is looked for in it.
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) if error.code().is_some_and(sqlstate::is_forbidden) => Ok(None),
            Err(error) => Err(statement_failure(error, "cannot ask where the catalog is")),
        }
    }

    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            dsn: row.get::<_, &str>(0).parse()?,
            map_version: MapVersion::new(row.get(1)),
            mark: row.get(2),
        })
    }
}

/// A session in the database that has the catalog.
#[derive(Debug)]
pub(crate) struct Place {
    /// How applications reach it.
    pub(crate) dsn: Dsn,
    pub(crate) client: Client,
    /// It is a copy that became the catalog when the old one was closed, and is not open for changes yet: the signpost that
    /// stands there still.
    pub(crate) closed: Option<Signpost>,
}

impl Place {
    /// Logs in to the catalog, beginning where the configuration says.
    ///
    /// # Errors
    ///
    /// As [`Connector::connect`]; when signposts lead nowhere.
    pub(crate) async fn find(connector: &Connector, role: Role) -> Result<Self> {
        Self::find_from(connector, &connector.settings().catalog, role).await
    }

    /// The same, beginning elsewhere. A database without a signpost may have no catalog either.
    pub(super) async fn find_from(connector: &Connector, from: &Dsn, role: Role) -> Result<Self> {
        let mut dsn = from.clone();
        let mut led_by: Option<Signpost> = None;
        for _ in 0..MOST_SIGNPOSTS {
            let client = connector.connect(&dsn, role).await?;
            let Some(here) = Signpost::read(&client).await? else {
                return Ok(Self { dsn, client, closed: None });
            };
            match &led_by {
                Some(led_by) if here.map_version <= led_by.map_version => {
                    if here.mark == led_by.mark {
                        return Ok(Self { dsn, client, closed: Some(here) });
                    }
                    break;
                }
                _ => dsn = here.dsn.clone(),
            }
            led_by = Some(here);
        }
        Err(Error::config(format!("{from} leads to no catalog: signposts contradict each other"))
            .hint("did a server lose its last commits? see \"The catalog's place\" in the operations guide"))
    }

    /// Logs in to change the catalog: waits for one that was moved just now.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find); when a move of the catalog was interrupted.
    pub(crate) async fn find_open(connector: &Connector, role: Role) -> Result<Client> {
        let give_up = Instant::now() + OPENING_PATIENCE;
        loop {
            let place = Self::find(connector, role).await?;
            if place.closed.is_none() || Instant::now() > give_up {
                return place.open();
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The session, if it may change the catalog.
    ///
    /// # Errors
    ///
    /// When a move of the catalog was interrupted.
    pub(crate) fn open(self) -> Result<Client> {
        match self.closed {
            None => Ok(self.client),
            Some(_) => Err(Error::new(
                Kind::Unavailable,
                format!("the catalog was moved to {} and takes no changes yet", self.dsn),
            )
            .hint("finish that: `howdah catalog move` to there again")),
        }
    }
}
