//! The brushes: colours, noise, and edges that are soft by one pixel.

use std::ops::{Add, Mul};

/// A colour, each channel from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rgb(pub(super) f32, pub(super) f32, pub(super) f32);

/// A colour as designers write it.
pub(super) const fn hex(code: u32) -> Rgb {
    let [_, red, green, blue] = code.to_be_bytes();
    Rgb(red as f32 / 255.0, green as f32 / 255.0, blue as f32 / 255.0)
}

impl Rgb {
    /// Towards another colour: 0 is this one, 1 the other.
    pub(super) fn mix(self, other: Self, part: f32) -> Self {
        let part = part.clamp(0.0, 1.0);
        self * (1.0 - part) + other * part
    }

    /// Light added, as on film: it brightens and never burns out hard.
    pub(super) fn screen(self, light: Self, strength: f32) -> Self {
        let add =
            |base: f32, light: f32| 1.0 - (1.0 - base) * (1.0 - light * strength.clamp(0.0, 1.0));
        Self(add(self.0, light.0), add(self.1, light.1), add(self.2, light.2))
    }
}

impl Add for Rgb {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0, self.1 + other.1, self.2 + other.2)
    }
}

impl Mul<f32> for Rgb {
    type Output = Self;

    fn mul(self, by: f32) -> Self {
        Self(self.0 * by, self.1 * by, self.2 * by)
    }
}

/// A gradient through evenly spaced colours.
pub(super) fn gradient(colours: &[Rgb], at: f32) -> Rgb {
    let last = colours.len() - 1;
    let at = at.clamp(0.0, 1.0) * last as f32;
    let index = (at as usize).min(last.saturating_sub(1));
    colours[index].mix(colours[(index + 1).min(last)], smooth(0.0, 1.0, at - index as f32))
}

/// 0 below `from`, 1 above `to`, a soft step between; `from` may be the greater.
pub(super) fn smooth(from: f32, to: f32, at: f32) -> f32 {
    let part = ((at - from) / (to - from)).clamp(0.0, 1.0);
    part * part * (3.0 - 2.0 * part)
}

/// A number from 0 to 1 that looks random and is always the same for the same place.
pub(super) fn chance(x: i32, y: i32, seed: u32) -> f32 {
    let mut hash = (x as u32).wrapping_mul(0x9e37_79b1)
        ^ (y as u32).wrapping_mul(0x85eb_ca77)
        ^ seed.wrapping_mul(0xc2b2_ae3d);
    hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
    hash = (hash ^ (hash >> 12)).wrapping_mul(0x297a_2d39);
    ((hash ^ (hash >> 15)) >> 8) as f32 / (1 << 24) as f32
}

/// Faster than `f32::floor`, which is a call on processors that must work everywhere.
fn floor(x: f32) -> i32 {
    let toward_zero = x as i32;
    if (toward_zero as f32) > x { toward_zero - 1 } else { toward_zero }
}

/// Smooth noise from 0 to 1 with hills about one unit apart.
pub(super) fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (left, top) = (floor(x), floor(y));
    let fade = |at: f32| at * at * at * (at * (at * 6.0 - 15.0) + 10.0);
    let (u, v) = (fade(x - left as f32), fade(y - top as f32));
    let row = |y: i32| {
        let (a, b) = (chance(left, y, seed), chance(left + 1, y, seed));
        a + (b - a) * u
    };
    let (above, below) = (row(top), row(top + 1));
    above + (below - above) * v
}

/// Noise upon finer noise, from 0 to 1: clouds, rock, grain.
pub(super) fn cloud(x: f32, y: f32, seed: u32, octaves: u32) -> f32 {
    let (mut sum, mut weight, mut total, mut scale) = (0.0, 1.0, 0.0, 1.0);
    for octave in 0..octaves {
        // Each turned a little, or the grid would show.
        let (u, v) = (x * 0.8 - y * 0.6, x * 0.6 + y * 0.8);
        let (u, v) = if octave % 2 == 0 { (x, y) } else { (u, v) };
        sum += weight * noise(u * scale, v * scale, seed.wrapping_add(octave));
        total += weight;
        weight *= 0.5;
        scale *= 2.03;
    }
    sum / total
}

/// Noise with sharp crests, from 0 to 1: mountains.
pub(super) fn crests(x: f32, seed: u32, octaves: u32) -> f32 {
    let (mut sum, mut weight, mut total, mut scale) = (0.0, 1.0, 0.0, 1.0);
    for octave in 0..octaves {
        let fold = 1.0 - (2.0 * noise(x * scale, 7.3, seed.wrapping_add(octave)) - 1.0).abs();
        sum += weight * fold * fold;
        total += weight;
        weight *= 0.46;
        scale *= 2.1;
    }
    sum / total
}

/// A point on the canvas. `y` goes from 0 at the top to 1 at the bottom and `x` by the same measure, so
/// that circles are round; `pixel` is the size of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) pixel: f32,
}

impl At {
    /// How much of a pixel lies inside a shape, by its distance from the edge (negative inside).
    pub(super) fn inside(self, distance: f32) -> f32 {
        (0.5 - distance / self.pixel).clamp(0.0, 1.0)
    }

    pub(super) fn from(self, x: f32, y: f32) -> f32 {
        (self.x - x).hypot(self.y - y)
    }

    pub(super) fn to(self, x: f32, y: f32) -> Self {
        Self { x, y, ..self }
    }
}

/// The distance to a line of a width that goes from `start` at one end to `end` at the other.
pub(super) fn stroke(at: At, a: (f32, f32), b: (f32, f32), start: f32, end: f32) -> f32 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let along = ((at.x - a.0) * dx + (at.y - a.1) * dy) / (dx * dx + dy * dy);
    let along = along.clamp(0.0, 1.0);
    at.from(a.0 + dx * along, a.1 + dy * along) - (start + (end - start) * along)
}

/// About the distance to an ellipse.
pub(super) fn ellipse(at: At, x: f32, y: f32, width: f32, height: f32) -> f32 {
    (((at.x - x) / width).hypot((at.y - y) / height) - 1.0) * width.min(height)
}
