//! The form for a new photo.

use maud::{Markup, html};

use super::layout::{Here, page, refusal};
use super::views::{Frame, UploadForm};

/// The form for a new photo.
#[must_use]
pub fn upload(frame: &Frame, form: &UploadForm) -> Markup {
    let content = html! {
        section.narrow {
            h1 { "Post a photo" }
            (refusal(form.refused.as_deref()))
            form.stack method="post" action="/upload" enctype="multipart/form-data" {
                label.file {
                    span { "Photo" }
                    input #image name="image" type="file" required accept="image/jpeg,image/png"
                        aria-describedby="image-help";
                    img #preview hidden alt="The photo you chose";
                    small #image-help {
                        "A JPEG or PNG, up to 25 MB. Everything your camera wrote into it is removed, "
                        "but for the date."
                    }
                }
                label {
                    span { "Caption " em { "(optional)" } }
                    textarea name="caption" rows="3" maxlength="2200" { (form.caption) }
                }
                details {
                    summary { "Say where it was taken" }
                    div.pair {
                        label {
                            span { "Latitude" }
                            input #lat name="lat" type="number" min="-90" max="90" step="any" inputmode="decimal";
                        }
                        label {
                            span { "Longitude" }
                            input #lon name="lon" type="number" min="-180" max="180" step="any" inputmode="decimal";
                        }
                    }
                    button #locate.quiet type="button" hidden { "Use where I am now" }
                    small { "Everybody will see it." }
                }
                button type="submit" { "Post" }
            }
        }
    };
    page(frame, "Post a photo", Here::Upload, &content)
}
