//! `howdah tx`: transactions over shards that were left behind.

use std::time::Duration;

use clap::{Args, Subcommand};
use howdah::{Decision, Error, InDoubt, InstanceName};
use serde::Serialize;

use crate::Context;
use crate::failure::{Failure, Result};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show the parts that are prepared and not finished
    #[command(after_help = "Example:
  howdah tx list --json | jq '.transactions | length'")]
    List,
    /// Finish them as was decided, or undo what nobody can decide any more
    Recover(Recover),
}

#[derive(Args)]
#[command(
    after_help = "Safe at any time, and beside programs that run: what they are still deciding is left to them.

Examples:
  howdah tx list
  howdah tx recover
  howdah tx recover --idle 1m      what was prepared a minute ago or earlier"
)]
pub(crate) struct Recover {
    /// Leave alone what was prepared less than this ago
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    idle: Duration,
}

#[derive(Serialize)]
struct Listed {
    transactions: Vec<Part>,
    unreachable: Vec<Unreachable>,
}

#[derive(Serialize)]
struct Recovered {
    committed: usize,
    rolled_back: usize,
    left: Vec<Part>,
    unreachable: Vec<Unreachable>,
}

#[derive(Serialize)]
struct Part {
    id: String,
    shard: u16,
    instance: String,
    schemas: Vec<String>,
    prepared_at: String,
    age_seconds: u64,
    /// `committed`, `rolled back`, or nothing yet.
    decision: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Unreachable {
    instance: String,
    error: String,
}

pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    let cluster = context.cluster().await?;
    match command {
        Command::List => {
            let found = cluster.in_doubt().await;
            let document = Listed {
                transactions: found.parts.iter().map(|part| Part::new(part, None)).collect(),
                unreachable: unreachable(&found.unreachable),
            };
            context.output.show(&document, lines(&document.transactions))?;
            all_asked(&found.unreachable)
        }
        Command::Recover(Recover { idle }) => {
            let done = cluster.recover(idle).await;
            let document = Recovered {
                committed: done.committed,
                rolled_back: done.rolled_back,
                left: done.left.iter().map(|(part, error)| Part::new(part, Some(error))).collect(),
                unreachable: unreachable(&done.unreachable),
            };
            let text = format!(
                "committed {}, rolled back {}\n{}",
                done.committed,
                done.rolled_back,
                lines(&document.left)
            );
            context.output.show(&document, text)?;
            all_asked(&done.unreachable)?;
            match done.left.first() {
                None => Ok(()),
                Some((part, error)) => Err(Failure::failed(format!(
                    "{} parts are still in doubt, the first on {}: {error}",
                    done.left.len(),
                    part.instance
                ))),
            }
        }
    }
}

impl Part {
    fn new(part: &InDoubt, error: Option<&Error>) -> Self {
        Self {
            id: part.id.clone(),
            shard: part.shard.get(),
            instance: part.instance.to_string(),
            schemas: part.schemas.clone(),
            prepared_at: part.prepared_at.to_rfc3339(),
            age_seconds: part.age.as_secs(),
            decision: part.decision.map(|decision| match decision {
                Decision::Committed => "committed",
                _ => "rolled back",
            }),
            error: error.map(ToString::to_string),
        }
    }
}

fn unreachable(instances: &[(InstanceName, Error)]) -> Vec<Unreachable> {
    let unreachable = |(instance, error): &(InstanceName, Error)| Unreachable {
        instance: instance.to_string(),
        error: error.to_string(),
    };
    instances.iter().map(unreachable).collect()
}

fn lines(parts: &[Part]) -> String {
    let line = |part: &Part| {
        let age = humantime::format_duration(Duration::from_secs(part.age_seconds));
        let decision = part.decision.unwrap_or("undecided");
        let Part { id, instance, schemas, .. } = part;
        format!("{id}  {instance}  {age}  {decision}  {}\n", schemas.join(" "))
    };
    parts.iter().map(line).collect()
}

/// An instance that is away may have parts too.
fn all_asked(unreachable: &[(InstanceName, Error)]) -> Result<()> {
    match unreachable.first() {
        None => Ok(()),
        Some((instance, error)) => {
            Err(Failure::failed(format!("{instance} could not be asked: {error}")))
        }
    }
}
