//! The end of a connection, which counts among those that the pool may have until it has closed.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::slots::Slot;

/// How long a connection may take to close by itself: its server has to end the statement first that was given up, and one
/// that waits for rows to copy never would.
const GRACE: Duration = Duration::from_secs(1);

/// An open connection's place. Dropped with the connection's client, it is free when that has closed.
#[derive(Debug)]
pub(super) struct Berth {
    /// There until it is dropped.
    taken: Option<(JoinHandle<()>, Slot)>,
    runtime: Handle,
}

impl Berth {
    /// `driven` is the task that serves the connection.
    pub(super) fn new(driven: JoinHandle<()>, slot: Slot, runtime: Handle) -> Self {
        Self { taken: Some((driven, slot)), runtime }
    }

    /// Closes the connection under whoever uses it.
    pub(super) fn cut(&self) {
        if let Some((driven, _)) = &self.taken {
            driven.abort();
        }
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        let Some((mut driven, mut slot)) = self.taken.take() else { return };
        if driven.is_finished() {
            return;
        }
        slot.close();
        self.runtime.spawn(async move {
            if timeout(GRACE, &mut driven).await.is_err() {
                driven.abort();
            }
            drop(slot);
        });
    }
}
