//! `howdah exec`: one statement on many shards.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::iter;
use std::ops::RangeInclusive;
use std::rc::Rc;

use clap::Args;
use howdah::{ShardAnswer, ShardId, Statement};
use serde::{Serialize, Serializer};

use crate::Context;
use crate::failure::{Result, some_shards_failed};

#[derive(Args)]
#[command(
    after_help = "Each shard runs it in a transaction of its own. In JSON, values are PostgreSQL's text.

Examples:
  howdah exec 'SELECT count(*) FROM {shard}.photos'
  howdah exec 'SELECT * FROM {shard}.users LIMIT 3' --shards 0-7,12
  howdah exec 'UPDATE {shard}.photos SET caption = trim(caption)' --write"
)]
pub(crate) struct Exec {
    /// One statement, with {shard} for the schema
    sql: String,
    /// The shards, such as 0-7,12 [default: all]
    #[arg(long, value_delimiter = ',', value_parser = read_shards)]
    shards: Vec<RangeInclusive<u16>>,
    /// Shards at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    parallel: usize,
    /// Let the statement write
    #[arg(long)]
    write: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    shards: Vec<Answer<'a>>,
}

#[derive(Serialize)]
struct Answer<'a> {
    shard: u16,
    rows: Vec<Row<'a>>,
    affected: u64,
    error: Option<String>,
}

/// An object with the columns in their order.
struct Row<'a> {
    columns: Rc<[String]>,
    values: &'a [Option<String>],
}

pub(crate) async fn run(command: Exec, context: &Context) -> Result<()> {
    let statement = Statement::parse(command.sql)?;
    let shards = command.shards.into_iter().flatten();
    let shards = shards.map(ShardId::new).collect::<howdah::Result<BTreeSet<_>>>()?;
    let cluster = context.cluster().await?;
    let mut exec = cluster.exec(&statement).parallel(command.parallel).write(command.write);
    let mut total = cluster.map().count().get().into();
    if !shards.is_empty() {
        total = shards.len();
        exec = exec.shards(shards);
    }
    let bar = context.output.bar(total as u64, "shards");
    let answers = exec.run(|_| bar.inc(1)).await;
    bar.finish_and_clear();
    let answers = answers?;

    let document = Document { shards: answers.iter().map(Answer::new).collect() };
    context.output.show(&document, table(&answers))?;
    let failed =
        answers.iter().filter_map(|answer| Some((answer.shard, answer.result.as_ref().err()?)));
    some_shards_failed(failed, answers.len())
}

/// A shard, or the first and the last of some.
fn read_shards(text: &str) -> Result<RangeInclusive<u16>, String> {
    let number =
        |text: &str| text.trim().parse().map_err(|_| format!("{text:?} is not a shard's number"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("{first} comes after {last}"));
    }
    Ok(first..=last)
}

impl<'a> Answer<'a> {
    fn new(answer: &'a ShardAnswer) -> Self {
        let shard = answer.shard.get();
        match &answer.result {
            Ok(found) => {
                let columns: Rc<[String]> = distinct(&found.columns).into();
                let row = |values| Row { columns: columns.clone(), values };
                let rows = found.rows.iter().map(|values| row(values)).collect();
                Self { shard, rows, affected: found.affected, error: None }
            }
            Err(error) => {
                Self { shard, rows: Vec::new(), affected: 0, error: Some(error.to_string()) }
            }
        }
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.columns.iter().zip(self.values))
    }
}

/// The names of columns, those that come again with a number: an object has each name once.
fn distinct(columns: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(columns.len());
    for column in columns {
        let numbered = (2..).map(|number| format!("{column}_{number}"));
        let unlike_others = numbered.filter(|name| !columns.contains(name));
        let free =
            iter::once(column.clone()).chain(unlike_others).find(|name| !names.contains(name));
        names.extend(free);
    }
    names
}

/// The rows of all shards in one table; where a statement returns none, how many each changed.
fn table(answers: &[ShardAnswer]) -> String {
    let found =
        || answers.iter().filter_map(|answer| Some((answer.shard, answer.result.as_ref().ok()?)));
    let columns = found().map(|(_, rows)| rows.columns.clone()).find(|columns| !columns.is_empty());
    let mut lines = Vec::new();
    match columns {
        Some(columns) => {
            lines.push(["shard".to_owned()].into_iter().chain(columns).collect());
            for (shard, answer) in found() {
                for row in &answer.rows {
                    let value = |value: &Option<String>| value.clone().unwrap_or_default();
                    lines.push(
                        [shard.to_string()].into_iter().chain(row.iter().map(value)).collect(),
                    );
                }
            }
        }
        None if found().next().is_none() => {}
        None => {
            lines.push(vec!["shard".to_owned(), "rows".to_owned()]);
            lines.extend(
                found().map(|(shard, answer)| vec![shard.to_string(), answer.affected.to_string()]),
            );
        }
    }
    aligned(&lines)
}

fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|value| value.chars().count()).max()
    };
    let widths: Vec<_> = (0..).map_while(width).collect();
    lines.iter().fold(String::new(), |mut text, line| {
        let start = text.len();
        for (value, width) in line.iter().zip(&widths) {
            let value = value.replace('\n', " ");
            // Writing to a string does not fail.
            let _ = write!(text, "{value:width$}  ");
        }
        text.truncate(start + text[start..].trim_end().len());
        text.push('\n');
        text
    })
}
