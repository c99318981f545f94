//! The commit: plain where one part wrote, in two phases where several did. The argument is in [`super`].

use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};

use super::decision::{Decision, decide};
use super::gid::Gid;
use crate::cluster::Cluster;
use crate::cluster::ended::{Ended, Undone};
use crate::connect::{is_undefined_name, sqlstate};
use crate::error::Kind;
use crate::{Error, Outcome, Result};

/// How long the decision is asked for when the connection was lost on which it was to be made.
const ASKED_FOR: Duration = Duration::from_secs(5);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Commits all parts or none. The turn is kept until it is over.
pub(super) async fn commit(
    cluster: Cluster,
    parts: Vec<Ended>,
    _turn: OwnedSemaphorePermit,
) -> Result<(), Undone> {
    let (writers, readers) = match told_apart(parts).await {
        Ok(parts) => parts,
        Err((parts, error)) => return Err(roll_back(parts, error).await),
    };
    // Who only read has nothing to promise. But a serializable one may still have lost, and then nothing is written.
    for ended in join_all(readers.into_iter().map(Ended::commit)).await {
        if let Err(Undone { error, visit }) = ended {
            let error = failed(error);
            roll_back(writers, error.clone()).await;
            return Err(Undone { error, visit });
        }
    }
    let mut writers = writers.into_iter();
    match (writers.next(), writers.as_slice()) {
        (None, _) => Ok(()),
        (Some(only), []) => only.commit().await,
        (Some(first), _) => Commit { cluster, first, others: writers.collect() }.run().await,
    }
}

/// Those that wrote and those that only read. One alone is committed in either case.
async fn told_apart(parts: Vec<Ended>) -> Result<(Vec<Ended>, Vec<Ended>), (Vec<Ended>, Error)> {
    if parts.len() < 2 {
        return Ok((parts, Vec::new()));
    }
    let asked = join_all(parts.iter().map(Ended::has_written)).await;
    match asked.into_iter().collect::<Result<Vec<_>>>() {
        Ok(wrote) => {
            let (writers, readers): (Vec<_>, Vec<_>) =
                parts.into_iter().zip(wrote).partition(|(_, wrote)| *wrote);
            let parts = |some: Vec<(Ended, bool)>| some.into_iter().map(|(part, _)| part).collect();
            Ok((parts(writers), parts(readers)))
        }
        Err(error) => Err((parts, error)),
    }
}

/// Rolls back all parts for the reason given; the visit is that of the part at fault.
pub(super) async fn roll_back(parts: Vec<Ended>, error: Error) -> Undone {
    let mut at_fault = None;
    let ended = parts.into_iter().map(async |part| {
        let failed = part.has_failed();
        (failed, part.roll_back(error.clone()).await)
    });
    for (failed, undone) in join_all(ended).await {
        if failed {
            at_fault = at_fault.or(undone.visit);
        }
    }
    Undone { error, visit: at_fault }
}

/// A commit in two phases.
struct Commit {
    cluster: Cluster,
    first: Ended,
    others: Vec<Ended>,
}

impl Commit {
    async fn run(self) -> Result<(), Undone> {
        let Self { cluster, first, others } = self;
        let decided =
            first.deadline.after_sending(pin!(decide(&first.visit))).await.and_then(|id| {
                let id_of = &cluster.snapshot().cluster;
                let gid = Gid::new(id_of, first.visit.home.shard(), &id);
                gid.ok_or_else(|| Error::config(format!("the cluster's id is no UUID: {id_of}")))
            });
        let gid = match decided {
            Ok(gid) => gid,
            Err(error) => {
                let error = about_the_table(error.at(first.visit.home.instance()));
                let undone = first.roll_back(failed(error)).await;
                roll_back(others, undone.error.clone()).await;
                return Err(undone);
            }
        };
        cluster.0.sweeper.decides(gid.shard);
        let prepare = format!("PREPARE TRANSACTION '{gid}'");
        let promised = join_all(others.iter().map(|part| part.command(&prepare))).await;
        if let Some(error) = promised.iter().find_map(|promise| promise.as_ref().err()).cloned() {
            // The decision was not sent, so it is never made.
            let undone = first.roll_back(about_room(failed(error))).await;
            let undo = others.into_iter().zip(promised);
            let undo = undo.map(|(part, promise)| part.undo_promise(&cluster, &gid, promise));
            join_all(undo).await;
            return Err(Undone::without(undone.error));
        }
        match first.commit().await {
            Ok(()) => {}
            Err(Undone { error, .. }) if error.outcome() == Outcome::Unknown => {
                match ask(&cluster, &gid).await {
                    Some(Decision::Committed) => {}
                    Some(Decision::RolledBack) => {
                        finish(&cluster, &gid, others, Decision::RolledBack).await;
                        return Err(Undone::without(failed(error)));
                    }
                    None => {
                        others.iter().for_each(|part| part.leave(&cluster, &gid));
                        return Err(Undone::without(
                            error.hint("`howdah tx recover` finds out, when the servers are back"),
                        ));
                    }
                }
            }
            Err(undone) => {
                finish(&cluster, &gid, others, Decision::RolledBack).await;
                return Err(undone);
            }
        }
        finish(&cluster, &gid, others, Decision::Committed).await;
        Ok(())
    }
}

impl Ended {
    /// Ends the transaction by a command; it may have happened also if there is no answer.
    async fn command(&self, sql: &str) -> Result<()> {
        let ended = self.deadline.after_sending(pin!(self.visit.lent.end(sql))).await;
        ended.map_err(|error| error.at(self.visit.home.instance()))
    }

    /// Leaves this part to the sweeper.
    fn leave(&self, cluster: &Cluster, gid: &Gid) {
        cluster.0.sweeper.leave(gid, self.visit.home.instance());
    }

    /// Takes back what this part has promised, if it has.
    async fn undo_promise(self, cluster: &Cluster, gid: &Gid, promise: Result<()>) {
        match promise {
            Ok(()) => finish(cluster, gid, vec![self], Decision::RolledBack).await,
            Err(error) if error.outcome() == Outcome::Unknown => self.leave(cluster, gid),
            // A part that could not promise was rolled back by its server.
            Err(error) => drop(self.roll_back(error).await),
        }
    }
}

/// Does on every part what was decided, on the connection that prepared it. What cannot be done now is left to the sweeper.
async fn finish(cluster: &Cluster, gid: &Gid, parts: Vec<Ended>, decision: Decision) {
    let sql = command(gid, decision);
    let limit = cluster.0.pools.connector().settings().pool.statement_timeout;
    let acts = parts.iter().map(async |part| {
        if !matches!(timeout(limit, part.visit.lent.end(&sql)).await, Ok(Ok(()))) {
            part.leave(cluster, gid);
        }
    });
    join_all(acts).await;
}

/// What ends a prepared transaction as it was decided.
pub(super) fn command(gid: &Gid, decision: Decision) -> String {
    match decision {
        Decision::Committed => format!("COMMIT PREPARED '{gid}'"),
        Decision::RolledBack => format!("ROLLBACK PREPARED '{gid}'"),
    }
}

/// What became of a decision whose COMMIT was not answered, where that can be found out soon.
async fn ask(cluster: &Cluster, gid: &Gid) -> Option<Decision> {
    let give_up = Instant::now() + ASKED_FOR;
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        if let Ok(Ok(Some(decision))) = timeout(left, cluster.settle(gid)).await {
            return Some(decision);
        }
        if Instant::now() >= give_up {
            return None;
        }
        sleep(PAUSE).await;
    }
}

/// Nothing remains of it, whatever the error said of its own statement.
fn failed(error: Error) -> Error {
    error.if_unknown(Outcome::Failed)
}

fn about_the_table(error: Error) -> Error {
    if is_undefined_name(&error) {
        error.hint("`howdah init` again makes what a cluster of an older version lacks")
    } else {
        error
    }
}

/// PREPARE TRANSACTION on a server that keeps none, or no more.
fn about_room(error: Error) -> Error {
    match error.code() {
        Some(code) if sqlstate::is_prepared_elsewhere(code) => error
            .with_kind(Kind::Config)
            .hint("set max_prepared_transactions there to as many as its max_connections"),
        Some(code) if sqlstate::is_out_of_room(code) => {
            error.with_kind(Kind::Unavailable).with_outcome(Outcome::NotExecuted).hint(
                "raise max_prepared_transactions there; `howdah tx list` shows what is left behind",
            )
        }
        _ => error,
    }
}
