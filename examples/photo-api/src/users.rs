//! `/api/users`: signing up, and what others see of a user.
//!
//! A user lives on `shard_for_key(name)`: one read there finds them by name, and that shard's unique constraint
//! is the whole cluster's. An e-mail address is claimed in a table that is sharded by the address, together with its user.

use axum::extract::State;
use axum::http::StatusCode;
use howdah::postgres::Row;
use howdah::{Claims, Id, ShardId, Statement};
use serde::{Deserialize, Serialize};

use crate::App;
use crate::input::{Json, UserName};
use crate::list::SILENCE;
use crate::problem::{Kind, Problem};
use crate::sessions;

/// Who has which address, in lower case.
const EMAILS: Claims = Claims::new("emails");

/// A user, as photos, comments and sessions name them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Person {
    /// Leads to the user's shard by itself.
    pub(crate) id: Id,
    /// Unique in the whole cluster, and never changed.
    pub(crate) name: String,
}

#[derive(Deserialize)]
pub(crate) struct NewUser {
    pub(crate) name: UserName,
    pub(crate) password: String,
    pub(crate) email: Option<String>,
}

/// `POST /api/users`
pub(crate) async fn create(
    State(app): State<App>,
    Json(new): Json<NewUser>,
) -> Result<(StatusCode, Json<Person>), Problem> {
    Ok((StatusCode::CREATED, Json(add(&app, new).await?)))
}

pub(crate) async fn add(app: &App, new: NewUser) -> Result<Person, Problem> {
    const ADD: Statement = Statement::new(
        "INSERT INTO {shard}.users (name, email, password_hash) VALUES ($1, $2, $3) RETURNING id",
    );

    let NewUser { name, password, email } = new;
    let email = email.as_deref().map(checked_email).transpose()?;
    let hash = sessions::hash_password(app, password).await?;
    let shard = app.cluster.shard_for_key(name.as_str());
    // Without an address this is one statement on one shard; with it, perhaps on two servers, both or neither.
    let added = app.cluster.transaction(async |tx| {
        let row = tx.on(&shard).await?.query_one(&ADD, &[&name.as_str(), &email, &hash]).await?;
        let id: Id = row.get("id");
        if let Some(email) = &email {
            tx.claim(&EMAILS, &email.to_lowercase(), id).await?;
        }
        Ok(id)
    });
    match added.await {
        Ok(id) => Ok(Person { id, name: name.to_string() }),
        Err(error) if error.is_unique_violation() => {
            Err(Problem::new(Kind::NameTaken, format!("Somebody else is called {name}.")))
        }
        Err(error) if error.is_taken() => Err(Kind::EmailTaken.into()),
        Err(error) => Err(error.into()),
    }
}

/// Only a message that arrives proves an address, so this refuses no more than what cannot be one.
fn checked_email(email: &str) -> Result<String, Problem> {
    let email = crate::input::text("email", email, 254)?;
    match email.split_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() => Ok(email),
        _ => Err(Problem::invalid("email: this is not an address")),
    }
}

/// What everybody sees of a user.
#[derive(Debug, Serialize)]
pub(crate) struct Profile {
    #[serde(flatten)]
    pub(crate) person: Person,
    pub(crate) photos: i32,
    /// Unknown while any shard is away: each may hold followers.
    pub(crate) followers: Option<i64>,
    pub(crate) following: i32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) incomplete: Vec<u16>,
}

/// `GET /api/users/{name}`
pub(crate) async fn show(State(app): State<App>, name: UserName) -> Result<Json<Profile>, Problem> {
    Ok(Json(profile(&app, &name).await?))
}

pub(crate) async fn profile(app: &App, name: &UserName) -> Result<Profile, Problem> {
    const BY_NAME: Statement =
        Statement::new("SELECT id, name, photos, following FROM {shard}.users WHERE name = $1");
    // Everybody keeps whom they follow on their own shard, so all shards are asked.
    const FOLLOWERS: Statement =
        Statement::new("SELECT count(*) FROM {shard}.follows WHERE followee_id = $1");

    let shard = app.cluster.shard_for_key(name.as_str());
    let row = shard.query_opt(&BY_NAME, &[&name.as_str()]).await?;
    let row = row.ok_or_else(|| Problem::not_found("user"))?;
    let person = Person { id: row.get("id"), name: row.get("name") };

    let counts = app.cluster.scatter(&FOLLOWERS).all(&[&person.id]).partial().timeout(SILENCE);
    let counts = counts.rows().await?;
    let known = counts.missing.is_empty();
    Ok(Profile {
        photos: row.get("photos"),
        followers: known.then(|| counts.rows.iter().map(|(_, row)| row.get::<_, i64>(0)).sum()),
        following: row.get("following"),
        incomplete: counts.missing.into_iter().map(ShardId::get).collect(),
        person,
    })
}

/// The user of a name.
pub(crate) async fn find(app: &App, name: &UserName) -> Result<Person, Problem> {
    const BY_NAME: Statement = Statement::new("SELECT id, name FROM {shard}.users WHERE name = $1");

    let shard = app.cluster.shard_for_key(name.as_str());
    let row: Option<Row> = shard.query_opt(&BY_NAME, &[&name.as_str()]).await?;
    let row = row.ok_or_else(|| Problem::not_found("user"))?;
    Ok(Person { id: row.get("id"), name: row.get("name") })
}
