//! Bounds: so much of a kind of work at a time, the rest in order of arrival, and whoever has waited too long is
//! sent away rather than kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use howdah::Id;
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

/// A gate for each user, so that nobody has all the places of everybody.
#[derive(Debug, Clone)]
pub(crate) struct GateOfEach {
    places: usize,
    /// Of those who are inside or waiting; the others are forgotten when the next one comes.
    gates: Arc<Mutex<HashMap<Id, Weak<Semaphore>>>>,
}

impl GateOfEach {
    pub(crate) fn new(places: usize) -> Self {
        Self { places, gates: Arc::default() }
    }

    /// One of the user's places, until it is dropped.
    pub(crate) async fn enter(&self, user: Id) -> Result<OwnedSemaphorePermit, Problem> {
        self.of(user).enter().await
    }

    fn of(&self, user: Id) -> Gate {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(&user).and_then(Weak::upgrade) {
            return Gate(gate);
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Gate::new(self.places);
        gates.insert(user, Arc::downgrade(&gate.0));
        gate
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_has_places_of_their_own_and_is_forgotten_without_them() {
        let [one, other] = ["1", "2"].map(|id| id.parse::<Id>().unwrap());
        let gate = GateOfEach::new(2);
        let places = [gate.enter(one).await.unwrap(), gate.enter(one).await.unwrap()];
        assert!(gate.enter(one).now_or_never().is_none(), "it waits");
        let _place = gate.enter(other).await.unwrap();
        drop(places);
        drop(gate.enter(one).await.unwrap());
        drop(gate.enter("3".parse().unwrap()).await.unwrap());
        assert_eq!(gate.gates.lock().unwrap().len(), 2, "of the other and the third");
    }
}
