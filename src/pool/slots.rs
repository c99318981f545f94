//! Slots for connections, which are taken in the order of asking, and whose number can be changed while they are in use.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// So many may be in at a time.
#[derive(Debug)]
pub(super) struct Slots {
    free: Semaphore,
    count: Mutex<Count>,
    /// What the count says of it, for who asks often.
    is_exceeded: AtomicBool,
}

#[derive(Debug)]
struct Count {
    wanted: usize,
    /// Free and taken; more than are wanted until enough have been given back.
    existing: usize,
    /// Taken, and about to be given back.
    closing: usize,
}

impl Slots {
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Semaphore::new(count),
            count: Mutex::new(Count { wanted: count, existing: count, closing: 0 }),
            is_exceeded: AtomicBool::new(false),
        })
    }

    /// Takes a slot, in the order of asking.
    pub(super) async fn take(self: &Arc<Self>) -> Slot {
        // Nobody closes the semaphore. A slot's drop, not the permit's, decides whether it exists on.
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
        Slot::of(self)
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        let count = self.lock();
        count.existing.saturating_sub(self.free.available_permits())
    }

    /// How many of these are about to be given back.
    pub(super) fn closing(&self) -> usize {
        self.lock().closing
    }

    /// Whether more are taken than are wanted, and will not be given back soon.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// After each change of the count, under its lock.
    fn note(&self, count: &Count) {
        self.is_exceeded.store(count.existing - count.closing > count.wanted, Ordering::Relaxed);
    }

    /// Changes how many there are. Those that are taken stay so; who waits keeps the place in the queue.
    pub(super) fn resize(&self, wanted: usize) {
        let mut count = self.lock();
        count.wanted = wanted;
        if wanted > count.existing {
            self.free.add_permits(wanted - count.existing);
            count.existing = wanted;
        } else {
            count.existing -= self.free.forget_permits(count.existing - wanted);
        }
        self.note(&count);
    }

    fn give_back(&self, was_closing: bool) {
        let mut count = self.lock();
        count.closing -= usize::from(was_closing);
        if count.existing > count.wanted {
            count.existing -= 1;
            self.note(&count);
        } else {
            if was_closing {
                self.note(&count);
            }
            // Under the lock, so that a change of the number sees it either taken or free.
            self.free.add_permits(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        // Nothing in here panics half-way through a change.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the [`Slots`], until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    is_closing: bool,
}

impl Slot {
    fn of(slots: &Arc<Slots>) -> Self {
        Self { slots: slots.clone(), is_closing: false }
    }

    /// Says that it will be given back soon.
    pub(super) fn close(&mut self) {
        if !std::mem::replace(&mut self.is_closing, true) {
            let mut count = self.slots.lock();
            count.closing += 1;
            self.slots.note(&count);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.give_back(self.is_closing);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn try_take(slots: &Arc<Slots>) -> Option<Slot> {
        slots.take().now_or_never()
    }

    #[test]
    fn more_slots_let_in_who_waits_and_fewer_wait_for_those_who_are_in() {
        let slots = Slots::new(1);
        let mut first = try_take(&slots).unwrap();
        let mut waiting = Box::pin(slots.take());
        assert!(waiting.as_mut().now_or_never().is_none());
        slots.resize(2);
        let second = waiting.now_or_never().unwrap();
        slots.resize(1);
        assert!(slots.is_exceeded());
        first.close();
        assert!(!slots.is_exceeded() && slots.closing() == 1, "it will be enough");
        drop(first);
        assert!(!slots.is_exceeded() && try_take(&slots).is_none() && slots.closing() == 0);
        drop(second);
        assert!(try_take(&slots).is_some());
        assert_eq!(slots.taken(), 0);
    }

    #[test]
    fn a_waiter_that_leaves_loses_no_slot() {
        let slots = Slots::new(1);
        let held = try_take(&slots).unwrap();
        let mut waiting = Box::pin(slots.take());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        // It was given the slot already, and does not come for it.
        drop(waiting);
        assert!(try_take(&slots).is_some());
    }
}
