//! `howdah moves`: the journal of moves, and what can be done with one.

use std::fmt::Write as _;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use howdah::{MoveEvent, MovePhase, MoveReport, Mover, ShardId};
use serde::Serialize;

use crate::Context;
use crate::failure::{Failure, Result};
use crate::output::{Output, Tone};
use crate::progress::Progress;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show all moves, the newest first
    List,
    /// Show one move
    Show(Which),
    /// Go on with a move that was interrupted
    Resume(Which),
    /// Undo a move before the shard has left
    Abort(Which),
    /// Bring the shard back, with all that was written since
    Rollback(Which),
    /// Drop the old copy: the move cannot be undone from then on
    Finish(Which),
}

#[derive(Args)]
#[command(after_help = "Examples:
  howdah moves show m17
  howdah moves finish 5        the open move of shard 5")]
pub(crate) struct Which {
    /// The move, as m17, or the number of a shard that has an open one
    #[arg(value_name = "MOVE")]
    name: String,
}

/// A move in JSON.
#[derive(Serialize)]
pub(crate) struct Document {
    r#move: String,
    shard: u16,
    from: String,
    to: String,
    phase: &'static str,
    rows: u64,
    bytes: u64,
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
    let mover = mover.on_event(move |event: &MoveEvent| told.tell(event));
    let shown = match command {
        Command::List => {
            let moves = mover.list().await?;
            let documents: Vec<_> = moves.iter().map(Document::new).collect();
            return output.show(&documents, picture(moves.iter(), output));
        }
        Command::Show(which) => which.find(&mover).await,
        Command::Resume(which) => Ok(mover.resume(which.find(&mover).await?.id).await?),
        Command::Abort(which) => Ok(mover.abort(which.find(&mover).await?.id).await?),
        Command::Rollback(which) => Ok(mover.roll_back(which.find(&mover).await?.id).await?),
        Command::Finish(which) => Ok(mover.finish(which.find(&mover).await?.id).await?),
    };
    progress.finish();
    let shown = shown?;
    output.show(&Document::new(&shown), picture([&shown].into_iter(), output))
}

impl Which {
    async fn find(&self, mover: &Mover) -> Result<MoveReport> {
        let Ok(number) = self.name.parse() else {
            return Ok(mover.show(self.name.parse()?).await?);
        };
        let shard = ShardId::new(number)?;
        mover.open_move(shard).await?.ok_or_else(|| {
            Failure::usage(format!(
                "shard {shard} has no open move; `howdah moves list` shows them"
            ))
        })
    }
}

impl Document {
    pub(crate) fn new(report: &MoveReport) -> Self {
        let milliseconds = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
        Self {
            r#move: report.id.to_string(),
            shard: report.shard.get(),
            from: report.source.to_string(),
            to: report.target.to_string(),
            phase: report.phase.as_str(),
            rows: report.rows,
            bytes: report.bytes,
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
        if let Some(fence) = report.fence {
            let _ = write!(text, ", writes waited {:.1} ms", fence.as_secs_f64() * 1000.0);
        }
        if let Some(error) = &report.error {
            let _ = write!(text, ": {error}");
        }
        text.push('\n');
    }
    text
}
