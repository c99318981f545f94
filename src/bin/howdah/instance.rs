//! `howdah instance`: which servers the cluster has.

use clap::{Args, Subcommand};
use howdah::{Dsn, InstanceName, Instances, NewInstance, Rebalance};
use serde::Serialize;

use crate::Context;
use crate::failure::Result;
use crate::rebalance::Moving;
use crate::status::{self, picture_of};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a server an instance of the cluster; it takes shards from then on, and has none yet
    #[command(
        after_help = "Running it again is safe: it finishes what was interrupted, and lets an instance that was \
draining take shards again.

Examples:
  howdah instance add pg3 --dsn postgres://howdah_app@db3,db3-standby/app
  howdah instance add pg4 --dsn postgres://howdah_app@db4/app --peer-dsn postgres://howdah_mover@10.0.0.4/app
  howdah rebalance apply"
    )]
    Add(Add),
    /// Move everything away from an instance, live; it takes no shards from then on
    #[command(
        after_help = "Interrupted, it is run again and goes on. `howdah instance add` lets it take shards again.

Examples:
  howdah instance drain pg2
  howdah instance drain pg2 --parallel 2 && howdah instance remove pg2"
    )]
    Drain(Drain),
    /// Take an instance out of the cluster; refused while anything is there
    #[command(after_help = "Example:
  howdah instance drain pg2 && howdah instance remove pg2")]
    Remove(Named),
    /// Show the instances
    #[command(after_help = "Example:
  howdah instance list --json | jq -r '.[].name'")]
    List,
}

#[derive(Args)]
pub(crate) struct Add {
    /// The name of the instance
    #[arg(value_parser = InstanceName::new)]
    name: InstanceName,
    /// How applications reach it
    #[arg(long, value_name = "URL")]
    dsn: Dsn,
    /// How the other servers reach it when shards move [default: as applications do]
    #[arg(long, value_name = "URL")]
    peer_dsn: Option<Dsn>,
    /// Its share of the load, in proportion to the others' [default: 1]
    #[arg(long, value_name = "N")]
    capacity: Option<f64>,
}

#[derive(Args)]
pub(crate) struct Drain {
    #[command(flatten)]
    instance: Named,
    #[command(flatten)]
    moving: Moving,
}

#[derive(Args)]
pub(crate) struct Named {
    /// The name of the instance
    #[arg(value_parser = InstanceName::new)]
    name: InstanceName,
}

#[derive(Serialize)]
struct Changed<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dsn: Option<String>,
}

pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::Add(add) => make(add, context).await,
        // Boxed because it holds whole moves.
        Command::Drain(drain) => Box::pin(empty(drain, context)).await,
        Command::Remove(Named { name }) => {
            Instances::open(&context.config()?).await?.remove(&name).await?;
            let done = Changed { name: name.as_str(), dsn: None };
            context.output.show(&done, format_args!("{name} is no instance any more"))
        }
        Command::List => list(context).await,
    }
}

async fn make(add: Add, context: &Context) -> Result<()> {
    let Add { name, dsn, peer_dsn, capacity } = add;
    let mut instance = NewInstance::new(name.clone(), dsn.clone());
    if let Some(dsn) = peer_dsn {
        instance = instance.peer_dsn(dsn);
    }
    if let Some(capacity) = capacity {
        instance = instance.capacity(capacity);
    }
    Instances::open(&context.config()?).await?.add(&instance).await?;
    let done = Changed { name: name.as_str(), dsn: Some(dsn.to_string()) };
    let next = "`howdah rebalance plan` shows which shards it would get";
    context.output.show(&done, format_args!("{name} is an instance; {next}"))
}

async fn empty(drain: Drain, context: &Context) -> Result<()> {
    let Drain { instance: Named { name }, moving } = drain;
    // Its lock goes with it, before anything is moved.
    Instances::open(&context.config()?).await?.drain(&name).await?;
    let cluster = context.cluster().await?;
    let plan = async || Ok(Rebalance::new().away_from(name.clone()).plan(&cluster).await?);
    let emptied = if moving.keeps_copies() { None } else { Some(&name) };
    moving.carry_out(context, plan, emptied).await
}

async fn list(context: &Context) -> Result<()> {
    let status = context.cluster().await?.status().await;
    let document: Vec<_> = status.instances.iter().map(status::Instance::new).collect();
    let picture = picture_of(&status.instances, &context.output);
    context.output.show(&document, picture.trim_start())
}
