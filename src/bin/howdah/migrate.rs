//! `howdah migrate`: numbered SQL files on every shard.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use howdah::{MigrationProgress, MigrationReport, MigrationVersion, Migrations, ShardMigration};
use serde::Serialize;

use crate::Context;
use crate::failure::{Result, some_shards_failed};
use crate::output::{Output, Tone, shard_ranges};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Apply to every shard what it still lacks
    #[command(
        after_help = "Each file is NNNN_name.sql, numbered from 0001 without gaps. It runs in one transaction \
with search_path set to the shard's schema, then public. A statement that refuses to run in a transaction goes alone \
into a file that starts with the line: -- howdah: no-transaction

It may be interrupted and run again at any time. A shard that fails is named and hinders no other.

Examples:
  howdah migrate up
  howdah migrate up --dir db/migrations --parallel 8"
    )]
    Up(Files),
    /// Show at which version each shard is
    #[command(after_help = "Example:
  howdah migrate status --json")]
    Status(Files),
}

#[derive(Args)]
pub(crate) struct Files {
    /// The folder of the files
    #[arg(long, default_value = "migrations")]
    dir: PathBuf,
    /// Connections to each instance
    #[arg(long, value_name = "N", default_value_t = 4)]
    parallel: usize,
}

#[derive(Serialize)]
struct Document {
    latest: u16,
    applied: usize,
    behind: usize,
    failed: usize,
    shards: Vec<Shard>,
}

#[derive(Serialize)]
struct Shard {
    shard: u16,
    instance: String,
    version: Option<u16>,
    applied: usize,
    error: Option<String>,
}

pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    let output = &context.output;
    let (Command::Up(files) | Command::Status(files)) = &command;
    let migrations = Migrations::from_dir(&files.dir)?;
    let config = context.config()?;
    let bar = output.bar(0, "shards");
    let on_progress = |progress: MigrationProgress<'_>| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        note(output, progress.shard);
    };
    let report = match &command {
        Command::Up(_) => migrations.up(&config, files.parallel, on_progress).await,
        Command::Status(_) => migrations.status(&config, files.parallel, on_progress).await,
    };
    bar.finish_and_clear();
    let report = report?;
    output.show(&Document::new(&report), picture(&report, output))?;
    let failed = report.failed().filter_map(|shard| Some((shard.home().shard(), shard.error()?)));
    some_shards_failed(failed, report.shards().len())
}

fn note(output: &Output, shard: &ShardMigration) {
    let home = shard.home();
    let version = version_text(shard.version());
    output.note(format_args!("shard {} on {}: {version}", home.shard(), home.instance()));
}

impl Document {
    fn new(report: &MigrationReport) -> Self {
        Self {
            latest: report.latest().get(),
            applied: report.applied(),
            behind: report.behind().count(),
            failed: report.failed().count(),
            shards: report.shards().iter().map(Shard::new).collect(),
        }
    }
}

impl Shard {
    fn new(shard: &ShardMigration) -> Self {
        Self {
            shard: shard.home().shard().get(),
            instance: shard.home().instance().to_string(),
            version: shard.version().map(MigrationVersion::get),
            applied: shard.applied(),
            error: shard.error().map(ToString::to_string),
        }
    }
}

/// How many shards are at which version, the newest first, and which of them lag behind.
fn picture(report: &MigrationReport, output: &Output) -> String {
    let mut by_version: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let unknown = |shard: &&ShardMigration| shard.version().is_none() && shard.error().is_some();
    for shard in report.shards().iter().filter(|shard| !unknown(shard)) {
        by_version.entry(shard.version()).or_default().push(shard.home().shard());
    }
    let mut text = String::new();
    for (version, shards) in by_version.iter().rev() {
        let is_latest = *version == Some(report.latest());
        let tone = if is_latest { Tone::Good } else { Tone::Bad };
        let version = output.paint(tone, version_text(*version));
        // Writing to a string does not fail.
        let _ = write!(text, "{version}  {} shards", shards.len());
        if !is_latest {
            let _ = write!(text, ", behind: {}", shard_ranges(shards));
        }
        text.push('\n');
    }
    let unknown: Vec<_> =
        report.shards().iter().filter(unknown).map(|shard| shard.home().shard()).collect();
    if !unknown.is_empty() {
        let count = unknown.len();
        let _ = writeln!(
            text,
            "{}  {count} shards: {}",
            output.paint(Tone::Bad, "?   "),
            shard_ranges(&unknown)
        );
    }
    if report.applied() > 0 {
        let _ = writeln!(text, "{} migrations applied", report.applied());
    }
    text
}

fn version_text(version: Option<MigrationVersion>) -> String {
    version.map_or_else(|| "none".to_owned(), |version| version.to_string())
}
