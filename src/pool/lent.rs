//! A connection that is lent to one task alone.

use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::time::Instant;

use tokio_postgres::Row;

use super::gate::Slot;
use super::loan::Loan;
use super::session::{Params, Session};
use crate::Result;
use crate::observe;
use crate::shard::Home;
use crate::statement::Statement;

/// A lent connection. Dropped, it goes to whoever waits for one, or else back; and is replaced by a new one if it was left in
/// the middle of something.
#[derive(Debug)]
pub(crate) struct Lent {
    /// There until it is dropped.
    loan: Option<Loan>,
    slot: Slot<Loan>,
    since: Instant,
}

impl Lent {
    pub(super) fn new(loan: Loan, slot: Slot<Loan>, since: Instant) -> Self {
        Self { loan: Some(loan), slot, since }
    }

    /// When it was lent.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Whether it may be kept for longer, by its age and by what the pool wants.
    pub(super) fn may_stay(&self, now: Instant) -> bool {
        !self.is_old(now) && self.source().is_current(self)
    }

    /// Runs one statement; see [`Session::send`].
    pub(crate) fn run<'a>(
        &'a self,
        statement: &'a Statement,
        home: &'a Home,
        params: Params<'a>,
    ) -> impl Future<Output = Result<(Vec<Row>, u64)>> {
        self.run_since(Instant::now(), statement, home, params)
    }

    /// As [`Lent::run`], for whoever was lent it just now, and need not look at the clock again.
    pub(crate) fn run_at_once<'a>(
        &'a self,
        statement: &'a Statement,
        home: &'a Home,
        params: Params<'a>,
    ) -> impl Future<Output = Result<(Vec<Row>, u64)>> {
        self.run_since(self.since, statement, home, params)
    }

    async fn run_since(
        &self,
        began: Instant,
        statement: &Statement,
        home: &Home,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u64)> {
        let sent = pin!(self.send(statement, home, params));
        let answer = observe::during_execute(home.instance(), home.shard(), sent).await;
        let took = began.elapsed();
        self.tally().executed(took);
        observe::statement(home.instance(), home.shard(), took, &answer);
        answer
    }
}

impl Deref for Lent {
    type Target = Session;

    fn deref(&self) -> &Session {
        match &self.loan {
            Some(loan) => loan,
            None => unreachable!("used after its drop"),
        }
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Session {
        match &mut self.loan {
            Some(loan) => loan,
            None => unreachable!("used after its drop"),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut loan) = self.loan.take() else { return };
        if loan.is_abandoned() {
            loan.cancel_in_background();
        }
        loan.rest();
        let left = if loan.is_fit() { self.slot.hand_over(loan) } else { Some(loan) };
        if let Some(loan) = &left {
            loan.spend_if_spare(self.slot.peak(loan.last_used()));
        }
        // The connection is back before the slot is free and the next task let in.
        drop(left);
    }
}
