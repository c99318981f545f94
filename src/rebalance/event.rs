//! What a mover tells whoever looks on.

use std::time::Duration;

use super::report::MoveId;
use super::step::{MovePhase, MoveStep};
use crate::shard::ShardId;

/// Something that happened in a move: a step begins or is done, a copy grows, something is waited for.
///
/// The mover calls its observer right there and waits for it to return, before the step and after it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MoveEvent {
    /// Which move; `None` before it is in the journal.
    pub id: Option<MoveId>,
    /// The shard that is moved.
    pub shard: ShardId,
    /// Whether this is the way back.
    pub back: bool,
    /// The step that it is about.
    pub step: MoveStep,
    /// What happened.
    pub what: MoveNews,
}

/// What a [`MoveEvent`] says of its step.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum MoveNews {
    /// It begins.
    Begun,
    /// It is done.
    Done,
    /// It goes on: so many rows and bytes of what is expected in all, which is an estimate.
    Progress {
        /// Rows copied or compared.
        rows: u64,
        /// Bytes copied; 0 where they are not counted.
        bytes: u64,
        /// The bytes of all; 0 where they are not known.
        of_bytes: u64,
        /// Bytes copied in a second, on average since the copy of rows began; `None` where that is not known.
        bytes_per_second: Option<u64>,
        /// How long the rest of the rows takes at that speed.
        left: Option<Duration>,
    },
    /// How far the copy is behind.
    Lag(Duration),
    /// What is waited for, or tried again, in words.
    Note(String),
}

impl MoveEvent {
    /// The phase of the step.
    #[must_use]
    pub fn phase(&self) -> MovePhase {
        self.step.phase()
    }
}
