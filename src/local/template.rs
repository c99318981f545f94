//! Data folders that are copied instead of made, for tests: they make the same servers over and over.
//!
//! There is one template for each version and name. Servers of one cluster thus differ in their system
//! identifier, as real ones do.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Server, process};

impl Server {
    /// Copies a data folder like the one wanted, if there is one: says whether there was.
    pub(super) async fn copy_template(&self, templates: &Path, major: u32, making: &Path) -> bool {
        let template = self.template(templates, major);
        template.exists() && self.copy(&template, making).await.is_ok()
    }

    /// Keeps a copy of a data folder for the next. That is a convenience: failing is no error.
    pub(super) async fn keep_template(&self, templates: &Path, major: u32, made: &Path) {
        let template = self.template(templates, major);
        // Within the server's own folder, so that an interrupted copy goes when the server does.
        let making = self.folder.join("template.new");
        if self.copy(made, &making).await.is_ok() {
            // Somebody may have been faster: then there is no room for it, and ours goes.
            if fs::rename(&making, &template).is_err() {
                let _ = fs::remove_dir_all(&making);
            }
        }
    }

    fn template(&self, templates: &Path, major: u32) -> PathBuf {
        templates.join(format!("{major}-{}", self.name))
    }

    async fn copy(&self, from: &Path, to: &Path) -> Result<(), String> {
        let mut cp = self.account.command("cp", &self.folder);
        cp.arg("-Rp").arg(from).arg(to);
        let copied = process::run(cp).await;
        if copied.is_err() {
            let _ = fs::remove_dir_all(to);
        }
        copied.map(drop)
    }
}
