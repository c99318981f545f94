//! `howdah local`: PostgreSQL servers on this machine, made into one cluster.

mod configuration;
mod members;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use howdah::local::{LocalCluster, Server, ServerRole, UpOptions};
use howdah::{Cluster, Config, Init, InstanceName, ShardCount};
use serde::Serialize;

use crate::Context;
use crate::failure::{Failure, Result};
use crate::init::tell_left;
use crate::output::{Output, Tone};
use members::address;

const DEFAULT_INSTANCES: usize = 2;
const DEFAULT_SHARDS: u16 = 64;

/// How long another `local up` of the same folder is waited for, and how often it is looked after.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make servers, start them, and make them one cluster; again: start what does not run
    #[command(after_help = "Examples:
  howdah local up
  howdah local up --instances 3 --replicas 1 --shards 256
  howdah local up --pg-bin /usr/lib/postgresql/15/bin")]
    Up(Up),
    /// Make one more server; it is not yet an instance of the cluster
    #[command(after_help = "Example:
  howdah local add pg3")]
    Add(Add),
    /// Show the servers
    #[command(after_help = "Example:
  howdah local status --json | jq -r '.servers[].dsn'")]
    Status(Place),
    /// Stop all servers; their data stays
    #[command(after_help = "Example:
  howdah local stop; howdah local start")]
    Stop(Place),
    /// Start all servers, or one
    #[command(after_help = "Example:
  howdah local start pg2")]
    Start(Start),
    /// End a server with SIGKILL, as a power failure would
    #[command(after_help = "Example:
  howdah local kill pg2")]
    Kill(Named),
    /// Make a replica a primary
    #[command(after_help = "Example:
  howdah local kill pg1; howdah local promote pg1-r1")]
    Promote(Named),
    /// Stop all servers and delete their data
    #[command(after_help = "Example:
  howdah local destroy --dir .howdah")]
    Destroy(Place),
}

#[derive(Args)]
pub(crate) struct Place {
    /// The folder of the servers
    #[arg(long, value_name = "DIR", default_value = ".howdah")]
    dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct Up {
    /// Primaries, pg1 on, each an instance of the cluster [default: 2]
    #[arg(long, value_name = "N")]
    instances: Option<usize>,
    /// Streaming replicas of each primary, pg1-r1 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    replicas: usize,
    /// Shards, for good [default: 64]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// The folder of PostgreSQL's programs, for servers that are still to be made
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(crate) struct Add {
    /// The name of the server
    name: String,
    /// The folder of PostgreSQL's programs
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(crate) struct Start {
    /// The name of the server
    name: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(crate) struct Named {
    /// The name of the server
    name: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Serialize)]
struct Document {
    dir: String,
    config: Option<String>,
    servers: Vec<ServerDocument>,
}

#[derive(Serialize)]
struct ServerDocument {
    name: String,
    role: &'static str,
    upstream: Option<String>,
    /// The replica that was promoted in its place.
    successor: Option<String>,
    port: u16,
    version: Option<u32>,
    running: bool,
    pid: Option<u32>,
    dsn: String,
}

pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    let output = &context.output;
    match command {
        Command::Up(up) => make(up, output).await,
        Command::Add(Add { name, pg_bin, place }) => {
            let mut local = LocalCluster::open(place.dir)?;
            busy(output, "making a server", local.add(&name, pg_bin.as_deref())).await?;
            show(&local, output)
        }
        Command::Status(place) => {
            let local = LocalCluster::open(place.dir)?;
            if local.servers().is_empty() {
                return Err(Failure::usage(format!(
                    "there is no local cluster in {}; `howdah local up` makes one",
                    local.dir().display()
                )));
            }
            show(&local, output)
        }
        Command::Stop(place) => {
            let mut local = LocalCluster::open(place.dir)?;
            busy(output, "stopping", local.stop()).await?;
            show(&local, output)
        }
        Command::Start(Start { name, place }) => {
            let mut local = LocalCluster::open(place.dir)?;
            busy(output, "starting", local.start(name.as_deref())).await?;
            show(&local, output)
        }
        Command::Kill(Named { name, place }) => {
            let mut local = LocalCluster::open(place.dir)?;
            local.kill(&name).await?;
            show(&local, output)
        }
        Command::Promote(Named { name, place }) => {
            let mut local = LocalCluster::open(place.dir)?;
            busy(output, "promoting", local.promote(&name)).await?;
            show(&local, output)
        }
        Command::Destroy(place) => {
            let local = LocalCluster::open(place.dir)?;
            let dir = local.dir().to_owned();
            busy(output, "deleting", local.destroy()).await?;
            configuration::delete(&dir)?;
            // It stays when there is anything else in it.
            let _ = fs::remove_dir(&dir);
            let gone =
                Document { dir: dir.display().to_string(), config: None, servers: Vec::new() };
            let rest = if dir.exists() { "; it stays, as it holds other things" } else { "" };
            output.show(&gone, format_args!("the cluster in {} is gone{rest}", dir.display()))
        }
    }
}

/// Servers, then a configuration that leads to them, then a cluster on them.
async fn make(up: Up, output: &Output) -> Result<()> {
    let mut local = LocalCluster::open(&up.place.dir)?;
    let there = local.servers().iter().filter(|server| server.instance() == server.name()).count();
    let instances = up.instances.unwrap_or(if there > 0 { there } else { DEFAULT_INSTANCES });
    let mut options = UpOptions::default().instances(instances).replicas(up.replicas);
    if let Some(folder) = &up.pg_bin {
        options = options.pg_bin(folder);
    }
    configuration::refuse_elsewhere(&local)?;
    let before: Vec<_> = local.servers().iter().map(|server| server.name().to_owned()).collect();
    busy(output, "starting servers", local.up(&options)).await?;

    let config = configuration::of(&local)?;
    let names = || (1..=instances).map(|number| format!("pg{number}"));
    if let Some(cluster) = initialise(&up, &local, &config, names(), output).await? {
        // Who did not say how many may have removed one, which is no reason to have it again.
        let wanted = names().filter(|name| up.instances.is_some() || !before.contains(name));
        members::add(&local, &config, &cluster, wanted).await?;
    }
    show(&local, output)
}

/// Makes the cluster, or brings it up to date. Returns it if it was there.
async fn initialise(
    up: &Up,
    local: &LocalCluster,
    config: &Config,
    names: impl Iterator<Item = String> + Clone,
    output: &Output,
) -> Result<Option<Cluster>> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let there = connect(config).await?;
        let init = match &there {
            Some(cluster) => {
                members::readdress(local, config, cluster).await?;
                let shards = up.shards.map_or(Ok(cluster.map().count()), ShardCount::new)?;
                Init::new(shards).layout(cluster.layout())
            }
            None => {
                let mut init = Init::new(ShardCount::new(up.shards.unwrap_or(DEFAULT_SHARDS))?);
                for name in names.clone() {
                    init = init.instance(InstanceName::new(&name)?, address(local, &name)?);
                }
                init
            }
        };
        match carry_out(init, config, output).await {
            // Another `local up` is making the same cluster just now.
            Err(error) if error.is_refused() && there.is_none() && Instant::now() < give_up => {
                tokio::time::sleep(PAUSE).await;
            }
            made => {
                made?;
                return Ok(there);
            }
        }
    }
}

/// The cluster, if there is one. What is wrong with what is there is for `init` to say.
async fn connect(config: &Config) -> Result<Option<Cluster>> {
    match Cluster::connect(config.clone()).await {
        Ok(cluster) => Ok(Some(cluster)),
        Err(error) if error.is_config() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn carry_out(init: Init, config: &Config, output: &Output) -> howdah::Result<()> {
    let bar = output.bar(0, "shards");
    let seen = bar.clone();
    let on_progress = move |done, total| {
        seen.set_length(total as u64);
        seen.set_position(done as u64);
    };
    let made = init.on_progress(on_progress).run(config).await;
    bar.finish_and_clear();
    tell_left(&made?.left, output);
    Ok(())
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}

/// Shows that something goes on for as long as it does.
async fn busy<T>(output: &Output, what: &'static str, work: impl Future<Output = T>) -> T {
    let spinner = output.spinner(what);
    let done = work.await;
    spinner.finish_and_clear();
    done
}

fn show(local: &LocalCluster, output: &Output) -> Result<()> {
    let config = Some(configuration::file_in(local.dir())).filter(|file| file.exists());
    let document = Document {
        dir: local.dir().display().to_string(),
        config: config.map(|file| file.display().to_string()),
        servers: local.servers().iter().map(|server| ServerDocument::new(local, server)).collect(),
    };
    output.show(&document, document.as_text(output))
}

impl ServerDocument {
    fn new(local: &LocalCluster, server: &Server) -> Self {
        let role = if server.role() == ServerRole::Replica { "replica" } else { "primary" };
        Self {
            name: server.name().to_owned(),
            role,
            upstream: server.upstream().map(str::to_owned),
            successor: local.successor(server.name()).map(|server| server.name().to_owned()),
            port: server.port(),
            version: server.version(),
            running: server.is_running(),
            pid: server.pid(),
            dsn: server.dsn("howdah_app"),
        }
    }
}

impl Document {
    fn as_text(&self, output: &Output) -> String {
        let width = self.servers.iter().map(|server| server.name.len()).max().unwrap_or(0);
        let line = |server: &ServerDocument| {
            let ServerDocument { name, role, dsn, .. } = server;
            let state = if server.running {
                output.paint(Tone::Good, "running")
            } else {
                output.paint(Tone::Bad, "stopped")
            };
            let version = server.version.map_or("?".to_owned(), |version| version.to_string());
            let replaced = server.successor.as_ref();
            let replaced = replaced.map_or(String::new(), |by| format!("  replaced by {by}"));
            format!("{name:width$}  {state}  {role}  PostgreSQL {version}  {dsn}{replaced}")
        };
        self.servers.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
