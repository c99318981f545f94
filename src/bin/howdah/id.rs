//! `howdah id`: what an id says, and which id says it. Needs a layout alone, and no shard that exists.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use howdah::{Id, IdParts, Layout, ShardId};
use serde::Serialize;

use crate::Context;
use crate::failure::Result;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// What an id says: its shard, sequence and time
    #[command(after_help = "Examples:
  howdah id decode 2715604631366879010
  howdah id decode CWvxAY7B0ci --json

Digits alone are read as the decimal form, anything else as the short one.")]
    Decode(Decode),
    /// The id that a shard, a time and a sequence make
    #[command(after_help = "Example:
  howdah id encode --shard 465 --time 2021-11-26T16:48:40.527Z --seq 802")]
    Encode(Encode),
    /// The ids that a shard can have issued in a period, as a range of its primary keys
    #[command(after_help = "Example:
  howdah id range --shard 465 --from 2021-11-26T00:00:00Z --to 2021-11-27T00:00:00Z")]
    Range(Range),
}

#[derive(Args)]
pub(crate) struct Decode {
    /// The id, in decimal or in its short form
    #[arg(allow_hyphen_values = true, value_parser = read_id)]
    id: Id,
}

#[derive(Args)]
pub(crate) struct Encode {
    /// The number of the shard
    #[arg(long, value_name = "N")]
    shard: u16,
    /// When, as RFC 3339 says it
    #[arg(long, value_name = "RFC3339", value_parser = read_time)]
    time: DateTime<Utc>,
    /// The number among the ids of that shard and millisecond
    #[arg(long, value_name = "N", default_value_t = 0)]
    seq: u32,
}

#[derive(Args)]
pub(crate) struct Range {
    /// The number of the shard
    #[arg(long, value_name = "N")]
    shard: u16,
    /// The first moment, as RFC 3339 says it
    #[arg(long, value_name = "RFC3339", value_parser = read_time)]
    from: DateTime<Utc>,
    /// The last moment
    #[arg(long, value_name = "RFC3339", value_parser = read_time)]
    to: DateTime<Utc>,
}

#[derive(Serialize)]
struct Decoded {
    id: Id,
    shard: u16,
    sequence: u32,
    time: String,
    unix_ms: i64,
    text: String,
}

#[derive(Serialize)]
struct Limits {
    shard: u16,
    from: Id,
    to: Id,
}

pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    let layout = context.layout().await?;
    let output = &context.output;
    match command {
        Command::Decode(Decode { id }) => {
            let decoded = Decoded::new(id, &layout);
            output.show(&decoded, decoded.as_text())
        }
        Command::Encode(Encode { shard, time, seq }) => {
            let unix_ms = time.timestamp_millis();
            let shard = ShardId::new(shard)?;
            let id = layout.encode(IdParts { shard, sequence: seq, unix_ms })?;
            output.show(&Decoded::new(id, &layout), id)
        }
        Command::Range(Range { shard, from, to }) => {
            let ids = layout.range(ShardId::new(shard)?, from, to)?;
            let limits = Limits { shard, from: *ids.start(), to: *ids.end() };
            output.show(&limits, format_args!("from  {}\nto    {}", limits.from, limits.to))
        }
    }
}

/// An id in either form; digits alone, with or without a sign, are the decimal one.
pub(crate) fn read_id(text: &str) -> howdah::Result<Id> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse()
    } else {
        Id::from_code(text)
    }
}

fn read_time(text: &str) -> Result<DateTime<Utc>, &'static str> {
    text.parse().map_err(|_| "write it as 2021-11-26T16:48:40Z")
}

impl Decoded {
    fn new(id: Id, layout: &Layout) -> Self {
        let parts = layout.decode(id);
        Self {
            id,
            shard: parts.shard.get(),
            sequence: parts.sequence,
            time: parts.time().to_rfc3339_opts(SecondsFormat::AutoSi, true),
            unix_ms: parts.unix_ms,
            text: id.to_code(),
        }
    }

    fn as_text(&self) -> String {
        let Self { id, shard, sequence, time, unix_ms, text } = self;
        format!(
            "id        {id}\nshard     {shard}\nsequence  {sequence}\ntime      {time}\n\
             unix_ms   {unix_ms}\ntext      {text}"
        )
    }
}
