//! How a command ends when it does not end well: one line on stderr, and an exit status.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use howdah::{Error, ShardId};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const REFUSED: u8 = 3;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command ends early.
pub(crate) enum Failure {
    /// What to say, and the exit status.
    Said { message: String, status: u8 },
    /// Whoever read our output has seen enough, as `head` does.
    NobodyReads,
}

impl Failure {
    /// It was tried, and did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Said { message: message.into(), status: FAILED }
    }

    /// It was asked for in the wrong way.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Said { message: message.into(), status: USAGE }
    }

    /// It would do harm.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::Said { message: message.into(), status: REFUSED }
    }

    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Said { message, status } => {
                say(&message);
                ExitCode::from(status)
            }
            Self::NobodyReads => ExitCode::SUCCESS,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Said { message: error.to_string(), status: status_of(&error) }
    }
}

impl From<io::Error> for Failure {
    /// The commands do no I/O but their output.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::NobodyReads
        } else {
            Self::failed(format!("the output cannot be written: {error}"))
        }
    }
}

/// An error of the command line in one line, or the help that was asked for.
pub(crate) fn of_usage(mut error: clap::Error) -> ExitCode {
    if error.exit_code() == 0 {
        // Nothing can be done when help cannot be printed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(USAGE);
    }
    hide_addresses(&mut error);
    let text = error.render().to_string();
    let told = text.split("\n\nUsage:").next().unwrap_or(&text);
    let told = told.split("\n\nFor more information").next().unwrap_or(told);
    let line = told.split_whitespace().collect::<Vec<_>>().join(" ");
    Failure::usage(format!("{}; see --help", line.trim_start_matches("error: "))).report()
}

/// An address may have the password that it should not have, written in whatever way: so no value of an argument that
/// takes one is repeated, nor what looks like one in another place.
fn hide_addresses(error: &mut clap::Error) {
    let text = |error: &clap::Error, kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let takes_address = text(error, ContextKind::InvalidArg).is_some_and(|arg| arg.contains("URL"));
    let repeated =
        [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    for kind in repeated {
        let is_value = kind == ContextKind::InvalidValue;
        let hides = |text: &String| (is_value && takes_address) || looks_like_address(text);
        // An empty one has a message of its own.
        if text(error, kind).is_some_and(|text| !text.is_empty() && hides(&text)) {
            error.insert(kind, ContextValue::String("(hidden)".to_owned()));
            // It tells how the same could be written.
            error.remove(ContextKind::Suggested);
        }
    }
}

fn looks_like_address(text: &str) -> bool {
    text.contains("://") || text.contains('@') || text.to_ascii_lowercase().contains("password")
}

fn say(message: &str) {
    let line = message.replace('\n', " ");
    // Without a stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "error: {line}");
}

/// The failures of single shards that are told one by one.
const TOLD: usize = 10;

/// Names the shards that failed. The exit status is what all failures have in common, if they have that.
pub(crate) fn some_shards_failed<'a>(
    failed: impl Iterator<Item = (ShardId, &'a Error)>,
    total: usize,
) -> Result<()> {
    let failed: Vec<_> = failed.collect();
    let Some((_, first)) = failed.first() else { return Ok(()) };
    for (shard, error) in failed.iter().take(TOLD) {
        say(&format!("shard {shard}: {error}"));
    }
    let of_all = failed.len() == total;
    let alike = failed.iter().all(|(_, error)| status_of(error) == status_of(first));
    let status = if of_all && alike { status_of(first) } else { FAILED };
    let shown = if failed.len() > TOLD { format!(" ({TOLD} shown)") } else { String::new() };
    let message = format!(
        "{} of {total} shards failed{shown}; run it again when that is mended",
        failed.len()
    );
    Err(Failure::Said { message, status })
}

fn status_of(error: &Error) -> u8 {
    if error.is_config() || error.is_invalid_input() {
        USAGE
    } else if error.is_refused() || error.is_wrong_server() {
        REFUSED
    } else {
        FAILED
    }
}
