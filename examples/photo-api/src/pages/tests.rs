use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use maud::Markup;

use super::views::*;
use super::*;

/// What somebody might write to break out of text, of an attribute, or of an address.
const NASTY: &str = "\"'><img src=x onerror=alert(1)></textarea><script>alert(1)</script>&amp;";

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2024, 7, 14, 12, 0, 0).unwrap()
}

fn frame(viewer: Option<&str>) -> Frame {
    Frame { viewer: viewer.map(String::from), now: now() }
}

fn photo_view(caption: &str) -> PhotoView {
    PhotoView {
        code: "CWvs5T8A1Mi".into(),
        owner: "ines".into(),
        caption: caption.into(),
        posted_at: now() - TimeDelta::minutes(5),
        taken_at: Some(now() - TimeDelta::days(30)),
        position: Some((-33.8568, 151.2153)),
        width: 4032,
        height: 3024,
        original: "/media/o.jpg".into(),
        small: "/media/s.jpg".into(),
        large: "/media/l.jpg".into(),
        likes: 1234,
        liked: true,
        comments: 1,
    }
}

fn photo_page(text: &str) -> PhotoPage {
    let refused = Some(Refused { text: text.into(), why: text.into() });
    let comment = CommentView { author: "marlow".into(), text: text.into(), written_at: now() };
    PhotoPage {
        photo: photo_view(text),
        comments: vec![comment],
        next: Some("older".into()),
        home: Some((42, "pg1".into())),
        refused,
    }
}

fn profile_view(name: &str, relation: Relation) -> ProfileView {
    ProfileView {
        name: name.into(),
        photos: 1,
        followers: None,
        following: 2,
        relation,
        follows_viewer: true,
        pictures: vec![photo_view("")],
        next: Some("next".into()),
        before: Some("before".into()),
    }
}

/// Every page, with the text wherever people's own text is shown.
fn all_pages(text: &str) -> Vec<(&'static str, String)> {
    let (guest, ines) = (frame(None), frame(Some("ines")));
    let feed_view = FeedView {
        photos: vec![photo_view(text), photo_view("")],
        next: Some("next".into()),
        before: Some("before".into()),
        missing: 3,
        suggestions: vec![],
    };
    let nothing = FeedView { suggestions: vec!["marlow".into()], ..FeedView::default() };
    let problem_view =
        |status| ProblemView { status, title: "It did not work".into(), detail: Some(text.into()) };
    let some = |text: &str| Some(text.to_owned());
    let log_in_form = LogInForm { name: text.into(), back: some(text), refused: some(text) };
    let sign_up_form = SignUpForm { name: text.into(), email: text.into(), refused: some(text) };
    let upload_form = UploadForm { caption: text.into(), refused: some(text) };
    let pages: Vec<(_, Markup)> = vec![
        ("home", home(&guest, &[photo_view(text)])),
        ("empty home", home(&guest, &[])),
        ("sign up", sign_up(&guest, &sign_up_form)),
        ("log in", log_in(&guest, &log_in_form)),
        ("upload", upload(&ines, &upload_form)),
        ("feed", feed(&ines, &feed_view)),
        ("empty feed", feed(&ines, &nothing)),
        ("profile", profile(&guest, &profile_view("marlow", Relation::Visitor))),
        ("own profile", profile(&ines, &profile_view("ines", Relation::Own))),
        ("followed", profile(&ines, &profile_view("marlow", Relation::Follows))),
        ("stranger", profile(&ines, &profile_view("marlow", Relation::Stranger))),
        ("photo", photo(&guest, &photo_page(text))),
        ("own photo", photo(&ines, &photo_page(text))),
        ("404", problem(&guest, &problem_view(404))),
        ("422", problem(&ines, &problem_view(422))),
        ("503", problem(&ines, &problem_view(503))),
    ];
    pages.into_iter().map(|(name, page)| (name, page.into_string())).collect()
}

/// The start tags of a page, as written, each with what stands before it.
fn tags<'a>(page: &'a str, name: &str) -> Vec<(&'a str, &'a str)> {
    let opening = format!("<{name}");
    page.match_indices(&opening)
        .filter(|(at, _)| page[at + opening.len()..].starts_with([' ', '>']))
        .map(|(at, _)| (&page[..at], &page[at..=at + page[at..].find('>').unwrap()]))
        .collect()
}

#[test]
fn what_people_write_stays_text() {
    for (name, page) in all_pages(NASTY) {
        for foreign in ["<img src=x", "<script>", "\"'>", "</textarea><script"] {
            assert!(!page.contains(foreign), "{foreign} in {name}");
        }
    }
    let page = photo(&frame(None), &photo_page(NASTY)).into_string();
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;"), "{page}");
}

#[test]
fn every_page_can_be_found_heard_and_used_without_a_mouse() {
    for (name, page) in all_pages("hello") {
        assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{name}");
        let title = page.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next());
        assert!(title.is_some_and(|title| title.len() > " · Herd".len()), "{name}: {title:?}");
        assert!(page.contains("name=\"viewport\""), "{name}");
        assert_eq!(tags(&page, "main").len(), 1, "{name}");
        let headlines = tags(&page, "h1").len();
        assert_eq!(headlines, 1, "{name}");
        for (_, image) in tags(&page, "img") {
            assert!(image.contains(" alt=\""), "{name}: {image}");
        }
        for kind in ["input", "textarea"] {
            for (before, field) in tags(&page, kind) {
                let labelled = before.rfind("<label") > before.rfind("</label>");
                assert!(labelled || field.contains("type=\"hidden\""), "{name}: {field}");
            }
        }
        for (_, form) in tags(&page, "form") {
            assert!(form.contains("method=\"") && form.contains("action=\"/"), "{name}: {form}");
        }
        let ids: Vec<_> =
            page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let named = ids.iter().filter(|id| !id.starts_with("p-"));
        for id in named {
            assert_eq!(ids.iter().filter(|other| other == &id).count(), 1, "{name}: {id}");
        }
    }
}

#[test]
fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
    for (name, page) in all_pages("hello") {
        for inline in [" style=\"", " onclick=", " onload=", "<style", "javascript:"] {
            assert!(!page.contains(inline), "{inline} in {name}");
        }
        for kind in ["img", "script", "link"] {
            for (_, tag) in tags(&page, kind) {
                assert!(!tag.contains("//"), "{name}: {tag}");
            }
        }
    }
}

#[test]
fn the_files_that_pages_name_are_there() {
    let mut named = 0;
    for (name, page) in all_pages("hello") {
        for file in page.split("\"/assets/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(asset(file).is_some_and(|asset| !asset.body.is_empty()), "{name}: {file}");
            named += 1;
        }
    }
    assert!(named > 30);
    assert!(asset("style.css").is_none() && asset("").is_none() && asset("../main.rs").is_none());
}

#[test]
fn a_gap_is_said_and_not_taken_for_the_end() {
    let view = FeedView { missing: 2, ..FeedView::default() };
    let page = feed(&frame(Some("ines")), &view).into_string();
    assert!(page.contains("can’t be reached"), "{page}");
    assert!(!page.contains("It is quiet here"));

    let unknown = profile(&frame(None), &profile_view("marlow", Relation::Visitor)).into_string();
    assert!(unknown.contains(">–</strong> followers"), "{unknown}");
}

#[test]
fn nobody_is_asked_to_log_in_while_it_cannot_be_told_who_is_there() {
    let offers = |status| {
        let view = ProblemView { status, title: "It did not work".into(), detail: None };
        problem(&frame(None), &view).into_string().contains("/login")
    };
    assert!(offers(404) && !offers(503));
}

#[test]
fn only_its_owner_is_offered_to_delete_a_photo() {
    let deletes = |viewer| photo(&frame(viewer), &photo_page("")).into_string().contains("/delete");
    assert!(deletes(Some("ines")));
    assert!(!deletes(Some("marlow")) && !deletes(None));
}

#[test]
fn a_photo_says_where_it_lives() {
    let page = photo(&frame(None), &photo_page("")).into_string();
    assert!(page.contains("shard 42 · pg1"), "{page}");
}

#[test]
fn the_way_back_stays_on_this_site() {
    for path in ["/", "/p/CWvs5T8A1Mi", "/?before=abc#p-CWvs5T8A1Mi", "/u/ines"] {
        assert_eq!(local_path(Some(path)), path);
    }
    for path in [
        "",
        "p/x",
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/a\r\nb: c",
        "/\t/x",
        "/é",
    ] {
        assert_eq!(local_path(Some(path)), "/", "{path:?}");
    }
    assert_eq!(local_path(None), "/");
}
