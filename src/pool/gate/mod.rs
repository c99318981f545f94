//! The gate before the connections: first come, first served, and not without end.
//!
//! bb8 alone lets a task that returns a connection take it again past those who wait for one. Here whoever is done hands the
//! slot to the first who waits, and the connection with it where it is fit to be lent at once: then bb8 is not asked at all.
//!
//! One lock guards all of it. Two things hold whenever it is free: nobody waits while there is a slot to take, and a slot that
//! was granted counts as taken until whoever got it drops it, also if nobody ever comes for it.

mod entering;
mod peak;
mod queue;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::Error;
use crate::error::{Kind, Phase};
use entering::Entering;
use peak::Peak;
use queue::Queue;

pub(super) use watch::Watch;

/// Lets in so many at a time, in the order in which they came; nobody while it is paused. `S` is what may be handed over.
#[derive(Debug)]
pub(super) struct Gate<S> {
    state: Mutex<State<S>>,
    /// What the state says of it, for who asks often.
    is_full: AtomicBool,
    /// Whether somebody looks after those who wait; see [`Gate::watch`].
    is_watched: AtomicBool,
    /// Somebody waits for less long than until the next look.
    hurried: Notify,
    emptied: Notify,
    queue_length: usize,
}

#[derive(Debug)]
struct State<S> {
    size: u32,
    is_paused: bool,
    /// Slots that are taken; more than there are to be until enough have been given back.
    taken: usize,
    peak: Peak,
    /// How many of those who are in wait for a connection.
    insisting: usize,
    queue: Queue<Turn<S>>,
    /// When those who wait are looked at next; none where nobody does.
    next_look: Option<Instant>,
}

/// How a wait ends.
#[derive(Debug)]
enum Turn<S> {
    /// With a slot, and perhaps a session that was handed over.
    Enter(Option<S>),
    TooLate,
}

impl<S> State<S> {
    /// How many slots there are to be.
    fn wanted(&self) -> usize {
        if self.is_paused { 0 } else { self.size as usize }
    }

    fn take(&mut self) -> bool {
        let is_free = self.taken < self.wanted();
        if is_free {
            self.enter();
        }
        is_free
    }

    fn enter(&mut self) {
        self.taken += 1;
        self.peak.rise(self.taken);
    }

    /// Grants a slot that is free to the first who waits, and who has to be woken.
    fn let_in(&mut self) -> Option<Waker> {
        if self.taken >= self.wanted() {
            return None;
        }
        let waker = self.queue.grant(Turn::Enter(None)).ok()?;
        self.enter();
        waker
    }
}

impl<S> Gate<S> {
    /// Remembers for a time how many were in at once.
    pub(super) fn new(size: u32, queue_length: usize, memory: Duration) -> Arc<Self> {
        let state = State {
            size,
            is_paused: false,
            taken: 0,
            peak: Peak::over(memory, Instant::now()),
            insisting: 0,
            queue: Queue::new(),
            next_look: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            is_full: AtomicBool::new(size == 0),
            is_watched: AtomicBool::new(false),
            hurried: Notify::new(),
            emptied: Notify::new(),
            queue_length,
        })
    }

    /// Takes a slot that is free.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Slot<S>> {
        if self.is_full.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.lock();
        let is_taken = state.take();
        self.note(&state);
        drop(state);
        is_taken.then(|| Slot::of(self))
    }

    /// Waits for a slot, and perhaps gets a session with it. Dropped, it leaves the queue, and passes on what it was granted.
    ///
    /// Each time that it has to wait, somebody must see to it that the gate is [watched](Self::watch).
    ///
    /// # Errors
    ///
    /// When as many wait already as the queue may hold, or the wait takes longer than the patience.
    pub(super) fn enter(self: &Arc<Self>, asked: Instant, patience: Duration) -> Entering<'_, S> {
        Entering::new(self, asked, patience)
    }

    /// The duty to look after those who wait, where nobody has it. Dropped before its time, it is given to one of them.
    pub(super) fn watch(self: &Arc<Self>) -> Option<Watch<S>> {
        // Most of the time somebody has it, and reading costs less.
        let is_free = !self.is_watched.load(Ordering::Relaxed)
            && !self.is_watched.swap(true, Ordering::Relaxed);
        is_free.then(|| Watch::new(self.clone()))
    }

    fn too_late(&self, patience: Duration) -> Error {
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

    /// The most that are let in.
    pub(super) fn size(&self) -> u32 {
        self.lock().size
    }

    pub(super) fn resize(&self, size: u32) {
        self.change(|state| state.size = size);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.lock().is_paused
    }

    /// Lets nobody in; who is in may stay. Who waits keeps the place in the queue.
    pub(super) fn pause(&self) {
        self.change(|state| state.is_paused = true);
    }

    pub(super) fn resume(&self) {
        self.change(|state| state.is_paused = false);
    }

    /// Waits until nobody is in. Only for a gate that is paused.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.inside() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// How many are in.
    pub(super) fn inside(&self) -> usize {
        self.lock().taken
    }

    /// How many wait, and for how long the first of them has.
    pub(super) fn waiting(&self) -> (usize, Duration) {
        let state = self.lock();
        let longest = state.queue.since().map(|since| since.elapsed());
        (state.queue.len(), longest.unwrap_or_default())
    }

    /// Changes how many may be in, and lets in who may.
    fn change(&self, change: impl FnOnce(&mut State<S>)) {
        let mut state = self.lock();
        change(&mut state);
        let woken: Vec<_> = std::iter::from_fn(|| state.let_in()).collect();
        self.note(&state);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    fn leave(&self) {
        let mut state = self.lock();
        state.taken -= 1;
        let woken = state.let_in();
        self.note(&state);
        let is_emptied = state.is_paused && state.taken == 0;
        drop(state);
        if let Some(waker) = woken {
            waker.wake();
        }
        if is_emptied {
            self.emptied.notify_waiters();
        }
    }

    /// After each change, under its lock. Written when it changes, for it is read much more often.
    fn note(&self, state: &State<S>) {
        let is_full = state.taken >= state.wanted();
        if self.is_full.load(Ordering::Relaxed) != is_full {
            self.is_full.store(is_full, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to be in, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot<S> {
    gate: Arc<Gate<S>>,
    is_handed_over: bool,
}

impl<S> Slot<S> {
    fn of(gate: &Arc<Gate<S>>) -> Self {
        Self { gate: gate.clone(), is_handed_over: false }
    }

    /// Hands it to the first who waits, with a session. Gives the session back where nobody does; where the gate has become
    /// narrower; and where somebody who is in waits for a session, and must not be overtaken.
    pub(super) fn hand_over(&mut self, session: S) -> Option<S> {
        let mut state = self.gate.lock();
        if self.is_handed_over || state.insisting > 0 || state.taken > state.wanted() {
            return Some(session);
        }
        match state.queue.grant(Turn::Enter(Some(session))) {
            Ok(waker) => {
                drop(state);
                self.is_handed_over = true;
                waker.into_iter().for_each(Waker::wake);
                None
            }
            Err(Turn::Enter(back)) => back,
            Err(Turn::TooLate) => unreachable!("what comes back is what was to be granted"),
        }
    }

    /// The most that were in at once of late.
    pub(super) fn peak(&self, now: Instant) -> usize {
        let mut state = self.gate.lock();
        let taken = state.taken;
        state.peak.get(now, taken)
    }

    /// As long as this is there, nothing is handed over.
    pub(super) fn insist(&self) -> Insisting<'_, S> {
        self.gate.lock().insisting += 1;
        Insisting(&self.gate)
    }
}

impl<S> Drop for Slot<S> {
    fn drop(&mut self) {
        if !self.is_handed_over {
            self.gate.leave();
        }
    }
}

/// Somebody has a slot, and waits for a session.
#[derive(Debug)]
pub(super) struct Insisting<'a, S>(&'a Gate<S>);

impl<S> Drop for Insisting<'_, S> {
    fn drop(&mut self) {
        self.0.lock().insisting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    type Of<S> = Arc<Gate<S>>;

    fn enter(gate: &Of<u32>) -> Entering<'_, u32> {
        gate.enter(Instant::now(), PATIENCE)
    }

    /// What it came to if it is polled now.
    fn now<S>(entering: &mut Entering<'_, S>) -> Option<(Slot<S>, Option<S>)> {
        entering.now_or_never().map(Result::unwrap)
    }

    #[tokio::test]
    async fn first_come_is_first_served_and_a_returning_task_queues_again() {
        let gate = Gate::new(1, 10, PATIENCE);
        let held = gate.try_enter().unwrap();
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

    #[test]
    fn a_queue_too_long_is_refused_at_once_and_who_gives_up_leaves_a_place() {
        let gate = Gate::new(1, 1, PATIENCE);
        let held = gate.try_enter().unwrap();
        for _ in 0..3 {
            let mut waiting = enter(&gate);
            assert!(now(&mut waiting).is_none());
            let full = enter(&gate).now_or_never().unwrap().unwrap_err();
            assert!(full.is_unavailable() && !full.is_timeout(), "{full}");
            assert_eq!(full.phase(), Some(Phase::Queue));
        }
        drop(held);
        assert!(gate.try_enter().is_some());
    }

    #[test]
    fn a_paused_gate_empties_and_says_why_it_is_shut() {
        let gate = Gate::new(2, 10, PATIENCE);
        let mut held = gate.try_enter().unwrap();
        gate.pause();
        let mut waiting = enter(&gate);
        assert!(now(&mut waiting).is_none());
        let shut = gate.too_late(Duration::from_secs(1));
        assert!(shut.is_timeout() && shut.to_string().contains("paused"), "{shut}");
        gate.resize(3);
        assert!(gate.try_enter().is_none());
        assert_eq!(held.hand_over(7), Some(7), "nobody is let in");
        let mut emptied = Box::pin(gate.emptied());
        assert!(emptied.as_mut().now_or_never().is_none());
        drop(held);
        assert!(emptied.now_or_never().is_some());
        gate.resume();
        let waited = now(&mut waiting).unwrap();
        let inside: Vec<_> = std::iter::from_fn(|| gate.try_enter()).collect();
        assert_eq!((inside.len(), gate.inside()), (2, 3));
        drop(waited);
    }

    #[test]
    fn a_session_goes_to_the_first_and_on_to_the_second_if_the_first_has_gone() {
        let gate = Gate::new(1, 10, PATIENCE);
        let mut held = gate.try_enter().unwrap();
        assert_eq!(held.hand_over(7), Some(7), "nobody waits");
        let mut waiting = [enter(&gate), enter(&gate), enter(&gate)];
        assert!(waiting.iter_mut().all(|waiting| now(waiting).is_none()));
        assert_eq!(held.hand_over(7), None);
        drop(held);
        let [first, mut second, mut third] = waiting;
        assert!(now(&mut second).is_none());
        drop(first);
        assert!(now(&mut third).is_none());
        let (slot, session) = now(&mut second).unwrap();
        assert_eq!((session, gate.inside()), (Some(7), 1));
        drop(slot);
        let (_slot, session) = now(&mut third).unwrap();
        assert_eq!(session, None);
    }

    #[test]
    fn nobody_who_insists_is_overtaken() {
        let gate = Gate::new(2, 10, PATIENCE);
        let (mut one, two) = (gate.try_enter().unwrap(), gate.try_enter().unwrap());
        let mut waiting = enter(&gate);
        assert!(now(&mut waiting).is_none());
        let insisting = two.insist();
        assert_eq!(one.hand_over(7), Some(7));
        drop(insisting);
        assert_eq!(one.hand_over(7), None);
        assert_eq!(now(&mut waiting).unwrap().1, Some(7));
    }

    #[test]
    fn whoever_has_not_looked_for_long_is_replaced() {
        let gate = Gate::new(1, 10, PATIENCE);
        let _held = gate.try_enter().unwrap();
        let mut first = enter(&gate);
        assert!(now(&mut first).is_none());
        let mut watch = gate.watch().unwrap();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        assert!(watch.look(long_ago, long_ago + Duration::from_secs(1)).is_some());
        assert!(gate.watch().is_none());
        let mut second = enter(&gate);
        assert!(now(&mut second).is_none());
        assert!(gate.watch().is_some());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter,
        Poll(usize),
        GiveUp(usize),
        Return(usize, bool),
        Insist(usize),
        Pause(bool),
        Resize(u32),
        Expire,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => Just(Step::Enter),
            4 => any::<usize>().prop_map(Step::Poll),
            2 => any::<usize>().prop_map(Step::GiveUp),
            6 => any::<(usize, bool)>().prop_map(|(which, fit)| Step::Return(which, fit)),
            1 => any::<usize>().prop_map(Step::Insist),
            1 => any::<bool>().prop_map(Step::Pause),
            1 => (1..5_u32).prop_map(Step::Resize),
            1 => Just(Step::Expire),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whatever tasks do, and wherever they are cancelled: there are never more inside than there may be, nobody waits
        /// while there is room, who came first is first, and no slot and no session is lost.
        #[test]
        fn slots_and_sessions_are_neither_lost_nor_doubled(steps in steps()) {
            let made = Arc::new(());
            let gate: Of<Arc<()>> = Gate::new(3, 8, PATIENCE);
            let mut waiting = Vec::new();
            let mut inside = Vec::new();
            let (mut size, mut is_paused) = (3, false);
            for step in steps {
                let before = gate.inside();
                match step {
                    Step::Enter => {
                        let mut entering = gate.enter(Instant::now(), PATIENCE);
                        match (&mut entering).now_or_never() {
                            Some(Ok((slot, session))) => {
                                prop_assert!(session.is_none() && gate.waiting().0 == 0);
                                inside.push(slot);
                            }
                            Some(Err(full)) => prop_assert!(full.is_unavailable()),
                            None => waiting.push(entering),
                        }
                    }
                    Step::Poll(which) if !waiting.is_empty() => {
                        let which = which % waiting.len();
                        let mut is_over = true;
                        for place in (0..=which).rev() {
                            match (&mut waiting[place]).now_or_never() {
                                None => {
                                    prop_assert!(place == which, "somebody was overtaken");
                                    is_over = false;
                                    break;
                                }
                                Some(Ok((slot, _))) => inside.push(slot),
                                Some(Err(late)) => prop_assert!(late.is_timeout()),
                            }
                        }
                        if is_over {
                            waiting.drain(..=which);
                        }
                    }
                    Step::GiveUp(which) if !waiting.is_empty() => {
                        drop(waiting.remove(which % waiting.len()));
                    }
                    Step::Return(which, is_fit) if !inside.is_empty() => {
                        let mut slot = inside.swap_remove(which % inside.len());
                        if is_fit {
                            let waited = gate.waiting().0;
                            let left = slot.hand_over(made.clone());
                            prop_assert_eq!(left.is_none(), gate.waiting().0 < waited);
                        }
                    }
                    Step::Insist(which) if inside.len() > 1 => {
                        let mut slot = inside.swap_remove(which % inside.len());
                        let insisting = inside[0].insist();
                        prop_assert!(slot.hand_over(made.clone()).is_some());
                        drop(insisting);
                        inside.push(slot);
                    }
                    Step::Pause(pause) => {
                        is_paused = pause;
                        if pause { gate.pause() } else { gate.resume() }
                    }
                    Step::Resize(wanted) => {
                        size = wanted;
                        gate.resize(size);
                    }
                    Step::Expire => {
                        if let Some(mut watch) = gate.watch() {
                            let much_later = Instant::now() + 2 * PATIENCE;
                            prop_assert!(watch.look(much_later, much_later).is_none());
                        }
                        prop_assert_eq!(gate.waiting().0, 0);
                    }
                    _ => {}
                }
                let wanted = if is_paused { 0 } else { size as usize };
                prop_assert!(gate.inside() <= before.max(wanted));
                prop_assert!(gate.waiting().0 == 0 || gate.inside() >= wanted);
                prop_assert!(gate.inside() >= inside.len());
            }
            drop((waiting, inside));
            prop_assert_eq!((gate.inside(), gate.waiting().0), (0, 0));
            prop_assert_eq!(Arc::strong_count(&made), 1);
            gate.resume();
            let slots: Vec<_> = std::iter::from_fn(|| gate.try_enter()).collect();
            prop_assert_eq!(slots.len(), size as usize);
        }
    }
}
