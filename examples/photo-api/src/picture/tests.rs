use std::time::{Duration, Instant};

use exif::experimental::Writer;
use exif::{Field, In, Rational, Tag, Value};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{DynamicImage, ImageBuffer, ImageEncoder, ImageFormat, Rgb, RgbImage, Rgba};

use super::*;

const RED: [u8; 3] = [220, 30, 30];
const GREEN: [u8; 3] = [30, 200, 30];
const BLUE: [u8; 3] = [30, 30, 220];
const WHITE: [u8; 3] = [240, 240, 240];

/// Red, green / blue, white.
fn quarters(width: u32, height: u32) -> DynamicImage {
    let image = RgbImage::from_fn(width, height, |x, y| {
        Rgb(match (x < width / 2, y < height / 2) {
            (true, true) => RED,
            (false, true) => GREEN,
            (true, false) => BLUE,
            (false, false) => WHITE,
        })
    });
    DynamicImage::ImageRgb8(image)
}

fn file(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg(image: &DynamicImage) -> Vec<u8> {
    file(image, ImageFormat::Jpeg)
}

fn png(image: &DynamicImage) -> Vec<u8> {
    file(image, ImageFormat::Png)
}

fn taken(bytes: impl Into<Bytes>) -> Picture {
    process(bytes.into(), &Limits::default()).unwrap()
}

fn refused(bytes: impl Into<Bytes>) -> PictureError {
    process(bytes.into(), &Limits::default()).unwrap_err()
}

fn shown(rendition: &Rendition) -> DynamicImage {
    let image = image::load_from_memory(&rendition.bytes).unwrap();
    assert_eq!((image.width(), image.height()), (rendition.width, rendition.height));
    image
}

fn exif_block(fields: impl IntoIterator<Item = (Tag, Value)>) -> Vec<u8> {
    let fields: Vec<_> =
        fields.into_iter().map(|(tag, value)| Field { tag, ifd_num: In::PRIMARY, value }).collect();
    let mut writer = Writer::new();
    fields.iter().for_each(|field| writer.push_field(field));
    let mut block = Cursor::new(Vec::new());
    writer.write(&mut block, false).unwrap();
    block.into_inner()
}

/// The JPEG with a segment more, right after its start.
fn with_segment(jpeg: &[u8], marker: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len() + 2).unwrap().to_be_bytes();
    [&jpeg[..2], &[0xff, marker], &length, content, &jpeg[2..]].concat()
}

fn with_exif(jpeg: &[u8], block: &[u8]) -> Vec<u8> {
    with_segment(jpeg, 0xe1, &[b"Exif\0\0", block].concat())
}

fn png_with(image: &DynamicImage, set: impl FnOnce(&mut PngEncoder<&mut Vec<u8>>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = PngEncoder::new(&mut bytes);
    set(&mut encoder);
    image.write_with_encoder(encoder).unwrap();
    bytes
}

fn text(text: &str) -> Value {
    Value::Ascii(vec![text.as_bytes().to_vec()])
}

fn degrees(parts: [(u32, u32); 3]) -> Value {
    Value::Rational(parts.map(|(num, denom)| Rational { num, denom }).to_vec())
}

fn camera_facts() -> Vec<(Tag, Value)> {
    vec![
        (Tag::Make, text("SECRETCAMERA")),
        (Tag::DateTimeOriginal, text("2024:07:14 21:30:05")),
        (Tag::OffsetTimeOriginal, text("+02:00")),
        (Tag::GPSLatitudeRef, text("S")),
        (Tag::GPSLatitude, degrees([(33, 1), (51, 1), (2451, 100)])),
        (Tag::GPSLongitudeRef, text("E")),
        (Tag::GPSLongitude, degrees([(151, 1), (12, 1), (3600, 100)])),
    ]
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn a_photo_comes_in_three_sizes() {
    let picture = taken(jpeg(&quarters(2000, 1500)));
    let size = |rendition: &Rendition| (rendition.width, rendition.height, rendition.format);
    assert_eq!(size(&picture.original), (2000, 1500, Format::Jpeg));
    assert_eq!(size(&picture.large), (1080, 810, Format::Jpeg));
    assert_eq!(size(&picture.small), (320, 320, Format::Jpeg));
    assert_eq!((picture.taken_at, picture.position), (None, None));
    for rendition in [&picture.original, &picture.large, &picture.small] {
        shown(rendition);
    }
}

#[test]
fn nothing_is_enlarged_and_nothing_vanishes() {
    for (width, height, large, small) in [
        (1, 1, (1, 1), 1),
        (319, 200, (319, 200), 200),
        (1080, 1080, (1080, 1080), 320),
        (1081, 1, (1080, 1), 1),
        (3, 5000, (1, 1080), 3),
        (400, 321, (400, 321), 320),
    ] {
        let picture = taken(png(&quarters(width, height)));
        assert_eq!((picture.original.width, picture.original.height), (width, height));
        assert_eq!((picture.large.width, picture.large.height), large, "{width}×{height}");
        assert_eq!((picture.small.width, picture.small.height), (small, small));
    }
}

#[test]
fn every_orientation_is_turned_upright() {
    let upright = quarters(64, 32);
    for orientation in 1..=8_u16 {
        let stored = match orientation {
            2 => upright.fliph(),
            3 => upright.rotate180(),
            4 => upright.flipv(),
            5 => upright.rotate90().fliph(),
            6 => upright.rotate270(),
            7 => upright.rotate270().fliph(),
            8 => upright.rotate90(),
            _ => upright.clone(),
        };
        let block = exif_block([(Tag::Orientation, Value::Short(vec![orientation]))]);
        let as_jpeg = with_exif(&jpeg(&stored), &block);
        let as_png = png_with(&stored, |encoder| encoder.set_exif_metadata(block).unwrap());
        for bytes in [as_jpeg, as_png] {
            let picture = taken(bytes);
            assert_eq!((picture.original.width, picture.original.height), (64, 32));
            for rendition in [&picture.original, &picture.large, &picture.small] {
                let image = shown(rendition).into_rgb8();
                let (right, bottom) = (image.width() - 4, image.height() - 4);
                for (x, y, colour) in
                    [(4, 4, RED), (right, 4, GREEN), (4, bottom, BLUE), (right, bottom, WHITE)]
                {
                    let off =
                        image.get_pixel(x, y).0.iter().zip(colour).map(|(a, b)| a.abs_diff(b));
                    assert!(
                        off.max().unwrap() < 40,
                        "orientation {orientation} at {x}, {y}: {:?}",
                        image.get_pixel(x, y)
                    );
                }
            }
        }
    }
}

#[test]
fn when_and_where_are_read_and_nothing_of_it_is_served() {
    let block = exif_block(camera_facts());
    let image = quarters(400, 300);
    let mut as_jpeg = with_exif(&jpeg(&image), &block);
    as_jpeg = with_segment(&as_jpeg, 0xe1, b"http://ns.adobe.com/xap/1.0/\0<x>SECRETXMP</x>");
    as_jpeg = with_segment(&as_jpeg, 0xed, b"Photoshop 3.0\0SECRETIPTC");
    as_jpeg = with_segment(&as_jpeg, 0xfe, b"SECRETCOMMENT");
    as_jpeg.extend_from_slice(b"SECRETTRAILER");
    let mut as_png = png_with(&image, |encoder| encoder.set_exif_metadata(block.clone()).unwrap());
    as_png.extend_from_slice(b"SECRETTRAILER");

    let latitude = degrees([(33, 1), (51, 1), (2451, 100)]);
    let Value::Rational(latitude) = latitude else { unreachable!() };
    let gps: Vec<u8> = latitude
        .iter()
        .flat_map(|part| [part.num.to_be_bytes(), part.denom.to_be_bytes()].concat())
        .collect();

    for bytes in [as_jpeg, as_png] {
        assert!(contains(&bytes, &gps) && contains(&bytes, b"SECRETCAMERA"));
        let picture = taken(bytes);
        assert_eq!(picture.taken_at.unwrap().to_rfc3339(), "2024-07-14T19:30:05+00:00");
        let (latitude, longitude) = picture.position.unwrap();
        assert!((latitude + 33.856_808).abs() < 1e-6, "{latitude}");
        assert!((longitude - 151.21).abs() < 1e-6, "{longitude}");
        for rendition in [&picture.original, &picture.large, &picture.small] {
            for secret in [&b"SECRET"[..], b"Exif", b"eXIf", b"GPS", &gps, b"xap", b"2024:07:14"] {
                assert!(!contains(&rendition.bytes, secret), "{}", secret.escape_ascii());
            }
        }
    }
}

#[test]
fn nonsense_facts_are_no_facts() {
    let with = |changes: &[(Tag, Value)]| {
        let mut facts = camera_facts();
        for (tag, value) in changes {
            facts.retain(|(known, _)| known != tag);
            facts.push((*tag, value.clone()));
        }
        facts::read(exif_block(facts))
    };
    for date in
        ["0000:00:00 00:00:00", "    :  :     :  :  ", "2024:13:41 25:61:61", "yesterday", ""]
    {
        assert_eq!(with(&[(Tag::DateTimeOriginal, text(date))]).taken_at, None, "{date:?}");
    }
    for odd_offset in ["", "   :  ", "+99:99", "Z"] {
        let facts = with(&[(Tag::OffsetTimeOriginal, text(odd_offset))]);
        assert!(facts.taken_at.is_some(), "{odd_offset:?}");
    }
    for (tag, value) in [
        (Tag::GPSLatitude, degrees([(0, 0), (0, 0), (0, 0)])),
        (Tag::GPSLatitude, degrees([(91, 1), (0, 1), (0, 1)])),
        (Tag::GPSLatitude, Value::Rational(vec![])),
        (Tag::GPSLatitude, text("33")),
        (Tag::GPSLatitudeRef, text("")),
        (Tag::GPSLatitudeRef, text("X")),
        (Tag::GPSLongitude, degrees([(u32::MAX, 1), (0, 1), (0, 1)])),
        (Tag::GPSStatus, text("V")),
    ] {
        assert_eq!(with(&[(tag, value)]).position, None, "{tag}");
    }
    for block in [&b""[..], b"MM\0\x2a\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", &[0xff; 64]] {
        assert_eq!(facts::read(block.to_vec()), facts::Facts::default());
    }
}

#[test]
fn a_file_that_breaks_off_anywhere_is_refused() {
    let image = quarters(48, 32);
    let block = exif_block(camera_facts());
    for whole in [with_exif(&jpeg(&image), &block), png(&image)] {
        taken(whole.clone());
        for length in 0..whole.len() {
            let error = refused(whole[..length].to_vec());
            let expected = if length < 8 {
                matches!(error, PictureError::NotAnImage | PictureError::Truncated)
            } else {
                error == PictureError::Truncated
            };
            assert!(expected, "{length} bytes of {}: {error:?}", whole.len());
        }
    }
}

#[test]
fn damage_never_panics_and_never_takes_long() {
    let image = quarters(96, 64);
    let block = exif_block(camera_facts());
    let profile = ColorProfile::new_display_p3().encode().unwrap();
    let files = [
        with_exif(&jpeg(&image), &block),
        png_with(&image, |encoder| {
            encoder.set_icc_profile(profile).unwrap();
            encoder.set_exif_metadata(block.clone()).unwrap();
        }),
    ];
    let limits = Limits { pixels: 1_000_000, ..Limits::default() };
    let mut state = 1_u32;
    let mut random = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let started = Instant::now();
    for _ in 0..400 {
        for whole in &files {
            let mut damaged = whole.clone();
            for _ in 0..=random(4) {
                let at = random(damaged.len());
                damaged[at] = u8::try_from(random(256)).unwrap();
            }
            // Either answer is right; what counts is that there is one.
            let _ = process(damaged.into(), &limits);
        }
    }
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn bombs_are_refused_by_what_they_declare() {
    let started = Instant::now();

    let mut declared = png(&quarters(8, 8));
    declared[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let checksum = crc32(&declared[12..29]).to_be_bytes();
    declared[29..33].copy_from_slice(&checksum);
    assert!(matches!(refused(declared), PictureError::TooLarge(_)));

    let mut declared = jpeg(&quarters(8, 8));
    let frame = declared.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    declared[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    assert!(matches!(refused(declared), PictureError::TooLarge(_)));

    let whole = jpeg(&quarters(64, 64));
    for limits in [
        Limits { bytes: whole.len() - 1, ..Limits::default() },
        Limits { pixels: 64 * 64 - 1, ..Limits::default() },
        Limits { side: 63, ..Limits::default() },
        Limits { memory: 64 * 64 * 3 - 1, ..Limits::default() },
    ] {
        let error = process(whole.clone().into(), &limits).unwrap_err();
        assert!(matches!(error, PictureError::TooLarge(_)), "{limits:?}");
    }

    let many = [&whole[..2], &[0xff, 0xda, 0, 2].repeat(65), &whole[2..]].concat();
    assert!(matches!(refused(many), PictureError::TooLarge(_)));
    assert!(started.elapsed() < Duration::from_secs(5));
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

#[test]
fn other_formats_are_named() {
    for (start, name) in [
        (&b"GIF89a\x01\0\x01\0"[..], "GIF"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "WebP"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0", "BMP"),
    ] {
        let error = refused(start.to_vec());
        assert_eq!(error, PictureError::Unsupported(name));
        assert!(error.to_string().contains("JPEG or a PNG"), "{error}");
    }
    for start in
        [&b""[..], b"hello", b"<svg xmlns='x'/>", b"%PDF-1.7", b"\0\0\0\x18ftypisom", &[0; 99]]
    {
        assert_eq!(refused(start.to_vec()), PictureError::NotAnImage);
    }
}

#[test]
fn what_shows_through_stays_png_and_the_rest_is_light() {
    let glass = ImageBuffer::from_fn(700, 500, |x, _| {
        Rgba([200_u8, 100, 50, u8::try_from(x % 256).unwrap()])
    });
    let picture = taken(png(&DynamicImage::ImageRgba8(glass)));
    for rendition in [&picture.original, &picture.large, &picture.small] {
        assert_eq!(rendition.format, Format::Png);
        assert!(shown(rendition).color().has_alpha());
    }

    let opaque = ImageBuffer::from_pixel(700, 500, Rgba([200_u8, 100, 50, 255]));
    let picture = taken(png(&DynamicImage::ImageRgba8(opaque)));
    assert_eq!(picture.original.format, Format::Png);
    assert_eq!(picture.large.format, Format::Jpeg);
    assert!(!shown(&picture.original).color().has_alpha());
}

#[test]
fn colours_in_scans_of_their_own_are_right_or_refused() {
    let image = quarters(64, 64);
    for sampling in [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_2_2] {
        for (optimised, progressive) in [(false, false), (true, false), (true, true)] {
            let mut bytes = Vec::new();
            let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
            encoder.set_sampling_factor(sampling);
            encoder.set_optimized_huffman_tables(optimised);
            encoder.set_progressive(progressive);
            encoder.encode(image.as_bytes(), 64, 64, ColorType::Rgb).unwrap();
            match process(bytes.into(), &Limits::default()) {
                Ok(picture) => {
                    let pixel = shown(&picture.original).into_rgb8().get_pixel(8, 8).0;
                    let off = pixel.iter().zip(RED).map(|(a, b)| a.abs_diff(b)).max();
                    assert!(off < Some(10), "{sampling:?} {optimised} {progressive}: {pixel:?}");
                }
                Err(error) => {
                    assert!(matches!(error, PictureError::Unsupported(_)), "{error}");
                    assert!(optimised && !progressive);
                }
            }
        }
    }
}

#[test]
fn ink_becomes_light() {
    // Cyan, magenta, yellow and key as a print shop's JPEG has them: nothing, then all of cyan and magenta.
    let ink: Vec<u8> = (0..64 * 64)
        .flat_map(|at| if at % 64 < 32 { [0, 0, 0, 0] } else { [255, 255, 0, 0] })
        .collect();
    for colours in [ColorType::Cmyk, ColorType::CmykAsYcck] {
        let mut bytes = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
        encoder.encode(&ink, 64, 64, colours).unwrap();
        let image = shown(&taken(bytes).original).into_rgb8();
        let (paper, blue) = (image.get_pixel(8, 8).0, image.get_pixel(56, 8).0);
        assert!(paper.iter().all(|&channel| channel > 230), "{colours:?}: {paper:?}");
        assert!(blue[0] < 40 && blue[1] < 40 && blue[2] > 215, "{colours:?}: {blue:?}");
    }
}

#[test]
fn every_kind_of_pixel_is_taken() {
    let rgb = quarters(90, 60);
    let kinds = [
        DynamicImage::ImageLuma8(rgb.to_luma8()),
        DynamicImage::ImageLumaA8(rgb.to_luma_alpha8()),
        DynamicImage::ImageLuma16(rgb.to_luma16()),
        DynamicImage::ImageLumaA16(rgb.to_luma_alpha16()),
        DynamicImage::ImageRgb16(rgb.to_rgb16()),
        DynamicImage::ImageRgba16(rgb.to_rgba16()),
        DynamicImage::ImageRgba8(rgb.to_rgba8()),
    ];
    for kind in &kinds {
        let image = shown(&taken(png(kind)).original);
        let top_left = image.to_luma8().get_pixel(5, 5).0[0];
        assert!(top_left.abs_diff(rgb.to_luma8().get_pixel(5, 5).0[0]) < 4, "{:?}", kind.color());
        assert!(!image.color().has_alpha());
    }
    let grey = taken(jpeg(&kinds[0]));
    assert_eq!(shown(&grey.original).color(), image::ColorType::L8);
}

#[test]
fn colours_come_out_in_srgb() {
    let tile = DynamicImage::ImageRgb8(RgbImage::from_pixel(64, 64, Rgb([100, 180, 100])));
    let with_profile =
        |profile: Vec<u8>| png_with(&tile, |encoder| encoder.set_icc_profile(profile).unwrap());
    let first_pixel = |bytes: Vec<u8>| {
        let picture = taken(bytes);
        assert!(!contains(&picture.original.bytes, b"iCCP"));
        shown(&picture.original).into_rgb8().get_pixel(0, 0).0
    };
    let p3 = first_pixel(with_profile(ColorProfile::new_display_p3().encode().unwrap()));
    assert!(p3[0].abs_diff(70) < 6 && p3[1].abs_diff(182) < 6 && p3[2].abs_diff(92) < 6, "{p3:?}");
    assert_eq!(first_pixel(with_profile(b"not a profile".to_vec())), [100, 180, 100]);

    let mut as_jpeg = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut as_jpeg, 95);
    encoder.set_icc_profile(ColorProfile::new_display_p3().encode().unwrap()).unwrap();
    tile.write_with_encoder(encoder).unwrap();
    let picture = taken(as_jpeg);
    assert!(!contains(&picture.original.bytes, b"ICC_PROFILE"));
    assert!(shown(&picture.original).into_rgb8().get_pixel(0, 0).0[0] < 80);
}
