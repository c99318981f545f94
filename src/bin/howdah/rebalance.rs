//! `howdah rebalance`: the moves that even things out.

use std::fmt::Write as _;

use bytesize::ByteSize;
use clap::{Args, Subcommand, ValueEnum};
use howdah::{Cluster, InstanceName, MoveEvent, Mover, Rebalance, RebalanceBy, RebalancePlan};
use serde::Serialize;

use crate::Context;
use crate::failure::{Failure, Result, some_shards_failed};
use crate::move_::{at_rate, or_stop, show};
use crate::output::{Output, Tone};
use crate::progress::Progress;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show the moves that would even things out, and what they cost; nothing is moved
    #[command(after_help = "Examples:
  howdah rebalance plan
  howdah rebalance plan --by shards --tolerance 0")]
    Plan(How),
    /// Make these moves, live; first those are finished that were interrupted
    #[command(after_help = "Interrupted, it is run again: it plans anew from where things are.

With --parallel 2 each instance takes part in two moves at once, as source or as target; those of other instances go on \
beside them.

Examples:
  howdah rebalance apply
  howdah rebalance apply --by shards --parallel 2")]
    Apply(Apply),
}

#[derive(Args)]
pub(crate) struct How {
    /// What instances are evened out by
    #[arg(long, value_enum, default_value_t = By::Bytes)]
    by: By,
    /// How far from its share an instance may be, as a part of it
    #[arg(long, value_name = "PART", default_value_t = 0.1)]
    tolerance: f64,
}

#[derive(Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    moving: Moving,
}

/// How many moves are made that a plan asks for.
#[derive(Args)]
pub(crate) struct Moving {
    /// Shards at once at each instance
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    parallel: u16,
    /// Copy rows no faster than this, in MB a second, all shards together
    #[arg(long, value_name = "MB/S", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Keep the old copies up to date, so that each move can be undone, until `howdah moves finish`
    #[arg(long)]
    reverse: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Bytes,
    Shards,
}

#[derive(Serialize)]
struct Document<'a> {
    moves: Vec<Planned<'a>>,
    bytes: u64,
    balanced: bool,
    instances: Vec<Instance<'a>>,
}

#[derive(Serialize)]
struct Planned<'a> {
    shard: u16,
    from: &'a str,
    to: &'a str,
    bytes: u64,
}

#[derive(Serialize)]
struct Instance<'a> {
    name: &'a str,
    state: &'a str,
    capacity: f64,
    shards_before: usize,
    shards_after: usize,
    bytes_before: u64,
    bytes_after: u64,
}

pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    let cluster = context.cluster().await?;
    match command {
        Command::Plan(how) => {
            let plan = how.plan(&cluster).await?;
            context.output.show(&Document::new(&plan), picture(&plan, &context.output))
        }
        Command::Apply(Apply { how, moving }) => {
            moving.carry_out(context, async || how.plan(&cluster).await, None).await
        }
    }
}

impl Moving {
    pub(crate) fn keeps_copies(&self) -> bool {
        self.reverse
    }

    /// Finishes what was interrupted, then plans and makes the moves; where an instance is to be emptied, old copies on it
    /// are dropped too.
    pub(crate) async fn carry_out(
        &self,
        context: &Context,
        plan: impl AsyncFn() -> Result<RebalancePlan>,
        emptied: Option<&InstanceName>,
    ) -> Result<()> {
        let progress = Progress::new(&context.output);
        let told = progress.clone();
        let mover = Mover::new(&context.config()?)?
            .reverse(self.reverse)
            .on_event(move |event: &MoveEvent| told.tell(event));
        let mover = at_rate(mover, self.rate);
        let moving = async {
            for (shard, resumed) in mover.resume_all().await? {
                if let Err(error) = resumed {
                    context.output.say(format_args!("shard {shard}: {error}"));
                }
            }
            let plan = plan().await?;
            Ok::<_, Failure>(mover.carry_out(&plan, self.parallel.into()).await)
        };
        let moved = or_stop(moving, &mover, &progress, context).await?;
        show(moved?, context)?;
        if let Some(emptied) = emptied {
            let finishing = mover.finish_away_from(emptied);
            let finished = or_stop(finishing, &mover, &progress, context).await??;
            let failed =
                finished.iter().filter_map(|(shard, done)| Some((*shard, done.as_ref().err()?)));
            some_shards_failed(failed, finished.len())?;
        }
        Ok(())
    }
}

impl How {
    async fn plan(&self, cluster: &Cluster) -> Result<RebalancePlan> {
        let by = match self.by {
            By::Bytes => RebalanceBy::Bytes,
            By::Shards => RebalanceBy::Shards,
        };
        Ok(Rebalance::new().by(by).tolerance(self.tolerance).plan(cluster).await?)
    }
}

impl<'a> Document<'a> {
    fn new(plan: &'a RebalancePlan) -> Self {
        let planned = plan.moves.iter().map(|planned| Planned {
            shard: planned.shard.get(),
            from: planned.from.as_str(),
            to: planned.to.as_str(),
            bytes: planned.bytes,
        });
        let instances = plan.instances.iter().map(|instance| Instance {
            name: instance.name.as_str(),
            state: instance.state.as_str(),
            capacity: instance.capacity,
            shards_before: instance.shards_before,
            shards_after: instance.shards_after,
            bytes_before: instance.bytes_before,
            bytes_after: instance.bytes_after,
        });
        Self {
            moves: planned.collect(),
            bytes: plan.bytes(),
            balanced: plan.is_balanced,
            instances: instances.collect(),
        }
    }
}

/// The instances before and after, then the moves.
fn picture(plan: &RebalancePlan, output: &Output) -> String {
    let mut text = String::new();
    let names = plan.instances.iter().map(|instance| instance.name.as_str().len());
    let width = names.max().unwrap_or(0);
    // Writing to a string does not fail.
    for instance in &plan.instances {
        let name = output.paint(Tone::Strong, format_args!("{:width$}", instance.name.as_str()));
        let _ = writeln!(
            text,
            "{name}  {} shards, {} -> {} shards, {}",
            instance.shards_before,
            ByteSize(instance.bytes_before),
            instance.shards_after,
            ByteSize(instance.bytes_after)
        );
    }
    text.push('\n');
    for planned in &plan.moves {
        let (shard, from, to) = (planned.shard, &planned.from, &planned.to);
        let _ = writeln!(text, "shard {shard:<5} {from} -> {to}  {}", ByteSize(planned.bytes));
    }
    let _ = match plan.moves.len() {
        0 => writeln!(text, "nothing to move"),
        1 => writeln!(text, "1 move, {} to copy", ByteSize(plan.bytes())),
        count => writeln!(text, "{count} moves, {} to copy", ByteSize(plan.bytes())),
    };
    if !plan.is_balanced {
        text.push_str(
            "shards are too few or too different for an even load: this is as near as moves get\n",
        );
    }
    text
}
