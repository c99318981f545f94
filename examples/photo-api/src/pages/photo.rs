//! One photo: as a card in the feed, and on its own page with what people wrote.

use maud::{Markup, PreEscaped, html};

use super::layout::{HEART, Here, SPEECH, page, person, refusal};
use super::views::{CommentView, Frame, PhotoPage, PhotoView};
use super::words;

/// A photo in a list. `here` is the page it stands on, to come back to; the first ones are loaded at once.
pub(super) fn card(frame: &Frame, photo: &PhotoView, here: &str, at_once: bool) -> Markup {
    let link = format!("/p/{}", photo.code);
    html! {
        article.card id={ "p-" (photo.code) } {
            header {
                (person(&photo.owner))
                a.when href=(link) { (words::time(photo.posted_at, frame.now)) }
            }
            a.picture href=(link) { (picture(photo, at_once)) }
            div.below {
                (actions(frame, photo, &format!("{here}#p-{}", photo.code)))
                (caption(photo))
            }
        }
    }
}

/// Photos as small squares that lead to their pages.
pub(super) fn grid(photos: &[PhotoView]) -> Markup {
    html! {
        ul.grid {
            @for photo in photos {
                li {
                    a href={ "/p/" (photo.code) } {
                        img src=(photo.small) alt=(alt(photo)) width="320" height="320" loading="lazy";
                    }
                }
            }
        }
    }
}

/// What tells a photo to those who do not see it.
fn alt(photo: &PhotoView) -> String {
    match photo.caption.trim() {
        "" => format!("Photo by {}", photo.owner),
        caption => format!("Photo by {}: {caption}", photo.owner),
    }
}

fn picture(photo: &PhotoView, at_once: bool) -> Markup {
    // The numbers give the shape before the picture is there, so that nothing jumps.
    html! {
        img src=(photo.large) alt=(alt(photo)) width=(photo.width) height=(photo.height)
            loading=[(!at_once).then_some("lazy")] decoding="async";
    }
}

fn caption(photo: &PhotoView) -> Markup {
    html! {
        @if !photo.caption.trim().is_empty() {
            p.caption { a.name href={ "/u/" (photo.owner) } { (photo.owner) } " " (photo.caption) }
        }
    }
}

fn actions(frame: &Frame, photo: &PhotoView, back: &str) -> Markup {
    let link = format!("/p/{}", photo.code);
    let (verb, label) = if photo.liked { ("unlike", "Unlike") } else { ("like", "Like") };
    let count = html! {
        span.count aria-hidden="true" { (words::grouped(photo.likes)) }
        span.unseen { (words::count(photo.likes, "like", "likes")) }
    };
    html! {
        div.actions {
            @if frame.viewer.is_some() {
                form method="post" action={ (link) "/" (verb) } {
                    input type="hidden" name="back" value=(back);
                    button.action.liked[photo.liked] type="submit" {
                        (PreEscaped(HEART)) span.unseen { (label) ", " } (count)
                    }
                }
            } @else {
                a.action href={ "/login?back=" (link) } {
                    (PreEscaped(HEART)) span.unseen { "Log in to like, " } (count)
                }
            }
            a.action href={ (link) "#comments" } {
                (PreEscaped(SPEECH))
                span.count aria-hidden="true" { (words::grouped(photo.comments)) }
                span.unseen { (words::count(photo.comments, "comment", "comments")) }
            }
        }
    }
}

/// A photo's own page.
#[must_use]
pub fn photo(frame: &Frame, view: &PhotoPage) -> Markup {
    let photo = &view.photo;
    let link = format!("/p/{}", photo.code);
    let content = html! {
        article.photo {
            h1.unseen { "Photo by " (photo.owner) }
            a.picture href=(photo.original) aria-label={ (alt(photo)) ". Show in full size" } {
                (picture(photo, true))
            }
            div.beside {
                header {
                    (person(&photo.owner))
                    span.when { (words::time(photo.posted_at, frame.now)) }
                }
                (caption(photo))
                (actions(frame, photo, &link))
                (comments(frame, view, &link))
                dl.facts {
                    @if let Some(taken_at) = photo.taken_at {
                        div { dt { "Taken" } dd { (words::day(taken_at)) } }
                    }
                    @if let Some((latitude, longitude)) = photo.position {
                        div {
                            dt { "Where" }
                            dd {
                                a rel="noreferrer" href={
                                    "https://www.openstreetmap.org/?mlat=" (latitude)
                                    "&mlon=" (longitude) "#map=13/" (latitude) "/" (longitude)
                                } { (words::place((latitude, longitude))) }
                            }
                        }
                    }
                    div {
                        dt { "Size" }
                        dd { a href=(photo.original) { (photo.width) " × " (photo.height) } }
                    }
                    @if let Some((shard, instance)) = &view.home {
                        div.home { dt { "Lives on" } dd { "shard " (shard) " · " (instance) } }
                    }
                }
                @if frame.is_viewer(&photo.owner) { (delete(&link)) }
            }
        }
    };
    page(frame, &format!("Photo by {}", photo.owner), Here::Elsewhere, &content)
}

fn comments(frame: &Frame, view: &PhotoPage, link: &str) -> Markup {
    let refused = view.refused.as_ref();
    html! {
        section #comments.comments {
            h2.unseen { "Comments" }
            @if view.comments.is_empty() {
                p.aside { "No comments yet. " @if frame.viewer.is_some() { "Say something nice." } }
            }
            ol { @for comment in &view.comments { (one(frame, comment)) } }
            @if let Some(next) = &view.next {
                p { a rel="next" href={ (link) "?before=" (next) "#comments" } { "Older comments" } }
            }
            @if frame.viewer.is_some() {
                (refusal(refused.map(|refused| refused.why.as_str())))
                form.inline method="post" action={ (link) "/comments" } {
                    label {
                        span.unseen { "Your comment" }
                        textarea name="text" rows="1" required maxlength="2000" placeholder="Add a comment" {
                            (refused.map_or("", |refused| refused.text.as_str()))
                        }
                    }
                    button type="submit" { "Send" }
                }
            } @else {
                p.aside { a href={ "/login?back=" (link) } { "Log in" } " to comment." }
            }
        }
    }
}

fn one(frame: &Frame, comment: &CommentView) -> Markup {
    html! {
        li {
            (super::layout::avatar(&comment.author))
            div {
                p { a.name href={ "/u/" (comment.author) } { (comment.author) } " " (comment.text) }
                span.when { (words::time(comment.written_at, frame.now)) }
            }
        }
    }
}

/// Asked twice without a script: the button shows once the question is opened.
fn delete(link: &str) -> Markup {
    html! {
        details.delete {
            summary { "Delete photo" }
            p { "The photo, its likes and its comments will be gone for good." }
            form method="post" action={ (link) "/delete" } {
                button.danger type="submit" { "Delete for good" }
            }
        }
    }
}
