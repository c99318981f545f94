//! The duty to look after those who wait: one has it for all, for a timer for each would cost as much as the rest of waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::{Gate, Turn};

/// No two looks at those who wait are closer: one takes some 30 us when they are 10,000.
pub(super) const LOOK: Duration = Duration::from_millis(2);
/// Whoever has not looked for so much longer than he was to does not any more: his runtime is there, but nobody runs it.
pub(super) const OVERDUE: Duration = Duration::from_secs(1);

/// Somebody's duty; see [`Gate::watch`].
#[derive(Debug)]
pub(in crate::pool) struct Watch<S> {
    gate: Arc<Gate<S>>,
    is_over: bool,
}

impl<S> Watch<S> {
    pub(super) fn new(gate: Arc<Gate<S>>) -> Self {
        Self { gate, is_over: false }
    }

    /// Tells those who have waited for too long. Returns how many still wait and when to look again; `None` once nobody does,
    /// which ends the duty.
    pub(in crate::pool) fn look(
        &mut self,
        now: Instant,
        at_the_latest: Instant,
    ) -> Option<(usize, Instant)> {
        let mut woken = Vec::new();
        let mut state = self.gate.lock();
        let end = state.queue.expire(now, || Turn::TooLate, &mut woken);
        let look = end.unwrap_or(at_the_latest).clamp(now + LOOK, at_the_latest.max(now + LOOK));
        let waiting = state.queue.len();
        self.is_over = waiting == 0;
        state.next_look = (!self.is_over).then_some(look);
        if self.is_over {
            // Under the lock: whoever joins the queue after this finds that nobody is there.
            self.gate.is_watched.store(false, Ordering::Relaxed);
        }
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        (!self.is_over).then_some((waiting, look))
    }

    /// Waits until it is time, or somebody does not wait for that long.
    pub(in crate::pool) async fn pause(&self, look: Instant) {
        let _ = timeout_at(look.into(), self.gate.hurried.notified()).await;
    }
}

impl<S> Drop for Watch<S> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Its runtime ends. Whoever waits on another finds that nobody looks any more.
        let mut state = self.gate.lock();
        state.next_look = None;
        self.gate.is_watched.store(false, Ordering::Relaxed);
        let woken = state.queue.wakers();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }
}
