//! A person and their photos.

use maud::{Markup, html};

use super::layout::{Here, avatar, page, pager};
use super::photo::grid;
use super::views::{Frame, ProfileView, Relation};
use super::words;

/// A person's page.
#[must_use]
pub fn profile(frame: &Frame, view: &ProfileView) -> Markup {
    let link = format!("/u/{}", view.name);
    let own = view.relation == Relation::Own;
    let content = html! {
        section.profile {
            (avatar(&view.name))
            div {
                h1 { (view.name) }
                @if view.follows_viewer { p { "Follows you" } }
                ul.counts {
                    li { strong { (words::grouped(view.photos)) } " " (words::noun(view.photos, "photo", "photos")) }
                    (followers(view.followers))
                    li { strong { (words::grouped(view.following)) } " following" }
                }
            }
            (relation(&link, view.relation))
        }
        @if view.pictures.is_empty() {
            section.empty {
                @if view.before.is_some() {
                    h2 { "That was all" }
                } @else if own {
                    h2 { "Nothing posted yet" }
                    p { "Your photos will be here for everybody to see." }
                    p { a.button href="/upload" { "Post your first photo" } }
                } @else {
                    h2 { "Nothing posted yet" }
                    p { "Come back later, or follow " (view.name) " to see the first photo in your feed." }
                }
            }
        } @else {
            (grid(&view.pictures))
        }
        (pager(&link, view.before.as_deref(), view.next.as_deref(), "Older photos"))
    };
    let here = if own { Here::Own } else { Here::Elsewhere };
    page(frame, &view.name, here, &content)
}

fn followers(count: Option<i64>) -> Markup {
    html! {
        @match count {
            Some(count) => li {
                strong { (words::grouped(count)) } " " (words::noun(count, "follower", "followers"))
            },
            None => li title="Some servers can’t be asked at the moment" {
                strong aria-label="unknown number of" { "–" } " followers"
            },
        }
    }
}

fn relation(link: &str, relation: Relation) -> Markup {
    let button = |verb: &str, class: &str, label: &str| {
        html! {
            form method="post" action={ (link) "/" (verb) } {
                button.(class) type="submit" { (label) }
            }
        }
    };
    html! {
        @match relation {
            Relation::Visitor => a.button href={ "/login?back=" (link) } { "Follow" },
            Relation::Follows => (button("unfollow", "quiet", "Following")),
            Relation::Stranger => (button("follow", "primary", "Follow")),
            Relation::Own => form method="post" action="/logout" {
                button.quiet type="submit" { "Log out" }
            },
            Relation::Unknown => {}
        }
    }
}
