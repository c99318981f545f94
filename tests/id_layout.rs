//! Layouts: whatever the split, ids are taken apart into what they were made of, and order follows time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use howdah::{IdParts, Layout, ShardId};
use proptest::prelude::*;

/// Any layout there can be.
fn any_layout() -> impl Strategy<Value = Layout> {
    (0_i64..=253_402_300_799_999, 1_u8..=13, 1_u8..=20)
        .prop_filter_map("too few bits for the time", |(epoch_ms, shard, sequence)| {
            Layout::new(epoch_ms, shard, sequence).ok()
        })
}

/// A layout and the parts of one of its ids.
fn any_parts() -> impl Strategy<Value = (Layout, IdParts)> {
    any_layout().prop_flat_map(|layout| {
        let last_ms = layout.ends_at().timestamp_millis();
        (0..layout.max_shards(), 0..layout.ids_per_ms(), layout.epoch_ms()..=last_ms).prop_map(
            move |(shard, sequence, unix_ms)| {
                (layout, IdParts { shard: ShardId::new(shard).unwrap(), sequence, unix_ms })
            },
        )
    })
}

proptest! {
    #[test]
    fn an_id_says_what_it_was_made_of((layout, parts) in any_parts()) {
        let id = layout.encode(parts).unwrap();
        prop_assert_eq!(layout.decode(id), parts);
        prop_assert_eq!(layout.shard_of(id), parts.shard);
        prop_assert!(id.get() >= 0);
    }

    #[test]
    fn order_follows_time_then_shard_then_sequence((layout, a) in any_parts(), shard in any::<u16>(), sequence in any::<u32>(), later in 0_i64..2) {
        let b = IdParts {
            shard: ShardId::new(shard % layout.max_shards()).unwrap(),
            sequence: sequence % layout.ids_per_ms(),
            unix_ms: (a.unix_ms + later).min(layout.ends_at().timestamp_millis()),
        };
        let key = |p: IdParts| (p.unix_ms, p.shard, p.sequence);
        prop_assert_eq!(layout.encode(a).unwrap().cmp(&layout.encode(b).unwrap()), key(a).cmp(&key(b)));
    }

    #[test]
    fn a_period_holds_the_ids_of_its_time_and_no_others((layout, parts) in any_parts(), before in 0_i64..5, after in 0_i64..5) {
        let time = |offset: i64| parts.time() + TimeDelta::milliseconds(offset);
        let (from, to) = (time(before - 2), time(before - 2 + after));
        let id = layout.encode(parts).unwrap();
        let inside = (from..=to).contains(&parts.time());
        if let Ok(range) = layout.range(parts.shard, from, to) {
            prop_assert_eq!(range.contains(&id), inside);
            prop_assert_eq!(layout.first_id(parts.shard, from).unwrap(), *range.start());
        }
        if let Ok(range) = layout.range_all(from, to) {
            prop_assert_eq!(range.contains(&id), inside);
        }
    }

    #[test]
    fn a_layout_is_read_back(layout in any_layout()) {
        prop_assert_eq!(layout.to_string().parse::<Layout>().unwrap(), layout);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let layout = Layout::new(0, 4, 10).unwrap();
    let parts = IdParts { shard: ShardId::new(3).unwrap(), sequence: 5, unix_ms: 7 };
    assert!(layout.encode(parts).is_ok());
    for wrong in [
        IdParts { shard: ShardId::new(16).unwrap(), ..parts },
        IdParts { sequence: 1024, ..parts },
        IdParts { unix_ms: -1, ..parts },
        IdParts { unix_ms: 1 << 49, ..parts },
        IdParts { unix_ms: i64::MIN, ..parts },
    ] {
        assert!(layout.encode(wrong).unwrap_err().is_invalid_input(), "{wrong:?}");
    }
    let noon = Utc.with_ymd_and_hms(2026, 1, 1, 12, 0, 0).unwrap();
    assert!(layout.range(parts.shard, noon, noon - TimeDelta::seconds(1)).is_err());
    assert!(layout.range(parts.shard, DateTime::<Utc>::MIN_UTC, noon).is_err());
}

#[test]
fn a_layout_says_what_it_has_room_for() {
    assert_eq!(
        Layout::default().summary(),
        "8192 shards, 1024 ids a millisecond on each, from 2011-08-24 to 2046-06-27"
    );
    let error = Layout::new(0, 13, 20).unwrap_err().to_string();
    assert!(error.contains("13 bits of shard, 20 of sequence"), "{error}");
}
