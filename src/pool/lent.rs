//! A connection that is lent to one task alone.

use std::ops::Deref;
use std::time::Instant;

use bb8::PooledConnection;
use tokio_postgres::Row;

use super::session::{Params, Session};
use super::slots::Slot;
use super::source::Manager;
use crate::Result;
use crate::observe;
use crate::shard::Home;
use crate::statement::Statement;

/// A lent connection. It goes back when dropped, and is replaced by a new one if it was left in the middle of
/// something.
#[derive(Debug)]
pub(crate) struct Lent {
    /// There until it is dropped.
    session: Option<PooledConnection<'static, Manager>>,
    _slot: Slot,
}

impl Lent {
    pub(super) fn new(session: PooledConnection<'static, Manager>, slot: Slot) -> Self {
        Self { session: Some(session), _slot: slot }
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
        self.tally().executed(took);
        observe::statement(home.instance(), home.shard(), took, &answer);
        answer
    }
}

impl Deref for Lent {
    type Target = Session;

    fn deref(&self) -> &Session {
        match &self.session {
            Some(session) => session,
            None => unreachable!("used after its drop"),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut session) = self.session.take() else { return };
        if session.is_abandoned() {
            session.cancel_in_background();
        }
        session.rest();
        // In the place of a connection that is not lent again bb8 starts a task to make another.
        let runtime = session.runtime().clone();
        let _entered = runtime.enter();
        // The connection is back before the slot is free and the next task let in.
        drop(session);
    }
}
