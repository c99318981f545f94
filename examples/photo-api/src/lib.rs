//! The reference application of howdah: photo sharing over many PostgreSQL servers, as a JSON API and as pages
//! for people.
//!
//! Run it with `make demo`, or against any cluster with
//! `cargo run -p photo-api -- serve --config howdah.toml --media pictures --migrate`.
//!
//! Read it in this order:
//!
//! | | |
//! | --- | --- |
//! | `migrations/` | the tables of a shard |
//! | [`app`](fn@app) | every route |
//! | `users`, `sessions`, `photos`, `follows`, `feed`, `likes`, `comments`, `media`, `health` | one file a resource: its SQL, its handlers, and nothing between them and the library |
//! | `web`, [`pages`] | the same for people: forms, and the HTML |
//! | [`ops`](fn@ops) | what operators look at, on a listener of its own |
//! | `problem`, `input`, `list`, `idempotency`, `gate` | what the resources share: errors, checked input, pages of lists, repeated requests, bounds |
//! | [`picture`], [`store`], `discarded` | what becomes of an uploaded picture, where it lies, and how it goes |
//! | [`import`], [`gallery`] | filling an empty house: from a folder, or with pictures that the program draws |
//!
//! # Where things live
//!
//! A user lives on `shard_for_key(name)`, and all that is the user's (photos, sessions, whom they follow) has ids
//! of that shard. Likes and comments live with their photo. So each request goes to the shard that an id in it names.
//! Two write on two shards, in one transaction: following, and signing up with an e-mail address. And
//! only three things ask several: the feed, the count of followers, and whom to suggest to whoever follows nobody.
//! When a server is away, those say what is missing; requests to its shards are 503, all others are served.

mod app;
mod comments;
mod discarded;
mod feed;
mod follows;
pub mod gallery;
mod gate;
mod health;
mod idempotency;
pub mod import;
mod input;
mod likes;
mod list;
mod media;
mod migrations;
mod openapi;
mod ops;
pub mod pages;
mod photos;
pub mod picture;
mod problem;
mod sessions;
pub mod store;
mod users;
mod web;

pub use app::{App, app, routes};
pub use discarded::sweep;
pub use migrations::migrations;
pub use openapi::DOCUMENT;
pub use ops::ops;
pub use problem::Problem;
