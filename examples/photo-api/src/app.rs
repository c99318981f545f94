//! The application: what handlers share, every route, and what surrounds them all.

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Method;
use axum::http::header::{CACHE_CONTROL, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use howdah::Cluster;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;

use crate::gate::{Gate, GateOfEach};
use crate::health::Draining;
use crate::picture::Limits;
use crate::problem::{Kind, Problem};
use crate::store::Store;
use crate::{
    comments, feed, follows, health, input, likes, media, openapi, photos, problem, sessions,
    users, web,
};

/// Uploads that are read or worked on at a time: with at most 25 MiB each, they take 400 MiB.
const UPLOADS: usize = 16;

/// Uploads of one user at a time: as many as a browser or a phone sends at once.
const UPLOADS_OF_ONE: usize = 4;

/// The size of a body that is no upload.
const MAX_BODY_BYTES: usize = 64 << 10;

/// What an upload's body may have beside the picture.
const FORM_BYTES: usize = 64 << 10;

/// How long a request may take. Nothing here needs seconds, so this is for a server that went silent.
const TIME: Duration = Duration::from_secs(10);

/// How long an upload may take: most of it is for its body, the rest for what becomes of it.
const UPLOAD_TIME: Duration = Duration::from_secs(120);

/// What all handlers share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    pub(crate) cluster: Cluster,
    pub(crate) store: Store,
    pub(crate) limits: Limits,
    pub(crate) uploads: Gate,
    pub(crate) uploads_of_each: GateOfEach,
    pub(crate) pictures: Gate,
    pub(crate) hashing: Gate,
    pub(crate) draining: Draining,
}

impl App {
    /// An application over a cluster that has its tables, and a place for the pictures.
    #[must_use]
    pub fn new(cluster: Cluster, store: Store) -> Self {
        Self {
            cluster,
            store,
            limits: Limits::default(),
            uploads: Gate::new(UPLOADS),
            uploads_of_each: GateOfEach::new(UPLOADS_OF_ONE),
            pictures: Gate::one_a_core(),
            hashing: Gate::one_a_core(),
            draining: Draining::default(),
        }
    }

    /// From now on `/readyz` says 503, so that whoever sends requests sends them elsewhere.
    pub fn drain(&self) {
        self.draining.start();
    }
}

/// Every route. A test holds them against `/openapi.json`, in both directions.
#[must_use]
pub fn routes() -> Vec<(&'static str, MethodRouter<App>)> {
    [of_the_api(), of_the_pages()].into_iter().flatten().collect()
}

fn of_the_api() -> Vec<(&'static str, MethodRouter<App>)> {
    vec![
        ("/api/users", post(users::create)),
        ("/api/users/{name}", get(users::show)),
        ("/api/users/{name}/photos", get(photos::of_user)),
        ("/api/users/{name}/follow", put(follows::add).delete(follows::delete)),
        ("/api/sessions", post(sessions::create).delete(sessions::delete)),
        ("/api/photos", post(photos::create).layer(upload_limit())),
        ("/api/photos/{id}", get(photos::show).delete(photos::delete)),
        ("/api/photos/{id}/like", put(likes::add).delete(likes::delete)),
        ("/api/photos/{id}/comments", get(comments::of_photo).post(comments::create)),
        ("/api/feed", get(feed::show)),
        ("/media/{key}", get(media::show)),
        ("/openapi.json", get(openapi::show)),
        ("/problems/{name}", get(problem::explain)),
        ("/healthz", get(health::alive)),
        ("/readyz", get(health::ready)),
    ]
}

fn of_the_pages() -> Vec<(&'static str, MethodRouter<App>)> {
    vec![
        ("/", get(web::home)),
        ("/signup", get(web::sign_up_form).post(web::sign_up)),
        ("/login", get(web::log_in_form).post(web::log_in)),
        ("/logout", post(web::log_out)),
        ("/upload", get(web::upload_form).post(web::upload).layer(upload_limit())),
        ("/u", get(web::find_user)),
        ("/u/{name}", get(web::profile)),
        ("/u/{name}/follow", post(web::follow)),
        ("/u/{name}/unfollow", post(web::unfollow)),
        ("/p/{code}", get(web::photo)),
        ("/p/{code}/like", post(web::like)),
        ("/p/{code}/unlike", post(web::unlike)),
        ("/p/{code}/comments", post(web::comment)),
        ("/p/{code}/delete", post(web::delete)),
        ("/assets/{name}", get(web::asset)),
    ]
}

fn upload_limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(Limits::default().bytes + FORM_BYTES)
}

/// The whole service; a test calls it without a socket.
pub fn app(app: App) -> Router {
    let router = |routes: Vec<(&'static str, MethodRouter<App>)>| {
        routes.into_iter().fold(Router::new(), |all, (path, methods)| all.route(path, methods))
    };
    let guarded = |router: Router<App>| {
        router
            .layer(middleware::from_fn(from_our_own_pages))
            .layer(CatchPanicLayer::new())
            .layer(middleware::from_fn(in_time))
    };
    // Outermost of theirs, so that whatever goes wrong with a page is told by a page.
    let pages = guarded(router(of_the_pages()).fallback(web::not_found))
        .layer(middleware::from_fn_with_state(app.clone(), web::in_html));
    guarded(router(of_the_api()))
        .merge(pages)
        .with_state(app)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::map_response(problem::in_one_form))
        .layer(middleware::map_response(taken_as_meant))
        // Failures are logged where they are handled.
        .layer(TraceLayer::new_for_http().on_failure(()))
}

async fn in_time(request: Request, next: Next) -> Response {
    let upload = request.method() == Method::POST
        && matches!(request.uri().path(), "/api/photos" | "/upload");
    let limit = if upload { UPLOAD_TIME } else { TIME };
    // A body that does not arrive is told where it is read. Whatever else is late may have been done by then.
    let late = if request.method().is_safe() { Kind::Busy } else { Kind::OutcomeUnknown };
    let response = tokio::time::timeout(limit, next.run(request)).await;
    response.unwrap_or_else(|_| Problem::from(late).into_response())
}

async fn from_our_own_pages(request: Request, next: Next) -> Response {
    match input::same_site(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Browsers do not guess what a response is, and keep none that may be one viewer's alone.
async fn taken_as_meant(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    response
}
