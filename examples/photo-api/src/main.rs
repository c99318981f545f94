//! The reference application of howdah.
fn main() {}
