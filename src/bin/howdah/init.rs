//! `howdah init`: makes a cluster, finishes one that is half made, upgrades one that is older.

use clap::Args;
use howdah::{Dsn, InstanceName, Layout, ShardCount, ShardId};
use serde::Serialize;

use crate::Context;
use crate::failure::Result;
use crate::output::{Output, shard_ranges};

#[derive(Args)]
#[command(
    after_help = "The catalog goes into the database that the configuration names. Running it again is safe: it \
finishes and upgrades, and refuses what was decided otherwise.

Example:
  howdah init --shards 1024 --instance pg1=postgres://howdah_app@db1/app \\
                            --instance pg2=postgres://howdah_app@db2,db2-standby/app"
)]
pub(crate) struct Init {
    /// The number of shards, for good: from 1 to 8192
    #[arg(long, value_name = "N")]
    shards: u16,
    /// An instance and how applications reach it; once for each
    #[arg(long = "instance", value_name = "NAME=URL", value_parser = read_instance)]
    instances: Vec<(InstanceName, Dsn)>,
    /// The layout of ids, for good: when they begin, and how many bits are the shard's and the sequence's
    #[arg(long, value_name = "epoch=TIME,shard=BITS,sequence=BITS")]
    layout: Option<Layout>,
}

#[derive(Serialize)]
struct Report {
    cluster: String,
    created: bool,
    shards: u16,
    instances: usize,
    /// Shards that were left as they are, for their open moves.
    left: Vec<u16>,
}

pub(crate) async fn run(command: Init, context: &Context) -> Result<()> {
    let config = context.config()?;
    let mut init = howdah::Init::new(ShardCount::new(command.shards)?);
    if let Some(layout) = command.layout {
        init = init.layout(layout);
    }
    for (name, dsn) in command.instances {
        init = init.instance(name, dsn);
    }
    let bar = context.output.bar(command.shards.into(), "shards");
    let seen = bar.clone();
    let made = init.on_progress(move |done, _| seen.set_position(done as u64)).run(&config).await;
    bar.finish_and_clear();
    let made = made?;
    let report = Report {
        cluster: made.cluster,
        created: made.created,
        shards: made.shards.get(),
        instances: made.instances,
        left: made.left.iter().map(|shard| shard.get()).collect(),
    };
    tell_left(&made.left, &context.output);
    let did = if report.created { "made" } else { "checked" };
    let text = format!(
        "{did} cluster {}: {} shards on {} instances",
        report.cluster, report.shards, report.instances
    );
    context.output.show(&report, text)
}

/// Names the shards that could not be brought up to date, with the next step.
pub(crate) fn tell_left(left: &[ShardId], output: &Output) {
    if !left.is_empty() {
        output.note(format!(
            "shards with open moves were left as they are: {}; end these moves (`howdah moves list`), then run this again",
            shard_ranges(left)
        ));
    }
}

fn read_instance(text: &str) -> Result<(InstanceName, Dsn), String> {
    let (name, dsn) =
        text.split_once('=').ok_or("write it as NAME=postgres://user@host/database")?;
    // Where the name was left out, what stands here is a part of the address, which is not repeated.
    let name = InstanceName::new(name)
        .map_err(|_| "what comes before the = is not an instance's name, such as pg1")?;
    Ok((name, dsn.parse::<Dsn>().map_err(|error| error.to_string())?))
}
