//! The wait for one's turn, which may end anywhere and loses nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::queue::Ticket;
use super::watch::{LOOK, OVERDUE};
use super::{Gate, Slot, Turn};
use crate::error::{Kind, Phase};
use crate::{Error, Result};

/// The wait for a slot; see [`Gate::enter`].
#[derive(Debug)]
pub(in crate::pool) struct Entering<'a, S> {
    gate: &'a Arc<Gate<S>>,
    asked: Instant,
    patience: Duration,
    /// As long as it waits.
    ticket: Option<Ticket>,
}

impl<'a, S> Entering<'a, S> {
    pub(super) fn new(gate: &'a Arc<Gate<S>>, asked: Instant, patience: Duration) -> Self {
        Self { gate, asked, patience, ticket: None }
    }
}

impl<S> Future for Entering<'_, S> {
    type Output = Result<(Slot<S>, Option<S>)>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let gate = self.gate;
        let mut state = gate.lock();
        if let Some(ticket) = &self.ticket {
            let (granted, replaced) = state.queue.fetch(ticket, context.waker());
            drop(state);
            drop(replaced);
            let Some(turn) = granted else { return Poll::Pending };
            self.ticket = None;
            return Poll::Ready(match turn {
                Turn::Enter(session) => Ok((Slot::of(gate), session)),
                Turn::TooLate => Err(gate.too_late(self.patience)),
            });
        }
        if state.take() {
            gate.note(&state);
            drop(state);
            return Poll::Ready(Ok((Slot::of(gate), None)));
        }
        let waiting = state.queue.len();
        if waiting >= gate.queue_length {
            drop(state);
            let text = format!("{waiting} wait for a connection already");
            return Poll::Ready(Err(Error::new(Kind::Unavailable, text)
                .in_phase(Phase::Queue)
                .hint("shed load, or raise [pool] queue_length")));
        }
        // A patience too long to be told has no end.
        let until = self.asked.checked_add(self.patience);
        let ticket = state.queue.join(self.asked, until, context.waker().clone());
        // Whoever is about to take the duty looks at once.
        let next_look = *state.next_look.get_or_insert(self.asked);
        if next_look + OVERDUE < self.asked {
            // So the duty is free, and whoever polls this takes it.
            state.next_look = Some(self.asked);
            gate.is_watched.store(false, Ordering::Relaxed);
        }
        drop(state);
        self.ticket = Some(ticket);
        let soon = self.asked + LOOK;
        if until.is_some_and(|until| until.max(soon) < next_look) {
            gate.hurried.notify_one();
        }
        Poll::Pending
    }
}

impl<S> Drop for Entering<'_, S> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let (granted, waker) = self.gate.lock().queue.leave(&ticket);
        drop(waker);
        let Some(Turn::Enter(session)) = granted else { return };
        let mut slot = Slot::of(self.gate);
        let left = session.and_then(|session| slot.hand_over(session));
        // It is back before the slot is free.
        drop(left);
        drop(slot);
    }
}
