//! The gate before the connections: first come, first served, and not without end.
//!
//! bb8 alone lets a task that returns a connection take it again past those who wait for one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::slots::{Slot, Slots};
use crate::error::{Kind, Phase};
use crate::{Error, Result};

/// Lets in so many at a time, in the order in which they came; nobody while it is paused.
#[derive(Debug)]
pub(super) struct Gate {
    slots: Arc<Slots>,
    width: Mutex<Width>,
    queue: Mutex<Queue>,
    queue_length: usize,
}

#[derive(Debug)]
struct Width {
    size: u32,
    paused: bool,
}

/// Those who wait, in the order in which they came, each by a number.
#[derive(Debug, Default)]
struct Queue {
    since: VecDeque<(u64, Instant)>,
    next: u64,
}

impl Gate {
    pub(super) fn new(size: u32, queue_length: usize) -> Self {
        Self {
            slots: Slots::new(size as usize),
            width: Mutex::new(Width { size, paused: false }),
            queue: Mutex::default(),
            queue_length,
        }
    }

    /// Takes a slot that is free, and that nobody waits for.
    pub(super) fn try_enter(&self) -> Option<Slot> {
        self.slots.try_take()
    }

    /// Waits for a slot, which is free again when it is dropped.
    ///
    /// # Errors
    ///
    /// When as many wait already as the queue may hold, or the wait takes longer than the patience.
    pub(super) async fn enter(&self, asked: Instant, patience: Duration) -> Result<Slot> {
        if let Some(slot) = self.try_enter() {
            return Ok(slot);
        }
        let _place = Place::take(self, asked)?;
        // A patience too long to be told has no end.
        let waited = match asked.checked_add(patience) {
            Some(end) => timeout_at(end.into(), self.slots.take()).await,
            None => Ok(self.slots.take().await),
        };
        waited.map_err(|_| self.waited(patience))
    }

    fn waited(&self, patience: Duration) -> Error {
        let text = format!("waited {patience:?} for a connection");
        if self.is_paused() {
            return Error::new(Kind::Timeout, format!("{text}: the pool is paused"))
                .in_phase(Phase::Queue)
                .hint("it goes on after Instance::resume");
        }
        Error::new(Kind::Timeout, format!("{text}: all {} are in use", self.size()))
            .in_phase(Phase::Queue)
            .hint("look for transactions held open; else raise [pool] max_size or queue_timeout")
    }

    /// How many it lets in while it is not paused.
    pub(super) fn size(&self) -> u32 {
        lock(&self.width).size
    }

    pub(super) fn resize(&self, size: u32) {
        let mut width = lock(&self.width);
        width.size = size;
        if !width.paused {
            self.slots.resize(size as usize);
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        lock(&self.width).paused
    }

    /// Lets nobody in; who is in may stay. Who waits keeps the place in the queue.
    pub(super) fn pause(&self) {
        let mut width = lock(&self.width);
        width.paused = true;
        self.slots.resize(0);
    }

    /// Waits until nobody is in. Only for a gate that is paused.
    pub(super) async fn emptied(&self) {
        self.slots.emptied().await;
    }

    pub(super) fn resume(&self) {
        let mut width = lock(&self.width);
        width.paused = false;
        self.slots.resize(width.size as usize);
    }

    /// How many are in.
    pub(super) fn inside(&self) -> usize {
        self.slots.taken()
    }

    /// How many wait, and for how long the first of them has.
    pub(super) fn waiting(&self) -> (usize, Duration) {
        let queue = lock(&self.queue);
        let longest = queue.since.front().map(|(_, since)| since.elapsed());
        (queue.since.len(), longest.unwrap_or_default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in the queue, given up whenever the waiting ends, however it ends.
struct Place<'a> {
    gate: &'a Gate,
    number: u64,
}

impl<'a> Place<'a> {
    fn take(gate: &'a Gate, since: Instant) -> Result<Self> {
        let mut queue = lock(&gate.queue);
        let waiting = queue.since.len();
        if waiting >= gate.queue_length {
            let text = format!("{waiting} wait for a connection already");
            return Err(Error::new(Kind::Unavailable, text)
                .in_phase(Phase::Queue)
                .hint("shed load, or raise [pool] queue_length"));
        }
        let number = queue.next;
        queue.next += 1;
        queue.since.push_back((number, since));
        drop(queue);
        Ok(Self { gate, number })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let since = &mut lock(&self.gate.queue).since;
        // Nearly always the first.
        if let Ok(place) = since.binary_search_by_key(&self.number, |(number, _)| *number) {
            since.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    async fn enter(gate: &Gate) -> Result<Slot> {
        gate.enter(Instant::now(), PATIENCE).await
    }

    #[tokio::test(start_paused = true)]
    async fn first_come_is_first_served_and_a_returning_task_queues_again() {
        let gate = Arc::new(Gate::new(1, 10));
        let held = enter(&gate).await.unwrap();
        let (order, mut seen) = tokio::sync::mpsc::unbounded_channel();
        for task in 0..5 {
            let (gate, order) = (gate.clone(), order.clone());
            tokio::spawn(async move {
                let slot = enter(&gate).await.unwrap();
                order.send(task).unwrap();
                drop(slot);
            });
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.waiting().0, 5);
        drop(held);
        let again = enter(&gate).await.unwrap();
        order.send(99).unwrap();
        drop((again, order));
        let mut served = vec![];
        while let Some(task) = seen.recv().await {
            served.push(task);
        }
        assert_eq!(served, [0, 1, 2, 3, 4, 99]);
        assert_eq!((gate.waiting().0, gate.inside()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_too_long_is_a_timeout_and_a_queue_too_long_is_refused_at_once() {
        let gate = Arc::new(Gate::new(1, 1));
        let _held = enter(&gate).await.unwrap();
        let waiter = tokio::spawn({
            let gate = gate.clone();
            async move { enter(&gate).await.map(drop) }
        });
        tokio::task::yield_now().await;
        let full = enter(&gate).await.unwrap_err();
        assert!(full.is_unavailable() && !full.is_timeout(), "{full}");
        let late = waiter.await.unwrap().unwrap_err();
        assert!(late.is_timeout() && late.phase() == Some(Phase::Queue), "{late}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_gives_up_leaves_its_place() {
        let gate = Gate::new(1, 1);
        let held = enter(&gate).await.unwrap();
        for _ in 0..3 {
            let wait = tokio::time::timeout(Duration::from_millis(1), enter(&gate));
            assert!(wait.await.is_err(), "there was a place in the queue each time");
        }
        drop(held);
        drop(enter(&gate).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_gate_empties_and_says_why_it_is_shut() {
        let gate = Gate::new(2, 10);
        let held = enter(&gate).await.unwrap();
        gate.pause();
        let shut = enter(&gate).await.unwrap_err();
        assert!(shut.is_timeout() && shut.to_string().contains("paused"), "{shut}");
        gate.resize(3);
        assert!(gate.try_enter().is_none());
        drop(held);
        gate.emptied().await;
        gate.resume();
        let inside: Vec<_> = std::iter::from_fn(|| gate.try_enter()).collect();
        assert_eq!((inside.len(), gate.inside()), (3, 3));
    }
}
