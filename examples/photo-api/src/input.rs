//! What a request says, parsed into types that can only hold what is allowed. Whatever is wrong is a problem
//! document of status 4xx that names the field.

use std::fmt;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use howdah::Id;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};

use crate::problem::{Kind, Problem};

/// How long a body may take that is no upload: it is small, and the request has to be answered soon.
const BODY_TIME: Duration = Duration::from_secs(5);

/// What is read of a body, if it arrives in time. Nothing is done before, so whoever was too slow can try again.
pub(crate) async fn arriving<T>(
    time: Duration,
    body: impl Future<Output = T>,
) -> Result<T, Problem> {
    tokio::time::timeout(time, body).await.map_err(|_| Kind::TooSlow.into())
}

/// A JSON body.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match arriving(BODY_TIME, axum::Json::from_request(request, state)).await? {
            Ok(axum::Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(match rejection.status() {
                StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(
                    Kind::UnsupportedMediaType,
                    "The body is JSON: send it as application/json.",
                ),
                StatusCode::PAYLOAD_TOO_LARGE => Kind::TooLarge.into(),
                _ => Problem::invalid(rejection.body_text()),
            }),
        }
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// The fields of a form.
pub(crate) struct Form<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Form<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match arriving(BODY_TIME, axum::Form::from_request(request, state)).await? {
            Ok(axum::Form(fields)) => Ok(Self(fields)),
            Err(rejection) => Err(match rejection.status() {
                StatusCode::UNSUPPORTED_MEDIA_TYPE => Kind::UnsupportedMediaType.into(),
                StatusCode::PAYLOAD_TOO_LARGE => Kind::TooLarge.into(),
                _ => Problem::invalid(rejection.body_text()),
            }),
        }
    }
}

/// The one part of the path that varies.
async fn segment<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, Problem> {
    let path = <Path<String> as FromRequestParts<S>>::from_request_parts(parts, state).await;
    path.map(|Path(text)| text).map_err(|rejection| Problem::invalid(rejection.body_text()))
}

/// The photo that a path names by its id. Ids of shards that this cluster does not have are ids all the same:
/// there is just no photo there.
pub(crate) struct PhotoId(pub(crate) Id);

impl<S: Send + Sync> FromRequestParts<S> for PhotoId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = segment(parts, state).await?;
        text.parse().map(Self).map_err(|error: howdah::Error| Problem::invalid(error.to_string()))
    }
}

/// A user's name: 1 to 30 of `a-z 0-9 . _`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserName(String);

impl UserName {
    const MAX_LENGTH: usize = 30;

    /// A name, if it is one that a user can have.
    ///
    /// # Errors
    ///
    /// When it is empty, too long or has other characters, or is `.` or `..`, which no URL can address: every
    /// client takes them out of a path.
    pub(crate) fn parse(name: &str) -> Result<Self, Problem> {
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_');
        let length = 1..=Self::MAX_LENGTH;
        if !length.contains(&name.len()) || !name.chars().all(allowed) {
            return Err(Problem::invalid("name: a name has 1 to 30 of a-z, 0-9, . and _"));
        }
        if matches!(name, "." | "..") {
            return Err(Problem::invalid("name: no address can lead to . or .."));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The user that a path names. A name that nobody can have is a user who does not exist.
impl<S: Send + Sync> FromRequestParts<S> for UserName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name = segment(parts, state).await?;
        Self::parse(&name).map_err(|_| Problem::not_found("user"))
    }
}

impl<'de> Deserialize<'de> for UserName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// What people write: without the white space around it, and without the control characters that PostgreSQL
/// (NUL) or a reader (the others) cannot take; line breaks may stay.
pub(crate) fn text(field: &str, text: &str, max_chars: usize) -> Result<String, Problem> {
    let text = text.trim();
    if text.chars().count() > max_chars {
        return Err(Problem::invalid(format!("{field}: at most {max_chars} characters")));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(Problem::invalid(format!("{field}: control characters are not allowed")));
    }
    Ok(text.to_owned())
}

/// Where a photo was taken, in degrees.
///
/// # Errors
///
/// When one half is missing or out of range.
pub(crate) fn position(
    lat: Option<&str>,
    lon: Option<&str>,
) -> Result<Option<(f64, f64)>, Problem> {
    let (lat, lon) = match (lat, lon) {
        (None, None) => return Ok(None),
        (Some(lat), Some(lon)) => (lat, lon),
        _ => return Err(Problem::invalid("lat, lon: give both or neither")),
    };
    let degrees = |field: &str, text: &str, limit: f64| match text.trim().parse::<f64>() {
        Ok(degrees) if degrees.abs() <= limit => Ok(degrees),
        _ => Err(Problem::invalid(format!("{field}: a number from -{limit} to {limit}"))),
    };
    Ok(Some((degrees("lat", lat, 90.0)?, degrees("lon", lon, 180.0)?)))
}

/// The `Idempotency-Key` of a request.
pub(crate) struct IdempotencyKey(pub(crate) String);

impl<S: Send + Sync> OptionalFromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Problem> {
        let Some(key) = parts.headers.get("idempotency-key") else { return Ok(None) };
        match key.to_str() {
            Ok(key) if (1..=255).contains(&key.len()) => Ok(Some(Self(key.to_owned()))),
            _ => Err(Problem::invalid("Idempotency-Key: 1 to 255 visible ASCII characters")),
        }
    }
}

/// Refuses what a browser sends on behalf of another site. Cookies are `SameSite=Lax`, so such a request carries
/// no session; this also covers logging in, where there is none yet, and browsers that know no `SameSite`.
pub(crate) fn same_site(request: &Request) -> Result<(), Problem> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    // A bearer token is never sent by a browser on its own.
    if request.method().is_safe() || request.headers().contains_key(header::AUTHORIZATION) {
        return Ok(());
    }
    let ours = match (header("sec-fetch-site"), header("origin")) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => {
            let host = header("host").or_else(|| request.uri().authority().map(|a| a.as_str()));
            host.is_some() && origin.split_once("://").map(|(_, host)| host) == host
        }
        (None, None) => true,
    };
    if ours { Ok(()) } else { Err(Kind::CrossSite.into()) }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn names_are_what_the_contract_says() {
        for name in ["a", "zoe_1.b", "...", "0", &"x".repeat(30)] {
            assert!(UserName::parse(name).is_ok(), "{name}");
        }
        for name in ["", "A", "zoë", "a b", "a/b", "a\0", ".", "..", &"x".repeat(31)] {
            assert!(UserName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn positions_come_whole_and_on_this_planet() {
        assert_eq!(position(None, None).unwrap(), None);
        assert_eq!(position(Some("-90"), Some(" 180")).unwrap(), Some((-90.0, 180.0)));
        for (lat, lon) in [
            (Some("1"), None),
            (None, Some("1")),
            (Some("90.1"), Some("0")),
            (Some("0"), Some("-181")),
            (Some("NaN"), Some("0")),
            (Some("inf"), Some("0")),
            (Some(""), Some("")),
        ] {
            assert!(position(lat, lon).is_err(), "{lat:?} {lon:?}");
        }
    }

    #[test]
    fn requests_from_other_sites_are_refused() {
        let refused = |headers: &[(&str, &str)]| {
            let mut request = Request::post("/login").header("host", "photos.example:8080");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            same_site(&request.body(Body::empty()).unwrap()).is_err()
        };
        assert!(!refused(&[]));
        assert!(!refused(&[("origin", "http://photos.example:8080")]));
        assert!(!refused(&[("sec-fetch-site", "same-origin"), ("origin", "https://proxied")]));
        assert!(!refused(&[("origin", "http://evil.example"), ("authorization", "Bearer x")]));
        assert!(refused(&[("origin", "http://evil.example")]));
        assert!(refused(&[("origin", "null")]));
        assert!(refused(&[("sec-fetch-site", "cross-site")]));
        assert!(refused(&[("sec-fetch-site", "same-site")]));
    }
}
