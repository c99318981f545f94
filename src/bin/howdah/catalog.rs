//! `howdah catalog`: where the catalog is.

use clap::{Args, Subcommand};
use howdah::{CatalogMove, InstanceName};
use serde::Serialize;

use crate::Context;
use crate::failure::Result;
use crate::output::Output;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Move the catalog to another instance's database; applications go on, and follow
    #[command(
        after_help = "Running it again is safe: interrupted, it finishes what was decided, or begins anew.

Programs whose configuration names the old place are led on from there, as long as that server is up. So write the
new address into every configuration before that server goes.

Example:
  howdah catalog move --to pg2"
    )]
    Move(Move),
}

#[derive(Args)]
pub(crate) struct Move {
    /// The instance that shall have it
    #[arg(long, value_name = "NAME", value_parser = InstanceName::new)]
    to: InstanceName,
}

#[derive(Serialize)]
struct Moved<'a> {
    instance: &'a str,
    dsn: String,
    /// Whether it was elsewhere before.
    moved: bool,
    /// Whether the configuration says so already.
    configured: bool,
    map_version: i64,
}

pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    let Command::Move(Move { to }) = command;
    let is_verbose = context.output.is_verbose();
    let moving = CatalogMove::new(to).on_step(move |step| {
        if is_verbose {
            Output::line(format_args!("{step:?}"));
        }
    });
    let moved = moving.run(&context.config()?).await?;
    let document = Moved {
        instance: moved.instance.as_str(),
        dsn: moved.dsn.to_string(),
        moved: moved.moved,
        configured: moved.configured,
        map_version: moved.map_version.get(),
    };
    let next = if moved.configured {
        String::new()
    } else {
        format!(
            "\nwrite into the configuration of every program:\n\n[catalog]\ndsn = \"{}\"",
            moved.dsn
        )
    };
    context.output.show(&document, format_args!("the catalog is on {}{next}", moved.instance))
}
