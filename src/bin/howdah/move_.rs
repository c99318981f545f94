//! `howdah move`: shards to another instance, live.

use clap::Args;
use howdah::{Error, InstanceName, MoveEvent, MoveReport, Mover, ShardId};
use tokio::signal::ctrl_c;

use crate::Context;
use crate::failure::{Failure, Result, some_shards_failed};
use crate::moves::{Document, picture};
use crate::progress::Progress;

#[derive(Args)]
#[command(
    after_help = "Clients go on reading and writing; at the end their writes wait for some milliseconds. It may be \
interrupted and run again at any time: Ctrl-C puts everything back, or, once a shard has left, brings it to its rest. \
The old copy is kept up to date, so that the move can be undone, until `howdah moves finish`. Rows are copied at a crawl \
while a replica of either instance is far behind.

pg_dump and psql of the source's version or newer are looked for on PATH and in HOWDAH_PG_BIN.

Examples:
  howdah move 4 --to pg2
  howdah move 4 8 12 --to pg2 --parallel 2
  howdah move 4 --to pg2 --rate 20
  howdah moves finish 5"
)]
pub(crate) struct Move {
    /// The shards, by number
    #[arg(required = true, value_name = "SHARD")]
    shards: Vec<u16>,
    /// The instance that they shall live on
    #[arg(long, value_name = "NAME")]
    to: String,
    /// Shards at once at each instance, and so at the target
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    parallel: u16,
    /// Copy rows no faster than this, in MB a second, all shards together
    #[arg(long, value_name = "MB/S", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Keep no way back: drop the old copy as soon as the shard has left
    #[arg(long)]
    no_reverse: bool,
}

pub(crate) async fn run(command: Move, context: &Context) -> Result<()> {
    let to = InstanceName::new(&command.to)?;
    let mut shards =
        command.shards.iter().map(|n| ShardId::new(*n)).collect::<Result<Vec<_>, _>>()?;
    shards.sort_unstable();
    shards.dedup();
    let config = context.config()?;
    let progress = Progress::new(&context.output);
    let told = progress.clone();
    let mover = Mover::new(&config)?
        .reverse(!command.no_reverse)
        .on_event(move |event: &MoveEvent| told.tell(event));
    let mover = at_rate(mover, command.rate);
    let moving = mover.run_all(&shards, &to, command.parallel.into());
    let moved = or_stop(moving, &mover, &progress, context).await?;
    show(moved, context)
}

/// A mover that copies no faster than that, in megabytes a second.
pub(crate) fn at_rate(mover: Mover, rate: Option<u64>) -> Mover {
    match rate {
        Some(rate) => mover.rate(rate.saturating_mul(1_000_000)),
        None => mover,
    }
}

/// Waits for work on moves, or for Ctrl-C.
pub(crate) async fn or_stop<T>(
    work: impl Future<Output = T>,
    mover: &Mover,
    progress: &Progress,
    context: &Context,
) -> Result<T> {
    let done = tokio::select! {
        done = work => Some(done),
        _ = ctrl_c() => None,
    };
    progress.finish();
    match done {
        Some(done) => Ok(done),
        None => Err(stop(mover, progress, context).await),
    }
}

/// Shows how moves went.
pub(crate) fn show(
    done: Vec<(ShardId, howdah::Result<MoveReport>)>,
    context: &Context,
) -> Result<()> {
    let moved: Vec<&MoveReport> =
        done.iter().filter_map(|(_, moved)| moved.as_ref().ok()).collect();
    let documents: Vec<_> = moved.iter().map(|report| Document::new(report)).collect();
    context.output.show(&documents, picture(moved.iter().copied(), &context.output))?;
    let failed = done.iter().filter_map(|(shard, moved)| Some((*shard, moved.as_ref().err()?)));
    match (done.len(), failed.clone().next()) {
        (1, Some((_, error))) => Err(error.clone().into()),
        _ => some_shards_failed(failed, done.len()),
    }
}

/// After Ctrl-C: what has not left stays, and what has left is brought to its rest. Ctrl-C again ends that too; running
/// the command again goes on from wherever it was.
async fn stop(mover: &Mover, progress: &Progress, context: &Context) -> Failure {
    context.output.say("stopping: the servers are put in order first");
    let putting = async {
        for shard in progress.touched() {
            if let Some(open) = mover.open_move(shard).await? {
                match mover.abort(open.id).await {
                    Err(error) if error.is_refused() => mover.resume(open.id).await?,
                    ended => ended?,
                };
            }
        }
        Ok::<(), Error>(())
    };
    tokio::select! {
        put = putting => match put {
            Ok(()) => Failure::failed("stopped; nothing is half done"),
            Err(error) => Failure::failed(format!("stopped, and not all is in order: {error}")),
        },
        _ = ctrl_c() => Failure::failed("stopped half-way; `howdah moves list` shows what is open"),
    }
}
