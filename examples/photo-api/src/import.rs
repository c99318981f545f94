//! Bringing pictures in by the folder: a camera roll, a person for each of its folders.
//!
//! Each picture takes the same way as an upload. What is brought in is remembered by its content, on the
//! shard of whom it belongs to and in the same transaction as the photo, so importing again adds only
//! what is new, also after an import that was cut off. A picture that cannot be used is named and
//! skipped; the rest goes on.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use howdah::Id;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use crate::App;
use crate::comments::{self, NewComment};
use crate::gallery::{GALLERY, Work};
use crate::idempotency::{Claim, Earlier};
use crate::input::{IdempotencyKey, UserName};
use crate::photos::{self, NewPhoto};
use crate::picture;
use crate::problem::{Kind, Problem};
use crate::users::{self, NewUser, Person};
use crate::{follows, likes};

/// How many people each of the imported follows, so that a large roll does not make a crowd.
const FOLLOWED: usize = 12;

/// What people say under each other's pictures.
const REMARKS: [&str; 8] = [
    "Oh, I love this one.",
    "The light!",
    "Where is this?",
    "I want to be there right now.",
    "How did you do that?",
    "This made my morning.",
    "Print it. Hang it. Thank me later.",
    "Take me along next time?",
];

/// Who comes with the pictures, and what is told of them.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the new people log in with. Without one they get a random one, so that nobody does.
    pub password: Option<String>,
    /// Whether to tell where a picture was taken, if its camera wrote that down. Not told by default.
    pub positions: bool,
    /// Whether the people stay strangers. Else they follow one another, and like and comment on some of
    /// what is new.
    pub strangers: bool,
}

/// What came of an import.
#[derive(Debug, Default)]
pub struct Report {
    /// Photos that were added.
    pub added: usize,
    /// Pictures that an earlier import had brought.
    pub known: usize,
    /// Pictures that cannot be used: their names, and why.
    pub refused: Vec<(String, String)>,
    /// Pictures that may well come in later: their names, and what was in the way.
    pub failed: Vec<(String, String)>,
}

/// Imports a folder: every picture in it and below, for a person named after the folder next to `folder` that
/// it lies in, or after `folder` itself.
///
/// # Errors
///
/// When the folder cannot be read, or nobody's name can be made of a folder's.
pub async fn folder(app: &App, folder: &Path, options: &Options) -> io::Result<Report> {
    let mut rolls = BTreeMap::<String, Vec<Item>>::new();
    let own = folder.canonicalize().map_err(|error| named(folder, &error))?;
    for entry in sorted(folder)? {
        let owner = if entry.is_dir() { entry.as_path() } else { own.as_path() };
        let name = person_of(owner).ok_or_else(|| {
            let owner = owner.display();
            io::Error::other(format!("{owner}: no name can be made of this; rename the folder"))
        })?;
        let items = rolls.entry(name).or_default();
        pictures_below(&entry, &mut |file| {
            items.push(Item {
                label: file.strip_prefix(folder).unwrap_or(&file).display().to_string(),
                caption: caption_of(&file),
                source: Source::File(file),
            });
        })?;
    }
    rolls.retain(|_, items| !items.is_empty());
    Ok(import(app, rolls, options).await)
}

/// Imports the gallery that this program draws itself. What is there already is not drawn again.
pub async fn gallery(app: &App, options: &Options) -> Report {
    let rolls = GALLERY.iter().map(|artist| {
        let items = artist.works.iter().enumerate().map(|(number, work)| Item {
            label: format!("{}/{number}", artist.name),
            caption: work.caption.to_owned(),
            source: Source::Drawn(work),
        });
        (artist.name.to_owned(), items.collect())
    });
    import(app, rolls.collect(), options).await
}

struct Item {
    label: String,
    caption: String,
    source: Source,
}

enum Source {
    File(PathBuf),
    Drawn(&'static Work),
}

async fn import(app: &App, rolls: BTreeMap<String, Vec<Item>>, options: &Options) -> Report {
    let mut report = Report::default();
    let mut people = Vec::with_capacity(rolls.len());
    let mut queues = Vec::with_capacity(rolls.len());
    for (name, items) in rolls {
        match find_or_add(app, &name, options).await {
            Ok(person) => {
                people.push(person);
                queues.push(items.into_iter());
            }
            Err(problem) => {
                let why = problem.to_string();
                report.failed.extend(items.into_iter().map(|item| (item.label, why.clone())));
            }
        }
    }

    let total: usize = queues.iter().map(ExactSizeIterator::len).sum();
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} pictures  {msg}") {
        bar.set_style(style);
    }

    let mut news = Vec::new();
    let mut running = JoinSet::new();
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let mut owners = (0..people.len()).cycle();
    // In turns, so that feeds are mixed.
    for _ in 0..total {
        let next = owners.find_map(|owner| Some((owner, queues[owner].next()?)));
        let Some((owner, item)) = next else { break };
        if running.len() >= at_once {
            settle(running.join_next().await, &mut report, &mut news, &bar);
        }
        let (app, person) = (app.clone(), people[owner].clone());
        let positions = options.positions;
        running.spawn(async move {
            let came = bring(&app, &person, item.source, &item.caption, positions).await;
            (owner, item.label, came)
        });
    }
    while !running.is_empty() {
        settle(running.join_next().await, &mut report, &mut news, &bar);
    }
    bar.finish_and_clear();

    if !options.strangers {
        let company = async {
            introduce(app, &people).await?;
            applaud(app, &people, &news).await
        };
        // The pictures are there, which is what was asked for.
        if let Err(problem) = company.await {
            tracing::warn!("not everybody follows, likes and comments: {problem}");
        }
    }
    report
}

type Came = (usize, String, Result<Option<Id>, Problem>);

/// Counts what came of one picture. What is new is kept with its owner's place.
fn settle(
    came: Option<Result<Came, tokio::task::JoinError>>,
    report: &mut Report,
    news: &mut Vec<(usize, Id)>,
    bar: &ProgressBar,
) {
    bar.inc(1);
    match came {
        Some(Ok((owner, label, came))) => {
            bar.set_message(label.clone());
            match came {
                Ok(Some(photo)) => {
                    report.added += 1;
                    news.push((owner, photo));
                }
                Ok(None) => report.known += 1,
                Err(problem) if problem.status().is_client_error() => {
                    report.refused.push((label, problem.to_string()));
                }
                Err(problem) => report.failed.push((label, problem.to_string())),
            }
        }
        Some(Err(error)) => report.failed.push(("a picture".into(), error.to_string())),
        None => {}
    }
}

/// One picture on its way in; `None` if it came with an earlier import.
async fn bring(
    app: &App,
    owner: &Person,
    source: Source,
    caption: &str,
    positions: bool,
) -> Result<Option<Id>, Problem> {
    let (bytes, name) = match &source {
        Source::File(path) => {
            let (path, limit) = (path.clone(), app.limits.bytes);
            let read = app.pictures.run(move || {
                let bytes = read(&path, limit)?;
                let name = Sha256::digest(&bytes);
                Ok::<_, Problem>((bytes, name))
            });
            read.await??
        }
        Source::Drawn(work) => (Bytes::new(), Sha256::digest(work.title())),
    };
    let key = IdempotencyKey(format!("import:{}", hex(&name)));
    let claim = Claim::new(owner.id, owner.id, key, &[&name]).for_good();
    match claim.earlier(&app.cluster.shard_of_id(owner.id)?).await? {
        Earlier::Nothing => {}
        Earlier::Made(_) => return Ok(None),
        Earlier::AnotherRequest => return Err(Kind::KeyReused.into()),
    }
    let limits = app.limits.clone();
    let picture = app.pictures.run(move || match source {
        Source::File(_) => picture::process(bytes, &limits),
        Source::Drawn(work) => picture::process(work.draw(), &limits),
    });
    let picture = picture.await??;
    let position = picture.position.filter(|_| positions);
    let (author, caption) = (owner.clone(), caption.to_owned());
    let new = NewPhoto { author, picture, caption, position, claim: Some(claim), places: None };
    let photo = photos::add(app, new).await?;
    Ok(Some(photo.id))
}

fn read(path: &Path, limit: usize) -> Result<Bytes, Problem> {
    let unreadable = |error: io::Error| Problem::invalid(error.to_string());
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if usize::try_from(length).is_ok_and(|length| length <= limit) {
        return Ok(std::fs::read(path).map_err(unreadable)?.into());
    }
    Err(Problem::new(Kind::TooLarge, format!("the file has {} MB", length >> 20)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn find_or_add(app: &App, name: &str, options: &Options) -> Result<Person, Problem> {
    let name = UserName::parse(name)?;
    match users::find(app, &name).await {
        Err(problem) if problem.kind() == Kind::NotFound => {}
        found => return found,
    }
    let password = options
        .password
        .clone()
        .unwrap_or_else(|| crate::store::MediaKey::random(picture::Format::Jpeg).to_string());
    users::add(app, NewUser { name, password, email: None }).await
}

async fn introduce(app: &App, people: &[Person]) -> Result<(), Problem> {
    for (at, person) in people.iter().enumerate() {
        let others = (1..people.len()).map(|step| &people[(at + step) % people.len()]);
        for other in others.take(FOLLOWED) {
            follows::follow(app, person, &UserName::parse(&other.name)?).await?;
        }
    }
    Ok(())
}

/// About half of the others like a new photo, and now and then somebody says something.
async fn applaud(app: &App, people: &[Person], news: &[(usize, Id)]) -> Result<(), Problem> {
    for (number, (owner, photo)) in news.iter().enumerate() {
        let others = people.iter().enumerate().filter(|(at, _)| at != owner).take(FOLLOWED);
        for (at, person) in others {
            let mood = (number * 31 + at * 17) % 10;
            if mood < 6 {
                likes::like(app, person, *photo).await?;
            }
            if mood < 2 {
                let text = REMARKS[(number * 3 + at) % REMARKS.len()].to_owned();
                comments::add(app, person, *photo, NewComment { text }, None).await?;
            }
        }
    }
    Ok(())
}

/// What lies in a folder, by name; hidden things are nobody's pictures.
fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    let entries = std::fs::read_dir(folder).map_err(named)?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| {
        !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
    });
    paths.sort();
    Ok(paths)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn pictures_below(path: &Path, found: &mut impl FnMut(PathBuf)) -> io::Result<()> {
    if path.is_file() {
        found(path.to_owned());
    } else if path.is_dir() {
        for entry in sorted(path)? {
            // A link to a folder may lead back up.
            if !(entry.is_symlink() && entry.is_dir()) {
                pictures_below(&entry, found)?;
            }
        }
    }
    Ok(())
}

/// The name of the person whose folder this is: `Aunt Zoë` becomes `aunt_zo`.
fn person_of(folder: &Path) -> Option<String> {
    let name: String = folder
        .file_name()?
        .to_string_lossy()
        .to_lowercase()
        .chars()
        .filter_map(|char| match char {
            'a'..='z' | '0'..='9' | '.' | '_' => Some(char),
            ' ' | '-' => Some('_'),
            _ => None,
        })
        .take(30)
        .collect();
    UserName::parse(&name).ok().map(|_| name)
}

/// A file's name as a caption, unless it is a number that a camera gave: `first-light.jpg` says something,
/// `IMG_2041.JPG` does not.
fn caption_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    if stem.chars().any(|char| char.is_ascii_digit()) {
        return String::new();
    }
    stem.split(['_', '-', ' ']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_become_names() {
        for (folder, name) in [
            ("/rolls/ines", Some("ines")),
            ("/rolls/Aunt Zoë", Some("aunt_zo")),
            ("/rolls/tomasz.k", Some("tomasz.k")),
            ("/rolls/ÆØÅ", None),
            ("/rolls/..", None),
            ("/", None),
        ] {
            assert_eq!(person_of(Path::new(folder)).as_deref(), name, "{folder}");
        }
        let long = person_of(Path::new(&"a".repeat(99)));
        assert_eq!(long.map(|name| name.len()), Some(30));
    }

    #[test]
    fn captions_are_words() {
        for (file, caption) in [
            ("first-light.jpg", "first light"),
            ("Blue hour, orange river.png", "Blue hour, orange river"),
            ("IMG_2041.JPG", ""),
            ("20240714_213005.jpg", ""),
            ("_.jpg", ""),
        ] {
            assert_eq!(caption_of(Path::new(file)), caption, "{file}");
        }
    }
}
