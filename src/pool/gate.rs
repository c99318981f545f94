//! The gate before the connections: first come, first served, and not without end.
//!
//! bb8 alone lets a task that returns a connection take it again past those who wait for one. Here whoever comes out hands what
//! he has to the first in the queue, together with his slot.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

use crate::error::{Kind, Phase};
use crate::{Error, Result};

/// Lets in so many at a time, in the order in which they came; nobody while it is paused.
pub(super) struct Gate<T> {
    shared: Arc<Shared<T>>,
    queue_length: usize,
    /// Where those who wait too long are looked for.
    runtime: Handle,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    emptied: Notify,
    /// Somebody waits whose patience ends before the next look.
    earlier: Notify,
}

struct State<T> {
    size: u32,
    paused: bool,
    inside: usize,
    /// In the order in which they came.
    queue: VecDeque<Waiter<T>>,
    /// The number of the next to queue.
    next: u64,
    /// When those who wait too long are looked for next. One task does it for all, as a timer for each would cost more than all
    /// else in here.
    look: Option<tokio::time::Instant>,
}

struct Waiter<T> {
    number: u64,
    since: Instant,
    /// A patience too long to be told has none.
    end: Option<tokio::time::Instant>,
    /// Dropped when the patience has ended.
    admit: oneshot::Sender<Entry<T>>,
}

/// The right to be in, and what whoever had it before has handed over.
#[derive(Debug)]
pub(super) struct Entry<T> {
    // In this order: what is given back unused is there before the slot is free.
    pub(super) handed: Option<T>,
    pub(super) slot: Slot<T>,
}

/// A place inside, until it is dropped.
pub(super) struct Slot<T>(Arc<Shared<T>>);

impl<T: Send + 'static> Gate<T> {
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(super) fn new(size: u32, queue_length: usize) -> Self {
        let (queue, paused) = (VecDeque::new(), false);
        let state = State { size, paused, inside: 0, queue, next: 0, look: None };
        let (state, emptied, earlier) = (Mutex::new(state), Notify::new(), Notify::new());
        let shared = Arc::new(Shared { state, emptied, earlier });
        Self { shared, queue_length, runtime: Handle::current() }
    }

    /// Takes a slot that is free, and that nobody waits for.
    pub(super) fn try_enter(&self) -> Option<Slot<T>> {
        let is_in = self.shared.lock().try_enter();
        is_in.then(|| Slot(self.shared.clone()))
    }

    /// Waits for a slot, which is free again when it is dropped.
    ///
    /// # Errors
    ///
    /// When as many wait already as the queue may hold, or the wait takes longer than the patience.
    pub(super) async fn enter(&self, asked: Instant, patience: Duration) -> Result<Entry<T>> {
        let mut place = {
            let mut state = self.shared.lock();
            if state.try_enter() {
                return Ok(Entry { handed: None, slot: Slot(self.shared.clone()) });
            }
            let waiting = state.queue.len();
            if waiting >= self.queue_length {
                return Err(too_many(waiting));
            }
            let (admit, admitted) = oneshot::channel();
            let end = asked.checked_add(patience).map(Into::into);
            let number = state.next;
            state.next += 1;
            state.queue.push_back(Waiter { number, since: asked, end, admit });
            self.look_by(&mut state, end);
            Place { shared: &self.shared, number, is_over: false, admitted }
        };
        let admitted = (&mut place.admitted).await;
        place.is_over = true;
        admitted.map_err(|_| self.waited(patience))
    }

    /// Sees to it that somebody looks for those who wait too long when this patience ends.
    fn look_by(&self, state: &mut State<T>, end: Option<tokio::time::Instant>) {
        match (end, state.look) {
            (Some(end), None) => {
                state.look = Some(end);
                self.runtime.spawn(usher(self.shared.clone()));
            }
            (Some(end), Some(look)) if end < look => {
                state.look = Some(end);
                self.shared.earlier.notify_one();
            }
            _ => {}
        }
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
        self.shared.lock().size
    }

    pub(super) fn resize(&self, size: u32) {
        self.shared.lock().size = size;
        self.shared.admit();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.shared.lock().paused
    }

    /// Lets nobody in; who is in may stay. Who waits keeps the place in the queue.
    pub(super) fn pause(&self) {
        self.shared.lock().paused = true;
    }

    /// Waits until nobody is in. Only for a gate that is paused.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.shared.emptied.notified();
            if self.inside() == 0 {
                return;
            }
            emptied.await;
        }
    }

    pub(super) fn resume(&self) {
        self.shared.lock().paused = false;
        self.shared.admit();
    }

    /// How many are in.
    pub(super) fn inside(&self) -> usize {
        self.shared.lock().inside
    }

    /// How many wait, and for how long the first of them has.
    pub(super) fn waiting(&self) -> (usize, Duration) {
        let state = self.shared.lock();
        let longest = state.queue.front().map(|first| first.since.elapsed());
        (state.queue.len(), longest.unwrap_or_default())
    }
}

fn too_many(waiting: usize) -> Error {
    Error::new(Kind::Unavailable, format!("{waiting} wait for a connection already"))
        .in_phase(Phase::Queue)
        .hint("shed load, or raise [pool] queue_length")
}

/// Tells those who wait too long, until nobody does who ever would.
async fn usher<T>(shared: Arc<Shared<T>>) {
    while let Some(look) = shared.dismiss() {
        // Whether it is time or there is an earlier one: the next look tells.
        let _ = timeout_at(look, shared.earlier.notified()).await;
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets in who may come in now.
    fn admit(self: &Arc<Self>) {
        loop {
            let Some(first) = self.lock().next_in() else { return };
            // Where it left meanwhile, the slot comes back and goes to the next.
            let _ = first.admit.send(Entry { handed: None, slot: Slot(self.clone()) });
        }
    }

    /// Dismisses those whose patience has ended. Returns when the next one's does.
    fn dismiss(&self) -> Option<tokio::time::Instant> {
        let now = tokio::time::Instant::now();
        let mut state = self.lock();
        let is_over = |waiter: &Waiter<T>| waiter.end.is_some_and(|end| end <= now);
        let (over, queue): (VecDeque<_>, _) =
            std::mem::take(&mut state.queue).into_iter().partition(is_over);
        state.queue = queue;
        state.look = state.queue.iter().filter_map(|waiter| waiter.end).min();
        let look = state.look;
        drop(state);
        drop(over);
        look
    }
}

impl<T> State<T> {
    fn room(&self) -> usize {
        if self.paused { 0 } else { self.size as usize }
    }

    fn try_enter(&mut self) -> bool {
        let is_in = self.queue.is_empty() && self.inside < self.room();
        self.inside += usize::from(is_in);
        is_in
    }

    /// Takes the first out of the queue, if there is room.
    fn next_in(&mut self) -> Option<Waiter<T>> {
        if self.inside >= self.room() {
            return None;
        }
        let first = self.queue.pop_front()?;
        self.inside += 1;
        Some(first)
    }
}

impl<T> Slot<T> {
    /// Gives the slot to the first in the queue, with something that would take him time to get. Returns both where nobody
    /// waits, or more are in than may be.
    pub(super) fn hand_over(self, what: T) -> Result<(), (Self, T)> {
        let (mut slot, mut what) = (self, what);
        loop {
            let first = {
                let mut state = slot.0.lock();
                if state.inside > state.room() { None } else { state.queue.pop_front() }
            };
            let Some(first) = first else { return Err((slot, what)) };
            match first.admit.send(Entry { handed: Some(what), slot }) {
                // It left meanwhile.
                Err(Entry { handed: Some(back), slot: kept }) => (slot, what) = (kept, back),
                _ => return Ok(()),
            }
        }
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        let is_empty = {
            let mut state = self.0.lock();
            state.inside -= 1;
            state.inside == 0
        };
        self.0.admit();
        if is_empty {
            self.0.emptied.notify_waiters();
        }
    }
}

/// A place in the queue, given up whenever the waiting ends, however it ends.
struct Place<'a, T> {
    shared: &'a Shared<T>,
    number: u64,
    /// Whether it was called, and is in the queue no more.
    is_over: bool,
    admitted: oneshot::Receiver<Entry<T>>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.shared.lock();
        let place = state.queue.binary_search_by_key(&self.number, |waiter| waiter.number);
        let waiter = place.ok().and_then(|place| state.queue.remove(place));
        drop(state);
        drop(waiter);
    }
}

impl<T> fmt::Debug for Gate<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Gate")
            .field("size", &state.size)
            .field("paused", &state.paused)
            .field("inside", &state.inside)
            .field("waiting", &state.queue.len())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").finish()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    async fn enter(gate: &Gate<&'static str>) -> Result<Entry<&'static str>> {
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

    #[tokio::test]
    async fn what_comes_out_is_handed_to_the_first_who_still_waits() {
        let gate = Gate::new(1, 10);
        let slot = gate.try_enter().unwrap();
        let (slot, what) = slot.hand_over("to nobody").unwrap_err();
        assert_eq!(what, "to nobody");
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(enter(&gate))).collect();
        assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        drop(waiting.remove(0));
        slot.hand_over("to the second").unwrap();
        // It was called, and does not come.
        drop(waiting.remove(0));
        let entry = waiting.remove(0).await.unwrap();
        assert_eq!(entry.handed, None, "what was dropped is gone, the slot is not");
        assert_eq!((gate.waiting().0, gate.inside()), (0, 1));

        let mut last = Box::pin(enter(&gate));
        assert!(last.as_mut().now_or_never().is_none());
        gate.pause();
        let (slot, _) = entry.slot.hand_over("through a gate that is shut").unwrap_err();
        gate.resume();
        slot.hand_over("to the last").unwrap();
        assert_eq!(last.await.unwrap().handed, Some("to the last"));
        assert_eq!(gate.inside(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn each_waits_as_long_as_it_will() {
        let gate = Gate::<()>::new(1, 10);
        let _held = gate.try_enter().unwrap();
        let began = tokio::time::Instant::now();
        let wait = async |seconds| {
            let patience = Duration::from_secs(seconds);
            assert!(gate.enter(Instant::now(), patience).await.is_err());
            assert_eq!(began.elapsed().as_secs(), seconds);
        };
        // Nobody knows of the second when the first look is planned.
        tokio::join!(wait(5), wait(1), wait(9));
        assert_eq!(gate.waiting().0, 0);
        wait(10).now_or_never();
        assert!(
            gate.enter(Instant::now(), Duration::ZERO).await.is_err(),
            "and after all had left"
        );
    }

    #[test]
    fn more_room_lets_in_who_waits_and_less_waits_for_those_who_are_in() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let gate = Gate::<()>::new(1, 10);
        let first = gate.try_enter().unwrap();
        let wait = || Box::pin(gate.enter(Instant::now(), PATIENCE));
        let mut waiting = wait();
        assert!(waiting.as_mut().now_or_never().is_none());
        gate.resize(2);
        let second = waiting.now_or_never().unwrap().unwrap();
        gate.resize(1);
        let mut waiting = wait();
        assert!(waiting.as_mut().now_or_never().is_none());
        let (first, ()) = first.hand_over(()).unwrap_err();
        drop(first);
        assert!(waiting.as_mut().now_or_never().is_none(), "one is in, and one may be");
        drop(second);
        assert!(waiting.now_or_never().unwrap().is_ok());
        assert_eq!(gate.inside(), 0);
    }
}
