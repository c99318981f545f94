//! Atomic over shards: two-phase commit without a coordinator that could be lost.
//!
//! A transaction over shards is one PostgreSQL transaction on each instance that it touches. Where one instance alone was
//! written to, its COMMIT is all. Otherwise one of them is the *first*, and
//!
//! 1. inserts a row into `howdah_decisions` of one of its shards, in its own open transaction;
//! 2. all others `PREPARE TRANSACTION` under a name that carries that shard and that row's id;
//! 3. the first commits: **this is the decision**;
//! 4. the others `COMMIT PREPARED`.
//!
//! Whoever finds a prepared transaction, in whatever process, tries to insert the same row, saying that nothing was
//! committed, and does what the row says that is there then.
//!
//! # Why that is right
//!
//! * **The decision is one commit of one server.** The row of 1 and the first's own writes are in the same transaction, so
//!   that neither is there without the other, and the row is there only if 3 has happened.
//! * **It is made at most once.** The row's id is unique in its table. Whoever inserts it first has decided, and everybody else
//!   reads what was decided. While the first's transaction is open, its row makes others wait: who lives is not disturbed,
//!   and who died has lost its row with its connection.
//! * **It comes after every promise.** 3 is sent when all others have answered 2. A prepared transaction survives crashes,
//!   so a decision to commit finds every part ready, however late.
//! * **It comes before every act.** 4 is sent when 3 was answered, or the row was read; ROLLBACK PREPARED when 3 was never
//!   sent, or the row says so. So no part is committed where another is rolled back.
//! * **It is found wherever the shard has moved to.** The row belongs to the shard. A move locks all tables of its shard
//!   against writes, so it waits for an open first and for every prepared part, and takes the decisions along.
//! * **It is kept as long as anybody may ask.** A row that says *committed* goes when, after it was seen, no server has a part
//!   of it left: parts are prepared before it is made, so none can come later. One that says the opposite may go at any
//!   time: the transaction that could have contradicted it had its row in before the first part was prepared, so it
//!   was over when that row was free to be taken.
//!
//! What does not survive is what PostgreSQL itself loses: a failover to a standby that lacks the last commits may lose a
//! decision, or a part. Synchronous replication is the answer to that, as for any other commit.
//!
//! `tests/two_phase_model.rs` checks the argument under crashes anywhere, and `tests/transfer_kills.rs` the code.

mod across;
mod commit;
mod decision;
mod gid;
mod in_doubt;
mod sweep;

pub use across::ClusterTx;
pub use decision::Decision;
pub use in_doubt::{InDoubt, InDoubtReport, Recovery};
pub(super) use sweep::Sweeper;
