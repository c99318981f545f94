//! The permanent formats of ids, held against values that were computed apart from the crate.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

use howdah::{Id, IdParts, Layout, ShardId};

#[test]
fn ids_are_what_they_always_were() {
    for line in include_str!("golden/ids.txt").lines().filter(|line| !line.starts_with('#')) {
        let [layout, decimal, code, sortable, parts] = fields(line, " | ");
        let [epoch_ms, shard_bits, sequence_bits] = fields(layout, " ");
        let [shard, sequence, unix_ms] = fields(parts, " ");
        let layout = Layout::new(
            epoch_ms.parse().unwrap(),
            shard_bits.parse().unwrap(),
            sequence_bits.parse().unwrap(),
        )
        .unwrap();
        let parts = IdParts {
            shard: ShardId::new(shard.parse().unwrap()).unwrap(),
            sequence: sequence.parse().unwrap(),
            unix_ms: unix_ms.parse().unwrap(),
        };

        let id: Id = decimal.parse().unwrap();
        assert_eq!(id.to_string(), decimal);
        assert_eq!((id.to_code().as_str(), Id::from_code(code).unwrap()), (code, id), "{line}");
        assert_eq!(id.to_sortable(), sortable, "{line}");
        assert_eq!(Id::from_sortable(sortable).unwrap(), id, "{line}");
        assert_eq!(layout.decode(id), parts, "{line}");
        assert_eq!(layout.encode(parts).unwrap(), id, "{line}");
        assert_eq!(layout.shard_of(id), parts.shard, "{line}");
    }
}

/// The example of the post in which the layout was published: user 31341 of 2000 shards, sequence 5001.
#[test]
fn the_published_example_holds() {
    let id = Id::new(1_387_263_000 << 23 | 1341 << 10 | 905).unwrap();
    assert_eq!(id.to_string(), "11637205501278089");
    let parts = Layout::default().decode(id);
    assert_eq!((parts.shard.get(), parts.sequence), (31341 % 2000, 5001 % 1024));
}

#[test]
fn json_is_a_string_and_nothing_else() {
    let id: Id = "11637205501278089".parse().unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), r#""11637205501278089""#);
    assert_eq!(serde_json::from_str::<Id>(r#""11637205501278089""#).unwrap(), id);
    for refused in ["11637205501278089", r#""-1""#, r#""""#, r#""9223372036854775808""#, "null"] {
        assert!(serde_json::from_str::<Id>(refused).is_err(), "{refused}");
    }
}

#[test]
fn a_layout_is_written_as_it_always_was() {
    let text = "epoch=2011-08-24T21:07:01.721Z,shard=13,sequence=10";
    assert_eq!(Layout::default().to_string(), text);
    assert_eq!(text.parse::<Layout>().unwrap(), Layout::default());
    assert_eq!(Layout::default().ends_at().to_rfc3339(), "2046-06-27T17:00:49.496+00:00");
}

fn fields<'a, const N: usize>(line: &'a str, separator: &str) -> [&'a str; N] {
    line.split(separator).collect::<Vec<_>>().try_into().unwrap()
}
