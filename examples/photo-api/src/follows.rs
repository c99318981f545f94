//! `/api/users/{name}/follow`: who follows whom, kept on the follower's shard.

use axum::extract::State;
use axum::http::StatusCode;
use howdah::{Id, Statement};

use crate::App;
use crate::input::UserName;
use crate::problem::{Kind, Problem};
use crate::sessions::Viewer;
use crate::users::{self, Person};

/// How many a user may follow. It bounds what a feed asks of each shard; people who mean it need fewer.
pub(crate) const MAX_FOLLOWED: i32 = 5000;

/// `PUT /api/users/{name}/follow`
pub(crate) async fn add(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    name: UserName,
) -> Result<StatusCode, Problem> {
    follow(&app, &viewer, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn follow(app: &App, viewer: &Person, name: &UserName) -> Result<(), Problem> {
    // The row and its count change in one statement; neither does where the row is there already.
    const FOLLOW: Statement = Statement::new(
        "WITH added AS (
             INSERT INTO {shard}.follows (follower_id, followee_id, followee_name)
             SELECT id, $2, $3 FROM {shard}.users WHERE id = $1 AND following < $4
             ON CONFLICT DO NOTHING RETURNING follower_id)
         UPDATE {shard}.users u SET following = following + 1 FROM added WHERE u.id = added.follower_id",
    );

    let followee = users::find(app, name).await?;
    if followee.id == viewer.id {
        return Err(Problem::invalid("You cannot follow yourself."));
    }
    let added = app
        .cluster
        .shard_of_id(viewer.id)?
        .execute(&FOLLOW, &[&viewer.id, &followee.id, &followee.name, &MAX_FOLLOWED])
        .await?;
    if added == 0 && !is_following(app, viewer, followee.id).await? {
        return Err(Kind::TooManyFollowed.into());
    }
    Ok(())
}

pub(crate) async fn is_following(
    app: &App,
    viewer: &Person,
    followee: Id,
) -> Result<bool, Problem> {
    const FOLLOWS: Statement =
        Statement::new("SELECT FROM {shard}.follows WHERE follower_id = $1 AND followee_id = $2");

    let shard = app.cluster.shard_of_id(viewer.id)?;
    Ok(shard.query_opt(&FOLLOWS, &[&viewer.id, &followee]).await?.is_some())
}

/// `DELETE /api/users/{name}/follow`
pub(crate) async fn delete(
    State(app): State<App>,
    Viewer(viewer): Viewer,
    name: UserName,
) -> Result<StatusCode, Problem> {
    unfollow(&app, &viewer, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn unfollow(app: &App, viewer: &Person, name: &UserName) -> Result<(), Problem> {
    // By name, so that it works while the followed user's shard is away.
    const UNFOLLOW: Statement = Statement::new(
        "WITH removed AS (
             DELETE FROM {shard}.follows WHERE follower_id = $1 AND followee_name = $2
             RETURNING follower_id)
         UPDATE {shard}.users u SET following = following - 1 FROM removed WHERE u.id = removed.follower_id",
    );

    let shard = app.cluster.shard_of_id(viewer.id)?;
    match shard.execute(&UNFOLLOW, &[&viewer.id, &name.as_str()]).await? {
        0 => users::find(app, name).await.map(drop),
        _ => Ok(()),
    }
}
