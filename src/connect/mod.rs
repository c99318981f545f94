//! One connection: where it goes, as whom, how it is secured, and whether the right server answered.
//!
//! A connection made here has logged in to a primary within the connect timeout. Nothing here pools, retries or
//! knows of shards.

mod failure;
mod identity;
mod tls;

use std::future::{pending, poll_fn};
use std::sync::Arc;

use bb8::ManageConnection;
use bb8_postgres::PostgresConnectionManager;
use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{AsyncMessage, Client, Socket};

pub(crate) use failure::{connect_failure, is_stale_plan, is_undefined_name, statement_failure};
pub(crate) use identity::{ClusterId, Generation, Identity};
use tls::Tls;

use crate::config::{Dsn, Settings};
use crate::error::Kind;
use crate::{Error, Result};

/// As whom a connection logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The user that the address names: reads the map, reads and writes rows.
    App,
    /// The owner of the schemas: creates and migrates them.
    Owner,
}

/// Makes connections, from the configuration alone.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    settings: Arc<Settings>,
    tls: Tls,
}

impl Connector {
    /// # Errors
    ///
    /// When certificates that the configuration names cannot be read or make no sense.
    pub(crate) fn new(settings: Arc<Settings>) -> Result<Self> {
        let tls = tls::connector(&settings.auth)?;
        Ok(Self { settings, tls })
    }

    /// What the configuration says.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Logs in to the primary among the hosts of an address.
    ///
    /// # Errors
    ///
    /// Everything that can go wrong on the way, with the outcome "not executed". With several hosts, the last one's
    /// error is what is reported.
    pub(crate) async fn connect(&self, dsn: &Dsn, role: Role) -> Result<Client> {
        let mut failure = None;
        for (host, driver) in self.targets(dsn, role)? {
            let manager = PostgresConnectionManager::new(driver, self.tls.clone());
            match self.in_time(&host, Box::pin(manager.connect())).await {
                Ok(client) => return Ok(client),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| no_host(dsn)))
    }

    /// Logs in to each host of an address, primary or not, all at once.
    pub(crate) async fn connect_each(&self, dsn: &Dsn) -> Vec<(String, u16, Result<Client>)> {
        let connect = async |host: String, port: u16| {
            let connected = async {
                let target = dsn.with_host(&host, port)?;
                let mut driver = self.driver_config(&target, &host, port)?;
                driver.target_session_attrs(TargetSessionAttrs::Any);
                let manager = PostgresConnectionManager::new(driver, self.tls.clone());
                self.in_time(&target, manager.connect()).await
            };
            let connected = connected.await;
            (host, port, connected)
        };
        join_all(dsn.hosts().map(|(host, port)| connect(host, port))).await
    }

    /// Logs in and listens on a channel until the connection ends, which is the error returned. `heard` is
    /// called when listening has begun, since what came before went unheard, then for every notification.
    pub(crate) async fn listen(
        &self,
        dsn: &Dsn,
        channel: &'static str,
        heard: impl Fn() + Send + Sync,
    ) -> Error {
        let targets = match self.targets(dsn, Role::App) {
            Ok(targets) => targets,
            Err(error) => return error,
        };
        let mut failure = no_host(dsn);
        for (host, driver) in targets {
            match self.in_time(&host, Box::pin(driver.connect(self.tls.clone()))).await {
                Ok((client, connection)) => {
                    return hear(client, connection, &host, channel, heard).await;
                }
                Err(error) => failure = error,
            }
        }
        failure
    }

    /// Asks the server to stop what a client is doing; whether it did is not known. The future stands alone.
    pub(crate) fn cancel(&self, client: &Client) -> impl Future<Output = ()> + Send + 'static {
        let (token, tls) = (client.cancel_token(), self.tls.clone());
        let limit = self.settings.pool.connect_timeout;
        async move {
            // Nobody waits for this: where it fails, statement_timeout ends the statement.
            let _ = tokio::time::timeout(limit, token.cancel_query(tls)).await;
        }
    }

    /// The hosts of an address one by one, each with what the driver needs to log in there.
    fn targets(&self, dsn: &Dsn, role: Role) -> Result<Vec<(Dsn, tokio_postgres::Config)>> {
        let dsn = match role {
            Role::App => dsn.clone(),
            Role::Owner => dsn.with_user(&self.settings.auth.owner)?,
        };
        let target = |(host, port): (String, u16)| {
            let target = dsn.with_host(&host, port)?;
            let driver = self.driver_config(&target, &host, port)?;
            Ok((target, driver))
        };
        dsn.hosts().map(target).collect()
    }

    /// Waits for a log-in; the caller has boxed it, for with TLS it is large.
    async fn in_time<T>(
        &self,
        dsn: &Dsn,
        connecting: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let limit = self.settings.pool.connect_timeout;
        match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected.map_err(|error| connect_failure(error, dsn)),
            Err(_) => {
                Err(Error::new(Kind::Timeout, format!("{dsn} let no one in within {limit:?}"))
                    .hint("is the server up, and is it the right address?"))
            }
        }
    }

    fn driver_config(&self, dsn: &Dsn, host: &str, port: u16) -> Result<tokio_postgres::Config> {
        let auth = &self.settings.auth;
        let mut driver = dsn.driver_config();
        driver
            .application_name("howdah")
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .ssl_mode(tls::driver_mode(auth.sslmode(dsn.is_local())?));
        let password = auth.passwords.password_for(host, port, dsn.dbname(), dsn.user())?;
        if let Some(password) = password {
            driver.password(password.reveal());
        }
        Ok(driver)
    }
}

/// Listens until the connection ends.
async fn hear<S>(
    client: Client,
    mut connection: tokio_postgres::Connection<Socket, S>,
    dsn: &Dsn,
    channel: &'static str,
    heard: impl Fn(),
) -> Error
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let polling = async {
        loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(_))) => heard(),
                Some(Ok(_)) => {}
                Some(Err(error)) => return connect_failure(error, dsn),
                None => return Error::new(Kind::Unavailable, format!("{dsn} hung up")),
            }
        }
    };
    let listening = async {
        match client.batch_execute(&format!("LISTEN {channel}")).await {
            Ok(()) => heard(),
            Err(error) => return connect_failure(error, dsn),
        }
        pending().await
    };
    tokio::select! {
        error = polling => error,
        error = listening => error,
    }
}

fn no_host(dsn: &Dsn) -> Error {
    Error::config(format!("{dsn} names no host"))
}
