//! Those who wait, in the order in which they came, and what was granted to them and not yet fetched.
//!
//! Whoever waits has a seat, found by a ticket. So a place in the middle is given up at little cost, and waiting allocates
//! nothing once there are as many seats as were ever needed at a time.
//!
//! Wakers are handed to the caller, to be woken or dropped when no lock is held: either may run anybody's code.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

/// A place in the queue, until it is left. Used only by whom it was given to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// Greater than those of all who came before.
    number: u64,
    seat: usize,
}

#[derive(Debug)]
enum Seat<G> {
    Free,
    Waits { since: Instant, until: Option<Instant>, waker: Waker },
    Granted(G),
}

#[derive(Debug)]
pub(super) struct Queue<G> {
    /// Number and seat of those to whom nothing was granted yet.
    waiting: VecDeque<(u64, usize)>,
    seats: Vec<Seat<G>>,
    free: Vec<usize>,
    next: u64,
}

impl<G> Queue<G> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), seats: Vec::new(), free: Vec::new(), next: 0 }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Since when the first has waited.
    pub(super) fn since(&self) -> Option<Instant> {
        let (_, seat) = self.waiting.front()?;
        match &self.seats[*seat] {
            Seat::Waits { since, .. } => Some(*since),
            Seat::Free | Seat::Granted(_) => None,
        }
    }

    /// Takes the last place, for no longer than until a time.
    pub(super) fn join(&mut self, since: Instant, until: Option<Instant>, waker: Waker) -> Ticket {
        let seat = self.free.pop().unwrap_or_else(|| {
            self.seats.push(Seat::Free);
            self.seats.len() - 1
        });
        self.seats[seat] = Seat::Waits { since, until, waker };
        let number = self.next;
        self.next += 1;
        self.waiting.push_back((number, seat));
        Ticket { number, seat }
    }

    /// Grants something to the first, who has to be woken for it; gives it back where nobody waits.
    pub(super) fn grant(&mut self, grant: G) -> Result<Option<Waker>, G> {
        let Some((_, seat)) = self.waiting.pop_front() else { return Err(grant) };
        let was = std::mem::replace(&mut self.seats[seat], Seat::Granted(grant));
        Ok(was.into_waker())
    }

    /// Grants the same to all whose time is over, who have to be woken for it. Returns when the next one's is.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        grant: impl Fn() -> G,
        woken: &mut Vec<Waker>,
    ) -> Option<Instant> {
        let mut next = None;
        let seats = &mut self.seats;
        self.waiting.retain(|(_, seat)| {
            let seat = &mut seats[*seat];
            let Seat::Waits { until: Some(until), .. } = seat else { return true };
            if *until <= now {
                woken.extend(std::mem::replace(seat, Seat::Granted(grant())).into_waker());
                return false;
            }
            next = Some(next.map_or(*until, |next| (*until).min(next)));
            true
        });
        next
    }

    /// How to tell each of those who wait.
    pub(super) fn wakers(&self) -> Vec<Waker> {
        let waker = |(_, seat): &(u64, usize)| match &self.seats[*seat] {
            Seat::Waits { waker, .. } => Some(waker.clone()),
            Seat::Free | Seat::Granted(_) => None,
        };
        self.waiting.iter().filter_map(waker).collect()
    }

    /// Fetches what was granted, which ends the wait. Otherwise that is how to tell of it, and the waker of before is of no
    /// use any more.
    pub(super) fn fetch(&mut self, ticket: &Ticket, now: &Waker) -> (Option<G>, Option<Waker>) {
        match &mut self.seats[ticket.seat] {
            Seat::Waits { waker, .. } if waker.will_wake(now) => (None, None),
            Seat::Waits { waker, .. } => (None, Some(std::mem::replace(waker, now.clone()))),
            Seat::Free | Seat::Granted(_) => self.leave(ticket),
        }
    }

    /// Gives up the place; what was granted meanwhile is for the caller to pass on.
    pub(super) fn leave(&mut self, ticket: &Ticket) -> (Option<G>, Option<Waker>) {
        let was = std::mem::replace(&mut self.seats[ticket.seat], Seat::Free);
        self.free.push(ticket.seat);
        if let Seat::Granted(grant) = was {
            return (Some(grant), None);
        }
        // Nearly always the first.
        if let Ok(place) = self.waiting.binary_search_by_key(&ticket.number, |(number, _)| *number)
        {
            self.waiting.remove(place);
        }
        (None, was.into_waker())
    }
}

impl<G> Seat<G> {
    fn into_waker(self) -> Option<Waker> {
        match self {
            Self::Waits { waker, .. } => Some(waker),
            Self::Free | Self::Granted(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Join(u64),
        Grant,
        Fetch(usize),
        Leave(usize),
        Expire(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..100_u64).prop_map(Step::Join),
            3 => Just(Step::Grant),
            2 => any::<usize>().prop_map(Step::Fetch),
            1 => any::<usize>().prop_map(Step::Leave),
            1 => (0..100_u64).prop_map(Step::Expire),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against a plain list: who came first is granted first, nothing that was granted is lost, and seats are used again.
        #[test]
        fn grants_go_out_in_order_and_none_is_lost(steps in steps()) {
            let mut queue = Queue::new();
            let start = Instant::now();
            let after = |seconds| start + Duration::from_secs(seconds);
            let mut waiting: Vec<(u64, u64)> = Vec::new();
            let mut granted = BTreeMap::new();
            let mut tickets = Vec::new();
            let (mut next, mut most) = (0_u32, 0);
            for step in steps {
                match step {
                    Step::Join(until) => {
                        // The longest have no end.
                        let end = (until < 90).then(|| after(until));
                        let ticket = queue.join(start, end, Waker::noop().clone());
                        waiting.push((ticket.number, if until < 90 { until } else { u64::MAX }));
                        tickets.push(ticket);
                        most = most.max(tickets.len());
                    }
                    Step::Grant => {
                        next += 1;
                        match queue.grant(next) {
                            Ok(waker) => {
                                prop_assert!(waker.is_some());
                                granted.insert(waiting.remove(0).0, next);
                            }
                            Err(back) => prop_assert!(back == next && waiting.is_empty()),
                        }
                    }
                    Step::Fetch(which) if !tickets.is_empty() => {
                        let which = which % tickets.len();
                        let (grant, _) = queue.fetch(&tickets[which], Waker::noop());
                        prop_assert_eq!(grant, granted.remove(&tickets[which].number));
                        if grant.is_some() {
                            tickets.swap_remove(which);
                        }
                    }
                    Step::Leave(which) if !tickets.is_empty() => {
                        let ticket = tickets.swap_remove(which % tickets.len());
                        let (grant, waker) = queue.leave(&ticket);
                        prop_assert_eq!(grant, granted.remove(&ticket.number));
                        prop_assert_eq!(waker.is_none(), grant.is_some());
                        waiting.retain(|(number, _)| *number != ticket.number);
                    }
                    Step::Expire(now) => {
                        let mut woken = Vec::new();
                        let earliest = queue.expire(after(now), || 0, &mut woken);
                        let late = |(_, until): &(u64, u64)| *until <= now;
                        let before = granted.len();
                        granted.extend(waiting.iter().filter(|w| late(w)).map(|(number, _)| (*number, 0)));
                        waiting.retain(|waiter| !late(waiter));
                        prop_assert_eq!(woken.len(), granted.len() - before);
                        let next = waiting.iter().map(|(_, until)| *until).min();
                        prop_assert_eq!(earliest, next.filter(|next| *next < u64::MAX).map(after));
                    }
                    Step::Fetch(_) | Step::Leave(_) => {}
                }
                prop_assert_eq!(queue.len(), waiting.len());
                prop_assert_eq!(queue.since().is_some(), !waiting.is_empty());
                prop_assert_eq!(queue.wakers().len(), waiting.len());
                prop_assert!(queue.seats.len() <= most);
            }
        }
    }
}
