//! The files that the pages need. Their names carry a hash of their content, so a browser keeps them for
//! good and still gets a new version at once.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// A file under `/assets/`, to be served with `Cache-Control: public, max-age=31536000, immutable`.
#[derive(Debug)]
pub struct Asset {
    path: String,
    /// The value of the header `Content-Type`.
    pub content_type: &'static str,
    /// The file.
    pub body: &'static str,
}

impl Asset {
    fn new(name: &str, extension: &str, content_type: &'static str, body: &'static str) -> Self {
        let hash: String =
            Sha256::digest(body).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Self { path: format!("/assets/{name}-{hash}.{extension}"), content_type, body }
    }
}

/// The asset of this name, the part after `/assets/`.
#[must_use]
pub fn asset(name: &str) -> Option<&'static Asset> {
    [&*STYLE, &*SCRIPT, &*ICON, &*HERO]
        .into_iter()
        .find(|asset| asset.path.strip_prefix("/assets/") == Some(name))
}

static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("style", "css", "text/css; charset=utf-8", include_str!("assets/style.css"))
});
static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new(
        "niceties",
        "js",
        "text/javascript; charset=utf-8",
        include_str!("assets/niceties.js"),
    )
});
static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("assets/icon.svg")));
static HERO: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("hero", "svg", "image/svg+xml", include_str!("assets/hero.svg")));

pub(super) fn style() -> &'static str {
    &STYLE.path
}

pub(super) fn script() -> &'static str {
    &SCRIPT.path
}

pub(super) fn icon() -> &'static str {
    &ICON.path
}

pub(super) fn hero() -> &'static str {
    &HERO.path
}
