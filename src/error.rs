//! The one error of the crate: opaque, with predicates, and with an answer to "did it happen?".
//!
//! Every error says what was attempted, why it failed and, where there is one, the next step, in one
//! line. No message ever holds a password.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;

use tokio_postgres::error::{DbError, SqlState};

/// What went wrong, in a form that a program can ask and a person can read.
///
/// It prints as one line that has the cause in it. So [`source`](std::error::Error::source) is empty, and nothing is printed
/// twice; [`Error::as_db_error`] and [`Error::downcast_ref`] give the cause itself.
///
/// # Examples
///
/// ```
/// let error = "not a number".parse::<howdah::Id>().unwrap_err();
/// assert!(error.is_invalid_input());
/// assert_eq!(error.outcome(), howdah::Outcome::NotExecuted);
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether the work that an [`Error`] reports on took place.
///
/// Every error is one of these three, and the library retries by itself only what was
/// [not executed](Outcome::NotExecuted). Of work in many steps, such as a migration or a move, it is about the step that
/// failed; such work is made to be run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing was executed, or only a read: trying again is safe. Whether it helps is another matter: what was wrong with the
    /// call itself, such as a malformed id, stays wrong.
    NotExecuted,
    /// It was tried and the database refused it, or its closure [gave up](Error::abort); nothing of it remains.
    Failed,
    /// The connection was lost after a write or a `COMMIT` was sent: it may or may not have happened. Or a procedure failed
    /// that may have committed a part of its work before; or a write returned other rows than were asked for, such as none to
    /// [`query_one`](crate::Shard::query_one).
    ///
    /// Never retried by the library; look at the data before trying again.
    Unknown,
}

/// How far a call had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for a connection of the pool.
    Queue,
    /// Making a connection: reaching a server, logging in, and looking whether it is the right one.
    Connect,
    /// Running a statement.
    Execute,
}

/// What an [`Error`] is about. Private: users ask the predicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The configuration is wrong or incomplete.
    Config,
    /// A value handed in cannot be what it is said to be.
    Input,
    /// A safety check refused to go on.
    Refused,
    /// A server, or the way to it, is not available.
    Unavailable,
    /// Waited too long.
    Timeout,
    /// The server we reached is not the one we were told of.
    WrongServer,
    /// The shard does not live where the map said.
    StaleHome,
    /// The database asks for the whole transaction to be run again.
    Conflict,
    /// The statement was rejected by the database.
    Database,
    /// Another owner has claimed the value.
    Taken,
    /// The caller got a shape of result that it did not ask for.
    Rows,
    /// The closure of a transaction gave up, for a reason of the application's.
    Aborted,
    /// A file, a process or another resource of this machine failed.
    System,
}

#[derive(Clone)]
struct Inner {
    kind: Kind,
    outcome: Outcome,
    what: String,
    phase: Option<Phase>,
    instance: Option<String>,
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
    hint: Option<String>,
}

impl Error {
    /// Gives a transaction up for a reason of the application's own: a closure that returns this is rolled back, and is not
    /// run again. Where the closure was called, [`Error::downcast_ref`] gives the reason back.
    ///
    /// Its outcome is [`Outcome::Failed`]. In a serializable transaction the reason may rest on reads that would not have
    /// stood: PostgreSQL vouches for them at the commit alone.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use howdah::{Error, Id, Shard, Statement};
    ///
    /// #[derive(Debug)]
    /// struct SoldOut;
    /// # impl std::fmt::Display for SoldOut {
    /// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    /// #         f.write_str("sold out")
    /// #     }
    /// # }
    /// # impl std::error::Error for SoldOut {}
    /// # const ORDER: Statement = Statement::new("INSERT INTO {shard}.orders (item, buyer) VALUES ($1, $2)");
    /// # const TAKE: Statement = Statement::new("UPDATE {shard}.items SET stock = stock - 1 WHERE id = $1 AND stock > 0");
    ///
    /// # async fn example(shard: Shard, item: Id, buyer: Id) -> howdah::Result<()> {
    /// let ordered = shard
    ///     .transaction(async |tx| {
    ///         tx.execute(&ORDER, &[&item, &buyer]).await?;
    ///         match tx.execute(&TAKE, &[&item]).await? {
    ///             0 => Err(Error::abort(SoldOut)),
    ///             _ => Ok(()),
    ///         }
    ///     })
    ///     .await;
    /// match ordered {
    ///     Err(error) if error.downcast_ref::<SoldOut>().is_some() => println!("sold out"),
    ///     ordered => ordered?,
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "it does nothing unless the closure returns it"]
    pub fn abort(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Kind::Aborted, "the transaction was given up")
            .because(cause)
            .with_outcome(Outcome::Failed)
    }

    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            outcome: Outcome::NotExecuted,
            what: what.into(),
            phase: None,
            instance: None,
            cause: None,
            hint: None,
        }))
    }

    pub(crate) fn config(what: impl Into<String>) -> Self {
        Self::new(Kind::Config, what)
    }

    pub(crate) fn input(what: impl Into<String>) -> Self {
        Self::new(Kind::Input, what)
    }

    pub(crate) fn refused(what: impl Into<String>) -> Self {
        Self::new(Kind::Refused, what)
    }

    pub(crate) fn system(what: impl Into<String>) -> Self {
        Self::new(Kind::System, what)
    }

    /// Adds the cause, which is printed after what was attempted.
    pub(crate) fn because(
        mut self,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.cause = Some(cause.into().into());
        self
    }

    /// Adds the next step for the person who reads the message.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    /// Says what became of it where the connection did not tell.
    pub(crate) fn if_unknown(self, outcome: Outcome) -> Self {
        match self.outcome() {
            Outcome::Unknown => self.with_outcome(outcome),
            Outcome::NotExecuted | Outcome::Failed => self,
        }
    }

    /// Names the instance on which it happened; the first name given stays.
    pub(crate) fn at(mut self, instance: impl fmt::Display) -> Self {
        self.0.instance.get_or_insert_with(|| instance.to_string());
        self
    }

    /// Says how far it had come: a statement on the way to a connection is part of connecting.
    pub(crate) fn in_phase(mut self, phase: Phase) -> Self {
        self.0.phase = Some(phase);
        self
    }

    /// What a transaction's closure returned, once the transaction is rolled back: the rows that it could not read are among what
    /// is undone.
    pub(crate) fn rolled_back(self) -> Self {
        let is_of_driver = self.downcast_ref::<tokio_postgres::Error>().is_some();
        match (self.kind(), self.outcome()) {
            (Kind::Rows, Outcome::Unknown) if is_of_driver => self.with_outcome(Outcome::Failed),
            _ => self,
        }
    }

    /// Whether this machine or the other one refused a connection at once, for want of somebody who listens.
    pub(crate) fn is_connection_refused(&self) -> bool {
        let mut next = self.0.cause.as_deref().map(|cause| cause as &dyn std::error::Error);
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return matches!(io.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound);
            }
            next = error.source();
        }
        false
    }

    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    pub(crate) fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Whether the work was not executed, failed, or may have happened.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// How far the call had come, where it was one to a server: waiting for a connection, making one, or running the
    /// statement.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        self.0.phase
    }

    /// The SQLSTATE, where a PostgreSQL server answered with one.
    #[must_use]
    pub fn code(&self) -> Option<&SqlState> {
        self.as_db_error().map(DbError::code)
    }

    /// The server's own report, with constraint and column names, where there is one.
    #[must_use]
    pub fn as_db_error(&self) -> Option<&DbError> {
        let cause = self.0.cause.as_deref()?;
        cause.downcast_ref::<tokio_postgres::Error>()?.as_db_error()
    }

    /// The cause, if it is of this type: such as what was given to [`Error::abort`].
    #[must_use]
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.cause.as_deref()?.downcast_ref()
    }

    /// The instance on which it happened, where there is one.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.0.instance.as_deref()
    }

    /// The configuration, or an address in it, is wrong or incomplete.
    #[must_use]
    pub fn is_config(&self) -> bool {
        self.0.kind == Kind::Config
    }

    /// A value that was handed in is malformed or out of range: an id, a shard's number, a cursor, SQL
    /// without `{shard}`.
    #[must_use]
    pub fn is_invalid_input(&self) -> bool {
        self.0.kind == Kind::Input
    }

    /// A safety check refused to go on. What was done before it came to that, such as a copy of a shard, may be there still; the
    /// message says what to do next.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.0.kind == Kind::Refused
    }

    /// A server could not be reached, went away, only reads, or had no connection to spare in time; or anything else took longer
    /// than its timeout, the statement included. Whether that was executed, [`Error::outcome`] says.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self.0.kind, Kind::Unavailable | Kind::Timeout)
    }

    /// Something took longer than its timeout: the queue for a connection, connecting, or the statement, which also counts as
    /// such where somebody cancelled it. [`Error::phase`] says which.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.0.kind == Kind::Timeout
    }

    /// The server that answered is not the instance that was asked for, or belongs to another cluster.
    #[must_use]
    pub fn is_wrong_server(&self) -> bool {
        self.0.kind == Kind::WrongServer
    }

    /// The transaction lost against another one and may be run again: a serialization failure or a deadlock.
    /// [`Shard::transaction`](crate::Shard::transaction) does so by itself, a bounded number of times.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.0.kind == Kind::Conflict
    }

    /// Another owner has the value that was [claimed](crate::ClusterTx::claim).
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.0.kind == Kind::Taken
    }

    /// The closure of a transaction gave up: [`Error::abort`].
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.0.kind == Kind::Aborted
    }

    /// A unique constraint was violated (SQLSTATE 23505).
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        self.code() == Some(&SqlState::UNIQUE_VIOLATION)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        if let Some(instance) = &inner.instance {
            write!(f, "{instance}: ")?;
        }
        f.write_str(&inner.what)?;
        if let Some(cause) = &inner.cause {
            write!(f, ": {}", Chain(cause.as_ref()))?;
        }
        if inner.outcome == Outcome::Unknown {
            f.write_str("; whether it took effect is unknown")?;
        }
        if let Some(hint) = &inner.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}, {:?}, {self})", self.0.kind, self.0.outcome)
    }
}

impl std::error::Error for Error {}

/// An error and all below it, joined by colons, each said once and on one line.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = String::new();
        let mut next = Some(self.0);
        while let Some(error) = next {
            // The server's message without its detail, which may quote the values of a row.
            let text = match error.downcast_ref::<DbError>() {
                Some(db) => format!("{} ({})", db.message(), db.code().code()),
                None => match error.downcast_ref::<tokio_postgres::Error>() {
                    Some(driver) if driver.as_db_error().is_some() => String::new(),
                    _ => error.to_string().replace('\n', " "),
                },
            };
            if !said.contains(&text) {
                if !said.is_empty() {
                    said.push_str(": ");
                }
                said.push_str(&text);
            }
            next = error.source();
        }
        f.write_str(&said)
    }
}
