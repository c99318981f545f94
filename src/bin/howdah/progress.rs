//! What a mover does just now: a bar a shard on a terminal, or one JSON document a line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytesize::ByteSize;
use howdah::{MoveEvent, MoveNews, ShardId};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use crate::output::{Output, milliseconds};

/// What a bar shows: of a step, and while rows are copied.
const STEP: &str = "{prefix} {spinner} {msg}";
const ROWS: &str =
    "{prefix} {bar:25} {bytes} of about {total_bytes}, {bytes_per_sec}, {eta} left, {msg}";

/// Shared by the mover, which tells it, and the command.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Inner>);

struct Inner {
    json: bool,
    verbose: bool,
    lines: MultiProgress,
    by_shard: Mutex<BTreeMap<u16, ProgressBar>>,
    touched: Mutex<BTreeSet<ShardId>>,
}

impl Progress {
    pub(crate) fn new(output: &Output) -> Self {
        Self(Arc::new(Inner {
            json: output.is_json(),
            verbose: output.is_verbose(),
            lines: output.lines(),
            by_shard: Mutex::default(),
            touched: Mutex::default(),
        }))
    }

    pub(crate) fn tell(&self, event: &MoveEvent) {
        self.0.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(event.shard);
        let shard = event.shard.get();
        let what = in_words(&event.what);
        if self.0.json {
            let mut document = json!({
                "move": event.id.map(|id| id.to_string()),
                "shard": shard,
                "phase": event.phase().as_str(),
                "step": event.step.as_str(),
                "back": event.back,
            });
            let (key, value) = match &event.what {
                MoveNews::Begun => ("event", json!("begun")),
                MoveNews::Done => ("event", json!("done")),
                MoveNews::Progress { rows, bytes, of_bytes, bytes_per_second, left } => (
                    "progress",
                    json!({
                        "rows": rows,
                        "bytes": bytes,
                        "of_bytes": of_bytes,
                        "bytes_per_second": bytes_per_second,
                        "left_ms": left.map(milliseconds),
                    }),
                ),
                MoveNews::Lag(lag) => ("lag_ms", json!(milliseconds(*lag))),
                MoveNews::Note(note) => ("note", json!(note)),
                _ => return,
            };
            document[key] = value;
            Output::line(document);
            return;
        }
        if self.0.verbose {
            Output::line(format_args!("shard {shard}: {}: {what}", event.step));
        }
        let mut by_shard = self.0.by_shard.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = by_shard.entry(shard).or_insert_with(|| self.0.lines.add(a_bar()));
        bar.set_prefix(format!("shard {shard}: {}", event.step));
        advance(bar, &event.what);
        bar.tick();
    }

    /// The shards of which it has been told anything.
    pub(crate) fn touched(&self) -> BTreeSet<ShardId> {
        self.0.touched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the lines away.
    pub(crate) fn finish(&self) {
        let _ = self.0.lines.clear();
    }
}

/// For a shard of which nothing is counted yet.
fn a_bar() -> ProgressBar {
    ProgressBar::no_length().with_style(style(STEP))
}

/// While rows are copied the bar shows how many bytes, how fast and how long still; before and after that, what the step is about.
fn advance(bar: &ProgressBar, news: &MoveNews) {
    match news {
        MoveNews::Progress { rows, bytes, of_bytes, .. } if *of_bytes > 0 => {
            if bar.length().is_none() {
                bar.set_style(style(ROWS));
                bar.reset();
            }
            bar.set_length(*of_bytes);
            bar.set_position(*bytes);
            bar.set_message(format!("{rows} rows"));
        }
        // The rows go on, or will when what is waited for is there.
        MoveNews::Note(_) => bar.set_message(in_words(news)),
        _ => {
            if bar.length().is_some() {
                bar.unset_length();
                bar.set_style(style(STEP));
            }
            bar.set_message(in_words(news));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn in_words(news: &MoveNews) -> String {
    match news {
        MoveNews::Done => "done".into(),
        MoveNews::Progress { rows, bytes: 0, .. } => format!("{rows} rows"),
        MoveNews::Progress { rows, bytes, of_bytes, .. } => {
            format!("{rows} rows, {} of about {}", ByteSize(*bytes), ByteSize(*of_bytes))
        }
        MoveNews::Lag(lag) => format!("{:.0} ms behind", milliseconds(*lag)),
        MoveNews::Note(note) => note.clone(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn copied(rows: u64, bytes: u64) -> MoveNews {
        MoveNews::Progress { rows, bytes, of_bytes: 100, bytes_per_second: None, left: None }
    }

    #[test]
    fn a_bar_counts_while_rows_are_copied_and_no_longer() {
        // Both are well-formed.
        for template in [STEP, ROWS] {
            ProgressStyle::with_template(template).unwrap();
        }
        let bar = a_bar();
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        advance(&bar, &MoveNews::Begun);
        assert_eq!(bar.length(), None);
        advance(&bar, &copied(3, 40));
        assert_eq!((bar.length(), bar.position(), bar.message()), (Some(100), 40, "3 rows".into()));
        advance(&bar, &MoveNews::Note("pg1: waits".into()));
        assert_eq!((bar.length(), bar.message()), (Some(100), "pg1: waits".into()));
        advance(&bar, &copied(5, 60));
        assert_eq!((bar.position(), bar.message()), (60, "5 rows".into()));
        advance(&bar, &MoveNews::Lag(Duration::from_millis(20)));
        assert_eq!((bar.length(), bar.message()), (None, "20 ms behind".into()));
    }
}
