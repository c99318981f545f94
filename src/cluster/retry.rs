//! The one place that decides whether something is done again.
//!
//! Only what was certainly not executed is: a transaction that lost against another one, and a statement that named a
//! schema which its server does not have, because the shard has moved. PostgreSQL refuses it before anything happens;
//! the map is read anew, and the statement runs on the new home. An undefined table may also be the caller's own mistake, so the same server is asked whether
//! the shard's schema is there before the map is blamed: a typo never reaches the catalog.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::Cluster;
use crate::catalog::Snapshot;
use crate::connect::{Generation, is_undefined_name, statement_failure};
use crate::error::{Kind, Phase};
use crate::observe;
use crate::pool::{Lent, Limits, Params, Pool};
use crate::random;
use crate::shard::{Home, MapVersion, ShardId};
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// How long a shard may be without a home before its callers are told: longer than the fence of a move.
const STALE_DEADLINE: Duration = Duration::from_secs(5);
/// The pause before a transaction that lost is run again; doubled up to the maximum.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// How often a transaction is run before its conflicts are the caller's.
pub(super) const MAX_RUNS: u32 = 10;

/// The patience of one call: with a shard that is on the move, and with others in its way.
pub(super) struct Patience {
    /// From the first time on that the shard was not where the map said.
    deadline: Option<Instant>,
    pause: Duration,
    /// How often it may still be run, the run under way included.
    runs: u32,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self::with_runs(MAX_RUNS)
    }

    pub(super) fn with_runs(runs: u32) -> Self {
        Self { deadline: None, pause: FIRST_PAUSE, runs }
    }

    /// Waits for the next run, each time longer, up to a random part of the pause: those who met do not meet again.
    async fn run_again(&mut self, error: Error) -> Result<()> {
        if self.runs <= 1 {
            return Err(error);
        }
        self.runs -= 1;
        sleep(self.pause.mul_f64(0.5 + random::fraction() / 2.0)).await;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Ok(())
    }
}

/// A connection to a shard's home, and which home that was.
pub(super) struct Visit {
    pub(super) lent: Lent,
    pub(super) home: Home,
    version: MapVersion,
}

/// How to get to a shard's home, by the map of a version.
struct Way {
    pool: Arc<Pool>,
    home: Home,
    version: MapVersion,
}

impl Way {
    fn visit(self, lent: Lent) -> Visit {
        Visit { lent, home: self.home, version: self.version }
    }
}

impl Cluster {
    /// Runs a read on a connection shared with others, where that is possible and goes well.
    pub(super) async fn read_along(
        &self,
        shard: ShardId,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<Option<(Vec<Row>, u64)>> {
        let snapshot = self.snapshot();
        let home = snapshot.map.home(shard)?;
        let pool = self.0.pools.get(home.instance(), &snapshot)?;
        Ok(pool.read(statement, home, params).await)
    }

    /// Goes where the map says that the shard lives.
    pub(super) async fn visit(&self, shard: ShardId) -> Result<Visit> {
        self.visit_within(shard, Limits::default()).await
    }

    /// As [`Cluster::visit`], with limits of the call's own.
    pub(super) async fn visit_within(&self, shard: ShardId, limits: Limits) -> Result<Visit> {
        let way = self.way(shard)?;
        let lowest = way.pool.hosts().lowest();
        match way.pool.lend_within(limits).await {
            Ok(lent) => Ok(way.visit(lent)),
            // Who has waited in the queue has waited enough, and it is no sign that the map is stale.
            Err(error) if error.phase() == Some(Phase::Queue) => Err(error),
            // Its instance may have another address now, or the shard another instance, and the news was missed. Boxed because it
            // is rare, and large.
            Err(error) if error.is_unavailable() || error.is_wrong_server() => {
                Box::pin(self.visit_anew(error, &way, lowest, limits)).await
            }
            Err(error) => Err(error),
        }
    }

    /// Goes where the catalog says now, if that is not where the error came from.
    async fn visit_anew(
        &self,
        error: Error,
        way: &Way,
        lowest: Generation,
        limits: Limits,
    ) -> Result<Visit> {
        let newest = self.0.watch.glance().await;
        self.0.pools.follow(&newest)?;
        let now = self.way_to(&newest, newest.map.home(way.home.shard())?)?;
        let is_same = now.home == way.home && Arc::ptr_eq(&now.pool, &way.pool);
        if is_same && now.pool.hosts().lowest() == lowest {
            return Err(error);
        }
        let lent = now.pool.lend_within(limits).await?;
        Ok(now.visit(lent))
    }

    /// Goes where a map has a home.
    pub(super) async fn visit_home(&self, snapshot: &Snapshot, home: &Home) -> Result<Visit> {
        let way = self.way_to(snapshot, home)?;
        let lent = way.pool.lend().await?;
        Ok(way.visit(lent))
    }

    /// The way to a shard by the map as it is now, which is not kept: all calls share it, and each that does delays the others.
    fn way(&self, shard: ShardId) -> Result<Way> {
        self.0.watch.look(|snapshot| self.way_to(snapshot, snapshot.map.home(shard)?))
    }

    fn way_to(&self, snapshot: &Snapshot, home: &Home) -> Result<Way> {
        let pool = self.0.pools.get(home.instance(), snapshot)?;
        Ok(Way { pool, home: home.clone(), version: snapshot.map.version() })
    }

    /// After an error: returns when trying again makes sense, and gives the error back when it does not. The visit
    /// is the one on which it happened, where its connection is still of use.
    pub(super) async fn reconsider(
        &self,
        error: Error,
        visit: Option<Visit>,
        patience: &mut Patience,
    ) -> Result<()> {
        if error.is_aborted() {
            return Err(error);
        }
        let Some(visit) = visit else {
            // What lost against another is undone, also where the connection was lost after it.
            return if error.kind() == Kind::Conflict {
                patience.run_again(error).await
            } else {
                Err(error)
            };
        };
        let error = visit.blame(error).await;
        let (home, version) = (visit.home.clone(), visit.version);
        // Whoever waits for the connection may have it meanwhile.
        drop(visit);
        match error.kind() {
            Kind::Conflict => patience.run_again(error).await,
            Kind::StaleHome => {
                observe::stale_home(home.instance(), home.shard(), version);
                let deadline =
                    *patience.deadline.get_or_insert_with(|| Instant::now() + STALE_DEADLINE);
                // Between the fence and the catalog's change nobody knows the new home yet; and the old one may be
                // it again, for a fence can be given up. So whatever the catalog says, the statement is tried again, and
                // how often is for the watch to say.
                match timeout_at(deadline, self.0.watch.refresh(&home)).await {
                    Ok(Ok(newest)) => self.0.pools.follow(&newest),
                    Ok(Err(_)) if Instant::now() < deadline => Ok(()),
                    Ok(Err(unreadable)) => Err(error.hint(unreadable.to_string())),
                    Err(_) => Err(error.hint(
                        "the map and the servers disagree, or the catalog does not answer: see `howdah status`",
                    )),
                }
            }
            _ => Err(error),
        }
    }
}

impl Visit {
    /// Runs one statement here.
    pub(super) async fn send(
        &self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u64)> {
        self.send_to(&self.home, statement, params).await
    }

    /// As [`Visit::send`], of a visit that has only just begun.
    pub(super) async fn send_at_once(
        &self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u64)> {
        self.lent.run_at_once(statement, &self.home, params).await
    }

    /// Runs one statement on another shard that lives here.
    pub(super) async fn send_to(
        &self,
        home: &Home,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u64)> {
        self.lent.run(statement, home, params).await
    }

    /// Tells a shard that has moved from a name that was never there.
    pub(super) async fn blame(&self, error: Error) -> Error {
        const IS_THERE: &str = "SELECT FROM pg_namespace WHERE nspname = $1";

        let error = error.at(self.home.instance());
        // A procedure that may have done something already is not run again, wherever the shard is now.
        if !is_undefined_name(&error) || error.outcome() == Outcome::Unknown {
            return error;
        }
        // Not prepared by name: behind a pooler the next message may reach another server.
        let schema = self.home.schema();
        let client = self.lent.client();
        let asked =
            self.lent.watch(client.query_typed_opt(IS_THERE, &[(&schema, Type::TEXT)])).await;
        match asked {
            Ok(Some(_)) => error,
            Ok(None) => error.with_kind(Kind::StaleHome).with_outcome(Outcome::NotExecuted),
            // What is certain of the statement stays so.
            Err(failure) => {
                let failure = statement_failure(failure, "cannot look for the shard's schema");
                error.hint(failure.if_unknown(Outcome::NotExecuted).to_string())
            }
        }
    }
}
