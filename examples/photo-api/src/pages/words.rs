//! Times, counts and places, in words.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

/// A moment as people say it, with the exact time for whoever points at it.
pub(super) fn time(at: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    html! {
        time datetime=(at.format("%Y-%m-%dT%H:%M:%SZ")) title=(at.format("%-d %B %Y, %H:%M UTC")) {
            (ago(at, now))
        }
    }
}

fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let minutes = (now - at).num_minutes();
    // Clocks differ a little between machines, so a moment ahead is now as well.
    match minutes {
        -10..1 => "just now".into(),
        1..60 => format!("{minutes} min ago"),
        60..1440 => format!("{} h ago", minutes / 60),
        1440..2880 => "yesterday".into(),
        2880..10_080 => format!("{} days ago", minutes / 1440),
        _ => day(at),
    }
}

/// A day as people write it.
pub(super) fn day(at: DateTime<Utc>) -> String {
    at.format("%-d %B %Y").to_string()
}

/// A number with its noun: `1 like`, `2 likes`.
pub(super) fn count(number: i64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), noun(number, one, many))
}

/// The noun that goes with a number.
pub(super) fn noun<'a>(number: i64, one: &'a str, many: &'a str) -> &'a str {
    if number == 1 { one } else { many }
}

/// A number with its thousands apart: `12,345`.
pub(super) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A position as maps write it: `33.857° S, 151.215° E`. Three decimals are a street, not a door.
pub(super) fn place((latitude, longitude): (f64, f64)) -> String {
    let half = |degrees: f64, positive, negative| if degrees < 0.0 { negative } else { positive };
    format!(
        "{:.3}° {}, {:.3}° {}",
        latitude.abs(),
        half(latitude, 'N', 'S'),
        longitude.abs(),
        half(longitude, 'E', 'W')
    )
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, TimeZone};

    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        let now = Utc.with_ymd_and_hms(2024, 7, 14, 12, 0, 0).unwrap();
        for (seconds, said) in [
            (-30, "just now"),
            (0, "just now"),
            (59, "just now"),
            (60, "1 min ago"),
            (3599, "59 min ago"),
            (3600, "1 h ago"),
            (86_399, "23 h ago"),
            (86_400, "yesterday"),
            (172_800, "2 days ago"),
            (604_799, "6 days ago"),
            (604_800, "7 July 2024"),
            (-86_400, "15 July 2024"),
        ] {
            assert_eq!(ago(now - TimeDelta::seconds(seconds), now), said, "{seconds}");
        }
        let markup = time(now, now).into_string();
        assert!(markup.contains("datetime=\"2024-07-14T12:00:00Z\""), "{markup}");
        assert!(markup.contains("title=\"14 July 2024, 12:00 UTC\""), "{markup}");
    }

    #[test]
    fn numbers_are_grouped_and_have_their_nouns() {
        for (number, said) in
            [(0, "0 likes"), (1, "1 like"), (999, "999 likes"), (1000, "1,000 likes")]
        {
            assert_eq!(count(number, "like", "likes"), said);
        }
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(-1234), "-1,234");
        assert_eq!(grouped(i64::MIN), "-9,223,372,036,854,775,808");
    }

    #[test]
    fn places_name_their_half_of_the_globe() {
        assert_eq!(place((-33.8568, 151.2153)), "33.857° S, 151.215° E");
        assert_eq!(place((51.5, -0.1278)), "51.500° N, 0.128° W");
    }
}
