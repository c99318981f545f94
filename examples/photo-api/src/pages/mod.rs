//! The pages for people: plain HTML from the server, one stylesheet, no build step, and no script needed.
//!
//! A page is a function from a view (what it shows, in [`views`]) to [`maud::Markup`]. It asks no
//! database, knows no session, and whatever people wrote is escaped by `maud`. These are the addresses
//! that the pages link to and the fields that their forms send:
//!
//! | address | fields | page |
//! | --- | --- | --- |
//! | `GET /` | `before` | [`home`] for visitors, [`feed`] for those logged in |
//! | `GET`, `POST /signup` | `name`, `password`, `email` | [`sign_up`] |
//! | `GET`, `POST /login` | `name`, `password`, `back` | [`log_in`] |
//! | `POST /logout` | | |
//! | `GET`, `POST /upload` | multipart: `image`, `caption`, `lat`, `lon` | [`upload`] |
//! | `GET /u` | `name` | leads to `/u/{name}` |
//! | `GET /u/{name}` | `before` | [`profile`] |
//! | `POST /u/{name}/follow`, `/u/{name}/unfollow` | | |
//! | `GET /p/{code}` | `before`, of the comments | [`photo`] |
//! | `POST /p/{code}/like`, `/p/{code}/unlike` | `back` | |
//! | `POST /p/{code}/comments` | `text` | |
//! | `POST /p/{code}/delete` | | |
//! | `GET /assets/{name}` | | [`asset`] |
//!
//! Operators have [`ops`](fn@ops), on a listener of its own.
//!
//! `back` is where to go afterwards; [`local_path`] makes sure that it stays on this site. Whatever goes
//! wrong is a [`problem`].

mod account;
mod assets;
mod feed;
mod layout;
mod ops;
mod photo;
mod problem;
mod profile;
#[cfg(test)]
mod tests;
mod upload;
pub mod views;
mod words;

pub use account::{log_in, sign_up};
pub use assets::{Asset, asset};
pub use feed::{feed, home};
pub use layout::{CONTENT_SECURITY_POLICY, local_path};
pub use ops::ops;
pub use photo::photo;
pub use problem::problem;
pub use profile::profile;
pub use upload::upload;
