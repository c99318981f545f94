//! `howdah status`: what is where, as a picture.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use howdah::{Cluster, ClusterStatus, HostRole, HostStatus, InstanceStatus, MoveReport, Mover};
use serde::Serialize;

use crate::Context;
use crate::failure::{Failure, Result};
use crate::moves;
use crate::output::{Output, Tone};

/// The pause between two pictures.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// The length of the bar of the instance with the most shards.
const BAR_WIDTH: usize = 48;
const CLEAR_SCREEN: &str = "\x1b[2J\x1b[H";

#[derive(Args)]
#[command(after_help = "Examples:
  howdah status
  howdah status --watch
  howdah status --json | jq '.instances[].shards'")]
pub(crate) struct Status {
    /// Show it again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    cluster: &'a str,
    map_version: i64,
    shards: u16,
    instances: Vec<Instance<'a>>,
    catalog: Catalog,
    /// Those that have not ended.
    moves: Vec<moves::Document>,
}

#[derive(Serialize)]
struct Catalog {
    dsn: String,
    /// From where the configuration says, which is out of date.
    moved: bool,
}

/// An instance, as `instance list` shows it too.
#[derive(Serialize)]
pub(crate) struct Instance<'a> {
    name: &'a str,
    dsn: String,
    state: &'a str,
    server_version: Option<&'a str>,
    shards: usize,
    bytes: Option<u64>,
    hosts: Vec<Host<'a>>,
}

#[derive(Serialize)]
struct Host<'a> {
    host: &'a str,
    port: u16,
    role: &'a str,
    lag_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) async fn run(command: Status, context: &Context) -> Result<()> {
    let output = &context.output;
    // Here, because clap does not see the conflict where --json comes before the command.
    if command.watch && output.is_json() {
        return Err(Failure::usage("--watch shows pictures, --json one document; leave one out"));
    }
    let cluster = context.cluster().await?;
    let mover = Mover::new(&context.config()?)?;
    if !command.watch {
        let (status, moves) = (cluster.status().await, open_moves(&mover, output).await);
        return output.show(&Document::new(&status, &moves), picture(&status, &moves, output));
    }
    tokio::select! {
        ended = watch(&cluster, &mover, output) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// The moves that have not ended. Everything else is shown without them, where the catalog cannot be asked.
async fn open_moves(mover: &Mover, output: &Output) -> Vec<MoveReport> {
    let moves = mover.list().await.unwrap_or_else(|error| {
        output.say(format_args!("note: moves are not shown: {error}"));
        Vec::new()
    });
    moves.into_iter().filter(|report| report.phase.is_open()).collect()
}

async fn watch(cluster: &Cluster, mover: &Mover, output: &Output) -> Result<()> {
    let clear = if std::io::stdout().is_terminal() { CLEAR_SCREEN } else { "" };
    loop {
        let (status, moves) = (cluster.status().await, open_moves(mover, output).await);
        output.show(&(), format_args!("{clear}{}", picture(&status, &moves, output)))?;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

impl<'a> Document<'a> {
    fn new(status: &'a ClusterStatus, moves: &[MoveReport]) -> Self {
        Self {
            cluster: &status.cluster,
            map_version: status.map_version.get(),
            shards: status.shards.get(),
            instances: status.instances.iter().map(Instance::new).collect(),
            catalog: Catalog { dsn: status.catalog.to_string(), moved: status.catalog_moved },
            moves: moves.iter().map(moves::Document::new).collect(),
        }
    }
}

impl<'a> Instance<'a> {
    pub(crate) fn new(status: &'a InstanceStatus) -> Self {
        Self {
            name: status.name.as_str(),
            dsn: status.dsn.to_string(),
            state: status.state.as_str(),
            server_version: status.server_version.as_deref(),
            shards: status.shards.len(),
            bytes: status.bytes,
            hosts: status.hosts.iter().map(Host::new).collect(),
        }
    }
}

impl<'a> Host<'a> {
    fn new(status: &'a HostStatus) -> Self {
        Self {
            host: &status.host,
            port: status.port,
            role: status.role.as_str(),
            lag_bytes: status.lag_bytes,
            error: status.error.as_ref().map(ToString::to_string),
        }
    }
}

fn picture(status: &ClusterStatus, moves: &[MoveReport], output: &Output) -> String {
    let mut text = format!(
        "cluster {}, map version {}, {} shards\n",
        status.cluster, status.map_version, status.shards
    );
    if status.catalog_moved {
        let catalog = &status.catalog;
        let _ = writeln!(
            text,
            "{}: write [catalog] dsn = \"{catalog}\"",
            output.paint(Tone::Bad, "the configuration is out of date")
        );
    }
    text.push_str(&picture_of(&status.instances, output));
    if !moves.is_empty() {
        text.push('\n');
        text.push_str(&moves::picture(moves.iter(), output));
    }
    text
}

/// The instances with their shards as bars.
pub(crate) fn picture_of(instances: &[InstanceStatus], output: &Output) -> String {
    let mut text = String::new();
    let most = instances.iter().map(|instance| instance.shards.len()).max().unwrap_or(0);
    let names = instances.iter().map(|instance| instance.name.as_str().len());
    let indent = names.max().unwrap_or(0) + 2;
    for instance in instances {
        text.push('\n');
        draw(&mut text, instance, most, indent, output);
    }
    text
}

fn draw(text: &mut String, instance: &InstanceStatus, most: usize, indent: usize, output: &Output) {
    let margin = " ".repeat(indent);
    let count = instance.shards.len();
    let bar = (count * BAR_WIDTH).div_ceil(most.max(1));
    let name = output.paint(Tone::Strong, format_args!("{:indent$}", instance.name.as_str()));
    let version = match &instance.server_version {
        Some(version) => format!("PostgreSQL {version}"),
        None => output.paint(Tone::Bad, "no primary"),
    };
    let bytes = instance.bytes.map(|bytes| format!(", {}", ByteSize(bytes)));
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{name}{}, {version}, {count} shards{}",
        instance.state,
        bytes.unwrap_or_default()
    );
    let _ = writeln!(text, "{margin}{}", output.paint(Tone::Good, "█".repeat(bar)));
    for host in &instance.hosts {
        let role = match host.role {
            HostRole::Unreachable => output.paint(Tone::Bad, host.role.as_str()),
            _ => host.role.as_str().to_owned(),
        };
        let _ = write!(text, "{margin}{}:{} {role}", host.host, host.port);
        match (host.role, host.lag_bytes) {
            (HostRole::Replica, Some(lag)) => {
                let _ = write!(text, ", {} behind", ByteSize(lag));
            }
            (HostRole::Replica, None) => text.push_str(", lag unknown"),
            _ => {}
        }
        if let Some(error) = &host.error {
            let _ = write!(text, ": {}", output.paint(Tone::Faint, error));
        }
        text.push('\n');
    }
}
