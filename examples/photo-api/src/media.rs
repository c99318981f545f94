//! `/media/{key}`: the pictures. What lies under a key never changes, so whoever has it need not ask again.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap,
    IF_NONE_MATCH,
};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::App;
use crate::problem::Problem;
use crate::store::MediaKey;

/// For whatever never changes.
pub(crate) const FOR_GOOD: &str = "public, max-age=31536000, immutable";

/// A file up to this size is read at once: it is less work, and a slow reader keeps no more memory than a socket does.
/// Thumbnails are smaller; of the pictures themselves, readers get piece by piece.
const READ_AT_ONCE: u64 = 512 << 10;

/// `GET /media/{key}`; as `HEAD`, or of whoever has it already, it reads nothing.
pub(crate) async fn show(
    State(app): State<App>,
    method: Method,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let no_picture = || Problem::not_found("picture");
    let key: MediaKey = key.parse().map_err(|_| no_picture())?;
    let file = app.store.open(key).await.map_err(Problem::internal)?.ok_or_else(no_picture)?;

    let about = [(ETAG, key.etag()), (CACHE_CONTROL, FOR_GOOD.into())];
    if headers.get_all(IF_NONE_MATCH).iter().any(|tags| names(tags.as_bytes(), &key.etag())) {
        return Ok((StatusCode::NOT_MODIFIED, about).into_response());
    }
    let content = [
        (CONTENT_TYPE, key.format().content_type()),
        // Opened by itself, a picture is still nothing that could run.
        (CONTENT_SECURITY_POLICY, "default-src 'none'"),
    ];
    let length = [(CONTENT_LENGTH, file.length().to_string())];
    let body = match file.length() {
        _ if method == Method::HEAD => Body::empty(),
        0..=READ_AT_ONCE => file.bytes().await.map_err(Problem::internal)?.into(),
        _ => Body::from_stream(file.pieces()),
    };
    Ok((about, content, length, body).into_response())
}

/// Whether an `If-None-Match` names the tag; weak and strong are the same here.
fn names(tags: &[u8], etag: &str) -> bool {
    let Ok(tags) = std::str::from_utf8(tags) else { return false };
    tags.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|t| t == "*" || t == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_the_tags_may_be_ours() {
        for tags in [r#""a""#, r#"W/"a""#, r#""x", "a""#, "*"] {
            assert!(names(tags.as_bytes(), r#""a""#), "{tags}");
        }
        for tags in ["", "a", r#""b""#] {
            assert!(!names(tags.as_bytes(), r#""a""#), "{tags}");
        }
    }
}
