//! The gate before the connections: first come, first served, and not without end.
//!
//! bb8 alone lets a task that returns a connection take it again past those who wait for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Kind;
use crate::{Error, Result};

/// Lets in so many at a time, in the order in which they came.
#[derive(Debug)]
pub(super) struct Gate {
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue_length: usize,
    queue_timeout: Duration,
}

impl Gate {
    pub(super) fn new(slots: usize, queue_length: usize, queue_timeout: Duration) -> Self {
        let slots = Arc::new(Semaphore::new(slots));
        Self { slots, waiting: AtomicUsize::new(0), queue_length, queue_timeout }
    }

    /// Takes a slot that is free, and that nobody waits for.
    pub(super) fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
    }

    /// Whether whoever comes now has to wait.
    pub(super) fn is_full(&self) -> bool {
        self.slots.available_permits() == 0
    }

    /// Waits for a slot, which is free again when the permit is dropped.
    ///
    /// # Errors
    ///
    /// When as many wait already as the queue may hold, or the wait takes longer than the queue's timeout.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit> {
        if let Some(permit) = self.try_enter() {
            return Ok(permit);
        }
        let _place = Place::take(self)?;
        match tokio::time::timeout(self.queue_timeout, self.slots.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Error::new(Kind::Unavailable, "the pool is closed")),
            Err(_) => Err(Error::new(
                Kind::Timeout,
                format!("waited {:?} for a connection: all are in use", self.queue_timeout),
            )
            .hint("look for transactions held open; else raise [pool] max_size or queue_timeout")),
        }
    }
}

/// A place in the queue, given up whenever the waiting ends, however it ends.
struct Place<'a>(&'a Gate);

impl<'a> Place<'a> {
    fn take(gate: &'a Gate) -> Result<Self> {
        let waiting = gate.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(gate);
        if waiting < gate.queue_length {
            return Ok(place);
        }
        Err(Error::new(Kind::Unavailable, format!("{waiting} wait for a connection already"))
            .hint("shed load, or raise [pool] queue_length"))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn first_come_is_first_served_and_a_returning_task_queues_again() {
        let gate = Arc::new(Gate::new(1, 10, Duration::from_secs(60)));
        let held = gate.enter().await.unwrap();
        let (order, mut seen) = tokio::sync::mpsc::unbounded_channel();
        for task in 0..5 {
            let (gate, order) = (gate.clone(), order.clone());
            tokio::spawn(async move {
                let permit = gate.enter().await.unwrap();
                order.send(task).unwrap();
                drop(permit);
            });
            tokio::task::yield_now().await;
        }
        drop(held);
        let again = gate.enter().await.unwrap();
        order.send(99).unwrap();
        drop((again, order));
        let mut served = vec![];
        while let Some(task) = seen.recv().await {
            served.push(task);
        }
        assert_eq!(served, [0, 1, 2, 3, 4, 99]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_too_long_is_a_timeout_and_a_queue_too_long_is_refused_at_once() {
        let gate = Arc::new(Gate::new(1, 1, Duration::from_secs(5)));
        let _held = gate.enter().await.unwrap();
        let waiter = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter().await.map(drop) }
        });
        tokio::task::yield_now().await;
        let full = gate.enter().await.unwrap_err();
        assert!(full.is_unavailable() && !full.is_timeout(), "{full}");
        assert!(waiter.await.unwrap().unwrap_err().is_timeout());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_gives_up_leaves_its_place() {
        let gate = Gate::new(1, 1, Duration::from_secs(5));
        let held = gate.enter().await.unwrap();
        for _ in 0..3 {
            let wait = tokio::time::timeout(Duration::from_millis(1), gate.enter());
            assert!(wait.await.is_err(), "there was a place in the queue each time");
        }
        drop(held);
        drop(gate.enter().await.unwrap());
    }
}
