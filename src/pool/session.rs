//! A connection as the pool keeps it: the driver's client, its prepared statements, and whether it is sound.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use futures_util::future::join;
use postgres_types::{ToSql, Type};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::{Client, Row};

use super::berth::Berth;
use super::limit::Limit;
use super::lookups::Lookups;
use super::payload::{Counted, Payload};
use super::source::{CHECK_TIMEOUT, Source};
use super::statements::{Prepared, Statements};
use super::stats::Tally;
use crate::connect::{
    Generation, Wire, is_read_only, is_stale_plan, is_undefined_name, statement_failure,
};
use crate::error::Kind;
use crate::random;
use crate::shard::Home;
use crate::statement::{Nature, Statement};
use crate::{Error, Outcome, Result};

/// Parameters of a statement, as the driver takes them.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(crate) struct Session {
    client: Client,
    wire: Arc<Wire>,
    source: Arc<Source>,
    statements: Statements,
    /// Statements are prepared by name.
    is_naming: bool,
    tally: Arc<Tally>,
    /// Requests sent and not answered to the end. What is left when the session comes back was abandoned.
    in_flight: AtomicUsize,
    /// On a pipeline.
    payload: OnceLock<Payload>,
    in_transaction: AtomicBool,
    /// The open transaction was begun to read only.
    reads_only: AtomicBool,
    /// Used in ways that nobody has followed.
    spent: AtomicBool,
    limit: Limit,
    lookups: Lookups,
    /// When the open transaction began.
    begun: Mutex<Option<Instant>>,
    last_used: Instant,
    expires: Instant,
    era: u64,
    /// Found unfit to be lent again when it came back.
    is_discarded: bool,
    /// The lowest generation that was allowed when its server was last asked for its own.
    proven: AtomicI64,
    /// Free again when the connection has closed.
    berth: Berth,
}

impl Session {
    pub(super) fn new(
        client: Client,
        wire: Arc<Wire>,
        berth: Berth,
        source: Arc<Source>,
        era: u64,
        proven: Generation,
    ) -> Self {
        let settings = source.connector().settings().pool;
        let now = Instant::now();
        // Those that were opened together do not end together.
        let lifetime = settings.max_lifetime.mul_f64(1.0 - random::fraction() / 5.0);
        let (counters, tally) = (source.counters.clone(), source.counters.open_tally());
        Self {
            client,
            wire,
            statements: Statements::new(settings.statement_cache, counters, tally.clone()),
            is_naming: settings.prepared,
            tally,
            in_flight: AtomicUsize::new(0),
            payload: OnceLock::new(),
            in_transaction: AtomicBool::new(false),
            reads_only: AtomicBool::new(false),
            spent: AtomicBool::new(false),
            limit: Limit::new(settings.statement_timeout),
            lookups: Lookups::default(),
            begun: Mutex::default(),
            last_used: now,
            expires: now + lifetime,
            era,
            is_discarded: false,
            proven: AtomicI64::new(proven.0),
            source,
            berth,
        }
    }

    /// The bare client. What is done with it must leave the session as it was, or else [`Session::spend`] it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The same for who has it alone and takes it where `&mut` is asked for, such as for the driver's transactions. It must
    /// [`Session::spend`] the session.
    pub(crate) fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Tells the server the limit that holds now, for who goes on with the bare client: the last one's may have been another.
    pub(crate) async fn tell_limit_at_once(&self) -> Result<()> {
        if let Some(limit) = self.changed_limit() {
            let setting = format!("SET statement_timeout = {limit}");
            self.command(&setting, "cannot set a limit").await?;
            self.limit.was_told(limit);
        }
        Ok(())
    }

    /// Whether the session must not be lent again: closed, in a transaction, or with an answer still to come.
    pub(super) fn is_unsound(&self) -> bool {
        self.client.is_closed()
            || self.is_abandoned()
            || self.is_in_transaction()
            || self.spent.load(Ordering::Relaxed)
    }

    /// From now on reads that are sent together are answered together. Everything else must have been done before.
    pub(super) fn share_syncs(&self) {
        self.wire.share();
    }

    /// Marks the session as one that must not be lent again.
    pub(crate) fn spend(&self) {
        if !self.spent.swap(true, Ordering::Relaxed) {
            self.source.lose_one();
        }
    }

    /// The same if there are more sessions than so many that are used at a time need.
    pub(super) fn spend_if_spare(&self, used: usize) {
        if !self.spent.load(Ordering::Relaxed) && self.source.spare_one(used) {
            self.spent.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it has reached its age.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        now >= self.expires
    }

    /// Whether it may be lent to the next at once, with no question to its server.
    pub(super) fn is_fit(&self) -> bool {
        self.may_be_kept() && self.is_proven()
    }

    /// Whether it may be lent to anybody any more.
    fn may_be_kept(&self) -> bool {
        // By its age when it came back.
        !self.is_unsound() && !self.is_old(self.last_used) && !self.source.is_unwanted(self)
    }

    /// Decides whether it is kept, and says so. What bb8 is told afterwards is the same, whatever happens meanwhile.
    pub(super) fn judge(&mut self) -> bool {
        self.is_discarded = !self.may_be_kept();
        !self.is_discarded
    }

    /// Whether it was found that it must not be lent again.
    pub(super) fn is_discarded(&self) -> bool {
        self.is_discarded
    }

    pub(super) fn era(&self) -> u64 {
        self.era
    }

    /// Whether its server was asked since the catalog last raised the generation that it must have.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed) >= self.source.hosts().lowest().0
    }

    /// Asks it.
    pub(super) async fn prove(&self) -> bool {
        let lowest = self.source.hosts().lowest();
        // Boxed because it is rare, and large.
        let proof = Box::pin(timeout(CHECK_TIMEOUT, self.source.hosts().prove(&self.client)));
        let proven = matches!(proof.await, Ok(Ok(())));
        if proven {
            self.proven.fetch_max(lowest.0, Ordering::Relaxed);
        }
        proven
    }

    /// How long the server works on each statement, at most the configuration's timeout; until the session goes back.
    pub(crate) fn limit(&self, timeout: Duration) {
        self.limit.want(timeout);
    }

    /// The same in the milliseconds that the caller tells the server.
    pub(super) fn tell_limit(&self, timeout: Duration) -> u32 {
        self.limit.want(timeout);
        let wanted = self.limit.wanted();
        self.limit.was_told(wanted);
        wanted
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// From now on the bytes of parameters are counted.
    pub(super) fn count_payload(&self) {
        self.payload.get_or_init(Payload::default);
    }

    /// How many bytes of parameters are under way to the server, where they are counted.
    pub(super) fn under_way(&self) -> u64 {
        self.payload.get().map_or(0, Payload::under_way)
    }

    /// See [`Wire::heard`].
    pub(super) fn heard(&self) -> u64 {
        self.wire.heard()
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.in_transaction.load(Ordering::Relaxed)
    }

    pub(super) fn last_used(&self) -> Instant {
        self.last_used
    }

    /// Goes back, to be lent to somebody else.
    pub(super) fn rest(&mut self) {
        self.limit.reset();
        self.last_used = Instant::now();
    }

    /// Asks the server to stop what nobody waits for any more. Only for a session that will not be lent again: the
    /// request could otherwise hit the next one's statement.
    pub(super) fn cancel_in_background(&self) {
        self.source.runtime().spawn(self.source.connector().cancel(&self.client, &self.wire));
    }

    /// Closes the connection: nobody waits for an answer any longer.
    pub(super) fn cut(&self) {
        self.berth.cut();
    }

    /// Where what it does is counted.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// The runtime of the connection, for what has to be done after whoever used it has gone.
    pub(crate) fn runtime(&self) -> &Handle {
        self.source.runtime()
    }

    /// Opens a transaction. Until [`Session::end`] the session is unfit to be lent again.
    pub(crate) async fn begin(&self) -> Result<()> {
        self.begin_as(&["BEGIN"], false).await
    }

    /// Opens a transaction that only reads.
    pub(crate) async fn begin_reading(&self) -> Result<()> {
        self.begin_as(&["BEGIN READ ONLY"], false).await
    }

    /// Opens a transaction by commands of the caller's, which go to the server together with its first statement. Where
    /// that fails, there may be no transaction: nothing else must be sent then but its end.
    pub(crate) async fn begin_with_next(&self, commands: &[&str]) -> Result<()> {
        self.begin_as(commands, true).await
    }

    async fn begin_as(&self, commands: &[&str], with_next: bool) -> Result<()> {
        self.in_transaction.store(true, Ordering::Relaxed);
        let reads_only = commands.iter().any(|command| command.contains(" READ ONLY"));
        self.reads_only.store(reads_only, Ordering::Relaxed);
        *self.begun() = Some(Instant::now());
        let limit = self.limit.of_a_transaction();
        let limit = limit.map(|limit| format!("SET LOCAL statement_timeout = {limit}"));
        let commands: Vec<_> = commands.iter().copied().chain(limit.as_deref()).collect();
        // Where statements are not prepared by name, more than the statement itself is sent for it.
        let with_next = with_next && self.is_naming;
        if with_next && self.wire.go_with_next(&commands) {
            return Ok(());
        }
        self.command(&commands.join("; "), "cannot begin a transaction").await
    }

    /// Ends the transaction by `COMMIT`, `ROLLBACK` or `PREPARE TRANSACTION`.
    pub(crate) async fn end(&self, command: &str) -> Result<()> {
        // Where nothing was sent in it, the server has never heard of it. What was sent and abandoned may still be on its way to
        // the wire, and must not go there alone.
        if self.is_abandoned() || !self.wire.take_back() {
            self.command(command, "cannot end the transaction").await?;
        }
        self.in_transaction.store(false, Ordering::Relaxed);
        if let Some(begun) = self.begun().take() {
            self.source.counters.ended_a_transaction(begun.elapsed());
        }
        Ok(())
    }

    async fn command(&self, sql: &str, what: &str) -> Result<()> {
        let answer = self.watch(self.client.batch_execute(sql)).await;
        answer.map_err(|error| statement_failure(error, what))
    }

    /// Does something with the bare client. Dropping the future leaves the session unfit to be lent again, and has the
    /// server stop what it was doing.
    pub(crate) async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        let flight = Flight::take_off(self);
        let done = work.await;
        flight.land();
        done
    }

    fn begun(&self) -> MutexGuard<'_, Option<Instant>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one statement, collects its rows and counts those that it changed.
    ///
    /// Dropping the future leaves the session unfit to be lent again.
    pub(crate) async fn send(
        &self,
        statement: &Statement,
        home: &Home,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u64)> {
        let is_bounded = statement.is_bounded();
        if !is_bounded {
            // It may set what the next one would find.
            self.spend();
        }
        let flight = Flight::take_off(self);
        // A statement that is sent whole is only found to be out of date when it was executed.
        let mut again = !self.is_in_transaction()
            && (statement.is_single_read() || self.is_naming && is_bounded);
        let mut is_prepared = false;
        let answer = loop {
            match self.attempt(statement, home, params, &mut is_prepared).await {
                Err(error) if is_stale_plan(&error) => {
                    self.statements.forget(statement, home);
                    if !std::mem::take(&mut again) {
                        break Err(Refusal { error, is_stale: true, is_prepared });
                    }
                }
                answer => {
                    break answer.map_err(|error| Refusal { error, is_stale: false, is_prepared });
                }
            }
        };
        flight.land();
        answer.map_err(|refusal| self.verdict(refusal, statement, home))
    }

    /// What a statement's error means, for the statement and for the session.
    fn verdict(&self, refusal: Refusal, statement: &Statement, home: &Home) -> Error {
        let Refusal { error, is_stale, is_prepared } = refusal;
        let nature = statement.nature();
        let what = format!("cannot run {statement:?} on shard {}", home.shard());
        let mut error = statement_failure(error, what);
        if is_stale {
            error = error.hint("its types have changed");
            if self.is_in_transaction() {
                // Rolled back, the whole of it may be run again with the new ones.
                error = error.with_kind(Kind::Conflict).with_outcome(Outcome::NotExecuted);
            } else if !self.is_naming {
                error = error.with_outcome(Outcome::Unknown);
            }
        }
        // What only reads, and was not asked to, is no primary any more.
        let reads_only = self.is_in_transaction() && self.reads_only.load(Ordering::Relaxed);
        if error.outcome() == Outcome::Unknown || is_read_only(&error) && !reads_only {
            self.spend();
        }
        match nature {
            // What was only prepared was not executed; and a read leaves nothing, whether it was or not.
            _ if !is_prepared => error.if_unknown(Outcome::NotExecuted),
            Nature::SingleRead => error.if_unknown(Outcome::NotExecuted),
            // It may have committed what came before the error.
            Nature::Procedure | Nature::Gradual
                if !(nature == Nature::Gradual && is_undefined_name(&error))
                    && error.code().is_some()
                    && !self.is_in_transaction() =>
            {
                let again = matches!(error.kind(), Kind::Conflict | Kind::StaleHome);
                let error = error.with_outcome(Outcome::Unknown);
                if again { error.with_kind(Kind::Database) } else { error }
            }
            _ => error,
        }
    }

    /// Prepares a statement, says so, and executes it.
    async fn attempt(
        &self,
        statement: &Statement,
        home: &Home,
        params: Params<'_>,
        is_prepared: &mut bool,
    ) -> Result<(Vec<Row>, u64), tokio_postgres::Error> {
        *is_prepared = false;
        let prepared = self.prepare(statement, home).await?;
        *is_prepared = true;
        match self.changed_limit() {
            None => self.execute(prepared, params).await,
            // Boxed because it is rare, and large.
            Some(limit) => Box::pin(self.execute_within(limit, prepared, params)).await,
        }
    }

    /// Tells the server a limit together with the statement: both are sent before either is answered.
    async fn execute_within(
        &self,
        limit: u32,
        prepared: Prepared,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u64), tokio_postgres::Error> {
        let setting = format!("SET statement_timeout = {limit}");
        let set = self.client.batch_execute(&setting);
        let (set, answer) = join(set, self.execute(prepared, params)).await;
        match set {
            Ok(()) => self.limit.was_told(limit),
            // Under a short limit of the last one's, it may have been cancelled itself: the statement was executed all
            // the same, and its answer counts.
            Err(_) => self.spend(),
        }
        answer
    }

    /// The limit that the server has to be told before the next statement.
    fn changed_limit(&self) -> Option<u32> {
        // A transaction has its own from the beginning.
        if !self.limit.is_changed() || self.is_in_transaction() {
            return None;
        }
        self.is_naming.then(|| self.limit.wanted())
    }

    async fn execute(
        &self,
        prepared: Prepared,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u64), tokio_postgres::Error> {
        let mark = self.payload.get().map(Payload::mark);
        let rows = match prepared {
            Prepared::Named(named) => {
                let params = params.iter().map(|param| Counted::new(*param, mark.as_ref()));
                self.client.query_raw(&named, params).await?
            }
            Prepared::Typed(text, types) => {
                let params = params.iter().copied().zip(types.iter().cloned());
                self.client.query_typed_raw(&text, params).await?
            }
        };
        let mut rows = pin!(rows);
        let mut collected = Vec::new();
        while let Some(row) = rows.try_next().await? {
            collected.push(row);
        }
        if let Some(mark) = &mark {
            mark.answered();
        }
        Ok((collected, rows.rows_affected().unwrap_or(0)))
    }

    /// Has the server parse a statement, which is a single one then, and names what is there.
    pub(crate) async fn parse(
        &self,
        statement: &Statement,
        home: &Home,
    ) -> Result<(), tokio_postgres::Error> {
        match self.parameter_types(statement, home).await? {
            Some(_) => Ok(()),
            None => self.client.prepare(&statement.render(home)).await.map(drop),
        }
    }

    /// The types of a statement's parameters, where it has to be sent with them; the driver then knows those of its rows, too. None
    /// where statements are prepared by name: there the driver learns by itself.
    pub(super) async fn parameter_types(
        &self,
        statement: &Statement,
        home: &Home,
    ) -> Result<Option<Arc<[Type]>>, tokio_postgres::Error> {
        if self.is_naming {
            return Ok(None);
        }
        match self.prepare(statement, home).await? {
            Prepared::Typed(_, types) => Ok(Some(types)),
            Prepared::Named(_) => Ok(None),
        }
    }

    async fn prepare(
        &self,
        statement: &Statement,
        home: &Home,
    ) -> Result<Prepared, tokio_postgres::Error> {
        match self.statements.get(statement, home) {
            Some(prepared) => Ok(prepared),
            // Boxed because it is rare, and large.
            None => Box::pin(self.prepare_anew(statement, home)).await,
        }
    }

    async fn prepare_anew(
        &self,
        statement: &Statement,
        home: &Home,
    ) -> Result<Prepared, tokio_postgres::Error> {
        let text = statement.render(home);
        let prepared = if self.is_naming {
            Prepared::Named(self.client.prepare(&text).await?)
        } else {
            let types = self.lookups.parameter_types(self, &text).await?;
            Prepared::Typed(text.as_str().into(), types)
        };
        self.statements.insert(statement, home, prepared.clone());
        Ok(prepared)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.spent.load(Ordering::Relaxed) {
            self.source.lose_one();
        }
        self.source.counters.close_tally(&self.tally);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("unsound", &self.is_unsound()).finish_non_exhaustive()
    }
}

/// A statement that was not done, or not to the end.
struct Refusal {
    error: tokio_postgres::Error,
    /// Its types have changed, also when it was prepared anew.
    is_stale: bool,
    /// It was executed, and not only prepared.
    is_prepared: bool,
}

/// A request under way. Dropped before it landed, it leaves its mark on the session.
struct Flight<'a>(&'a Session);

impl<'a> Flight<'a> {
    fn take_off(session: &'a Session) -> Self {
        session.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(session)
    }

    fn land(self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
