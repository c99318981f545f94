//! What goes wrong, as RFC 9457 problem documents: each has a `type` that stays, and whose address explains it.
//!
//! A request that is malformed is 4xx and says what to change; a shard that cannot be reached is 503 and says
//! when to ask again; what nobody foresaw is 500, told in full to the log and not at all to the client.

use std::fmt;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::response::{IntoResponse, Response};

use howdah::{Outcome, Phase};
use serde::Serialize;

pub(crate) const CONTENT: &str = "application/problem+json";

/// Every kind of problem that there is: its stable name, its status and its title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidRequest,
    NotLoggedIn,
    WrongPassword,
    NotYours,
    CrossSite,
    NotFound,
    MethodNotAllowed,
    TooSlow,
    NameTaken,
    EmailTaken,
    TooManyFollowed,
    Gone,
    TooLarge,
    UnsupportedMediaType,
    UnusablePicture,
    KeyReused,
    Internal,
    Busy,
    Draining,
    ShardUnavailable,
    OutcomeUnknown,
}

impl Kind {
    pub(crate) const ALL: [Self; 21] = [
        Self::InvalidRequest,
        Self::NotLoggedIn,
        Self::WrongPassword,
        Self::NotYours,
        Self::CrossSite,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::TooSlow,
        Self::NameTaken,
        Self::EmailTaken,
        Self::TooManyFollowed,
        Self::Gone,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::UnusablePicture,
        Self::KeyReused,
        Self::Internal,
        Self::Busy,
        Self::Draining,
        Self::ShardUnavailable,
        Self::OutcomeUnknown,
    ];

    const fn parts(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::InvalidRequest => ("invalid-request", S::BAD_REQUEST, "The request is malformed"),
            Self::NotLoggedIn => ("not-logged-in", S::UNAUTHORIZED, "Log in first"),
            Self::WrongPassword => {
                ("wrong-password", S::UNAUTHORIZED, "The name or the password is wrong")
            }
            Self::NotYours => ("not-yours", S::FORBIDDEN, "This belongs to somebody else"),
            Self::CrossSite => ("cross-site", S::FORBIDDEN, "The request came from another site"),
            Self::NotFound => ("not-found", S::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", S::METHOD_NOT_ALLOWED, "This cannot be done here")
            }
            Self::TooSlow => ("too-slow", S::REQUEST_TIMEOUT, "The request took too long"),
            Self::NameTaken => ("name-taken", S::CONFLICT, "The name is taken"),
            Self::EmailTaken => {
                ("email-taken", S::CONFLICT, "Somebody has signed up with this address")
            }
            Self::TooManyFollowed => {
                ("too-many-followed", S::CONFLICT, "You follow as many people as you can")
            }
            Self::Gone => ("gone", S::GONE, "What this request made was deleted since"),
            Self::TooLarge => ("too-large", S::PAYLOAD_TOO_LARGE, "The request is too large"),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "The body is not of a type that is taken here",
            ),
            Self::UnusablePicture => {
                ("unusable-picture", S::UNPROCESSABLE_ENTITY, "The picture cannot be used")
            }
            Self::KeyReused => (
                "idempotency-key-reused",
                S::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key was used for another request",
            ),
            Self::Internal => ("internal", S::INTERNAL_SERVER_ERROR, "Something went wrong here"),
            Self::Busy => ("busy", S::SERVICE_UNAVAILABLE, "Too much to do at the moment"),
            Self::Draining => ("draining", S::SERVICE_UNAVAILABLE, "This server is shutting down"),
            Self::ShardUnavailable => (
                "shard-unavailable",
                S::SERVICE_UNAVAILABLE,
                "The part of the data that this needs cannot be reached",
            ),
            Self::OutcomeUnknown => (
                "outcome-unknown",
                S::SERVICE_UNAVAILABLE,
                "It may or may not have been done: look before trying again",
            ),
        }
    }

    /// For what axum and the layers around it refuse.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::NotLoggedIn,
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::REQUEST_TIMEOUT => Self::TooSlow,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            StatusCode::SERVICE_UNAVAILABLE => Self::Busy,
            status if status.is_client_error() => Self::InvalidRequest,
            _ => Self::Internal,
        }
    }
}

/// One thing that went wrong.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: Kind,
    detail: Option<String>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: Some(detail.into()) }
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Kind::InvalidRequest, detail)
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Kind::NotFound, format!("There is no such {what}."))
    }

    /// For what should not happen: logged here, in full, and kept from the client.
    pub(crate) fn internal(error: impl fmt::Display) -> Self {
        tracing::error!("{error}");
        Kind::Internal.into()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.kind.parts().1
    }

    pub(crate) fn title(&self) -> &'static str {
        self.kind.parts().2
    }

    pub(crate) fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }
}

/// What a person reads of it: the detail where there is one, else the title.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail().unwrap_or(self.title()))
    }
}

impl std::error::Error for Problem {}

impl From<Kind> for Problem {
    fn from(kind: Kind) -> Self {
        Self { kind, detail: None }
    }
}

/// Errors of the library. Handlers that know better (an id of no shard is "no such photo") say so themselves; a transaction
/// that was given up for a problem has that one.
impl From<howdah::Error> for Problem {
    fn from(error: howdah::Error) -> Self {
        if let Some(problem) = error.downcast_ref::<Self>() {
            problem.clone()
        } else if is_away(&error) {
            tracing::warn!("{error}");
            match error.outcome() {
                Outcome::Unknown => Kind::OutcomeUnknown.into(),
                _ => Kind::ShardUnavailable.into(),
            }
        } else if error.is_conflict() {
            // Too many at the same row, and nothing came of it.
            tracing::warn!("{error}");
            Kind::Busy.into()
        } else {
            Self::internal(error)
        }
    }
}

/// Whether the shard cannot be asked at the moment. What fails on the way to a server, finds another one there, or
/// a copy that is not the shard's home, is for operators to mend: it works again once they have.
fn is_away(error: &howdah::Error) -> bool {
    error.is_unavailable()
        || error.is_wrong_server()
        || error.phase() == Some(Phase::Connect)
        || error.code().is_some_and(|code| code.code() == NOT_ITS_HOME)
}

/// The SQLSTATE of a copy of a shard that is not its home, which callers see once the library's patience is over.
const NOT_ITS_HOME: &str = "HW002";

/// The document, as it is sent.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl<'a> Document<'a> {
    fn new(kind: Kind, detail: Option<&'a str>) -> Self {
        let (name, status, title) = kind.parts();
        Self { r#type: format!("/problems/{name}"), title, status: status.as_u16(), detail }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = Json(Document::new(self.kind, self.detail())).into_response();
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The problem itself goes along for the pages, which show it in their own way.
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives the errors of axum and of the layers around it (no such route, wrong method, timed out, panicked) the
/// same form as our own.
pub(crate) async fn in_one_form(response: Response) -> Response {
    let status = response.status();
    let ours = |kind: &HeaderValue| {
        kind.as_bytes().starts_with(CONTENT.as_bytes()) || kind.as_bytes().starts_with(b"text/html")
    };
    let plain = !response.headers().get(CONTENT_TYPE).is_some_and(ours);
    if plain && (status.is_client_error() || status.is_server_error()) {
        let mut problem = Problem::from(Kind::of_status(status)).into_response();
        *problem.status_mut() = status;
        problem.headers_mut().extend(response.headers().get(ALLOW).map(|a| (ALLOW, a.clone())));
        problem
    } else {
        response
    }
}

/// `GET /problems/{name}`: what a `type` means.
pub(crate) async fn explain(Path(name): Path<String>) -> Result<Response, Problem> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.parts().0 == name);
    let kind = kind.ok_or_else(|| Problem::not_found("problem"))?;
    Ok(Json(Document::new(kind, None)).into_response())
}
