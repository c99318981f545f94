//! One connection: where it goes, as whom, how it is secured, and whether the right server answered.
//!
//! A connection made here has logged in within the connect timeout, to a primary unless another is asked for. Nothing here
//! pools, retries or knows of shards.

mod failure;
pub(crate) mod gone;
mod hosts;
mod identity;
mod libpq;
mod position;
mod seek;
pub(crate) mod sqlstate;
mod standing;
mod tls;
mod wire;

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use bb8::ManageConnection as _;
use bb8_postgres::PostgresConnectionManager;
use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::lookup_host;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{AsyncMessage, Client, Socket};

pub(crate) use failure::{
    connect_failure, is_absent, is_read_only, is_stale_plan, is_undefined_name, statement_failure,
    within_read_only,
};
pub(crate) use hosts::Hosts;
pub(crate) use identity::{ClusterId, Generation, Identity};
pub(crate) use position::{Lsn, Timeline};
use seek::{Attempt, no_primary, seek};
pub(crate) use standing::Standing;
use tls::Tls;
pub(crate) use wire::Wire;
use wire::Wired;

use crate::config::{Dsn, Settings};
use crate::error::Kind;
use crate::{Error, Result};

/// When a connection on which nothing is said is probed: one whose other end is gone without a word is found dead after
/// [`USER_TIMEOUT`] or a little more, waiting for an answer or idle.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVES_RETRIES: u32 = 3;
/// How long what was sent may stay unacknowledged by the other end's kernel.
const USER_TIMEOUT: Duration = Duration::from_secs(15);

/// As whom a connection logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The user that the address names: reads the map, reads and writes rows.
    App,
    /// The owner of the schemas: creates and migrates them.
    Owner,
    /// Whoever moves shards: replication.
    Mover,
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

    /// Logs in to the primary among the hosts of an address; of several, to the one that was promoted last.
    ///
    /// # Errors
    ///
    /// Everything that can go wrong on the way, with the outcome "not executed". With several hosts, each one's reason is
    /// named.
    pub(crate) async fn connect(&self, dsn: &Dsn, role: Role) -> Result<Client> {
        Ok(self.link(dsn, role).await?.client)
    }

    /// The same for who wants to be able to close it under a statement that runs.
    pub(crate) async fn link(&self, dsn: &Dsn, role: Role) -> Result<Link> {
        let targets = self.targets(dsn, role)?;
        let alone = targets.len() == 1;
        let attempts = targets.iter().map(|target| -> Attempt<'_, Link> {
            Box::pin(async move {
                let limit = self.settings.pool.connect_timeout;
                let link = self.log_in(target, limit, alone).await?;
                let standing = in_time(target, limit, Standing::ask(&link.client)).await?;
                Ok((standing.of_a_primary(target)?, link))
            })
        });
        seek(None, attempts).await.map_err(|failures| no_primary(dsn, failures))
    }

    /// Logs in to each host of an address, primary or not, all at once.
    pub(crate) async fn connect_each(&self, dsn: &Dsn) -> Vec<(String, u16, Result<Client>)> {
        let connect = async |host: String, port: u16| {
            let connected = async {
                let limit = self.settings.pool.connect_timeout;
                self.client(&dsn.with_host(&host, port)?, limit, false).await
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
        for host in targets {
            let limit = self.settings.pool.connect_timeout;
            let listening = async {
                let (mut driver, wired) = self.driver(&host, false)?;
                driver.target_session_attrs(TargetSessionAttrs::ReadWrite);
                let connecting = driver.connect(wired);
                connecting.await.map_err(|error| connect_failure(error, &host))
            };
            match in_time(&host, limit, Box::pin(listening)).await {
                Ok((client, connection)) => {
                    return hear(client, connection, &host, channel, heard).await;
                }
                Err(error) => failure = error,
            }
        }
        failure
    }

    /// Asks the server to stop what a client is doing; whether it did is not known. The future stands alone.
    pub(crate) fn cancel(
        &self,
        client: &Client,
        wire: &Wire,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (token, wired) = (client.cancel_token(), Wired::as_before(wire, &self.tls));
        let limit = self.settings.pool.connect_timeout;
        async move {
            // Nobody waits for this: where it fails, statement_timeout ends the statement.
            let _ = timeout(limit, token.cancel_query(wired)).await;
        }
    }

    /// The hosts of an address one by one.
    fn targets(&self, dsn: &Dsn, role: Role) -> Result<Vec<Dsn>> {
        let dsn = self.in_role(dsn, role)?;
        dsn.hosts().map(|(host, port)| dsn.with_host(&host, port)).collect()
    }

    fn in_role(&self, dsn: &Dsn, role: Role) -> Result<Dsn> {
        match role {
            Role::App => Ok(dsn.clone()),
            Role::Owner => dsn.with_user(&self.settings.auth.owner),
            Role::Mover => dsn.with_user(&self.settings.auth.mover),
        }
    }

    /// Logs in to a single host, primary or not. A name that is `alone` in its instance's address may lead to all servers of
    /// that: then to the one that takes writes.
    async fn log_in(&self, target: &Dsn, limit: Duration, alone: bool) -> Result<Link> {
        let (mut driver, wired) = self.driver(target, alone)?;
        let wire = wired.wire();
        // Boxed because with TLS it is large.
        let connecting = Box::pin(async {
            // One address of a name that says nothing must not use up the time of the next.
            let addresses = addresses(target).await;
            if addresses > 1 {
                driver.connect_timeout(limit / addresses);
            }
            let connected = driver.connect(wired).await;
            connected.map_err(|error| connect_failure(error, target))
        });
        let (client, connection) = in_time(target, limit, connecting).await?;
        // It ends with the client; what goes wrong there is the answer to the client's next request.
        let driven = tokio::spawn(async move { drop(connection.await) });
        Ok(Link { client, wire, driven })
    }

    /// Logs in to one host for a connection that lives as long as its client.
    async fn client(&self, target: &Dsn, limit: Duration, alone: bool) -> Result<Client> {
        let (driver, wired) = self.driver(target, alone)?;
        let manager = PostgresConnectionManager::new(driver, wired);
        let connecting = Box::pin(async {
            manager.connect().await.map_err(|error| connect_failure(error, target))
        });
        in_time(target, limit, connecting).await
    }

    fn driver(&self, target: &Dsn, alone: bool) -> Result<(tokio_postgres::Config, Wired)> {
        let mut driver = self.driver_config(target)?;
        if alone && target.is_name() {
            driver.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let wired = Wired::new(&mut driver, &self.tls, !target.is_socket());
        Ok((driver, wired))
    }

    fn driver_config(&self, target: &Dsn) -> Result<tokio_postgres::Config> {
        let auth = &self.settings.auth;
        let mut driver = target.driver_config();
        driver.ssl_mode(tls::driver_mode(auth.sslmode(target.is_local())?));
        if !target.says("application_name") {
            driver.application_name("howdah");
        }
        if !target.says("keepalives_idle") {
            driver.keepalives_idle(KEEPALIVES_IDLE);
        }
        if !target.says("keepalives_interval") {
            driver.keepalives_interval(KEEPALIVES_INTERVAL);
        }
        if !target.says("keepalives_retries") {
            driver.keepalives_retries(KEEPALIVES_RETRIES);
        }
        if !target.says("tcp_user_timeout") {
            driver.tcp_user_timeout(USER_TIMEOUT);
        }
        for (host, port) in target.hosts() {
            let passwords = &auth.passwords;
            let password = passwords.password_for(&host, port, target.dbname(), target.user())?;
            if let Some(password) = password {
                driver.password(password.reveal());
            }
        }
        Ok(driver)
    }
}

/// A connection, and the task that drives it: aborted, it closes the connection under whoever uses it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) wire: Arc<Wire>,
    pub(crate) driven: JoinHandle<()>,
}

/// How many addresses a host has that is a name. What cannot be resolved is told by who connects to it.
async fn addresses(target: &Dsn) -> u32 {
    let mut count = 0;
    for host in target.hosts().filter(|_| target.is_name()) {
        let found = lookup_host(host).await.map_or(0, Iterator::count);
        count += u32::try_from(found).unwrap_or(u32::MAX);
    }
    count
}

/// Waits for a server that is to let somebody in.
async fn in_time<T>(
    target: &Dsn,
    limit: Duration,
    connecting: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout(limit, connecting).await.unwrap_or_else(|_| {
        Err(Error::new(Kind::Timeout, format!("{target} let no one in within {limit:?}"))
            .hint("is the server up, and is it the right address?"))
    })
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
