//! What went wrong, for people.

use maud::{Markup, html};

use super::layout::{Here, page};
use super::views::{Frame, ProblemView};

/// What went wrong, with the next step.
#[must_use]
pub fn problem(frame: &Frame, view: &ProblemView) -> Markup {
    let (headline, advice) = match view.status {
        404 => {
            ("Nothing here", Some("It may have been deleted, or the address has a typing error."))
        }
        503 => (
            "Not reachable at the moment",
            Some("One of the servers is away; the others carry on. Try again in a moment."),
        ),
        500.. => ("Something broke", Some("It is not your fault. Try again in a moment.")),
        _ => (view.title.as_str(), None),
    };
    let again = view.status >= 500;
    let content = html! {
        section.empty.problem {
            p.status aria-hidden="true" { (view.status) }
            h1 { (headline) }
            @if let Some(advice) = advice { p { (advice) } }
            @if let Some(detail) = &view.detail { p.aside { (detail) } }
            p.actions {
                // An empty address is this one.
                @if again { a.button href="" { "Try again" } }
                @if view.status == 401 { a.button href="/login" { "Log in" } }
                a.button.quiet href="/" { "Home" }
            }
        }
    };
    let here = if view.status == 503 { Here::Outside } else { Here::Elsewhere };
    page(frame, headline, here, &content)
}
