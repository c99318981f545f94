//! A transaction that takes no more statements: what may still become of it.

use std::pin::pin;

use super::deadline::Deadline;
use super::retry::Visit;
use crate::connect::statement_failure;
use crate::error::Kind;
use crate::shard::Home;
use crate::{Error, Outcome, Result};

/// Neither committed nor rolled back yet. Dropped, its connection is closed, and the server rolls back.
pub(super) struct Ended {
    pub(super) visit: Visit,
    failure: Option<(Error, Home)>,
    wrote: Wrote,
    pub(super) deadline: Deadline,
}

/// What is known of a transaction's writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    /// It cannot have.
    Nothing,
    /// Its statements read, by their text. A function behind a view may have done more.
    NothingSeen,
    Perhaps,
}

/// Why a transaction was not committed. The visit is where it happened, while its connection is of use.
pub(super) struct Undone {
    pub(super) error: Error,
    pub(super) visit: Option<Box<Visit>>,
}

impl Undone {
    pub(super) fn without(error: Error) -> Self {
        Self { error, visit: None }
    }
}

impl Ended {
    pub(super) fn new(
        mut visit: Visit,
        failure: Option<(Error, Home)>,
        wrote: Wrote,
        deadline: Deadline,
    ) -> Self {
        if let Some((_, home)) = &failure {
            // The shard that has moved, if any has, is this one.
            visit.home = home.clone();
        }
        Self { visit, failure, wrote, deadline }
    }

    /// Why it cannot be committed, although nobody said so: PostgreSQL would answer COMMIT with a rollback.
    pub(super) fn obstacle(&self) -> Option<Error> {
        if self.visit.lent.is_abandoned() {
            return Some(dropped());
        }
        if let Some((error, _)) = &self.failure {
            return Some(error.clone().hint("an earlier statement had failed"));
        }
        if self.visit.lent.client().is_closed() {
            let lost = Error::new(Kind::Unavailable, "the connection was lost before the commit");
            let lost = lost.at(self.visit.home.instance()).with_outcome(Outcome::Failed);
            return Some(
                lost.hint("idle in the transaction for too long, or the server went away"),
            );
        }
        None
    }

    /// Whether it may have written or locked. Where the statements do not tell, the server does: who locks a row, too, has a
    /// transaction's number.
    pub(super) async fn has_written(&self) -> Result<bool> {
        const IS_NUMBERED: &str = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL";

        match self.wrote {
            Wrote::Nothing => return Ok(false),
            Wrote::Perhaps => return Ok(true),
            Wrote::NothingSeen => {}
        }
        let lent = &self.visit.lent;
        let asked = async {
            let row = lent.watch(lent.client().query_typed_one(IS_NUMBERED, &[])).await;
            row.map_err(|error| statement_failure(error, "cannot ask whether it wrote"))
        };
        let row = self.deadline.after_sending(pin!(asked)).await;
        let row = row
            .map_err(|error| error.at(self.visit.home.instance()).with_outcome(Outcome::Failed))?;
        Ok(row.get(0))
    }

    /// Whether a statement had failed here.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub(super) async fn commit(self) -> Result<(), Undone> {
        let Err(error) = self.deadline.after_sending(pin!(self.visit.lent.end("COMMIT"))).await
        else {
            return Ok(());
        };
        let error = error.at(self.visit.home.instance());
        if error.outcome() == Outcome::Unknown {
            // No later answer on this connection would tell: a pooler may have another server behind it by now.
            return Err(Undone::without(error));
        }
        // What the server refused, such as a deferred constraint, it has rolled back itself.
        Err(self.roll_back(error).await)
    }

    /// Rolls back for the reason given.
    pub(super) async fn roll_back(self, error: Error) -> Undone {
        let Self { visit, deadline, .. } = self;
        // An abandoned connection is closed, and the server rolls back.
        let sound = !visit.lent.is_abandoned()
            && deadline.before_sending(pin!(visit.lent.end("ROLLBACK"))).await.is_ok();
        Undone { error, visit: sound.then(|| Box::new(visit)) }
    }
}

/// Nobody knows what became of a statement.
pub(super) fn dropped() -> Error {
    Error::new(Kind::Input, "a statement was dropped before it was answered")
        .with_outcome(Outcome::Failed)
}
