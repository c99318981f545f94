//! A connection that is lent to one task alone.

use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bb8::PooledConnection;
use tokio_postgres::Row;

use super::gate::Slot;
use super::session::{Params, Session};
use super::source::Manager;
use crate::Result;
use crate::observe;
use crate::shard::Home;
use crate::statement::Statement;

/// A lent connection. It goes back when dropped, and is replaced by a new one if it was left in the middle of
/// something.
#[derive(Debug)]
pub(crate) struct Lent {
    /// Both are there until it is dropped.
    held: Option<Held>,
    slot: Option<Slot<Held>>,
}

/// A connection out of bb8, to which it goes back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    session: Option<PooledConnection<'static, Manager>>,
}

impl Held {
    pub(super) fn new(session: PooledConnection<'static, Manager>) -> Self {
        Self { session: Some(session) }
    }

    /// Whether it may be lent to the next without a look at it.
    pub(super) fn is_fit(&self) -> bool {
        !self.is_unsound()
            && !self.has_aged()
            && self.is_proven()
            && !self.source().is_unwanted(self)
    }
}

impl Lent {
    pub(super) fn new(held: Held, slot: Slot<Held>) -> Self {
        Self { held: Some(held), slot: Some(slot) }
    }

    /// Whether it may be kept for longer, by its age and by what the pool wants.
    pub(super) fn may_stay(&self, now: Instant) -> bool {
        !self.is_old(now) && self.source().is_current(self)
    }

    /// Runs one statement; see [`Session::send`].
    pub(crate) async fn run(
        &self,
        statement: &Statement,
        home: &Home,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u64)> {
        let began = Instant::now();
        let sent = self.send(statement, home, params);
        let answer = observe::during_execute(home.instance(), home.shard(), sent).await;
        let took = began.elapsed();
        self.source().counters.executed(took);
        observe::statement(home.instance(), home.shard(), took, &answer);
        answer
    }
}

impl Deref for Lent {
    type Target = Session;

    fn deref(&self) -> &Session {
        match &self.held {
            Some(held) => held,
            None => unreachable!("used after its drop"),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(mut held), Some(slot)) = (self.held.take(), self.slot.take()) else { return };
        if held.is_abandoned() {
            held.cancel_in_background();
        }
        if let Some(session) = &mut held.session {
            session.rest();
        }
        // Who is past the gate came first, and is served by bb8.
        let is_awaited = held.source().awaited.load(Ordering::SeqCst) > 0;
        let left =
            if held.is_fit() && !is_awaited { slot.hand_over(held) } else { Err((slot, held)) };
        if let Err((slot, held)) = left {
            // The connection is back before the slot is free and the next task let in.
            drop(held);
            drop(slot);
        }
    }
}

impl Deref for Held {
    type Target = Session;

    fn deref(&self) -> &Session {
        match &self.session {
            Some(session) => session,
            None => unreachable!("used after its drop"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        // In the place of a connection that is not lent again bb8 starts a task to make another.
        let runtime = session.runtime().clone();
        let _entered = runtime.enter();
        drop(session);
    }
}
