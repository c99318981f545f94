//! Which shards should live elsewhere, so that instances are evenly loaded. Pure: loads in, moves out.
//!
//! Few moves, since each costs a copy: none that could be left out. Where one move does, it is the smallest that does;
//! where it takes several, the largest go first. An instance either gives or takes, never both, and no shard moves
//! twice. Whatever of the plan has been carried out, planning again goes on from there.

use crate::catalog::InstanceState;
use crate::shard::{InstanceName, ShardId};

#[cfg(test)]
mod tests;

/// What instances are evened out by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RebalanceBy {
    /// The bytes that shards take on disk: tables, indexes and all.
    #[default]
    Bytes,
    /// The number of shards.
    Shards,
}

/// One shard that should live elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedMove {
    /// The shard.
    pub shard: ShardId,
    /// Where it lives.
    pub from: InstanceName,
    /// Where it should live.
    pub to: InstanceName,
    /// What it takes on disk there: what is to be copied.
    pub bytes: u64,
}

/// What an instance has, and will have.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlannedInstance {
    /// Its name.
    pub name: InstanceName,
    /// Whether it takes shards; one that is draining ends with none.
    pub state: InstanceState,
    /// Its share of the load, in proportion to the others'.
    pub capacity: f64,
    /// How many shards it has, those included that are on their way to it.
    pub shards_before: usize,
    /// How many it will have.
    pub shards_after: usize,
    /// What they take on disk, in bytes.
    pub bytes_before: u64,
    /// What they will take.
    pub bytes_after: u64,
}

/// The moves that even things out.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RebalancePlan {
    /// The moves, the largest first.
    pub moves: Vec<PlannedMove>,
    /// The instances, by name.
    pub instances: Vec<PlannedInstance>,
    /// Whether every instance is within the tolerance afterwards. Where shards are few or of very different sizes there
    /// may be no such plan; then this one comes closer, step by step, until no further move would.
    pub is_balanced: bool,
}

impl RebalancePlan {
    /// What is to be copied, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.moves.iter().map(|planned| planned.bytes).sum()
    }
}

/// An instance, as far as planning goes.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) name: InstanceName,
    pub(super) state: InstanceState,
    pub(super) capacity: f64,
}

/// A shard and where it lives, or will live once the move has ended that is under way.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) shard: ShardId,
    pub(super) instance: InstanceName,
    pub(super) bytes: u64,
    /// A move is under way: it stays where that brings it.
    pub(super) is_moving: bool,
}

/// Whether, beside what drains, the others are evened out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    Even,
    DrainOnly,
}

/// What rounding adds at the 16th digit is not a whole shard.
const EPSILON: f64 = 1e-9;

/// Plans the moves. `tolerance` is how far from its fair share an instance may be, as a part of it; by shards it is
/// at least what makes it whole ones.
pub(super) fn plan(
    places: &[Place],
    loads: &[Load],
    by: RebalanceBy,
    tolerance: f64,
    aim: Aim,
) -> RebalancePlan {
    let mut floor = Floor::new(places, loads, by, tolerance);
    floor.drain();
    if aim == Aim::Even {
        while floor.even_out() {}
        floor.leave_out_what_is_not_needed();
    }
    floor.into_plan()
}

/// Where everything is while the plan is made.
struct Floor<'a> {
    loads: &'a [Load],
    sizes: Vec<f64>,
    /// For each shard of `loads`, the number of its place, or none if its instance is unknown.
    at: Vec<Option<usize>>,
    places: Vec<Standing<'a>>,
    /// The moves that even things out; those that drain are not among them.
    moved: Vec<Moved>,
}

struct Standing<'a> {
    place: &'a Place,
    load: f64,
    low: f64,
    high: f64,
    gave: bool,
    took: bool,
}

#[derive(Clone, Copy)]
struct Moved {
    load: usize,
    from: usize,
    to: usize,
}

impl Standing<'_> {
    fn takes(&self) -> bool {
        self.place.state == InstanceState::Active
    }

    fn over(&self) -> f64 {
        (self.load - self.high).max(0.0)
    }

    fn under(&self) -> f64 {
        (self.low - self.load).max(0.0)
    }

    /// What is wrong with it if its load changes by so much.
    fn wrong_with(&self, change: f64) -> f64 {
        let load = self.load + change;
        (load - self.high).max(0.0) + (self.low - load).max(0.0)
    }
}

impl<'a> Floor<'a> {
    #[expect(clippy::cast_precision_loss, reason = "a load needs no more than 53 bits")]
    fn new(places: &'a [Place], loads: &'a [Load], by: RebalanceBy, tolerance: f64) -> Self {
        let size = |load: &Load| match by {
            RebalanceBy::Bytes => load.bytes as f64,
            RebalanceBy::Shards => 1.0,
        };
        let sizes: Vec<_> = loads.iter().map(size).collect();
        let place_of = |load: &Load| places.iter().position(|place| place.name == load.instance);
        let at: Vec<_> = loads.iter().map(place_of).collect();
        let active = |place: &&Place| place.state == InstanceState::Active;
        let capacity: f64 = places.iter().filter(active).map(|place| place.capacity).sum();
        let total: f64 = sizes.iter().sum();
        let standing = |(number, place): (usize, &'a Place)| {
            let share = if active(&place) { total * place.capacity / capacity } else { 0.0 };
            let whole = share.round();
            let share = if (share - whole).abs() < EPSILON { whole } else { share };
            let (low, high) = (share * (1.0 - tolerance), share * (1.0 + tolerance));
            // To whole shards: one more or less than an even share where that has a fraction.
            let (low, high) = match by {
                RebalanceBy::Bytes => (low, high),
                RebalanceBy::Shards => (
                    share.floor().min((low - EPSILON).ceil()),
                    share.ceil().max((high + EPSILON).floor()),
                ),
            };
            let here = at.iter().zip(&sizes).filter(|(at, _)| **at == Some(number));
            let load = here.map(|(_, size)| size).sum();
            Standing { place, load, low, high, gave: false, took: false }
        };
        let places = places.iter().enumerate().map(standing).collect();
        Self { loads, sizes, at, places, moved: Vec::new() }
    }

    fn put(&mut self, load: usize, to: usize) {
        if let Some(from) = self.at[load].replace(to) {
            self.places[from].load -= self.sizes[load];
        }
        self.places[to].load += self.sizes[load];
    }

    /// The shards on a place that may still be moved, the largest first: those that were there from the start.
    fn movable(&self, place: usize) -> Vec<usize> {
        let came = |load: usize| self.loads[load].instance != self.places[place].place.name;
        let mut movable: Vec<_> = (0..self.loads.len())
            .filter(|&load| self.at[load] == Some(place) && !self.loads[load].is_moving)
            .filter(|&load| !came(load))
            .collect();
        movable.sort_by(|a, b| self.sizes[*b].total_cmp(&self.sizes[*a]).then(a.cmp(b)));
        movable
    }

    /// Empties what is draining: the largest first, each to where most is missing, or else most room is left.
    fn drain(&mut self) {
        let draining: Vec<_> =
            (0..self.places.len()).filter(|&place| !self.places[place].takes()).collect();
        let mut loads: Vec<_> = draining.iter().flat_map(|&place| self.movable(place)).collect();
        loads.sort_by(|a, b| self.sizes[*b].total_cmp(&self.sizes[*a]).then(a.cmp(b)));
        for load in loads {
            let missing = self.best(|place| place.takes() && place.under() > 0.0, Standing::under);
            let room = |place: &Standing<'_>| place.high - place.load;
            let Some(to) = missing.or_else(|| self.best(Standing::takes, room)) else { return };
            self.put(load, to);
        }
    }

    /// One move more, if something is out of balance and a move betters it.
    fn even_out(&mut self) -> bool {
        let over =
            self.best(|place| place.takes() && place.over() > 0.0 && !place.took, Standing::over);
        let under =
            self.best(|place| place.takes() && place.under() > 0.0 && !place.gave, Standing::under);
        if over.is_none() && under.is_none() {
            return false;
        }
        let giver = over.or_else(|| {
            let gives =
                |place: &Standing<'_>| place.takes() && !place.took && place.load > place.low;
            self.best(gives, |place| place.load - place.low)
        });
        let taker = under.or_else(|| {
            let takes =
                |place: &Standing<'_>| place.takes() && !place.gave && place.load < place.high;
            self.best(takes, |place| place.high - place.load)
        });
        let (Some(from), Some(to)) = (giver, taker) else { return false };
        let Some(load) = self.choose(from, to) else { return false };
        self.put(load, to);
        self.moved.push(Moved { load, from, to });
        self.places[from].gave = true;
        self.places[to].took = true;
        true
    }

    /// The shard to move: the smallest that mends all that is wrong between the two, else the largest that does no new
    /// harm, else the one that helps most.
    fn choose(&self, from: usize, to: usize) -> Option<usize> {
        let (giver, taker) = (&self.places[from], &self.places[to]);
        let needed = giver.over().max(taker.under());
        let room = (taker.high - taker.load).min(giver.load - giver.low);
        let wrong = |size: f64| giver.wrong_with(-size) + taker.wrong_with(size);
        let better = |load: &usize| wrong(self.sizes[*load]) < wrong(0.0);
        let movable: Vec<_> = self.movable(from).into_iter().filter(better).collect();
        let fitting = movable.iter().filter(|load| self.sizes[**load] <= room);
        let enough = fitting.clone().rev().find(|load| self.sizes[**load] >= needed);
        let least_wrong = || {
            let key = |load: &usize| wrong(self.sizes[*load]);
            movable.iter().min_by(|a, b| key(a).total_cmp(&key(b)))
        };
        enough.or(fitting.clone().next()).or_else(least_wrong).copied()
    }

    /// As no place both gives and takes, a move that cannot be left out alone cannot be left out with others either.
    fn leave_out_what_is_not_needed(&mut self) {
        if !self.is_balanced() {
            return;
        }
        let mut moved = std::mem::take(&mut self.moved);
        moved.sort_by(|a, b| self.sizes[b.load].total_cmp(&self.sizes[a.load]));
        moved.retain(|moved| {
            self.put(moved.load, moved.from);
            let needed = !self.is_balanced();
            if needed {
                self.put(moved.load, moved.to);
            }
            needed
        });
        self.moved = moved;
    }

    fn is_balanced(&self) -> bool {
        self.places.iter().all(|place| place.wrong_with(0.0) <= 0.0)
    }

    /// The place with the greatest key among those that qualify; the first of several.
    fn best(
        &self,
        qualifies: impl Fn(&Standing<'a>) -> bool,
        key: impl Fn(&Standing<'a>) -> f64,
    ) -> Option<usize> {
        let places = self.places.iter().enumerate().rev().filter(|(_, place)| qualifies(place));
        places.max_by(|(_, a), (_, b)| key(a).total_cmp(&key(b))).map(|(number, _)| number)
    }

    fn into_plan(self) -> RebalancePlan {
        let name = |place: usize| &self.places[place].place.name;
        let mut moves: Vec<_> = (self.loads.iter().zip(&self.at))
            .filter_map(|(load, at)| {
                let to = name((*at)?);
                (*to != load.instance).then(|| PlannedMove {
                    shard: load.shard,
                    from: load.instance.clone(),
                    to: to.clone(),
                    bytes: load.bytes,
                })
            })
            .collect();
        moves.sort_by_key(|planned| (std::cmp::Reverse(planned.bytes), planned.shard));
        let instances = self.places.iter().enumerate().map(|(number, standing)| {
            let name = &standing.place.name;
            let before = || self.loads.iter().filter(|load| load.instance == *name);
            let after = || (self.loads.iter().zip(&self.at)).filter(|(_, at)| **at == Some(number));
            PlannedInstance {
                name: name.clone(),
                state: standing.place.state,
                capacity: standing.place.capacity,
                shards_before: before().count(),
                shards_after: after().count(),
                bytes_before: before().map(|load| load.bytes).sum(),
                bytes_after: after().map(|(load, _)| load.bytes).sum(),
            }
        });
        let instances = instances.collect();
        RebalancePlan { moves, instances, is_balanced: self.is_balanced() }
    }
}
