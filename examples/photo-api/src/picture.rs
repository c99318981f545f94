//! Pictures as people upload them, made into what is served: decoded for real, turned upright, freed of
//! metadata, in three sizes.
//!
//! Nothing of the uploaded bytes is served: every rendition is encoded anew from pixels in sRGB, so no
//! position, serial number or hidden payload survives. What the photo's row needs, when and where it
//! was taken, is read before that. A declared size is held against the [`Limits`] before any pixel is
//! allocated, and a file that breaks off is refused rather than padded with grey.

mod complete;
mod facts;
#[cfg(test)]
mod tests;

use std::io::Cursor;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use fast_image_resize::{ResizeOptions, Resizer};
use image::codecs::png::PngEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, metadata};
use jpeg_encoder::{ColorType, SamplingFactor};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};

/// The side of the small square, in pixels: sharp in a grid of three on a phone.
pub const SMALL: u32 = 320;
/// The longest side of the large rendition, in pixels: the width of a column on a good screen.
pub const LARGE: u32 = 1080;

/// How a JPEG is written: how true to the pixels, and whether it shows at once on a slow line, which
/// takes longer to write.
#[derive(Clone, Copy)]
struct Quality {
    percent: u8,
    progressive: bool,
}

const ORIGINAL: Quality = Quality { percent: 90, progressive: false };
const THUMBNAIL: Quality = Quality { percent: 82, progressive: true };

/// An uploaded picture, ready to be stored.
#[derive(Debug)]
pub struct Picture {
    /// The full size, in the format it came in.
    pub original: Rendition,
    /// The middle of the picture as a square of at most [`SMALL`] pixels, for grids.
    pub small: Rendition,
    /// The whole picture, its longest side at most [`LARGE`] pixels.
    pub large: Rendition,
    /// When the camera says it was taken; as UTC where the camera did not say its time zone.
    pub taken_at: Option<DateTime<Utc>>,
    /// Where the camera says it was taken: latitude and longitude in degrees.
    pub position: Option<(f64, f64)>,
}

/// One size of a picture, encoded.
#[derive(Debug, Clone)]
pub struct Rendition {
    /// The file.
    pub bytes: Bytes,
    /// Its width in pixels, upright.
    pub width: u32,
    /// Its height in pixels, upright.
    pub height: u32,
    /// How it is encoded.
    pub format: Format,
}

/// The formats that are accepted and served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG, for photographs.
    Jpeg,
    /// PNG, for drawings, screenshots and whatever is transparent.
    Png,
}

impl Format {
    /// The ending of a file's name, without the dot.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
        }
    }

    /// The value of the header `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
        }
    }
}

/// What an uploaded picture may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The size of the file, in bytes; 25 MiB by default.
    pub bytes: usize,
    /// The declared number of pixels; 50 million by default, the largest that phones commonly make.
    pub pixels: u64,
    /// The declared longest side, in pixels; 16,384 by default.
    pub side: u32,
    /// The memory of the decoded pixels, in bytes; 256 MiB by default. At its peak, processing takes
    /// up to three times as much (a progressive JPEG's coefficients).
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 25 << 20, pixels: 50_000_000, side: 16_384, memory: 256 << 20 }
    }
}

/// Why a picture is refused, in words for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// It is none, or damaged beyond reading.
    #[error("this file is not a picture, or it is damaged: send a JPEG or a PNG")]
    NotAnImage,
    /// The end is missing.
    #[error("the picture breaks off before its end: send it again")]
    Truncated,
    /// The file or what it says it holds is over the limits.
    #[error("the picture is too large: {0}")]
    TooLarge(String),
    /// A picture, but not one of the accepted formats.
    #[error("{0} pictures are not accepted: send a JPEG or a PNG")]
    Unsupported(&'static str),
}

/// Makes an upload into what is stored and served. Takes a good part of a second of computing, so call
/// it where blocking is allowed.
///
/// # Errors
///
/// A [`PictureError`], all of which are the sender's to mend.
pub fn process(bytes: Bytes, limits: &Limits) -> Result<Picture, PictureError> {
    if bytes.len() > limits.bytes {
        return Err(PictureError::TooLarge(format!(
            "the file may have at most {} MB",
            limits.bytes.div_ceil(1 << 20)
        )));
    }
    let format = recognise(&bytes)?;
    complete::check(format, &bytes)?;

    let Decoded { image, orientation, taken_at, position } = decode(&bytes, format, limits)?;
    drop(bytes);

    // Scaling commutes with turning, and turning a thumbnail is cheaper.
    let large = upright(fit(&image), orientation);
    let small = upright(square(&image), orientation);
    let original = upright(image, orientation);
    let thumbnail = if original.color().has_alpha() { Format::Png } else { Format::Jpeg };
    Ok(Picture {
        small: encode(&small, thumbnail, THUMBNAIL)?,
        large: encode(&large, thumbnail, THUMBNAIL)?,
        original: encode(&original, format, ORIGINAL)?,
        taken_at,
        position,
    })
}

/// The format by the file's first bytes; what a name or a header claims is not asked.
fn recognise(bytes: &[u8]) -> Result<Format, PictureError> {
    if bytes.starts_with(b"\xff\xd8\xff") {
        return Ok(Format::Jpeg);
    }
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Ok(Format::Png);
    }
    let known_elsewhere = match bytes {
        [b'G', b'I', b'F', b'8', ..] => "GIF",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "WebP",
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => "AVIF",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', b'e' | b'i', ..] => "HEIC",
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => "TIFF",
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => "BMP",
        [0xff, 0x0a, ..] | [0, 0, 0, 0x0c, b'J', b'X', b'L', b' ', ..] => "JPEG XL",
        _ => return Err(PictureError::NotAnImage),
    };
    Err(PictureError::Unsupported(known_elsewhere))
}

struct Decoded {
    image: DynamicImage,
    orientation: metadata::Orientation,
    taken_at: Option<DateTime<Utc>>,
    position: Option<(f64, f64)>,
}

fn decode(bytes: &[u8], format: Format, limits: &Limits) -> Result<Decoded, PictureError> {
    let refused = |error: ImageError| match error {
        ImageError::Limits(_) => PictureError::TooLarge("it declares more than it may".into()),
        _ => PictureError::NotAnImage,
    };
    let mut allocations = image::Limits::no_limits();
    allocations.max_alloc = Some(limits.memory);
    let mut reader = ImageReader::with_format(
        Cursor::new(bytes),
        match format {
            Format::Jpeg => ImageFormat::Jpeg,
            Format::Png => ImageFormat::Png,
        },
    );
    reader.limits(allocations);
    let mut decoder = reader.into_decoder().map_err(refused)?;

    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(PictureError::NotAnImage);
    }
    if u64::from(width) * u64::from(height) > limits.pixels
        || width.max(height) > limits.side
        || decoder.total_bytes() > limits.memory
    {
        return Err(PictureError::TooLarge(format!(
            "{width} × {height} pixels, where at most {} megapixels and {} on a side are accepted",
            limits.pixels / 1_000_000,
            limits.side
        )));
    }

    // A picture without readable metadata is still a picture.
    let orientation = decoder.orientation().unwrap_or(metadata::Orientation::NoTransforms);
    let facts = decoder.exif_metadata().ok().flatten().map(facts::read).unwrap_or_default();
    let profile = decoder.icc_profile().ok().flatten();
    let image = eight_bits(DynamicImage::from_decoder(decoder).map_err(refused)?);
    let image = match profile {
        Some(profile) => to_srgb(image, &profile),
        None => image,
    };
    Ok(Decoded { image, orientation, taken_at: facts.taken_at, position: facts.position })
}

/// Eight bits a channel, and an alpha channel only where something shows through.
fn eight_bits(image: DynamicImage) -> DynamicImage {
    use DynamicImage as D;
    match image {
        D::ImageLuma16(_) => D::ImageLuma8(image.into_luma8()),
        D::ImageLumaA8(_) | D::ImageLumaA16(_) => {
            let pixels = image.into_luma_alpha8();
            match pixels.pixels().all(|pixel| pixel.0[1] == u8::MAX) {
                true => D::ImageLuma8(D::ImageLumaA8(pixels).into_luma8()),
                false => D::ImageLumaA8(pixels),
            }
        }
        D::ImageRgba8(_) | D::ImageRgba16(_) => {
            let pixels = image.into_rgba8();
            match pixels.pixels().all(|pixel| pixel.0[3] == u8::MAX) {
                true => D::ImageRgb8(D::ImageRgba8(pixels).into_rgb8()),
                false => D::ImageRgba8(pixels),
            }
        }
        D::ImageLuma8(_) | D::ImageRgb8(_) => image,
        other => D::ImageRgb8(other.into_rgb8()),
    }
}

/// The same colours in sRGB, which is what a viewer takes a picture without a profile to be in.
///
/// Phones record in Display P3, so dropping the profile would wash colours out, and keeping it would
/// serve bytes of the upload. A profile that cannot be read, or is not for RGB, changes nothing.
fn to_srgb(mut image: DynamicImage, profile: &[u8]) -> DynamicImage {
    let layout = match &image {
        DynamicImage::ImageRgb8(_) => Layout::Rgb,
        DynamicImage::ImageRgba8(_) => Layout::Rgba,
        _ => return image,
    };
    let transform = ColorProfile::new_from_slice(profile)
        .ok()
        .filter(|profile| profile.color_space == DataColorSpace::Rgb)
        .and_then(|profile| {
            let srgb = ColorProfile::new_srgb();
            profile.create_transform_8bit(layout, &srgb, layout, TransformOptions::default()).ok()
        });
    let Some(transform) = transform else { return image };
    let row_bytes = image.width() as usize * layout.channels();
    let mut row = vec![0; row_bytes];
    let pixels: &mut [u8] = match &mut image {
        DynamicImage::ImageRgb8(pixels) => pixels,
        DynamicImage::ImageRgba8(pixels) => pixels,
        _ => return image,
    };
    for line in pixels.chunks_exact_mut(row_bytes) {
        // Fails only on rows of unequal or uneven length, which these are not.
        if transform.transform(line, &mut row).is_ok() {
            line.copy_from_slice(&row);
        }
    }
    image
}

/// The whole picture within [`LARGE`].
fn fit(image: &DynamicImage) -> DynamicImage {
    let (width, height) = (image.width(), image.height());
    let longest = width.max(height);
    if longest <= LARGE {
        return image.clone();
    }
    let scaled = |side: u32| {
        let rounded =
            (u64::from(side) * u64::from(LARGE) + u64::from(longest) / 2) / u64::from(longest);
        u32::try_from(rounded).unwrap_or(LARGE).max(1)
    };
    shrink(image, scaled(width), scaled(height))
}

/// The middle of the picture as a square within [`SMALL`].
fn square(image: &DynamicImage) -> DynamicImage {
    let side = image.width().min(image.height()).min(SMALL);
    shrink(image, side, side)
}

/// Scales by Lanczos, cutting off what does not fit the new shape, evenly on both sides. What shows
/// through counts for less, so that its colour does not bleed into the rest.
fn shrink(image: &DynamicImage, width: u32, height: u32) -> DynamicImage {
    let mut smaller = DynamicImage::new(width, height, image.color());
    let how = ResizeOptions::new().fit_into_destination(None);
    match Resizer::new().resize(image, &mut smaller, &how) {
        Ok(()) => smaller,
        // It refuses kinds of pixels that `eight_bits` does not leave; any scaler will do for them.
        Err(_) => image.resize_to_fill(width, height, FilterType::Lanczos3),
    }
}

fn upright(mut image: DynamicImage, orientation: metadata::Orientation) -> DynamicImage {
    image.apply_orientation(orientation);
    image
}

fn encode(
    image: &DynamicImage,
    format: Format,
    quality: Quality,
) -> Result<Rendition, PictureError> {
    let mut bytes = Vec::with_capacity(image.as_bytes().len() / 8);
    let written = match format {
        Format::Jpeg => jpeg(image, quality, &mut bytes),
        Format::Png => image.write_with_encoder(PngEncoder::new(&mut bytes)).is_ok(),
    };
    // Writing to memory fails only on dimensions that the format cannot express.
    if !written {
        return Err(PictureError::TooLarge("it has too many pixels on a side".into()));
    }
    Ok(Rendition { bytes: bytes.into(), width: image.width(), height: image.height(), format })
}

fn jpeg(image: &DynamicImage, quality: Quality, bytes: &mut Vec<u8>) -> bool {
    let colours = match image {
        DynamicImage::ImageLuma8(_) => ColorType::Luma,
        DynamicImage::ImageRgb8(_) => ColorType::Rgb,
        _ => return false,
    };
    let sides = (u16::try_from(image.width()), u16::try_from(image.height()));
    let (Ok(width), Ok(height)) = sides else { return false };
    let mut encoder = jpeg_encoder::Encoder::new(bytes, quality.percent);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    // Optimised tables without progression would split the colours into scans of their own, which
    // some decoders get wrong; see `complete`.
    encoder.set_progressive(quality.progressive);
    encoder.set_optimized_huffman_tables(quality.progressive);
    encoder.encode(image.as_bytes(), width, height, colours).is_ok()
}
