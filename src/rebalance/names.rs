//! What a move calls its things on the servers, and quotes for what others have named.

use crate::connect::ClusterId;
use crate::shard::{Epoch, Home, InstanceName, ShardId};

/// The table in a shard's schema that stands for an open move, and carries its marks; and the SQL that opens the sequences of
/// a copy that was renamed.
pub(super) const MARK_TABLE: &str = "howdah_move";
/// The trigger that refuses writes to a copy.
pub(super) const GUARD: &str = "howdah_guard";
/// The part of a shard's clock from which ids are drawn, and the part that says which may be issued.
pub(super) const ID: &str = "howdah_id";
pub(super) const BLOCK: &str = "howdah_block";

/// What the comment of every copy begins with.
const COPY: &str = "howdah: a copy, not the home";

/// The names of one move. Slots belong to a whole server, which may serve several clusters; and a catalog that failed over
/// may give a number twice: so they say more than the number.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// Publication, slot and subscription from the source to the target.
    pub(super) forward: String,
    /// The same from the target to the source.
    pub(super) reverse: String,
    /// What the schema of a copy has as its comment.
    pub(super) comment: String,
}

impl Names {
    pub(super) fn new(cluster: &ClusterId, id: i64, shard: ShardId, epoch: Epoch) -> Self {
        let cluster: String =
            cluster.as_str().chars().filter(char::is_ascii_hexdigit).take(8).collect();
        let forward = format!("howdah_{cluster}_m{id}_s{shard}_e{epoch}");
        Self { reverse: format!("{forward}_r"), comment: format!("{COPY} ({forward})"), forward }
    }

    /// The comment of a copy that still lacks indexes.
    pub(super) fn bare_comment(&self) -> String {
        format!("{}, without its indexes", self.comment)
    }
}

/// The name of a slot that lives as long as the session that made it.
pub(super) fn temporary(slot: &str) -> String {
    format!("{slot}_t")
}

/// Whether a schema's comment says that it is a copy, of whatever move.
pub(super) fn is_of_copy(comment: &str) -> bool {
    comment.starts_with(COPY)
}

/// The schema's name at an epoch.
pub(super) fn schema_at(shard: ShardId, epoch: Epoch, instance: &InstanceName) -> String {
    Home::new(shard, instance.clone(), epoch).schema()
}

/// A name as SQL writes it.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL writes it, whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_a_slot() {
        let cluster = ClusterId::new("01234567-89ab-cdef-0123-456789abcdef");
        let names = Names::new(
            &cluster,
            i64::MAX,
            ShardId::new(8191).unwrap(),
            Epoch::new(i32::MAX).unwrap(),
        );
        assert_eq!(names.reverse, "howdah_01234567_m9223372036854775807_s8191_e2147483647_r");
        assert!(names.reverse.len() < 64);
    }

    #[test]
    fn quotes_hold_what_they_enclose() {
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r" E'a\\''b'");
    }
}
