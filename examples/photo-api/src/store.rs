//! Where pictures lie: a folder, through `object_store`.
//!
//! A key is 128 random bits, so nobody finds a picture without having been given its address, two
//! people's equal pictures are two files, and what lies under a key never changes: the key is its own
//! ETag. A key is made by [`MediaKey::random`] or parsed; nothing else reaches a path.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::{GetResult, ObjectStore, ObjectStoreExt, path};

use crate::picture::Format;

/// The name of a stored file: 32 hexadecimal digits and an ending, as in `/media/{key}`.
///
/// Parsing takes exactly what `Display` writes and refuses everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MediaKey {
    bits: u128,
    format: Format,
}

impl MediaKey {
    /// A key that nobody guesses and nothing else has.
    ///
    /// # Panics
    ///
    /// When the operating system has no randomness to give.
    #[must_use]
    #[expect(clippy::expect_used, reason = "no system that serves requests is without randomness")]
    pub fn random(format: Format) -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives randomness");
        Self { bits: u128::from_be_bytes(bytes), format }
    }

    /// How what lies under it is encoded.
    #[must_use]
    pub const fn format(self) -> Format {
        self.format
    }

    /// The address of the file, as the pages and PHOTO name it.
    #[must_use]
    pub fn url(self) -> String {
        format!("/media/{self}")
    }

    /// The value of the header `ETag`, quotes included.
    #[must_use]
    pub fn etag(self) -> String {
        format!("\"{:032x}\"", self.bits)
    }

    /// A folder for every 1/256 of the files, so that none grows huge.
    fn path(self) -> path::Path {
        path::Path::from(format!("{:02x}/{self}", self.bits >> 120))
    }
}

impl fmt::Display for MediaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}.{}", self.bits, self.format.extension())
    }
}

/// The text is not the name of a stored file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a stored picture")]
pub struct BadKey;

impl FromStr for MediaKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let (digits, extension) = text.split_once('.').ok_or(BadKey)?;
        let format = [Format::Jpeg, Format::Png]
            .into_iter()
            .find(|format| format.extension() == extension)
            .ok_or(BadKey)?;
        let canonical = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 32 || !digits.bytes().all(canonical) {
            return Err(BadKey);
        }
        let bits = u128::from_str_radix(digits, 16).map_err(|_| BadKey)?;
        Ok(Self { bits, format })
    }
}

/// The folder could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the pictures' folder: {0}")]
pub struct StoreError(#[from] object_store::Error);

/// Where pictures lie. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(Arc<dyn ObjectStore>);

impl Store {
    /// A folder on this machine, made if it is not there.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn folder(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path: PathBuf = path.into();
        std::fs::create_dir_all(&path).map_err(|source| generic(&path, source))?;
        let folder = LocalFileSystem::new_with_prefix(path)?.with_fsync(true);
        Ok(Self(Arc::new(folder)))
    }

    /// Stores a file whole or not at all; it survives a power cut once this returns.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub async fn put(&self, key: MediaKey, bytes: Bytes) -> Result<(), StoreError> {
        self.0.put(&key.path(), bytes.into()).await?;
        Ok(())
    }

    /// The file, opened; `None` where there is none. Its bytes come when they are asked for.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub async fn open(&self, key: MediaKey) -> Result<Option<Opened>, StoreError> {
        match self.0.get(&key.path()).await {
            Ok(found) => Ok(Some(Opened(found))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file; it is fine if there is none.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub async fn delete(&self, key: MediaKey) -> Result<(), StoreError> {
        match self.0.delete(&key.path()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A file that is there, and not read yet.
#[derive(Debug)]
pub struct Opened(GetResult);

impl Opened {
    /// How many bytes it has.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.0.meta.size
    }

    /// All of it.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub async fn bytes(self) -> Result<Bytes, StoreError> {
        Ok(self.0.bytes().await?)
    }

    /// All of it, piece by piece, as fast as it is asked for.
    pub fn pieces(self) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
        self.0.into_stream().map_err(StoreError)
    }
}

fn generic(path: &Path, source: std::io::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: "folder",
        source: format!("{}: {source}", path.display()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<MediaKey, BadKey> {
        text.parse()
    }

    #[test]
    fn a_key_is_what_it_displays() {
        let random = MediaKey::random(Format::Png);
        assert_eq!(key(&random.to_string()), Ok(random));
        assert_eq!(random.format(), Format::Png);
        assert_ne!(random, MediaKey::random(Format::Png));
        let zeros = "0000000000000000000000000000000f.jpg";
        assert_eq!(key(zeros).unwrap().to_string(), zeros);
    }

    #[test]
    fn nothing_else_is_a_key() {
        for text in [
            "",
            ".",
            "..",
            ".jpg",
            "../../../../etc/passwd",
            "../0123456789abcdef0123456789abcdef.jpg",
            "..%2f..%2fetc%2fpasswd",
            "0123456789abcdef0123456789abcdef",
            "0123456789abcdef0123456789abcdef.",
            "0123456789abcdef0123456789abcdef.gif",
            "0123456789abcdef0123456789abcdef.jpg/",
            "0123456789abcdef0123456789abcdef.jpg.png",
            "0123456789abcdef0123456789abcdef.JPG",
            "0123456789ABCDEF0123456789abcdef.jpg",
            "+123456789abcdef0123456789abcdef.jpg",
            "0123456789abcdef0123456789abcde.jpg",
            "0123456789abcdef0123456789abcdef0.jpg",
            "0123456789abcdef0123456789abcde\0.jpg",
            "/123456789abcdef0123456789abcdef.jpg",
            "éé23456789abcdef0123456789abcdef.jpg",
        ] {
            assert_eq!(key(text), Err(BadKey), "{text:?}");
        }
    }

    #[tokio::test]
    async fn what_is_put_is_got_until_it_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::folder(folder.path().join("made/on/the/way")).unwrap();
        let key = MediaKey::random(Format::Jpeg);

        assert!(store.open(key).await.unwrap().is_none());
        store.delete(key).await.unwrap();

        store.put(key, Bytes::from_static(b"light")).await.unwrap();
        let opened = store.open(key).await.unwrap().unwrap();
        assert_eq!(opened.length(), 5);
        assert_eq!(opened.bytes().await.unwrap(), "light");
        let pieces = store.open(key).await.unwrap().unwrap().pieces();
        assert_eq!(pieces.try_collect::<Vec<_>>().await.unwrap().concat(), b"light");

        store.delete(key).await.unwrap();
        assert!(store.open(key).await.unwrap().is_none());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Store::folder(file.path().join("below")).unwrap_err().to_string();
        assert!(error.contains("below"), "{error}");
    }
}
