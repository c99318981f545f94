//! The steps of a move, in their order, which is the argument for its safety.
//!
//! Two rules carry it. **The source closes before the target can be found**: the old name of the schema is gone from the
//! source, durably and on all its hosts, before the catalog tells anybody the new name. And **the source's schema says who
//! is home**: as long as it has the old name there, the source is, whatever the target looks like; once it has the new
//! one, the source is closed for good and the only way is forward. So whoever comes after a crash takes the locks, looks
//! at the source, and knows.
//!
//! `docs/moves.md` has the argument at length, and `tests/move_model.rs` checks it, by these names, under crashes between
//! any two steps.

use std::fmt;

/// One step of a move. [`MoveStep::ALL`] has them in their order.
///
/// A rollback is the steps from [`LockServers`](Self::LockServers) on with the two instances exchanged, but for those that
/// copy: the copy is there. Whoever takes up a move, to go on with it or to end it, begins with `LockServers`; an abort then
/// takes [`DropForward`](Self::DropForward), [`DropReverse`](Self::DropReverse) and [`DropCopy`](Self::DropCopy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum MoveStep {
    /// Takes the shard's lock on the source, in the session that will run the fence, and on the target, in the session that
    /// will open it. *After*: no other mover or migration works on the shard; both locks die with these sessions, and what
    /// the sessions had sent is then decided one way or the other.
    LockServers,
    /// Looks for everything that stands in the way. *After*: nothing was changed, and nothing that can be known beforehand
    /// hinders the move, in either direction.
    Preflight,
    /// Writes the move and its attempt into the catalog, with the identities and timelines of both servers. *After*: whoever
    /// finds anything that carries the move's name knows what it is.
    Journal,
    /// Makes the table `howdah_move` in the source's schema. *After*: migrations keep away until the move has ended, also
    /// while no mover runs.
    MarkShard,
    /// Makes the publication of all tables by name, and the slot, on the source, and holds the snapshot of the slot's position.
    /// *After*: the source keeps all WAL that the snapshot lacks.
    Publish,
    /// Begins the transaction on the target that makes the schema. *After*: there are tables for the rows, which nobody else sees.
    CopySchema,
    /// Copies the rows of the snapshot, makes the primary keys, and seals the copy: its sequences give nothing and its guards
    /// refuse every write but replication's. *After*, by one commit: a copy exists that has every row of the snapshot, and that
    /// nobody can take for the home.
    CopyRows,
    /// Makes the subscription on the target, from the slot's position on. *After*: the copy follows.
    Follow,
    /// Makes the other indexes, constraints and triggers on the target. *After*: both schemas are the same.
    BuildIndexes,
    /// Makes the publication and the slot of the reverse stream on the target. *After*: what is written there later will be
    /// kept for the source. (Not in the fence: making a slot waits for every open writer of the server.)
    PrepareReverse,
    /// Compares structure and rows while writes go on. *After*: the copy was equal, and what comes is replicated. Without it,
    /// no cutover.
    Verify,
    /// Waits until each configured host of both instances is reachable and follows closely. *After*: the waits for them
    /// later will be short. (They are looked at again before each attempt at the fence.)
    CheckHosts,
    /// Begins the transaction of the fence on the source: locks every table against writes, once those that run have ended.
    /// *After*, until that transaction ends: no row of the shard changes.
    FenceTables,
    /// Locks every sequence and reads how far it is. *After*: no id is drawn either; who tries waits.
    FenceSequences,
    /// Ends the sequences at their last values and puts guards on all tables. *After*, once committed: a write or a draw that
    /// reaches them without naming the schema anew is refused. (It goes on while the next two do: nothing of it counts before the
    /// source is closed.)
    GuardSource,
    /// Compares once more what is locked, published, subscribed and verified. *After*: the fence holds all that was verified, and
    /// nothing came since.
    Recheck,
    /// Waits until the target has applied everything, told by a mark that another session writes to `howdah_move`.
    /// *After*: both copies are equal.
    Drain,
    /// On the target, in one synchronous commit: the schema is renamed, and the values and limits of the source's sequences are
    /// written into it. *After*: the target has all that it takes to serve, under a name that nobody knows, and still sealed.
    RenameTarget,
    /// Notes the target's position in the WAL in the journal, while the target's hosts are waited for. *After*: it is known, come
    /// what may, where the reverse stream begins.
    NotePosition,
    /// Waits until each configured host of the target has the schema by its new name, with all rows. *After*: whichever of them
    /// is promoted can serve.
    AwaitTargetHosts,
    /// Compares the timelines of both servers with the journal's. *After*: neither failed over since the copy began.
    RecheckTimelines,
    /// Commits the fence on the source, with the schema renamed and the generation raised. *Before*: the source is home, and
    /// everything can be undone. *After*: the source takes no write, and the only way is forward.
    CloseSource,
    /// Waits until each configured host of the source has the schema by its new name alone. *After*: whichever of them is
    /// promoted refuses clients with an old map.
    AwaitSourceHosts,
    /// On the target: sequences raised to the source's values and opened, guards off. *Before*: who has got hold of the copy
    /// without naming it is refused, as long as the cutover may be given up. *After*: the target serves who finds it.
    UnsealTarget,
    /// Changes the home in the catalog, if it and the attempt are still the ones that this mover wrote. *After*: clients find
    /// the target.
    ChangeHome,
    /// Waits until each configured host of the target is unsealed. *After*: whichever of them is promoted takes writes.
    AwaitUnsealed,
    /// Drops the stream to the target: subscription, slot, publication. *After*: nothing flows to the new home.
    DropForward,
    /// Advances the slot of the reverse stream to the noted position, then has that written to disk. *After*: the slot holds
    /// what was written on the target by clients, and nothing else.
    AdvanceReverse,
    /// Makes the subscription of the reverse stream on the source, and waits until a mark has come through. *After*: the old copy follows, and the move can be undone.
    StartReverse,
    /// Drops the reverse stream: subscription, slot, publication. *After*: the old copy stands still.
    DropReverse,
    /// Drops the old copy and the tables `howdah_move`. *After*: nothing is left of the move but its journal.
    DropCopy,
}

/// How far a move has come, in the words of the journal and of the command-line tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MovePhase {
    /// Nothing is copied yet.
    Preflight,
    /// The target is being filled.
    Copy,
    /// The copies are being compared.
    Verify,
    /// The home is about to change, or has changed and the move is being brought to its rest.
    Fence,
    /// The shard lives on the target, and the reverse stream keeps the old copy up to date.
    Reversible,
    /// Over: the shard lives on the target alone.
    Finished,
    /// Over: the shard lives on the source again, with every write that was made since.
    RolledBack,
    /// Over: the shard never left the source.
    Aborted,
}

impl MoveStep {
    /// All steps, in their order.
    pub const ALL: [Self; 31] = [
        Self::LockServers,
        Self::Preflight,
        Self::Journal,
        Self::MarkShard,
        Self::Publish,
        Self::CopySchema,
        Self::CopyRows,
        Self::Follow,
        Self::BuildIndexes,
        Self::PrepareReverse,
        Self::Verify,
        Self::CheckHosts,
        Self::FenceTables,
        Self::FenceSequences,
        Self::GuardSource,
        Self::Recheck,
        Self::Drain,
        Self::RenameTarget,
        Self::NotePosition,
        Self::AwaitTargetHosts,
        Self::RecheckTimelines,
        Self::CloseSource,
        Self::AwaitSourceHosts,
        Self::UnsealTarget,
        Self::ChangeHome,
        Self::AwaitUnsealed,
        Self::DropForward,
        Self::AdvanceReverse,
        Self::StartReverse,
        Self::DropReverse,
        Self::DropCopy,
    ];

    /// The step's name in the journal.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LockServers => "lock servers",
            Self::Preflight => "preflight",
            Self::Journal => "journal",
            Self::MarkShard => "mark shard",
            Self::Publish => "publish",
            Self::CopySchema => "copy schema",
            Self::CopyRows => "copy rows",
            Self::Follow => "follow",
            Self::BuildIndexes => "build indexes",
            Self::PrepareReverse => "prepare reverse",
            Self::Verify => "verify",
            Self::CheckHosts => "check hosts",
            Self::FenceTables => "fence tables",
            Self::FenceSequences => "fence sequences",
            Self::GuardSource => "guard source",
            Self::Recheck => "recheck",
            Self::Drain => "drain",
            Self::RenameTarget => "rename target",
            Self::NotePosition => "note position",
            Self::AwaitTargetHosts => "await target hosts",
            Self::RecheckTimelines => "recheck timelines",
            Self::CloseSource => "close source",
            Self::AwaitSourceHosts => "await source hosts",
            Self::UnsealTarget => "unseal target",
            Self::ChangeHome => "change home",
            Self::AwaitUnsealed => "await unsealed",
            Self::DropForward => "drop forward",
            Self::AdvanceReverse => "advance reverse",
            Self::StartReverse => "start reverse",
            Self::DropReverse => "drop reverse",
            Self::DropCopy => "drop copy",
        }
    }

    /// The step of a name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == name)
    }

    /// The phase that a move is in while it takes this step.
    #[must_use]
    pub const fn phase(self) -> MovePhase {
        match self {
            Self::LockServers | Self::Preflight | Self::Journal => MovePhase::Preflight,
            Self::MarkShard
            | Self::Publish
            | Self::CopySchema
            | Self::CopyRows
            | Self::Follow
            | Self::BuildIndexes
            | Self::PrepareReverse => MovePhase::Copy,
            Self::Verify => MovePhase::Verify,
            Self::CheckHosts
            | Self::FenceTables
            | Self::FenceSequences
            | Self::GuardSource
            | Self::Recheck
            | Self::Drain
            | Self::RenameTarget
            | Self::NotePosition
            | Self::AwaitTargetHosts
            | Self::RecheckTimelines
            | Self::CloseSource
            | Self::AwaitSourceHosts
            | Self::UnsealTarget
            | Self::ChangeHome
            | Self::AwaitUnsealed
            | Self::DropForward
            | Self::AdvanceReverse
            | Self::StartReverse
            | Self::DropReverse
            | Self::DropCopy => MovePhase::Fence,
        }
    }

    /// Whether clients that write wait, or are told to look elsewhere, when this step ends.
    #[must_use]
    pub fn holds_clients(self) -> bool {
        (Self::FenceTables..Self::ChangeHome).contains(&self)
    }
}

impl fmt::Display for MoveStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl MovePhase {
    /// The word of the journal and of the command-line tool.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Copy => "copy",
            Self::Verify => "verify",
            Self::Fence => "fence",
            Self::Reversible => "reversible",
            Self::Finished => "finished",
            Self::RolledBack => "rolled_back",
            Self::Aborted => "aborted",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        let all = [
            Self::Preflight,
            Self::Copy,
            Self::Verify,
            Self::Fence,
            Self::Reversible,
            Self::Finished,
            Self::RolledBack,
            Self::Aborted,
        ];
        all.into_iter().find(|phase| phase.as_str() == word)
    }

    /// Whether the move has not ended: something of it may be on the servers.
    #[must_use]
    pub const fn is_open(self) -> bool {
        !matches!(self, Self::Finished | Self::RolledBack | Self::Aborted)
    }
}

impl fmt::Display for MovePhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_stand_in_their_order_and_each_has_a_name_of_its_own() {
        assert!(MoveStep::ALL.is_sorted());
        let names: std::collections::BTreeSet<_> =
            MoveStep::ALL.iter().map(|step| step.as_str()).collect();
        assert_eq!(names.len(), MoveStep::ALL.len());
    }

    #[test]
    fn the_source_is_closed_before_the_target_can_be_found() {
        use MoveStep::{
            AwaitSourceHosts, ChangeHome, CloseSource, NotePosition, RenameTarget, UnsealTarget,
        };
        let order =
            [RenameTarget, NotePosition, CloseSource, AwaitSourceHosts, UnsealTarget, ChangeHome];
        assert!(order.is_sorted());
    }
}
