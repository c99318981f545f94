//! `howdah moves`: the journal of moves, and what can be done with one.

use std::fmt::Write as _;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use howdah::{InstanceName, MoveEvent, MovePhase, MoveReport, Mover, ShardId};
use serde::Serialize;

use crate::Context;
use crate::failure::{Failure, Result};
use crate::move_::or_stop;
use crate::output::{Output, Tone, milliseconds};
use crate::progress::Progress;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show all moves, the newest first
    #[command(after_help = "Example:
  howdah moves list --json | jq '.[] | select(.phase == \"reversible\")'")]
    List,
    /// Show one move
    Show(Which),
    /// Go on with a move that was interrupted
    Resume(Which),
    /// Undo a move before the shard has left
    Abort(End),
    /// Bring the shard back, with all that was written since
    Rollback(Which),
    /// Drop the old copy: the move cannot be undone from then on
    Finish(End),
}

#[derive(Args)]
#[command(after_help = "Examples:
  howdah moves show m17
  howdah moves finish 4        the open move of shard 4")]
pub(crate) struct Which {
    /// The move, as m17, or the number of a shard that has an open one
    #[arg(value_name = "MOVE")]
    name: String,
}

#[derive(Args)]
#[command(
    after_help = "Without the server that the copy is on, the move ends only where the shard lives: what it has on the \
lost one is left there.

Examples:
  howdah moves finish m17
  howdah moves finish 4               the open move of shard 4
  howdah moves finish 4 --lost pg1    pg1 had the old copy, and will not come back"
)]
pub(crate) struct End {
    /// The move, as m17, or the number of a shard that has an open one
    #[arg(value_name = "MOVE")]
    name: String,
    /// Do without this instance: its server is gone for good
    #[arg(long, value_name = "NAME", value_parser = InstanceName::new)]
    lost: Option<InstanceName>,
}

/// A move in JSON.
#[derive(Serialize)]
pub(crate) struct Document {
    r#move: String,
    shard: u16,
    from: String,
    to: String,
    phase: &'static str,
    step: &'static str,
    rows: u64,
    bytes: u64,
    of_bytes: Option<u64>,
    bytes_per_second: Option<u64>,
    left_ms: Option<f64>,
    compared: Option<u64>,
    lag_ms: Option<f64>,
    copy_ms: Option<f64>,
    fence_ms: Option<f64>,
    verified: bool,
    reverse: bool,
    error: Option<String>,
}

pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    let output = &context.output;
    let progress = Progress::new(output);
    let told = progress.clone();
    let mover = Mover::new(&context.config()?)?;
    let mut mover = mover.on_event(move |event: &MoveEvent| told.tell(event));
    if let Command::Abort(End { lost: Some(lost), .. })
    | Command::Finish(End { lost: Some(lost), .. }) = &command
    {
        mover = mover.without(lost.clone());
    }
    let named = async |name: String| find(&name, &mover).await.map(|report| report.id);
    let done = match command {
        Command::List => {
            let moves = mover.list().await?;
            let documents: Vec<_> = moves.iter().map(Document::new).collect();
            return output.show(&documents, picture(moves.iter(), output));
        }
        Command::Show(Which { name }) => Ok(find(&name, &mover).await?),
        Command::Resume(Which { name }) => {
            let resuming = mover.resume(named(name).await?);
            or_stop(resuming, &mover, &progress, context).await?
        }
        Command::Abort(End { name, .. }) => {
            let aborting = mover.abort(named(name).await?);
            or_stop(aborting, &mover, &progress, context).await?
        }
        Command::Rollback(Which { name }) => {
            let going_back = mover.rollback(named(name).await?);
            or_stop(going_back, &mover, &progress, context).await?
        }
        Command::Finish(End { name, .. }) => {
            let finishing = mover.finish(named(name).await?);
            or_stop(finishing, &mover, &progress, context).await?
        }
    };
    let shown = done?;
    output.show(&Document::new(&shown), picture([&shown].into_iter(), output))
}

async fn find(name: &str, mover: &Mover) -> Result<MoveReport> {
    let Ok(number) = name.parse() else {
        return Ok(mover.show(name.parse()?).await?);
    };
    let shard = ShardId::new(number)?;
    mover.open_move(shard).await?.ok_or_else(|| {
        Failure::usage(format!("shard {shard} has no open move; `howdah moves list` shows them"))
    })
}

impl Document {
    pub(crate) fn new(report: &MoveReport) -> Self {
        Self {
            r#move: report.id.to_string(),
            shard: report.shard.get(),
            from: report.source.to_string(),
            to: report.target.to_string(),
            phase: report.phase.as_str(),
            step: report.step.as_str(),
            rows: report.rows,
            bytes: report.bytes,
            of_bytes: report.of_bytes,
            bytes_per_second: report.bytes_per_second,
            left_ms: report.left().map(milliseconds),
            compared: report.compared,
            lag_ms: report.lag.map(milliseconds),
            copy_ms: report.copy.map(milliseconds),
            fence_ms: report.fence.map(milliseconds),
            verified: report.verified,
            reverse: report.reverse,
            error: report.error.clone(),
        }
    }
}

/// A line a move.
pub(crate) fn picture<'a>(moves: impl Iterator<Item = &'a MoveReport>, output: &Output) -> String {
    let mut text = String::new();
    for report in moves {
        let tone = match report.phase {
            MovePhase::Finished | MovePhase::Reversible => Tone::Good,
            MovePhase::RolledBack | MovePhase::Aborted => Tone::Faint,
            _ => Tone::Bad,
        };
        let phase = output.paint(tone, report.phase);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{}  shard {} {} -> {}  {phase}  {} rows, {}",
            report.id,
            report.shard,
            report.source,
            report.target,
            report.rows,
            ByteSize(report.bytes)
        );
        if let Some(of_bytes) = report.of_bytes {
            let _ = write!(text, " of about {}", ByteSize(of_bytes));
        }
        if let Some(speed) = report.bytes_per_second {
            let _ = write!(text, ", {}/s", ByteSize(speed));
        }
        if let Some(left) = report.left() {
            let _ = write!(text, ", {:.0} s left", left.as_secs_f64());
        }
        if let Some(lag) = report.lag {
            let _ = write!(text, ", {:.0} ms behind", milliseconds(lag));
        }
        if let Some(fence) = report.fence {
            let _ = write!(text, ", writes waited {:.1} ms", milliseconds(fence));
        }
        if let Some(error) = &report.error {
            let _ = write!(text, ": {error}");
        }
        text.push('\n');
    }
    text
}
