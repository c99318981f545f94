//! A connection that bb8 has given out.

use std::ops::{Deref, DerefMut};

use bb8::PooledConnection;

use super::session::Session;
use super::source::Manager;

/// Goes back to bb8 when dropped, which closes it if it is not to be lent again.
#[derive(Debug)]
pub(super) struct Loan {
    /// There until it is dropped.
    session: Option<PooledConnection<'static, Manager>>,
}

impl Loan {
    pub(super) fn new(session: PooledConnection<'static, Manager>) -> Self {
        Self { session: Some(session) }
    }
}

impl Deref for Loan {
    type Target = Session;

    fn deref(&self) -> &Session {
        match &self.session {
            Some(session) => session,
            None => unreachable!("used after its drop"),
        }
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut Session {
        match &mut self.session {
            Some(session) => session,
            None => unreachable!("used after its drop"),
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(mut session) = self.session.take() else { return };
        if session.judge() {
            return;
        }
        // In its place bb8 starts a task to make another, and whoever drops this may be outside of any runtime.
        let runtime = session.runtime().clone();
        let _entered = runtime.enter();
        drop(session);
    }
}
