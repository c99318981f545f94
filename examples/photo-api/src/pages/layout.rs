//! What every page has around it.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::assets;
use super::views::Frame;

/// The header `Content-Security-Policy` of every page: nothing from elsewhere, nothing inline, so that
/// even text that slipped through unescaped could do nothing.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; img-src 'self' blob:; \
     style-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";

/// The name of the application.
pub(super) const NAME: &str = "Herd";

/// Where to go after a form: the path, if it is one of this site, else the home page.
///
/// What a form sends can be anything, and `//elsewhere.example` or `/\elsewhere.example` are other sites
/// to a browser.
#[must_use]
pub fn local_path(back: Option<&str>) -> &str {
    back.filter(|path| {
        path.starts_with('/')
            && !path[1..].starts_with(['/', '\\'])
            && path.bytes().all(|byte| byte.is_ascii_graphic())
    })
    .unwrap_or("/")
}

/// A whole page. The title is what tells one tab from another.
pub(super) fn page(frame: &Frame, title: &str, here: Here, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover";
                meta name="color-scheme" content="light dark";
                meta name="theme-color" content="#fbf9f6" media="(prefers-color-scheme: light)";
                meta name="theme-color" content="#161412" media="(prefers-color-scheme: dark)";
                title { (title) " · " (NAME) }
                link rel="stylesheet" href=(assets::style());
                link rel="icon" type="image/svg+xml" href=(assets::icon());
                script src=(assets::script()) defer {}
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                (header(frame, here))
                main #content { (content) }
                footer.site { (NAME) " is a demonstration of howdah: one application on many PostgreSQL servers." }
            }
        }
    }
}

/// Which part of the navigation a page belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Here {
    Feed,
    Upload,
    Own,
    LogIn,
    SignUp,
    Elsewhere,
    /// Where it cannot be told who is there, so that nobody is asked to log in who is.
    Outside,
}

fn header(frame: &Frame, here: Here) -> Markup {
    let entry = |to: &str, label: &str, icon: Option<&str>, entry: Here| {
        let current = (entry == here).then_some("page");
        html! {
            li {
                a href=(to) aria-current=[current] {
                    @if let Some(icon) = icon { (PreEscaped(icon)) }
                    span { (label) }
                }
            }
        }
    };
    html! {
        header.site {
            a.logo href="/" { img src=(assets::icon()) alt="" width="30" height="30"; (NAME) }
            nav aria-label="Main" {
                ul class=[frame.viewer.is_some().then_some("tabs")] {
                    @match &frame.viewer {
                        Some(viewer) => {
                            (entry("/", "Feed", Some(FEED), Here::Feed))
                            (entry("/upload", "Post", Some(POST), Here::Upload))
                            (entry(&format!("/u/{viewer}"), "You", Some(YOU), Here::Own))
                        }
                        None if here == Here::Outside => {}
                        None => {
                            (entry("/login", "Log in", None, Here::LogIn))
                            (entry("/signup", "Sign up", None, Here::SignUp))
                        }
                    }
                }
            }
        }
    }
}

/// A person's initial on a colour of their own, with nothing to load.
pub(super) fn avatar(name: &str) -> Markup {
    let colour = name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte)) % 8;
    let initial = name.chars().find(char::is_ascii_alphanumeric).unwrap_or('·');
    html! { span.avatar.{ "hue-" (colour) } aria-hidden="true" { (initial) } }
}

/// A link to a person, with their avatar.
pub(super) fn person(name: &str) -> Markup {
    html! { a.person href={ "/u/" (name) } { (avatar(name)) span { (name) } } }
}

/// What is said when something was not taken.
pub(super) fn refusal(why: Option<&str>) -> Markup {
    html! { @if let Some(why) = why { p.refusal role="alert" { (why) } } }
}

/// The links to the newest and to older pages of a list.
pub(super) fn pager(path: &str, before: Option<&str>, next: Option<&str>, older: &str) -> Markup {
    html! {
        @if before.is_some() || next.is_some() {
            nav.pager aria-label="Pages" {
                @if before.is_some() { a.button.quiet href=(path) { "Newest" } }
                @if let Some(next) = next {
                    a.button rel="next" href={ (path) "?before=" (next) } { (older) }
                }
            }
        }
    }
}

// Icons are drawn in the colour of the text, and say nothing: a label is always beside them.
const FEED: &str = r#"<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M4 11.5 12 4.5l8 7M6 10v9.5h12V10"/></svg>"#;
const POST: &str = r#"<svg viewBox="0 0 24 24" aria-hidden="true"><rect x="4" y="4" width="16" height="16" rx="5"/><path d="M12 8.5v7M8.5 12h7"/></svg>"#;
const YOU: &str = r#"<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="8.5" r="4"/><path d="M4.5 20c.8-4 3.7-6 7.5-6s6.7 2 7.5 6"/></svg>"#;
pub(super) const HEART: &str = r#"<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 20C6 15.5 3.5 12.5 3.5 9A4.5 4.5 0 0 1 12 7a4.5 4.5 0 0 1 8.5 2c0 3.5-2.5 6.5-8.5 11Z"/></svg>"#;
pub(super) const SPEECH: &str = r#"<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M20 11.500a8 7.5 0 0 1-11.5 6.700L4 19.500l1.300-4A7.5 7.5 0 1 1 20 11.500Z"/></svg>"#;
