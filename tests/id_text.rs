//! The text forms of ids and layouts: whatever is written is read back, and nothing else is read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

use howdah::{Id, Layout};
use proptest::prelude::*;

fn any_id() -> impl Strategy<Value = Id> {
    // Half of them small, so that short texts are tried as often as long ones.
    prop_oneof![0..=i64::MAX, (0_u32..63).prop_map(|bits| (1 << bits) - 1)]
        .prop_filter_map("ids are not negative", |number| Id::new(number).ok())
}

proptest! {
    #[test]
    fn every_form_is_read_back(id in any_id()) {
        prop_assert_eq!(id.to_string().parse::<Id>().unwrap(), id);
        prop_assert_eq!(Id::from_code(&id.to_code()).unwrap(), id);
        prop_assert_eq!(Id::from_sortable(&id.to_sortable()).unwrap(), id);
        prop_assert_eq!(serde_json::from_str::<Id>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }

    #[test]
    fn the_sortable_form_sorts_as_the_ids_do(a in any_id(), b in any_id()) {
        prop_assert_eq!(a.cmp(&b), a.to_sortable().as_bytes().cmp(b.to_sortable().as_bytes()));
    }

    /// Any text is refused or is the one text of its id: no two texts name the same row.
    #[test]
    fn every_id_has_one_text(text in r"[-_0-9A-Za-z]{0,12}|[0-9]{1,20}|\PC{0,12}") {
        if let Ok(id) = text.parse::<Id>() {
            prop_assert_eq!(&id.to_string(), &text);
        }
        if let Ok(id) = Id::from_code(&text) {
            prop_assert_eq!(&id.to_code(), &text);
        }
        if let Ok(id) = Id::from_sortable(&text) {
            prop_assert_eq!(&id.to_sortable(), &text);
        }
        if let Ok(layout) = text.parse::<Layout>() {
            prop_assert_eq!(layout.to_string().parse::<Layout>().unwrap(), layout);
        }
    }
}

#[test]
fn what_is_not_an_id_is_refused() {
    for text in ["", "-1", "+1", " 1", "1 ", "01", "1e3", "0x1", "١", "9223372036854775808", "1\0"]
    {
        let error = text.parse::<Id>().unwrap_err();
        assert!(error.is_invalid_input(), "{text:?}: {error}");
    }
    // Overflow, padding, the other base64, a leading zero digit, too long.
    for code in ["", "IAAAAAAAAAA", "__________8", "BA=", "B+", "B/", "AB", "BAAAAAAAAAAA"] {
        assert!(Id::from_code(code).is_err(), "{code:?}");
    }
    for text in ["", "1Ljl-Nv0oR", "1Ljl-Nv0oRXX", "7----------", "zzzzzzzzzzz", "1Ljl+Nv0oRX"] {
        assert!(Id::from_sortable(text).is_err(), "{text:?}");
    }
}

/// Whoever sends a megabyte does not get it back.
#[test]
fn a_refusal_is_short() {
    let long = "x".repeat(1 << 20);
    assert!(long.parse::<Id>().unwrap_err().to_string().len() < 200);
    assert!(Id::from_code(&long).unwrap_err().to_string().len() < 200);
    assert!(Id::from_sortable(&long).unwrap_err().to_string().len() < 200);
    assert!(long.parse::<Layout>().unwrap_err().to_string().len() < 200);
}

#[test]
fn what_is_not_a_layout_is_refused() {
    for text in [
        "",
        "shard",
        "shard=",
        "shard=13,",
        "shard=14",
        "shard=0",
        "shard=-1",
        "shard=13,shard=13",
        "sequence=0",
        "sequence=21",
        "shard=13,sequence=15",
        "epoch=yesterday",
        "epoch=1969-12-31T23:59:59Z",
        "epoch=2025-01-01",
        "colour=blue",
    ] {
        let error = text.parse::<Layout>().unwrap_err();
        assert!(error.is_invalid_input(), "{text:?}: {error}");
    }
    let partly: Layout = "shard=11".parse().unwrap();
    assert_eq!((partly.shard_bits(), partly.sequence_bits()), (11, 10));
}
