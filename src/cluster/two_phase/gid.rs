//! The name under which a part of a transaction is prepared: it leads whoever finds it to the decision.

use std::fmt;

use crate::connect::ClusterId;
use crate::shard::ShardId;

const PREFIX: &str = "howdah";

/// `howdah:CLUSTER:SHARD:DECISION`, of characters that need no quoting in SQL. PostgreSQL allows 200 bytes; this is 90 at
/// most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Gid {
    cluster: String,
    /// The shard that has the decision.
    pub(super) shard: ShardId,
    /// The decision's id, a UUID.
    pub(super) id: String,
}

impl Gid {
    /// `None` for an id that is no UUID.
    pub(super) fn new(cluster: &ClusterId, shard: ShardId, id: &str) -> Option<Self> {
        (is_uuid(cluster.as_str()) && is_uuid(id)).then(|| Self {
            cluster: cluster.as_str().to_owned(),
            shard,
            id: id.to_owned(),
        })
    }

    /// `None` for whatever is not exactly such a name of this cluster: other programs may prepare transactions too.
    pub(super) fn parse(text: &str, cluster: &ClusterId) -> Option<Self> {
        let mut parts = text.split(':');
        let (prefix, of, shard, id) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if prefix != PREFIX || of != cluster.as_str() || parts.next().is_some() {
            return None;
        }
        let gid = Self::new(cluster, ShardId::new(shard.parse().ok()?).ok()?, id)?;
        // A number has more spellings than one.
        (gid.to_string() == text).then_some(gid)
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}:{}:{}:{}", self.cluster, self.shard, self.id)
    }
}

/// As PostgreSQL writes them.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "0b6fbd3c-3a4e-4c5f-9d52-7c41a4f0a1b2";
    const ID: &str = "6d1e7a70-52cb-4c6e-8f1b-0c9d1f0e2a3b";

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let cluster = ClusterId::new(CLUSTER);
        let gid = Gid::new(&cluster, ShardId::new(8191).unwrap(), ID).unwrap();
        assert_eq!(gid.to_string(), format!("howdah:{CLUSTER}:8191:{ID}"));
        assert_eq!(Gid::parse(&gid.to_string(), &cluster), Some(gid));
    }

    #[test]
    fn other_names_are_left_alone() {
        let cluster = ClusterId::new(CLUSTER);
        for text in [
            String::new(),
            "citus_0_1_2_3".into(),
            format!("howdah:{CLUSTER}:1"),
            format!("howdah:{CLUSTER}:1:{ID}:"),
            format!("howdah:{CLUSTER}:01:{ID}"),
            format!("howdah:{CLUSTER}:8192:{ID}"),
            format!("howdah:{CLUSTER}:-1:{ID}"),
            format!("howdah:{CLUSTER}:1:{}", ID.to_uppercase()),
            format!("howdah:{CLUSTER}:1:' OR '"),
            format!("howdah:{ID}:1:{ID}"),
        ] {
            assert_eq!(Gid::parse(&text, &cluster), None, "{text}");
        }
    }
}
