//! Bounds: so much of a kind of work at a time, the rest in order of arrival, and whoever has waited too long is
//! sent away rather than kept.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{Kind, Problem};

/// Somebody is waiting in front of a screen. Less than any request may take, so that whoever waited in vain hears that
/// nothing was done.
const PATIENCE: Duration = Duration::from_secs(8);

#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places)))
    }

    /// For work that keeps a core busy: more at a time would only slow each other down, and take memory.
    pub(crate) fn one_a_core() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// A place, until it is dropped.
    pub(crate) async fn enter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        match tokio::time::timeout(PATIENCE, Arc::clone(&self.0).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(Kind::Busy.into()),
        }
    }

    /// Computes something, away from the threads that serve requests.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let place = self.enter().await?;
        // The place goes along: work whose request is dropped goes on, and counts until it ends.
        let work = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        work.await.map_err(Problem::internal)
    }
}
