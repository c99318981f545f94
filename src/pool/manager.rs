//! How bb8 makes, checks and judges the connections of one instance.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::session::Session;
use crate::connect::{Connector, Hosts};
use crate::observe;
use crate::{Error, Result};

/// The time that a check of an idle connection may take before it counts as dead.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Manager {
    connector: Connector,
    hosts: Arc<Hosts>,
    /// The one replica to which it connects; none for the primary, whichever that is.
    replica: Option<usize>,
    /// What a new session is told before anything else; numbers alone.
    greeting: String,
}

impl Manager {
    pub(super) fn new(connector: Connector, hosts: Arc<Hosts>, replica: Option<usize>) -> Self {
        let timeout = connector.settings().pool.statement_timeout;
        let greeting = format!("SET statement_timeout = {};", timeout.as_millis());
        Self { connector, hosts, replica, greeting }
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = Session;
    type Error = Failure;

    async fn connect(&self) -> Result<Session, Failure> {
        let began = Instant::now();
        let connected = match self.replica {
            None => self.hosts.connect(&self.greeting).await,
            Some(host) => self.hosts.connect_to_replica(host, &self.greeting).await,
        };
        let session = connected.map(|client| Session::new(client, self.connector.clone()));
        observe::connect(&self.hosts.identity().instance, began.elapsed(), &session);
        session.map_err(Failure::Connect)
    }

    async fn is_valid(&self, session: &mut Session) -> Result<(), Failure> {
        if session.is_unsound() {
            return Err(Failure::Check);
        }
        if session.idle_for() < self.connector.settings().pool.check_delay {
            return Ok(());
        }
        match tokio::time::timeout(CHECK_TIMEOUT, session.client().check_connection()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Failure::Check),
        }
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.is_unsound()
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Failure {
    /// It could not be made: whoever waits for one should know.
    Connect(Error),
    /// An idle one was found dead: bb8 replaces it, and nobody needs to know.
    Check,
}

/// Hands the reason why a connection could not be made to those who wait for one; bb8 alone would let them wait
/// until their time is over, and say nothing.
#[derive(Debug, Clone)]
pub(super) struct Failures(watch::Sender<Option<Error>>);

impl Failures {
    pub(super) fn new(sender: watch::Sender<Option<Error>>) -> Self {
        Self(sender)
    }
}

impl bb8::ErrorSink<Failure> for Failures {
    fn sink(&self, failure: Failure) {
        if let Failure::Connect(error) = failure {
            self.0.send_replace(Some(error));
        }
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<Failure>> {
        Box::new(self.clone())
    }
}
