//! Moving shards live from one instance to another: which should move, and how one does.
//!
//! [`plan`] says which, of what [`load`] finds.
//!
//! [`step`] has the steps and why they stand in this order; [`run`] goes through them and finds, after any interruption,
//! where to go on: what is on the servers decides, and the journal says which servers those are. [`cutover`] is the part
//! in which writers wait.

mod apply;
mod cap;
mod copy;
mod cutover;
mod dump;
mod event;
mod exported;
mod headway;
mod heed;
mod hosts;
mod journal;
mod kept;
mod load;
mod lost;
mod members;
mod mover;
mod names;
mod opening;
mod plan;
mod pour;
mod preflight;
mod programs;
mod relations;
mod report;
mod rows;
mod run;
mod seal;
mod sequences;
mod session;
mod settle;
mod side;
mod step;
mod stream;
mod structure;
mod take_up;
mod turns;
mod verify;
mod writers;

pub use event::{MoveEvent, MoveNews};
pub use load::Rebalance;
pub use mover::Mover;
pub use plan::{PlannedInstance, PlannedMove, RebalanceBy, RebalancePlan};
pub use report::{MoveId, MoveReport};
pub use step::{MovePhase, MoveStep};
