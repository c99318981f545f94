//! What one sees first: what this is, or what the people one follows have posted.

use maud::{Markup, html};

use super::assets;
use super::layout::{Here, page, pager, person};
use super::photo::{card, grid};
use super::views::{FeedView, Frame, PhotoView};

/// The home page of those who are not logged in, with the newest photos to look at.
#[must_use]
pub fn home(frame: &Frame, newest: &[PhotoView]) -> Markup {
    let content = html! {
        section.hero {
            img src=(assets::hero()) alt="" width="1200" height="675";
            div {
                h1 { "Photos from the people you follow. Nothing else." }
                p { "Post what you saw, follow who you like, and read it all in the order it happened." }
                p.actions {
                    a.button href="/signup" { "Sign up" }
                    a.button.quiet href="/login" { "Log in" }
                }
            }
        }
        @if !newest.is_empty() {
            section.newest {
                h2 { "Just posted" }
                (grid(newest))
            }
        }
        section.points {
            div { h2 { "In order" } p { "Newest first, always. No ranking, no suggestions, no advertisements." } }
            div { h2 { "Only the picture" } p { "Where and with what you took it is removed before anybody sees it." } }
            div { h2 { "At home on a herd" } p { "Every account lives on one of many small databases. If one is away, the others carry on." } }
        }
    };
    page(frame, "Photos", Here::Feed, &content)
}

/// What the people that the viewer follows have posted.
#[must_use]
pub fn feed(frame: &Frame, view: &FeedView) -> Markup {
    let here = match &view.before {
        Some(before) => format!("/?before={before}"),
        None => "/".into(),
    };
    let content = html! {
        h1.unseen { "Feed" }
        @if view.missing > 0 {
            p.notice role="status" {
                strong { "Some photos can’t be reached at the moment. " }
                "Nothing is lost: they will show up here once their server is back. "
                a href=(here) { "Try again" }
            }
        }
        div.feed {
            @for (at, photo) in view.photos.iter().enumerate() {
                (card(frame, photo, &here, at < 2))
            }
        }
        @if view.photos.is_empty() && view.missing == 0 {
            @if view.before.is_some() {
                section.empty { h2 { "That was all" } p { "You have seen everything there is." } }
            } @else {
                (nothing_yet(&view.suggestions))
            }
        }
        (pager("/", view.before.as_deref(), view.next.as_deref(), "Older photos"))
    };
    page(frame, "Feed", Here::Feed, &content)
}

fn nothing_yet(suggestions: &[String]) -> Markup {
    html! {
        section.empty {
            h2 { "It is quiet here" }
            p { "Follow somebody and their photos show up here, newest first." }
            @if !suggestions.is_empty() {
                ul.people { @for name in suggestions { li { (person(name)) } } }
            }
            form.inline method="get" action="/u" role="search" {
                label {
                    span.unseen { "Somebody’s name" }
                    input name="name" required placeholder="Somebody’s name" autocapitalize="none" spellcheck="false";
                }
                button type="submit" { "Find" }
            }
            p { "Or " a href="/upload" { "post your first photo" } "." }
        }
    }
}
