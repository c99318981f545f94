//! What a mover does just now: a line a shard on a terminal, or one JSON document a line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytesize::ByteSize;
use howdah::{MoveEvent, MoveNews, ShardId};
use indicatif::{MultiProgress, ProgressBar};
use serde_json::json;

use crate::output::Output;

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
                MoveNews::Progress { rows, bytes, of_bytes } => {
                    ("progress", json!({"rows": rows, "bytes": bytes, "of_bytes": of_bytes}))
                }
                MoveNews::Lag(lag) => ("lag_ms", json!(lag.as_secs_f64() * 1000.0)),
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
        let line =
            by_shard.entry(shard).or_insert_with(|| self.0.lines.add(ProgressBar::new_spinner()));
        line.set_message(format!("shard {shard}: {} {what}", event.step));
        line.tick();
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

fn in_words(news: &MoveNews) -> String {
    match news {
        MoveNews::Done => "done".into(),
        MoveNews::Progress { rows, bytes: 0, .. } => format!("{rows} rows"),
        MoveNews::Progress { rows, bytes, of_bytes } => {
            format!("{rows} rows, {} of about {}", ByteSize(*bytes), ByteSize(*of_bytes))
        }
        MoveNews::Lag(lag) => format!("{:.0} ms behind", lag.as_secs_f64() * 1000.0),
        MoveNews::Note(note) => note.clone(),
        _ => String::new(),
    }
}
