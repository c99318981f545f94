//! `/api/sessions`: logging in and out, and who is behind a request.
//!
//! A token is the user's id in its short form, a dot, and 256 random bits. The id leads to the user's shard, so a
//! session needs no table of its own for all users; of the random part, only a hash is kept.

use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use axum::extract::{FromRequestParts, OptionalFromRequestParts, State};
use axum::http::StatusCode;
use axum::http::header::{self, AUTHORIZATION, COOKIE, HeaderMap};
use axum::http::request::Parts;
use axum::response::{AppendHeaders, IntoResponse};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use howdah::{Id, Statement};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::App;
use crate::input::{Json, UserName};
use crate::list::SILENCE;
use crate::problem::{Kind, Problem};
use crate::users::Person;

/// How long a session lasts, for the cookie and for the database alike.
const LIFETIME_SECONDS: u32 = 30 * 24 * 60 * 60;

/// More would only make a server work: argon2 hashes the password first.
const MAX_PASSWORD_BYTES: usize = 1024;

#[derive(Deserialize)]
pub(crate) struct Credentials {
    pub(crate) name: UserName,
    pub(crate) password: String,
}

#[derive(Serialize)]
pub(crate) struct Session {
    pub(crate) token: String,
    pub(crate) user: Person,
}

/// `POST /api/sessions`
pub(crate) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    Json(credentials): Json<Credentials>,
) -> Result<impl IntoResponse, Problem> {
    let session = log_in(&app, credentials).await?;
    let cookie = AppendHeaders([(header::SET_COOKIE, cookie(&headers, &session.token))]);
    Ok((StatusCode::CREATED, cookie, Json(session)))
}

pub(crate) async fn log_in(app: &App, credentials: Credentials) -> Result<Session, Problem> {
    const BY_NAME: Statement =
        Statement::new("SELECT id, name, password_hash FROM {shard}.users WHERE name = $1");

    let shard = app.cluster.shard_for_key(credentials.name.as_str());
    let user = shard.query_opt(&BY_NAME, &[&credentials.name.as_str()]).await?;
    let hash = user.as_ref().map(|user| user.get("password_hash"));
    match (password_matches(app, credentials.password, hash).await?, user) {
        (true, Some(user)) => {
            open(app, Person { id: user.get("id"), name: user.get("name") }).await
        }
        _ => Err(Kind::WrongPassword.into()),
    }
}

/// A session for whoever has shown who they are.
pub(crate) async fn open(app: &App, user: Person) -> Result<Session, Problem> {
    // At most 50 for each user: whoever logs in again and again pushes their own oldest out.
    const TIDY: Statement = Statement::new(
        "DELETE FROM {shard}.sessions WHERE token_hash IN (
             SELECT token_hash FROM {shard}.sessions WHERE user_id = $1
             ORDER BY created_at DESC OFFSET 49)",
    );
    const ADD: Statement = Statement::new(
        "INSERT INTO {shard}.sessions (token_hash, user_id, expires_at)
         VALUES ($1, $2, now() + make_interval(secs => $3))",
    );

    let token = Token::random(user.id)?;
    let hash = token.hash();
    app.cluster
        .shard_of_id(user.id)?
        .transaction(async |tx| {
            tx.execute(&TIDY, &[&user.id]).await?;
            tx.execute(&ADD, &[&hash, &user.id, &f64::from(LIFETIME_SECONDS)]).await
        })
        .await?;
    Ok(Session { token: token.to_string(), user })
}

/// `DELETE /api/sessions`
pub(crate) async fn delete(
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let token = Token::of(&headers)?.ok_or(Kind::NotLoggedIn)?;
    log_out(&app, &token).await?;
    let cookie = AppendHeaders([(header::SET_COOKIE, cookie(&headers, ""))]);
    Ok((StatusCode::NO_CONTENT, cookie))
}

pub(crate) async fn log_out(app: &App, token: &Token) -> Result<(), Problem> {
    const REMOVE: Statement =
        Statement::new("DELETE FROM {shard}.sessions WHERE token_hash = $1 AND user_id = $2");

    let Ok(shard) = app.cluster.shard_of_id(token.user) else {
        return Err(Kind::NotLoggedIn.into());
    };
    match shard.execute(&REMOVE, &[&token.hash(), &token.user]).await? {
        0 => Err(Kind::NotLoggedIn.into()),
        _ => Ok(()),
    }
}

/// The `Set-Cookie` of a session; of the empty token, the one that removes it.
pub(crate) fn cookie(headers: &HeaderMap, token: &str) -> String {
    let age = if token.is_empty() { 0 } else { LIFETIME_SECONDS };
    // TLS ends in front of this server, which says so.
    let over_tls = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
    let secure = if over_tls { "; Secure" } else { "" };
    format!("session={token}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}")
}

/// Who is asking. As a required part of a request it refuses whoever is not logged in; as an optional one it
/// lets them pass, but not a token in `Authorization` that does not hold.
pub(crate) struct Viewer(pub(crate) Person);

impl FromRequestParts<App> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let viewer = viewer(app, &parts.headers).await?.ok_or(Kind::NotLoggedIn)?;
        // For the body of an upload, which is read after this.
        parts.extensions.insert(viewer.clone());
        Ok(Self(viewer))
    }
}

impl OptionalFromRequestParts<App> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Option<Self>, Problem> {
        Ok(viewer(app, &parts.headers).await?.map(Self))
    }
}

pub(crate) async fn viewer(app: &App, headers: &HeaderMap) -> Result<Option<Person>, Problem> {
    const BY_TOKEN: Statement = Statement::new(
        "SELECT u.id, u.name FROM {shard}.sessions s JOIN {shard}.users u ON u.id = s.user_id
         WHERE s.token_hash = $1 AND s.user_id = $2 AND s.expires_at > now()",
    );

    let Some(token) = Token::of(headers)? else { return Ok(None) };
    let row = match app.cluster.shard_of_id(token.user) {
        // Every page asks this first, and most can be shown without it.
        Ok(shard) => {
            shard.timeout(SILENCE).query_opt(&BY_TOKEN, &[&token.hash(), &token.user]).await?
        }
        Err(_) => None,
    };
    match row {
        Some(row) => Ok(Some(Person { id: row.get("id"), name: row.get("name") })),
        None if headers.contains_key(AUTHORIZATION) => Err(Kind::NotLoggedIn.into()),
        None => Ok(None),
    }
}

/// What a client shows to say who it is.
pub(crate) struct Token {
    user: Id,
    secret: [u8; 32],
}

impl Token {
    fn random(user: Id) -> Result<Self, Problem> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(Problem::internal)?;
        Ok(Self { user, secret })
    }

    /// The token of a request: in `Authorization`, where it must be well formed, else in the cookie.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        if let Some(value) = headers.get(AUTHORIZATION) {
            let token = value.to_str().ok().and_then(|value| {
                let (scheme, token) = value.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then(|| Self::parse(token.trim()))?
            });
            return token.map(Some).ok_or_else(|| Kind::NotLoggedIn.into());
        }
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|value| value.split(';'));
        Ok(pairs.find_map(|pair| Self::parse(pair.trim().strip_prefix("session=")?)))
    }

    fn parse(token: &str) -> Option<Self> {
        let (user, secret) = token.split_once('.')?;
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?;
        Some(Self { user: Id::from_code(user).ok()?, secret: secret.try_into().ok()? })
    }

    /// What the database keeps: the secret is as random as a hash, so nothing slower is needed.
    fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.secret).to_vec()
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.user.to_code(), URL_SAFE_NO_PAD.encode(self.secret))
    }
}

pub(crate) async fn hash_password(app: &App, password: String) -> Result<String, Problem> {
    if password.is_empty() || password.len() > MAX_PASSWORD_BYTES {
        return Err(Problem::invalid(format!("password: 1 to {MAX_PASSWORD_BYTES} bytes")));
    }
    let hash = app.hashing.run(move || {
        Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string())
    });
    hash.await?.map_err(Problem::internal)
}

/// Whether the password is the one hashed. Where there is no such user it takes as long and is wrong: the clock
/// tells nobody who has an account.
async fn password_matches(
    app: &App,
    password: String,
    hash: Option<String>,
) -> Result<bool, Problem> {
    static NOBODY: LazyLock<Option<String>> = LazyLock::new(|| {
        Argon2::default().hash_password(b"nobody").map(|hash| hash.to_string()).ok()
    });

    if password.len() > MAX_PASSWORD_BYTES {
        return Ok(false);
    }
    let known = hash.is_some();
    let matches = app.hashing.run(move || {
        let hash = hash.as_ref().or(NOBODY.as_ref())?;
        let hash = PasswordHash::new(hash).ok()?;
        Argon2::default().verify_password(password.as_bytes(), &hash).ok()
    });
    Ok(matches.await?.is_some() && known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_the_header_or_the_cookie() {
        let user: Id = "2715604631366879010".parse().unwrap();
        let token = Token::random(user).unwrap().to_string();
        assert!(token.starts_with("CWvxAY7B0ci."));
        let found = |name: &'static str, value: String| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            Token::of(&headers).map(|token| token.map(|token| token.to_string()))
        };
        let ok = Some(token.clone());
        assert_eq!(found("authorization", format!("Bearer {token}")).unwrap(), ok);
        assert_eq!(found("authorization", format!("bearer  {token}")).unwrap(), ok);
        assert_eq!(found("cookie", format!("a=b; session={token}; c=d")).unwrap(), ok);
        assert_eq!(found("cookie", "session=; a=b".into()).unwrap(), None);
        assert_eq!(found("x-other", token.clone()).unwrap(), None);
        for bad in ["", "Bearer", "Bearer x", "Basic dXNlcjpwYXNz", &format!("Bearer {token}A")] {
            assert!(found("authorization", bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        let mut headers = HeaderMap::new();
        let plain = cookie(&headers, "t");
        assert_eq!(plain, "session=t; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax");
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        assert_eq!(cookie(&headers, "t"), format!("{plain}; Secure"));
        assert!(cookie(&headers, "").contains("Max-Age=0"));
    }
}
