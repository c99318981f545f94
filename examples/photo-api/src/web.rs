//! The pages for people. They call the same functions as the API, and differ in three things: forms instead of
//! JSON, a form shown again with the reason instead of a problem document, and the log-in page for
//! whoever has to log in first.

use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue,
    SET_COOKIE,
};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use howdah::Id;
use maud::Markup;
use serde::Deserialize;
use tokio::time::timeout;

use crate::comments::{self, Comment, NewComment};
use crate::input::{Form, UserName};
use crate::list::{List, Range};
use crate::pages::views::{
    CommentView, FeedView, Frame, LogInForm, PhotoPage, PhotoView, ProblemView, ProfileView,
    Refused, Relation, SignUpForm, UploadForm,
};
use crate::pages::{self, local_path};
use crate::photos::{self, Photo, Upload};
use crate::problem::{Kind, Problem};
use crate::sessions::{self, Credentials, Token};
use crate::users::{self, NewUser, Person};
use crate::{App, feed, follows, likes};

/// How many photos the home page shows to visitors: whole rows of three or of five.
const NEWEST: usize = 15;

/// How long a page about a problem waits to learn who reads it.
const VIEWER_TIME: Duration = Duration::from_secs(1);

/// Who looks at a page. While the viewer's own shard is away, public pages are shown as to anybody.
pub(crate) struct Visitor {
    person: Option<Person>,
    away: bool,
}

impl Visitor {
    fn frame(&self) -> Frame {
        Frame::new(self.person.as_ref().map(|person| person.name.clone()))
    }
}

impl FromRequestParts<App> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match sessions::viewer(app, &parts.headers).await {
            Ok(person) => Ok(Self { person, away: false }),
            Err(problem) if problem.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Ok(Self { person: None, away: true })
            }
            Err(problem) => Err(problem),
        }
    }
}

/// Whoever has to be logged in for this; others are led to do so, and back.
pub(crate) struct Member(Person);

impl FromRequestParts<App> for Member {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        match sessions::viewer(app, &parts.headers).await {
            Ok(Some(person)) => {
                // For the body of an upload, which is read after this.
                parts.extensions.insert(person.clone());
                Ok(Self(person))
            }
            Err(problem) if problem.kind() != Kind::NotLoggedIn => Err(problem.into_response()),
            _ => {
                // A form cannot be sent again from there, but what it belongs to can be shown.
                let path = parts.uri.path();
                let back = match parts.method {
                    Method::GET => path,
                    _ => path.rsplit_once('/').map_or("/", |(page, _)| page),
                };
                Err(Redirect::to(&format!("/login?back={back}")).into_response())
            }
        }
    }
}

/// The photo that a page's path names by its short form.
pub(crate) struct PhotoCode(Id);

impl<S: Send + Sync> FromRequestParts<S> for PhotoCode {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let code = <Path<String> as FromRequestParts<S>>::from_request_parts(parts, state).await;
        let id = code.ok().and_then(|Path(code)| Id::from_code(&code).ok());
        id.map(Self).ok_or_else(photos::no_photo)
    }
}

/// `GET /`: the feed, or what this is.
pub(crate) async fn home(
    State(app): State<App>,
    visitor: Visitor,
    Query(Before { before }): Query<Before>,
    range: Range,
) -> Result<Markup, Problem> {
    let Some(person) = &visitor.person else {
        // Logged in perhaps, but who it is cannot be told: their feed is what is missing.
        let view = FeedView { missing: 1, ..FeedView::default() };
        return Ok(match visitor.away {
            true => pages::feed(&visitor.frame(), &view),
            false => {
                let newest = or_nothing(feed::newest(&app, NEWEST).await);
                let newest: Vec<_> = newest.into_iter().map(PhotoView::from).collect();
                pages::home(&visitor.frame(), &newest)
            }
        });
    };
    let List { items, next, incomplete } = feed::list(&app, person, range).await?;
    let suggestions = match items.is_empty() && before.is_none() {
        true => or_nothing(feed::recently_posting(&app, person).await),
        false => Vec::new(),
    };
    let photos = items.into_iter().map(PhotoView::from).collect();
    let view = FeedView { photos, next, before, missing: incomplete.len(), suggestions };
    Ok(pages::feed(&visitor.frame(), &view))
}

/// The front page is there for everybody, also without what it shows beside the feed.
fn or_nothing<T>(found: Result<Vec<T>, Problem>) -> Vec<T> {
    found.unwrap_or_else(|problem| {
        tracing::warn!("a part of the front page is left out: {problem}");
        Vec::new()
    })
}

/// What a page of a list was asked for by, to be linked to again.
#[derive(Deserialize)]
pub(crate) struct Before {
    before: Option<String>,
}

/// `GET /signup`
pub(crate) async fn sign_up_form(visitor: Visitor) -> Markup {
    pages::sign_up(&visitor.frame(), &SignUpForm::default())
}

#[derive(Deserialize)]
pub(crate) struct SignUp {
    name: String,
    password: String,
    #[serde(default)]
    email: String,
}

/// `POST /signup`
pub(crate) async fn sign_up(
    State(app): State<App>,
    headers: HeaderMap,
    Form(SignUp { name, password, email }): Form<SignUp>,
) -> Result<Response, Problem> {
    let given = (!email.is_empty()).then(|| email.clone());
    let added = async {
        let new = NewUser { name: UserName::parse(&name)?, password, email: given };
        users::add(&app, new).await
    };
    match added.await {
        Ok(person) => {
            let session = sessions::open(&app, person).await?;
            Ok((cookie(&headers, &session.token), Redirect::to("/")).into_response())
        }
        Err(problem) => {
            let form = SignUpForm { name, email, refused: Some(problem.to_string()) };
            again(problem, pages::sign_up(&Frame::new(None), &form))
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Back {
    back: Option<String>,
}

/// `GET /login`
pub(crate) async fn log_in_form(visitor: Visitor, Query(Back { back }): Query<Back>) -> Markup {
    pages::log_in(&visitor.frame(), &LogInForm { back, ..LogInForm::default() })
}

#[derive(Deserialize)]
pub(crate) struct LogIn {
    name: String,
    password: String,
    back: Option<String>,
}

/// `POST /login`
pub(crate) async fn log_in(
    State(app): State<App>,
    headers: HeaderMap,
    Form(LogIn { name, password, back }): Form<LogIn>,
) -> Result<Response, Problem> {
    let opened = async {
        let name = UserName::parse(&name).map_err(|_| Kind::WrongPassword)?;
        sessions::log_in(&app, Credentials { name, password }).await
    };
    match opened.await {
        Ok(session) => {
            let to = Redirect::to(local_path(back.as_deref()));
            Ok((cookie(&headers, &session.token), to).into_response())
        }
        Err(problem) => {
            let form = LogInForm { name, back, refused: Some(problem.to_string()) };
            again(problem, pages::log_in(&Frame::new(None), &form))
        }
    }
}

/// `POST /logout`
pub(crate) async fn log_out(
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if let Some(token) = Token::of(&headers)? {
        match sessions::log_out(&app, &token).await {
            Err(problem) if problem.kind() != Kind::NotLoggedIn => return Err(problem),
            _ => {}
        }
    }
    Ok((cookie(&headers, ""), Redirect::to("/")).into_response())
}

fn cookie(headers: &HeaderMap, token: &str) -> impl axum::response::IntoResponseParts {
    AppendHeaders([(SET_COOKIE, sessions::cookie(headers, token))])
}

/// A form that was not taken, to be mended; what is not the person's to mend is a page of its own.
fn again(problem: Problem, form: Markup) -> Result<Response, Problem> {
    match problem.status() {
        status if status.is_client_error() => Ok((status, form).into_response()),
        _ => Err(problem),
    }
}

/// `GET /upload`
pub(crate) async fn upload_form(Member(person): Member) -> Markup {
    pages::upload(&Frame::new(Some(person.name)), &UploadForm::default())
}

/// `POST /upload`
pub(crate) async fn upload(
    State(app): State<App>,
    Member(person): Member,
    upload: Result<Upload, Problem>,
) -> Result<Response, Problem> {
    let mut caption = String::new();
    let posted = async {
        let upload = upload?;
        caption.clone_from(&upload.caption);
        photos::post(&app, &person, upload, None).await
    };
    match Box::pin(posted).await {
        Ok(photo) => Ok(Redirect::to(&format!("/p/{}", photo.code)).into_response()),
        Err(problem) => {
            let form = UploadForm { caption, refused: Some(problem.to_string()) };
            again(problem, pages::upload(&Frame::new(Some(person.name)), &form))
        }
    }
}

/// `GET /u`: to whom was searched for.
pub(crate) async fn find_user(Query(Wanted { name }): Query<Wanted>) -> Result<Redirect, Problem> {
    let name = UserName::parse(&name.trim().to_ascii_lowercase());
    let name = name.map_err(|_| Problem::not_found("user"))?;
    Ok(Redirect::to(&format!("/u/{name}")))
}

#[derive(Deserialize)]
pub(crate) struct Wanted {
    name: String,
}

/// `GET /u/{name}`
pub(crate) async fn profile(
    State(app): State<App>,
    visitor: Visitor,
    name: UserName,
    Query(Before { before }): Query<Before>,
    range: Range,
) -> Result<Markup, Problem> {
    let profile = users::profile(&app, &name).await?;
    let viewer = visitor.person.as_ref();
    let photos = photos::list(&app, viewer, &profile.person, range).await?;
    let relation = match viewer {
        None if visitor.away => Relation::Unknown,
        None => Relation::Visitor,
        Some(viewer) if *viewer == profile.person => Relation::Own,
        Some(viewer) => match follows::is_following(&app, viewer, profile.person.id).await {
            Ok(true) => Relation::Follows,
            Ok(false) => Relation::Stranger,
            Err(_) => Relation::Unknown,
        },
    };
    let follows_viewer = match viewer {
        // A nicety: without it the page is still the page.
        Some(viewer) => {
            follows::is_followed_by(&app, viewer, profile.person.id).await.unwrap_or(false)
        }
        None => false,
    };
    let view = ProfileView {
        name: profile.person.name,
        photos: profile.photos.into(),
        followers: profile.followers,
        following: profile.following.into(),
        relation,
        follows_viewer,
        pictures: photos.items.into_iter().map(PhotoView::from).collect(),
        next: photos.next,
        before,
    };
    Ok(pages::profile(&visitor.frame(), &view))
}

/// `POST /u/{name}/follow`
pub(crate) async fn follow(
    State(app): State<App>,
    Member(person): Member,
    name: UserName,
) -> Result<Redirect, Problem> {
    follows::follow(&app, &person, &name).await?;
    Ok(Redirect::to(&format!("/u/{name}")))
}

/// `POST /u/{name}/unfollow`
pub(crate) async fn unfollow(
    State(app): State<App>,
    Member(person): Member,
    name: UserName,
) -> Result<Redirect, Problem> {
    follows::unfollow(&app, &person, &name).await?;
    Ok(Redirect::to(&format!("/u/{name}")))
}

/// `GET /p/{code}`
pub(crate) async fn photo(
    State(app): State<App>,
    visitor: Visitor,
    PhotoCode(photo): PhotoCode,
    range: Range,
) -> Result<Markup, Problem> {
    let view = photo_page(&app, visitor.person.as_ref(), photo, range).await?;
    Ok(pages::photo(&visitor.frame(), &view))
}

async fn photo_page(
    app: &App,
    viewer: Option<&Person>,
    photo: Id,
    range: Range,
) -> Result<PhotoPage, Problem> {
    let home = photos::shard_of(app, photo)?.home()?;
    let photo = photos::find(app, viewer, photo).await?;
    let comments = comments::list(app, photo.id, range).await?;
    Ok(PhotoPage {
        photo: photo.into(),
        comments: comments.items.into_iter().map(CommentView::from).collect(),
        next: comments.next,
        home: Some((home.shard().get(), home.instance().to_string())),
        refused: None,
    })
}

/// `POST /p/{code}/like`
pub(crate) async fn like(
    State(app): State<App>,
    Member(person): Member,
    PhotoCode(photo): PhotoCode,
    Form(Back { back }): Form<Back>,
) -> Result<Redirect, Problem> {
    likes::like(&app, &person, photo).await?;
    Ok(Redirect::to(local_path(back.as_deref())))
}

/// `POST /p/{code}/unlike`
pub(crate) async fn unlike(
    State(app): State<App>,
    Member(person): Member,
    PhotoCode(photo): PhotoCode,
    Form(Back { back }): Form<Back>,
) -> Result<Redirect, Problem> {
    likes::unlike(&app, &person, photo).await?;
    Ok(Redirect::to(local_path(back.as_deref())))
}

/// `POST /p/{code}/comments`
pub(crate) async fn comment(
    State(app): State<App>,
    Member(person): Member,
    PhotoCode(photo): PhotoCode,
    Form(new): Form<NewComment>,
) -> Result<Response, Problem> {
    let text = new.text.clone();
    match comments::add(&app, &person, photo, new, None).await {
        Ok(_) => Ok(Redirect::to(&format!("/p/{}", photo.to_code())).into_response()),
        Err(problem) if problem.kind() == Kind::InvalidRequest => {
            let mut view = photo_page(&app, Some(&person), photo, Range::FIRST).await?;
            view.refused = Some(Refused { text, why: problem.to_string() });
            again(problem, pages::photo(&Frame::new(Some(person.name)), &view))
        }
        Err(problem) => Err(problem),
    }
}

/// `POST /p/{code}/delete`
pub(crate) async fn delete(
    State(app): State<App>,
    Member(person): Member,
    PhotoCode(photo): PhotoCode,
) -> Result<Redirect, Problem> {
    photos::remove(&app, &person, photo).await?;
    Ok(Redirect::to(&format!("/u/{}", person.name)))
}

/// `GET /assets/{name}`
pub(crate) async fn asset(Path(name): Path<String>) -> Result<Response, Problem> {
    let asset = pages::asset(&name).ok_or_else(|| Problem::not_found("file"))?;
    let about = [(CONTENT_TYPE, asset.content_type), (CACHE_CONTROL, crate::media::FOR_GOOD)];
    Ok((about, asset.body).into_response())
}

/// Whatever has no route.
pub(crate) async fn not_found() -> Problem {
    Problem::not_found("address")
}

/// Surrounds the pages: what went wrong becomes a page too, wherever it did, and no page loads or runs anything
/// from elsewhere.
pub(crate) async fn in_html(State(app): State<App>, request: Request, next: Next) -> Response {
    let headers = request.headers().clone();
    let of_api = request.uri().path().starts_with("/api/");
    let mut response = next.run(request).await;
    let status = response.status();
    if (status.is_client_error() || status.is_server_error()) && !of_api && !is_html(&response) {
        let problem = response.extensions_mut().remove::<Problem>();
        let problem = problem.unwrap_or_else(|| Kind::of_status(status).into());
        // Who it is only decides on the links at the top: not worth a second wait for a shard that is away.
        let viewer = match status {
            StatusCode::SERVICE_UNAVAILABLE => None,
            _ => {
                let viewer = timeout(VIEWER_TIME, sessions::viewer(&app, &headers)).await;
                viewer.ok().and_then(Result::ok).flatten()
            }
        };
        let view = ProblemView {
            status: status.as_u16(),
            title: problem.title().into(),
            detail: problem.detail().map(Into::into),
        };
        let page = pages::problem(&Frame::new(viewer.map(|viewer| viewer.name)), &view);
        *response.body_mut() = page.into_string().into();
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().insert(CONTENT_TYPE, HTML);
    }
    if is_html(&response) {
        let policy = HeaderValue::from_static(pages::CONTENT_SECURITY_POLICY);
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

fn is_html(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/html"))
}

impl From<Photo> for PhotoView {
    fn from(photo: Photo) -> Self {
        Self {
            code: photo.code,
            owner: photo.user.name,
            caption: photo.caption,
            posted_at: photo.created_at,
            taken_at: photo.taken_at,
            position: photo.lat.zip(photo.lon),
            width: photo.width,
            height: photo.height,
            original: photo.url,
            small: photo.thumbnails.small,
            large: photo.thumbnails.large,
            likes: photo.likes.into(),
            liked: photo.liked,
            comments: photo.comments.into(),
        }
    }
}

impl From<Comment> for CommentView {
    fn from(comment: Comment) -> Self {
        Self { author: comment.user.name, text: comment.text, written_at: comment.created_at }
    }
}
