//! When and where a picture was taken, from its EXIF block.
//!
//! Cameras write nonsense when they do not know: years 0000, positions 0/0. Nonsense is nothing.

use chrono::{DateTime, FixedOffset, NaiveDate, Offset, Utc};
use exif::{Exif, In, Rational, Tag, Value};

/// What the EXIF block says, as far as it makes sense.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) taken_at: Option<DateTime<Utc>>,
    pub(super) position: Option<(f64, f64)>,
}

/// Reads a block as it stands in the file; damaged entries are passed over.
pub(super) fn read(block: Vec<u8>) -> Facts {
    let exif = match exif::Reader::new().continue_on_error(true).read_raw(block) {
        Ok(exif) => exif,
        Err(exif::Error::PartialResult(partial)) => partial.into_inner().0,
        Err(_) => return Facts::default(),
    };
    Facts { taken_at: taken_at(&exif), position: position(&exif) }
}

fn taken_at(exif: &Exif) -> Option<DateTime<Utc>> {
    let (time, offset) = [
        (Tag::DateTimeOriginal, Tag::OffsetTimeOriginal),
        (Tag::DateTimeDigitized, Tag::OffsetTimeDigitized),
    ]
    .into_iter()
    .find_map(|(time, offset)| Some((ascii(exif, time)?, ascii(exif, offset))))?;
    let mut time = exif::DateTime::from_ascii(time).ok()?;
    if let Some(offset) = offset {
        // An offset that cannot be read leaves none.
        let _ = time.parse_offset(offset);
    }
    let local = NaiveDate::from_ymd_opt(time.year.into(), time.month.into(), time.day.into())?
        .and_hms_opt(time.hour.into(), time.minute.into(), time.second.into())?;
    let offset = time.offset.and_then(|minutes| FixedOffset::east_opt(i32::from(minutes) * 60));
    let instant = local.and_local_timezone(offset.unwrap_or_else(|| Utc.fix())).single()?;
    // No photograph is older than photography.
    (time.year > 1826).then(|| instant.to_utc())
}

fn position(exif: &Exif) -> Option<(f64, f64)> {
    // 'V' is a receiver's warning that it had no fix.
    if ascii(exif, Tag::GPSStatus).is_some_and(|status| status.starts_with(b"V")) {
        return None;
    }
    let latitude = degrees(exif, Tag::GPSLatitude, Tag::GPSLatitudeRef, b'N', b'S', 90.0)?;
    let longitude = degrees(exif, Tag::GPSLongitude, Tag::GPSLongitudeRef, b'E', b'W', 180.0)?;
    Some((latitude, longitude))
}

/// Degrees, minutes and seconds with their half of the globe, as one signed number within `limit`.
fn degrees(
    exif: &Exif,
    value: Tag,
    half: Tag,
    positive: u8,
    negative: u8,
    limit: f64,
) -> Option<f64> {
    let Value::Rational(parts) = &exif.get_field(value, In::PRIMARY)?.value else { return None };
    let [degrees, minutes, seconds] = parts.first_chunk::<3>()?;
    let number = |part: &Rational| (part.denom != 0).then(|| part.to_f64());
    let magnitude = number(degrees)? + number(minutes)? / 60.0 + number(seconds)? / 3600.0;
    let sign = match ascii(exif, half)?.first()? {
        first if *first == positive => 1.0,
        first if *first == negative => -1.0,
        _ => return None,
    };
    (magnitude <= limit).then_some(sign * magnitude)
}

fn ascii(exif: &Exif, tag: Tag) -> Option<&[u8]> {
    match &exif.get_field(tag, In::PRIMARY)?.value {
        Value::Ascii(lines) => lines.first().map(Vec::as_slice),
        _ => None,
    }
}
