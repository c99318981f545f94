//! What people and programs get to see: text or one JSON document on stdout, progress and notes on stderr.

use std::env;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use howdah::ShardId;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::{Failure, Result};

/// How this run talks.
pub(crate) struct Output {
    json: bool,
    progress: bool,
    verbose: bool,
    colour: bool,
}

/// What a text means, and so how it is coloured on a terminal.
#[derive(Clone, Copy)]
pub(crate) enum Tone {
    Strong,
    Good,
    Bad,
    Faint,
}

impl Output {
    pub(crate) fn new(json: bool, progress: bool, verbose: bool) -> Self {
        // https://no-color.org: any value but the empty one.
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { json, progress, verbose, colour: io::stdout().is_terminal() && !unwanted }
    }

    /// Shows a result: as JSON if that was asked for, else as text.
    pub(crate) fn show(&self, document: &impl Serialize, text: impl fmt::Display) -> Result<()> {
        let mut stdout = io::stdout().lock();
        if self.json {
            let json = serde_json::to_string_pretty(document).map_err(|error| {
                Failure::failed(format!("the result has no JSON form: {error}"))
            })?;
            writeln!(stdout, "{json}")?;
        } else {
            let text = text.to_string();
            if !text.is_empty() {
                writeln!(stdout, "{}", text.trim_end())?;
            }
        }
        Ok(stdout.flush()?)
    }

    /// A line for whoever wants to know more.
    pub(crate) fn note(&self, line: impl fmt::Display) {
        if self.verbose {
            self.say(line);
        }
    }

    /// A line on stderr that is no result.
    #[expect(clippy::unused_self, reason = "all output goes through here")]
    pub(crate) fn say(&self, line: impl fmt::Display) {
        Self::line(line);
    }

    /// The same where there is no output at hand: in what the library calls back.
    pub(crate) fn line(line: impl fmt::Display) {
        // Without a stderr there is nobody to tell.
        let _ = writeln!(io::stderr(), "{line}");
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Several lines on stderr that change; unseen where nobody watches.
    pub(crate) fn lines(&self) -> MultiProgress {
        let lines = MultiProgress::new();
        if !self.progress || self.json || !io::stderr().is_terminal() {
            lines.set_draw_target(ProgressDrawTarget::hidden());
        }
        lines
    }

    /// A bar on stderr that counts to `total`; unseen where nobody watches.
    pub(crate) fn bar(&self, total: u64, what: &'static str) -> ProgressBar {
        let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {eta}");
        self.drawn(ProgressBar::new(total), style).with_message(what)
    }

    /// A sign on stderr that something goes on, for as long as it is alive.
    pub(crate) fn spinner(&self, what: &'static str) -> ProgressBar {
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
        let spinner = self.drawn(ProgressBar::no_length(), style).with_message(what);
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }

    fn drawn<E>(&self, bar: ProgressBar, style: Result<ProgressStyle, E>) -> ProgressBar {
        if !self.progress || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        match style {
            Ok(style) => bar.with_style(style.progress_chars("█▉▊▋▌▍▎▏ ")),
            Err(_) => bar,
        }
    }

    /// A text in the colour of its meaning, where colours are seen.
    pub(crate) fn paint(&self, tone: Tone, text: impl fmt::Display) -> String {
        let code = match tone {
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Faint => "2",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// As documents and people are told of a time.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Shards in order, as short as can be: `0-7, 12`.
pub(crate) fn shard_ranges(shards: &[ShardId]) -> String {
    let runs = shards.chunk_by(|a, b| a.get() + 1 == b.get());
    let run = |run: &[ShardId]| match run {
        [first, .., last] => format!("{first}-{last}"),
        [one] => one.to_string(),
        [] => String::new(),
    };
    runs.map(run).collect::<Vec<_>>().join(", ")
}
