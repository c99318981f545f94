//! What there is: two instances with their standbys, a catalog, the stream between the copies, and what clients did.

use super::mover::Mover;

/// An instance, as an index: the shard starts on the first.
pub(crate) type Side = usize;

pub(crate) const fn other(side: Side) -> Side {
    1 - side
}

/// The instance that a map of this epoch names: each move changes it.
pub(crate) const fn home(epoch: u8) -> Side {
    (epoch as usize + 1) % 2
}

/// Rows or ids, as bits.
pub(crate) type Set = u8;

/// The shard on one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Copy {
    /// The epoch in its schema's name; 0 where there is none.
    pub(crate) epoch: u8,
    /// Its guards are off: it obeys.
    pub(crate) open: bool,
    /// Its sequences refuse.
    pub(crate) capped: bool,
    /// Which run renamed it last: the mark that the run had drained to.
    pub(crate) mark: u8,
    /// The next id that it issues, and what that is raised to when it is unsealed.
    pub(crate) next: u8,
    pub(crate) opens: u8,
    pub(crate) rows: Set,
}

/// A primary and a standby, which has some earlier state of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    pub(crate) now: Copy,
    pub(crate) standby: Copy,
    /// The write of a transaction that is open.
    pub(crate) pending: Option<u8>,
    /// A session may have hold of the copy without naming it.
    pub(crate) held: bool,
}

/// A promise that was broken, seen when it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wrong {
    /// A copy that is not the home took a write.
    Strayed,
    /// An id was issued twice.
    Repeated,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) instances: [Instance; 2],
    /// The epoch that the catalog says, and that its standby says; it names the home too.
    pub(crate) catalog: u8,
    pub(crate) catalog_standby: u8,
    /// How many more there may be.
    pub(crate) failovers: u8,
    /// The newest map that any client may have read.
    pub(crate) published: u8,
    /// From which side rows are streamed to the other, and which were sent; the subscriber confirms and may then forget.
    pub(crate) stream: Option<Side>,
    pub(crate) sent: Set,
    /// No side failed over since the copy was made.
    pub(crate) same_timelines: bool,
    pub(crate) movers: [Mover; 2],
    pub(crate) runs: u8,
    pub(crate) writes: u8,
    /// The epoch whose move has come to rest.
    pub(crate) rested: u8,
    /// Acknowledged before the last cutover, and since.
    pub(crate) settled: Set,
    pub(crate) fresh: Set,
    /// Issued before the last cutover, and since.
    pub(crate) settled_ids: Set,
    pub(crate) fresh_ids: Set,
    pub(crate) wrong: Option<Wrong>,
}

impl State {
    /// A shard on the first instance, with a row.
    pub(crate) fn new(failovers: u8) -> Self {
        let copy = Copy { epoch: 1, open: true, rows: 1, ..Copy::default() };
        let first = Instance { now: copy, standby: copy, ..Instance::default() };
        Self {
            instances: [first, Instance::default()],
            catalog: 1,
            catalog_standby: 1,
            failovers,
            published: 1,
            stream: None,
            sent: 0,
            same_timelines: false,
            movers: [Mover::default(); 2],
            runs: 0,
            writes: 1,
            rested: 1,
            settled: 1,
            fresh: 0,
            settled_ids: 0,
            fresh_ids: 0,
            wrong: None,
        }
    }

    /// Whether a map that somebody may have names the copy on this side.
    pub(crate) fn is_named(&self, side: Side) -> bool {
        let epoch = self.instances[side].now.epoch;
        (1..=self.published).contains(&epoch) && home(epoch) == side
    }

    pub(crate) fn acknowledged(&self) -> Set {
        self.settled | self.fresh
    }

    pub(crate) fn issued(&self) -> Set {
        self.settled_ids | self.fresh_ids
    }

    /// The side that takes writes: the home, until none of its hosts does.
    pub(crate) fn taker(&self) -> Side {
        let home = home(self.published);
        let instance = &self.instances[home];
        let is_closed = |copy: &Copy| copy.epoch > self.published;
        if is_closed(&instance.now) && is_closed(&instance.standby) { other(home) } else { home }
    }

    /// What was written until now has survived a cutover.
    pub(crate) fn settle(&mut self) {
        self.settled |= std::mem::take(&mut self.fresh);
        self.settled_ids |= std::mem::take(&mut self.fresh_ids);
    }

    /// The newest map is out.
    pub(crate) fn publish(&mut self, epoch: u8) {
        self.catalog = epoch;
        if self.failovers == 0 {
            self.catalog_standby = epoch;
        }
        self.published = self.published.max(epoch);
    }

    /// The standby takes over with what it has. Sessions end; what only the old primary had is gone.
    pub(crate) fn fail_over(&mut self, side: Side) {
        let took_writes = self.taker() == side;
        let instance = &mut self.instances[side];
        instance.now = instance.standby;
        instance.pending = None;
        instance.held = false;
        let now = instance.now;
        self.same_timelines = false;
        for mover in &mut self.movers {
            mover.sessions[side] = false;
        }
        if took_writes {
            self.fresh &= now.rows;
            self.fresh_ids &= (1 << now.next) - 1;
        }
    }
}
