//! What the pages show.

use chrono::{DateTime, Utc};

/// What surrounds every page.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The name of who is logged in.
    pub viewer: Option<String>,
    /// When the page is made, to say how long ago things were.
    pub now: DateTime<Utc>,
}

impl Frame {
    /// The frame for this moment.
    #[must_use]
    pub fn new(viewer: Option<String>) -> Self {
        Self { viewer, now: Utc::now() }
    }

    /// Whether this is the name of who is logged in.
    #[must_use]
    pub fn is_viewer(&self, name: &str) -> bool {
        self.viewer.as_deref() == Some(name)
    }
}

/// A photo, in a list or on its own page.
#[derive(Debug, Clone)]
pub struct PhotoView {
    /// The short form of its id, as in `/p/{code}`.
    pub code: String,
    /// The name of who posted it.
    pub owner: String,
    /// May be empty.
    pub caption: String,
    /// When it was posted.
    pub posted_at: DateTime<Utc>,
    /// When the camera took it.
    pub taken_at: Option<DateTime<Utc>>,
    /// Latitude and longitude in degrees.
    pub position: Option<(f64, f64)>,
    /// Of the original, in pixels.
    pub width: i32,
    /// Of the original, in pixels.
    pub height: i32,
    /// The address of the original.
    pub original: String,
    /// The address of the square thumbnail.
    pub small: String,
    /// The address of the large rendition.
    pub large: String,
    /// How many like it.
    pub likes: i64,
    /// Whether the viewer does.
    pub liked: bool,
    /// How many comments it has.
    pub comments: i64,
}

/// A page of the feed.
#[derive(Debug, Clone, Default)]
pub struct FeedView {
    /// Newest first.
    pub photos: Vec<PhotoView>,
    /// Where the next page starts: the value of `before`.
    pub next: Option<String>,
    /// Whether this is a later page, itself asked for by `before`.
    pub before: Option<String>,
    /// How many shards could not be asked.
    pub missing: usize,
    /// Names of people to follow, for a feed that is still empty.
    pub suggestions: Vec<String>,
}

/// How the viewer stands to the person of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Nobody is logged in.
    Visitor,
    /// It is the viewer's own profile.
    Own,
    /// The viewer follows them.
    Follows,
    /// The viewer does not follow them.
    Stranger,
    /// Which of the two cannot be told: the viewer's shard is away.
    Unknown,
}

/// A person's page.
#[derive(Debug, Clone)]
pub struct ProfileView {
    /// The person's name.
    pub name: String,
    /// How many photos they posted.
    pub photos: i64,
    /// How many people follow them, where every shard could be asked.
    pub followers: Option<i64>,
    /// How many people they follow.
    pub following: i64,
    /// How the viewer stands to them.
    pub relation: Relation,
    /// They follow the viewer.
    pub follows_viewer: bool,
    /// A page of their photos, newest first.
    pub pictures: Vec<PhotoView>,
    /// Where the next page starts: the value of `before`.
    pub next: Option<String>,
    /// What this page was asked for by, if it is not the first.
    pub before: Option<String>,
}

/// What somebody wrote under a photo.
#[derive(Debug, Clone)]
pub struct CommentView {
    /// The name of who wrote it.
    pub author: String,
    /// What they wrote.
    pub text: String,
    /// When they did.
    pub written_at: DateTime<Utc>,
}

/// A photo's own page.
#[derive(Debug, Clone)]
pub struct PhotoPage {
    /// The photo.
    pub photo: PhotoView,
    /// A page of its comments, newest first.
    pub comments: Vec<CommentView>,
    /// Where the next page of comments starts: the value of `before`.
    pub next: Option<String>,
    /// Where it lives: the number of its shard and the name of the instance.
    pub home: Option<(u16, String)>,
    /// What the person wrote as a comment and why it was not taken.
    pub refused: Option<Refused>,
}

/// Text that was not taken, to be mended rather than typed again.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What was written.
    pub text: String,
    /// Why it was not taken, in words for the person.
    pub why: String,
}

/// The form for a new account, perhaps filled in already.
#[derive(Debug, Clone, Default)]
pub struct SignUpForm {
    /// The name wished for.
    pub name: String,
    /// The address given.
    pub email: String,
    /// Why it was not taken.
    pub refused: Option<String>,
}

/// The form to log in with, perhaps filled in already.
#[derive(Debug, Clone, Default)]
pub struct LogInForm {
    /// The name given.
    pub name: String,
    /// Where to go afterwards.
    pub back: Option<String>,
    /// Why it was not taken.
    pub refused: Option<String>,
}

/// The form for a new photo, perhaps filled in already. A browser does not fill in a file again.
#[derive(Debug, Clone, Default)]
pub struct UploadForm {
    /// What was written.
    pub caption: String,
    /// Why it was not taken.
    pub refused: Option<String>,
}

/// What went wrong, as its problem document says.
#[derive(Debug, Clone)]
pub struct ProblemView {
    /// The status code of HTTP.
    pub status: u16,
    /// What went wrong, in a few words.
    pub title: String,
    /// More about it, for the person.
    pub detail: Option<String>,
}
