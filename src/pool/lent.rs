//! A connection that is lent to one task alone.

use std::ops::Deref;

use bb8::PooledConnection;
use tokio::sync::OwnedSemaphorePermit;

use super::manager::Manager;
use super::session::Session;

/// A lent connection. It goes back when dropped, and is replaced by a new one if it was left in the middle of
/// something.
#[derive(Debug)]
pub(crate) struct Lent {
    // In this order: the connection is back before the next task is let in.
    session: PooledConnection<'static, Manager>,
    _permit: OwnedSemaphorePermit,
}

impl Lent {
    pub(super) fn new(
        session: PooledConnection<'static, Manager>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { session, _permit: permit }
    }
}

impl Deref for Lent {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.session.is_abandoned() {
            self.session.cancel_in_background();
        }
        self.session.touch();
    }
}
