//! The reference application of howdah: a photo-sharing API and its pages.

pub mod picture;
pub mod store;
