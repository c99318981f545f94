//! A client of the application, and what people do with it.

use std::fmt::Write as _;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use howdah::testing::{TestCluster, TestClusterBuilder};
use howdah::{Cluster, Id};
use image::{ImageFormat, Rgb, RgbImage};
use photo_api::store::Store;
use photo_api::{App, app, migrations};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::description;

/// An application over fresh shards.
pub(crate) struct Api {
    pub(crate) test: TestCluster,
    pub(crate) cluster: Cluster,
    pub(crate) media: TempDir,
    pub(crate) state: App,
    router: Router,
}

/// Somebody who is logged in.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) token: String,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The reply, if it has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// What kind of problem it is.
    #[track_caller]
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status.as_u16());
        document["type"].as_str().unwrap().trim_start_matches("/problems/").to_owned()
    }
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::on(TestCluster::builder().shards(4)).await
    }

    pub(crate) async fn on(test: TestClusterBuilder) -> Self {
        let test = test.migrations(migrations().unwrap()).start().await.unwrap();
        let cluster = test.cluster().await.unwrap();
        let media = tempfile::tempdir().unwrap();
        let state = App::new(cluster.clone(), Store::folder(media.path()).unwrap());
        let router = app(state.clone());
        Self { test, cluster, media, state, router }
    }

    /// Any request, and its reply as described.
    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let reply = self.send_unchecked(request).await;
        description::check(&method, &path, &reply);
        reply
    }

    /// For what no description has: addresses and methods that there are not.
    pub(crate) async fn send_unchecked(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str, user: Option<&User>) -> Reply {
        self.send(request(Method::GET, path, user).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn put(&self, path: &str, user: &User) -> Reply {
        self.send(request(Method::PUT, path, Some(user)).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn delete(&self, path: &str, user: &User) -> Reply {
        self.send(request(Method::DELETE, path, Some(user)).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, user: Option<&User>, body: Value) -> Reply {
        let request = request(Method::POST, path, user).header(CONTENT_TYPE, "application/json");
        self.send(request.body(body.to_string().into()).unwrap()).await
    }

    /// Signs somebody up and logs them in.
    pub(crate) async fn user(&self, name: &str) -> User {
        let account = json!({ "name": name, "password": "elephants never forget" });
        self.post("/api/users", None, account.clone()).await.expect(201);
        self.log_in(name).await.expect(201).into()
    }

    pub(crate) async fn log_in(&self, name: &str) -> Reply {
        let account = json!({ "name": name, "password": "elephants never forget" });
        self.post("/api/sessions", None, account).await
    }

    /// Signs up somebody who lives on this instance.
    pub(crate) async fn user_on(&self, instance: &str) -> User {
        let lives_there = |name: &String| {
            let home = self.cluster.shard_for_key(name).home().unwrap();
            home.instance().as_str() == instance
        };
        let taken = std::sync::atomic::AtomicU32::new(0);
        let next = || taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let names = std::iter::repeat_with(|| format!("{instance}.{}", next()));
        let mut found = names.filter(lives_there);
        loop {
            let name = found.next().unwrap();
            let account = json!({ "name": name, "password": "elephants never forget" });
            if self.post("/api/users", None, account).await.status == StatusCode::CREATED {
                return self.log_in(&name).await.expect(201).into();
            }
        }
    }

    pub(crate) async fn upload(&self, user: &User, caption: &str) -> Value {
        let form = Form::new().file("image", &picture()).text("caption", caption);
        self.send(form.post("/api/photos", Some(user))).await.expect(201).json()
    }

    /// All pages of a list, followed to the end.
    pub(crate) async fn all(&self, path: &str, user: Option<&User>, limit: usize) -> Vec<Value> {
        let mut items = Vec::new();
        let mut page = self.get(&format!("{path}?limit={limit}"), user).await.expect(200).json();
        loop {
            let found = page["items"].as_array().unwrap();
            assert!(found.len() <= limit);
            items.extend(found.iter().cloned());
            let Some(next) = page["next"].as_str() else { return items };
            let path = format!("{path}?limit={limit}&before={next}");
            page = self.get(&path, user).await.expect(200).json();
        }
    }

    /// The names of the stored pictures.
    pub(crate) fn files(&self) -> Vec<String> {
        let folders = std::fs::read_dir(self.media.path()).unwrap();
        let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl From<Reply> for User {
    fn from(session: Reply) -> Self {
        let session = session.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            id: text(&session["user"]["id"]),
            name: text(&session["user"]["name"]),
            token: text(&session["token"]),
        }
    }
}

pub(crate) fn request(
    method: Method,
    path: &str,
    user: Option<&User>,
) -> axum::http::request::Builder {
    let request = Request::builder().method(method).uri(path);
    match user {
        Some(user) => request.header(AUTHORIZATION, format!("Bearer {}", user.token)),
        None => request,
    }
}

pub(crate) fn id(photo: &Value) -> Id {
    photo["id"].as_str().unwrap().parse().unwrap()
}

/// A picture that a camera could have taken.
pub(crate) fn picture() -> Vec<u8> {
    let picture = RgbImage::from_fn(64, 48, |x, y| {
        let shade = |v: u32| u8::try_from(v * 4).unwrap_or(u8::MAX);
        Rgb([shade(x), shade(y), 128])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// A form as a browser sends it.
#[derive(Default)]
pub(crate) struct Form(Vec<u8>);

impl Form {
    const BOUNDARY: &str = "between-the-fields";

    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.field(&format!("name=\"{name}\""), value.as_bytes())
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.field(&format!("name=\"{name}\"; filename=\"DSC_0001.JPG\""), content)
    }

    fn field(mut self, about: &str, content: &[u8]) -> Self {
        let mut head = String::new();
        write!(head, "--{}\r\nContent-Disposition: form-data; {about}\r\n\r\n", Self::BOUNDARY)
            .unwrap();
        self.0.extend(head.as_bytes());
        self.0.extend(content);
        self.0.extend(b"\r\n");
        self
    }

    pub(crate) fn post(self, path: &str, user: Option<&User>) -> Request<Body> {
        self.finish(request(Method::POST, path, user))
    }

    pub(crate) fn finish(mut self, request: axum::http::request::Builder) -> Request<Body> {
        self.0.extend(format!("--{}--\r\n", Self::BOUNDARY).as_bytes());
        let content_type = format!("multipart/form-data; boundary={}", Self::BOUNDARY);
        request.header(CONTENT_TYPE, content_type).body(self.0.into()).unwrap()
    }
}
