//! Whether a file has its end, told from its frame alone.
//!
//! Decoders are kind to files that break off: they paint the missing part grey. An upload that lost its
//! end must be sent again instead, so the markers of a JPEG and the chunks of a PNG are walked first.
//! What follows the end (a phone's motion clip) is nobody's business.

use super::{Format, PictureError};

/// Scans of one JPEG; encoders write about ten, and each costs a pass over all pixels.
const MAX_SCANS: u32 = 64;

pub(super) fn check(format: Format, bytes: &[u8]) -> Result<(), PictureError> {
    match format {
        Format::Jpeg => jpeg(bytes),
        Format::Png => png(bytes),
    }
}

fn jpeg(bytes: &[u8]) -> Result<(), PictureError> {
    const BASELINE: u8 = 0xc0;
    const EXTENDED: u8 = 0xc1;
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;

    let mut rest = bytes;
    let mut scans = 0;
    let mut splits_badly = None;
    loop {
        let marker = next_marker(&mut rest).ok_or(PictureError::Truncated)?;
        match marker {
            END_OF_IMAGE if scans == 0 => return Err(PictureError::NotAnImage),
            END_OF_IMAGE => return Ok(()),
            // These stand alone: start of image, restarts, and one for temporary use.
            0xd8 | 0xd0..=0xd7 | 0x01 => continue,
            _ => {}
        }
        let (length, _) = rest.split_first_chunk().ok_or(PictureError::Truncated)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (segment, after) = rest.split_at_checked(length).ok_or(PictureError::Truncated)?;
        let content = segment.get(2..).ok_or(PictureError::NotAnImage)?;
        rest = after;
        match marker {
            BASELINE | EXTENDED => splits_badly = subsampled_components(content),
            START_OF_SCAN => {
                // zune-jpeg 0.5.15 decodes these to green stripes and says nothing (zune-image#422).
                if splits_badly.is_some_and(|all| content.first() < Some(&all)) {
                    return Err(PictureError::Unsupported("JPEG (one scan for each colour)"));
                }
                scans += 1;
                if scans > MAX_SCANS {
                    let told = format!("it has more than {MAX_SCANS} scans");
                    return Err(PictureError::TooLarge(told));
                }
            }
            _ => {}
        }
    }
}

/// How many components a frame has, if one of them is sampled more often than others vertically.
fn subsampled_components(frame: &[u8]) -> Option<u8> {
    let (&count, components) = frame.get(5..)?.split_first()?;
    components.chunks_exact(3).any(|component| component[1] & 0x0f > 1).then_some(count)
}

/// Skips to the next marker and past it. In a scan's data a zero after `0xff` says that it is data.
fn next_marker(rest: &mut &[u8]) -> Option<u8> {
    loop {
        let at = rest.iter().position(|&byte| byte == 0xff)?;
        let code = *rest.get(at + 1)?;
        // A marker may be preceded by any number of 0xff: look at the second again.
        *rest = &rest[at + if code == 0xff { 1 } else { 2 }..];
        if code != 0 && code != 0xff {
            return Some(code);
        }
    }
}

fn png(bytes: &[u8]) -> Result<(), PictureError> {
    let mut rest = bytes.get(8..).ok_or(PictureError::Truncated)?;
    loop {
        let (head, _) = rest.split_first_chunk::<8>().ok_or(PictureError::Truncated)?;
        let [a, b, c, d, kind @ ..] = *head;
        // Length and kind before the data, a checksum after it.
        let length = u64::from(u32::from_be_bytes([a, b, c, d])) + 12;
        let length = usize::try_from(length).map_err(|_| PictureError::Truncated)?;
        rest = rest.get(length..).ok_or(PictureError::Truncated)?;
        if &kind == b"IEND" {
            return Ok(());
        }
    }
}
