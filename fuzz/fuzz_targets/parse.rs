//! Whatever text is read as an id or a layout is the one text of that value; all else is refused without a panic.

#![no_main]

use howdah::{Id, Layout};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<Id>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = Id::from_code(text) {
        assert_eq!(id.to_code(), text);
    }
    if let Ok(id) = Id::from_sortable(text) {
        assert_eq!(id.to_sortable(), text);
    }
    if let Ok(layout) = text.parse::<Layout>() {
        assert_eq!(layout.to_string().parse::<Layout>().unwrap(), layout);
    }
});
