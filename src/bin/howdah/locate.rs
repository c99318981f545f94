//! `howdah locate`: where an id, a key or a shard lives. Asks the map, and no shard.

use clap::Args;
use howdah::{Cluster, Home, Id, Shard, ShardId};
use serde::Serialize;

use crate::Context;
use crate::failure::Result;
use crate::id::read_id;

#[derive(Args)]
#[command(after_help = "Examples:
  howdah locate --id 2715604631366879010
  howdah locate --key alice --json
  howdah locate --key-int 31341
  howdah locate --shard 42")]
#[group(required = true, multiple = false)]
pub(crate) struct Locate {
    /// An id, in decimal or in its short form
    #[arg(long, allow_hyphen_values = true, value_parser = read_id)]
    id: Option<Id>,
    /// A key of text, such as a user's name
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    key: Option<String>,
    /// A key that is an integer
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    key_int: Option<i64>,
    /// The number of a shard
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
}

#[derive(Serialize)]
struct Located {
    shard: u16,
    instance: String,
    epoch: u32,
    schema: String,
}

pub(crate) async fn run(command: Locate, context: &Context) -> Result<()> {
    let cluster = context.cluster().await?;
    let located = Located::new(&command.find(&cluster)?.home()?);
    let Located { shard, instance, epoch, schema } = &located;
    let text =
        format!("shard     {shard}\ninstance  {instance}\nepoch     {epoch}\nschema    {schema}");
    context.output.show(&located, text)
}

impl Locate {
    fn find(&self, cluster: &Cluster) -> howdah::Result<Shard> {
        match self {
            Self { id: Some(id), .. } => cluster.shard_of_id(*id),
            Self { key: Some(key), .. } => Ok(cluster.shard_for_key(key.as_str())),
            Self { key_int: Some(key), .. } => Ok(cluster.shard_for_key(*key)),
            Self { shard, .. } => cluster.shard(ShardId::new(shard.unwrap_or_default())?),
        }
    }
}

impl Located {
    fn new(home: &Home) -> Self {
        Self {
            shard: home.shard().get(),
            instance: home.instance().to_string(),
            epoch: home.epoch().get(),
            schema: home.schema(),
        }
    }
}
