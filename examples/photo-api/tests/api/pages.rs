//! The pages, as a browser without script uses them.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, COOKIE, HeaderValue};
use axum::http::{Method, Request};

use crate::client::{Api, Form, Reply, id, picture, request};

/// A browser with a session, perhaps.
struct Browser<'a> {
    api: &'a Api,
    cookie: Option<HeaderValue>,
}

impl Browser<'_> {
    fn request(&self, method: Method, path: &str) -> axum::http::request::Builder {
        let request = request(method, path, None).header("sec-fetch-site", "same-origin");
        match &self.cookie {
            Some(cookie) => request.header(COOKIE, cookie),
            None => request,
        }
    }

    async fn send(&mut self, request: Request<Body>) -> Reply {
        let reply = self.api.send(request).await;
        if let Some(cookie) = reply.headers.get("set-cookie") {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            self.cookie = Some(pair.parse().unwrap());
        }
        if reply.header("content-type").starts_with("text/html") {
            assert!(reply.header("content-security-policy").contains("default-src 'none'"));
            assert!(reply.text().contains("</html>"), "{}", reply.text());
        }
        reply
    }

    async fn open(&mut self, path: &str) -> Reply {
        let request = self.request(Method::GET, path).body(Body::empty()).unwrap();
        self.send(request).await
    }

    async fn submit(&mut self, path: &str, fields: &'static str) -> Reply {
        let request = self.request(Method::POST, path);
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request.body(fields.into()).unwrap()).await
    }
}

#[tokio::test]
async fn a_person_signs_up_posts_and_leaves() {
    let api = Api::start().await;
    let mut browser = Browser { api: &api, cookie: None };
    browser.open("/").await.expect(200);
    browser.open("/signup").await.expect(200);
    let to = browser.submit("/signup", "name=zoe&password=secret&email=").await.expect(303);
    assert_eq!(to.header("location"), "/");
    assert!(browser.open("/").await.expect(200).text().contains("/u/zoe"));

    browser.open("/upload").await.expect(200);
    let form = Form::new().file("image", &picture()).text("caption", "<b>first</b> light");
    let form =
        form.text("lat", "").text("lon", "").finish(browser.request(Method::POST, "/upload"));
    let photo = browser.send(form).await.expect(303).header("location").to_owned();
    let page = browser.open(&photo).await.expect(200);
    assert!(page.text().contains("&lt;b&gt;first&lt;/b&gt; light"), "{}", page.text());

    browser.submit(&format!("{photo}/comments"), "text=How+nice").await.expect(303);
    let back = browser.submit(&format!("{photo}/like"), "back=%2Fu%2Fzoe").await.expect(303);
    assert_eq!(back.header("location"), "/u/zoe");
    let back = browser.submit(&format!("{photo}/unlike"), "back=//evil.example").await.expect(303);
    assert_eq!(back.header("location"), "/");
    assert!(browser.open(&photo).await.expect(200).text().contains("How nice"));
    let refused = browser.submit(&format!("{photo}/comments"), "text=").await.expect(400);
    assert!(refused.header("content-type").starts_with("text/html"));

    let gone = browser.submit(&format!("{photo}/delete"), "").await.expect(303);
    assert_eq!(gone.header("location"), "/u/zoe");
    browser.open(&photo).await.expect(404);
    browser.submit("/logout", "").await.expect(303);
    assert_eq!(browser.open("/upload").await.expect(303).header("location"), "/login?back=/upload");
    let to = browser.submit("/login", "name=zoe&password=secret&back=%2Fupload").await.expect(303);
    assert_eq!(to.header("location"), "/upload");
}

#[tokio::test]
async fn people_follow_each_other_on_the_pages() {
    let api = Api::start().await;
    let ada = api.user("ada").await;
    let photo = api.upload(&ada, "a quiet place").await;
    let mut browser = Browser { api: &api, cookie: None };
    browser.submit("/signup", "name=zoe&password=secret&email=zoe%40example.org").await.expect(303);
    assert!(browser.open("/").await.expect(200).text().contains("/u/ada"), "is suggested");
    let found = browser.open("/u?name=Ada").await.expect(303);
    assert_eq!(found.header("location"), "/u/ada");
    browser.submit("/u/ada/follow", "").await.expect(303);
    assert!(browser.open("/").await.expect(200).text().contains("a quiet place"));
    assert!(browser.open("/u/ada").await.expect(200).text().contains("/u/ada/unfollow"));
    browser.submit("/u/ada/unfollow", "").await.expect(303);
    assert!(!browser.open("/").await.expect(200).text().contains("a quiet place"));
    browser.open(&format!("/p/{}", id(&photo).to_code())).await.expect(200);
    browser.submit(&format!("/p/{}/delete", id(&photo).to_code()), "").await.expect(403);
}

#[tokio::test]
async fn forms_come_back_with_what_is_wrong() {
    let api = Api::start().await;
    api.user("zoe").await;
    let mut browser = Browser { api: &api, cookie: None };
    for (path, fields, status, said) in [
        ("/signup", "name=zoe&password=x", 409, "called zoe"),
        ("/signup", "name=Zo%C3%AB&password=x", 400, "a-z"),
        ("/signup", "name=a&password=", 400, "password"),
        ("/signup", "name=a&password=x&email=nowhere", 400, "email"),
        ("/signup", "password=x", 400, "name"),
        ("/login", "name=zoe&password=wrong", 401, "password"),
        ("/login", "name=NOBODY&password=x", 401, "password"),
    ] {
        let page = browser.submit(path, fields).await.expect(status);
        assert!(page.header("content-type").starts_with("text/html"), "{fields}");
        assert!(page.text().contains(said), "{fields}: {}", page.text());
    }
    browser.submit("/login", "name=zoe&password=elephants+never+forget").await.expect(303);
    let form = Form::new().file("image", b"no picture").text("caption", "kept");
    let form = form.finish(browser.request(Method::POST, "/upload"));
    let page = browser.send(form).await.expect(422);
    assert!(page.text().contains("kept") && page.text().contains("not a picture"));
    for path in ["/p/x", "/u/nobody", "/u/Zoe", "/u?name=%00", "/u", "/?before=x", "/nothing.html"]
    {
        let request = browser.request(Method::GET, path).body(Body::empty()).unwrap();
        let page = api.send_unchecked(request).await;
        assert!(page.status.is_client_error(), "{path}: {page:?}");
        assert!(page.header("content-type").starts_with("text/html"), "{path}: {page:?}");
    }
}

#[tokio::test]
async fn forms_of_other_sites_are_refused() {
    let api = Api::start().await;
    api.user("zoe").await;
    let fields = "name=zoe&password=elephants+never+forget";
    let request = request(Method::POST, "/login", None)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "cross-site");
    let refused = api.send_unchecked(request.body(fields.into()).unwrap()).await.expect(403);
    // It is a browser that is told so.
    assert!(refused.header("content-type").starts_with("text/html"), "{refused:?}");
}

#[tokio::test]
async fn the_pages_files_are_there_for_good() {
    let api = Api::start().await;
    let page = api.get("/", None).await.expect(200);
    let files: Vec<_> =
        page.text().split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert!(files.iter().any(|file| file.ends_with(".css")), "{files:?}");
    for file in files {
        let served = api.get(file, None).await.expect(200);
        assert!(served.header("cache-control").contains("immutable"));
    }
    api.get("/assets/style.css", None).await.expect(404);
}
