//! The command-line tool: it operates a cluster, and is a thin face of the library.
//!
//! Each file is a command. A command parses its arguments, calls the library, and shows what came back; it decides
//! nothing of its own. Results go to stdout, everything else to stderr.

mod catalog;
mod exec;
mod failure;
mod id;
mod init;
mod instance;
mod local;
mod locate;
mod migrate;
mod move_;
mod moves;
mod output;
mod progress;
mod rebalance;
mod status;
mod tx;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use howdah::{Cluster, Config, Layout};

use failure::{Failure, Result};
use output::Output;

/// Sit on many PostgreSQL servers as if they were one.
#[derive(Parser)]
#[command(name = "howdah", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Examples:
  howdah local up --instances 2 --shards 64     servers to try it on, in .howdah
  howdah status                                 what is where
  howdah locate --key alice                     the shard of a key
  howdah id decode 2715604631366879010          what an id says
  howdah move 4 --to pg2                        a shard to another server, live

Exit status: 0 done; 1 failed; 2 usage or configuration; 3 refused by a safety check.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
#[command(next_help_heading = "Everywhere")]
struct Global {
    /// The configuration [default: howdah.toml, then .howdah/howdah.toml]
    #[arg(long, global = true, env = "HOWDAH_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    json: bool,
    /// Show no progress bars
    #[arg(long, global = true)]
    no_progress: bool,
    /// Say on stderr what is being done
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run PostgreSQL servers on this machine, for development
    #[command(subcommand)]
    Local(local::Command),
    /// Make a cluster of empty databases; again: finish it, or upgrade what is older
    Init(init::Init),
    /// Show the instances, their servers and their shards
    Status(status::Status),
    /// Tell where an id, a key or a shard lives
    Locate(locate::Locate),
    /// Take ids apart and put them together
    #[command(subcommand)]
    Id(id::Command),
    /// Bring every shard's schema to the newest version
    #[command(subcommand)]
    Migrate(migrate::Command),
    /// Change which servers the cluster has
    #[command(subcommand)]
    Instance(instance::Command),
    /// Change where the catalog is
    #[command(subcommand)]
    Catalog(catalog::Command),
    /// Even out what the instances carry
    #[command(subcommand)]
    Rebalance(rebalance::Command),
    /// Run one statement on many shards
    Exec(exec::Exec),
    /// Move shards to another instance, live
    Move(move_::Move),
    /// Show moves; go on with one, undo it, end it
    #[command(subcommand)]
    Moves(moves::Command),
    /// Compare both copies of a shard that was moved
    Verify(verify::Verify),
    /// See to transactions over shards that were left behind
    #[command(subcommand)]
    Tx(tx::Command),
}

/// What every command needs: how to reach the cluster, and how to show things.
struct Context {
    config: Option<PathBuf>,
    output: Output,
}

impl Context {
    /// The configuration, which must be there.
    fn config(&self) -> Result<Config> {
        let config = match &self.config {
            Some(path) => Config::from_file(path)?,
            // As `Config::load`, which knows nothing of `--config`.
            None => Config::find()?.ok_or_else(|| {
                Failure::usage(
                    "there is no configuration: neither howdah.toml nor .howdah/howdah.toml is here; \
                     name a file with --config or HOWDAH_CONFIG, or set HOWDAH_CATALOG_DSN",
                )
            })?,
        };
        self.output.note(format_args!("{config:?}"));
        Ok(config)
    }

    async fn cluster(&self) -> Result<Cluster> {
        Ok(Cluster::connect(self.config()?).await?)
    }

    /// The layout of the cluster, else the default. A cluster that was not named need not be there.
    async fn layout(&self) -> Result<Layout> {
        if self.config.is_some() {
            return Ok(self.cluster().await?.layout());
        }
        let Some(config) = Config::find()? else { return Ok(Layout::default()) };
        match Cluster::connect(config).await {
            Ok(cluster) => Ok(cluster.layout()),
            Err(error) => {
                self.output.say(format_args!("note: the default layout is used: {error}"));
                Ok(Layout::default())
            }
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::of_usage(error),
    };
    let Global { config, json, no_progress, verbose } = cli.global;
    let context = Context { config, output: Output::new(json, !no_progress, verbose) };
    let done = runtime().and_then(|runtime| runtime.block_on(run(cli.command, &context)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|error| Failure::failed(format!("the runtime cannot start: {error}")))
}

async fn run(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::Local(command) => local::run(command, context).await,
        Command::Init(command) => init::run(command, context).await,
        Command::Status(command) => status::run(command, context).await,
        Command::Locate(command) => locate::run(command, context).await,
        Command::Id(command) => id::run(command, context).await,
        Command::Migrate(command) => migrate::run(command, context).await,
        Command::Instance(command) => instance::run(command, context).await,
        Command::Catalog(command) => catalog::run(command, context).await,
        Command::Rebalance(command) => rebalance::run(command, context).await,
        Command::Exec(command) => exec::run(command, context).await,
        Command::Move(command) => move_::run(command, context).await,
        Command::Moves(command) => moves::run(command, context).await,
        Command::Verify(command) => verify::run(command, context).await,
        Command::Tx(command) => tx::run(command, context).await,
    }
}
