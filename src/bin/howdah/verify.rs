//! `howdah verify`: both copies of a shard, compared.

use clap::Args;
use howdah::{MoveEvent, Mover, ShardId};

use crate::Context;
use crate::failure::Result;
use crate::moves::Document;
use crate::progress::Progress;

#[derive(Args)]
#[command(
    after_help = "Between a move and its end there are two copies of a shard. Structure and rows of both are \
compared while clients write.

Example:
  howdah verify 5"
)]
pub(crate) struct Verify {
    /// The shard, by number
    shard: u16,
}

pub(crate) async fn run(command: Verify, context: &Context) -> Result<()> {
    let shard = ShardId::new(command.shard)?;
    let progress = Progress::new(&context.output);
    let told = progress.clone();
    let mover = Mover::new(&context.config()?)?;
    let mover = mover.on_event(move |event: &MoveEvent| told.tell(event));
    let verified = mover.verify(shard).await;
    progress.finish();
    let verified = verified?;
    context.output.show(
        &Document::new(&verified),
        format_args!(
            "both copies of shard {shard} are equal: {} and {}",
            verified.source, verified.target
        ),
    )
}
