//! A small gallery for whoever has no camera roll at hand: five people and their pictures, drawn by
//! arithmetic. The same on every machine, and no file of anybody's.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels and colours are rounded on purpose, and nothing here comes from outside"
)]

mod land;
mod made;
mod paint;

use bytes::Bytes;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use land::{Forest, Ridges, Sea, Sun};
use paint::{At, Rgb, hex, noise};

/// Somebody of the gallery.
#[derive(Debug)]
pub struct Artist {
    /// Their name, as they sign up with.
    pub name: &'static str,
    /// What they post, in order.
    pub works: &'static [Work],
}

/// One picture of the gallery.
#[derive(Debug)]
pub struct Work {
    title: &'static str,
    /// What is written under it.
    pub caption: &'static str,
    width: u16,
    height: u16,
    shade: fn(At) -> Rgb,
}

impl Work {
    /// What tells it from all others, also in later versions of this program.
    pub(crate) const fn title(&self) -> &'static str {
        self.title
    }

    /// Draws it, as a JPEG without metadata. Takes about a second of computing.
    #[must_use]
    pub fn draw(&self) -> Bytes {
        let pixels = self.pixels(self.width, self.height);
        let mut jpeg = Vec::new();
        let mut encoder = Encoder::new(&mut jpeg, 92);
        encoder.set_sampling_factor(SamplingFactor::F_2_2);
        // Cannot fail: the pixels have the size that is said, and memory takes what is written.
        let _ = encoder.encode(&pixels, self.width, self.height, ColorType::Rgb);
        jpeg.into()
    }

    fn pixels(&self, width: u16, height: u16) -> Vec<u8> {
        let pixel = 1.0 / f32::from(height);
        let mut pixels = Vec::with_capacity(usize::from(width) * usize::from(height) * 3);
        for row in 0..height {
            for column in 0..width {
                let (column, row) = (f32::from(column), f32::from(row));
                let (x, y) = ((column + 0.5) * pixel, (row + 0.5) * pixel);
                let colour = (self.shade)(At { x, y, pixel });
                // A little darker towards the corners and a little grain, as a lens and film do.
                let (u, v) = (x / (f32::from(width) * pixel) - 0.5, y - 0.5);
                let lens = 1.03 - 0.26 * (u * u + v * v);
                let grain = 0.02 * (noise(column * 0.9, row * 0.9, 7) - 0.5);
                for channel in [colour.0, colour.1, colour.2] {
                    pixels.push(((channel * lens + grain).clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
                }
            }
        }
        pixels
    }
}

const fn work(
    title: &'static str,
    caption: &'static str,
    (width, height): (u16, u16),
    shade: fn(At) -> Rgb,
) -> Work {
    Work { title, caption, width, height, shade }
}

const WIDE: (u16, u16) = (1350, 900);
const LANDSCAPE: (u16, u16) = (1320, 990);
const SQUARE: (u16, u16) = (1110, 1110);
const PORTRAIT: (u16, u16) = (1080, 1350);
const TALL: (u16, u16) = (1020, 1360);

/// Everybody.
pub const GALLERY: [Artist; 5] = [
    Artist { name: "ines", works: INES },
    Artist { name: "marlow", works: MARLOW },
    Artist { name: "tomasz.k", works: TOMASZ },
    Artist { name: "yuki", works: YUKI },
    Artist { name: "amara", works: AMARA },
];

const INES: &[Work] = &[
    work("ridge at dawn", "First light on the ridge. Worth the alarm clock.", LANDSCAPE, |at| {
        const SKY: &[Rgb] = &[hex(0x3b4a7a), hex(0x9a7aa8), hex(0xf0a58a), hex(0xffd9a0)];
        Ridges {
            sky: SKY,
            far: hex(0xe9b7a0),
            near: hex(0x1f2340),
            horizon: 0.5,
            layers: 7,
            height: 0.34,
            mist: 0.8,
            sun: Some(Sun { x: 0.92, y: 0.44, size: 0.035, colour: hex(0xffe2b0), glow: 0.9 }),
            seed: 11,
        }
        .shade(at)
    }),
    work("lake", "Lake so still we whispered", LANDSCAPE, |at| {
        const SKY: &[Rgb] = &[hex(0x4a86c4), hex(0x9cc7e8), hex(0xe8f1f2)];
        let hills = Ridges {
            sky: SKY,
            far: hex(0xa9bfd6),
            near: hex(0x24402f),
            horizon: 0.36,
            layers: 5,
            height: 0.36,
            mist: 0.5,
            sun: None,
            seed: 23,
        };
        land::mirrored(at, 0.6, hex(0x1d4a52), 5, |at| hills.shade(at))
    }),
    work("fog", "Fog came in, went out, came in again. Stayed for both.", TALL, |at| {
        const SKY: &[Rgb] = &[hex(0xb9c6cf), hex(0xd7dfe2), hex(0xe9edec)];
        Forest {
            sky: SKY,
            far: hex(0xd3dcdd),
            near: hex(0x1d2f2c),
            rows: 6,
            size: 0.22,
            moon: None,
            seed: 4,
        }
        .shade(at)
    }),
    work("aurora", "02:40, minus eleven degrees, nobody complained", LANDSCAPE, |at| {
        land::aurora(at, 3)
    }),
    work("moonrise", "Moonrise behind the hut", SQUARE, |at| {
        const SKY: &[Rgb] = &[hex(0x0b1026), hex(0x1b2450), hex(0x3d3f7a), hex(0x7a6a9c)];
        let moon = Sun { x: 0.63, y: 0.34, size: 0.15, colour: hex(0xf3e7c9), glow: 0.5 };
        Forest {
            sky: SKY,
            far: hex(0x4b4a80),
            near: hex(0x070a18),
            rows: 4,
            size: 0.2,
            moon: Some(moon),
            seed: 9,
        }
        .shade(at)
    }),
    work("blue ridges", "Evening, all blues", WIDE, |at| {
        const SKY: &[Rgb] = &[hex(0x14294d), hex(0x386a9c), hex(0x9dbfd0), hex(0xf0d7b8)];
        Ridges {
            sky: SKY,
            far: hex(0xa7c0cf),
            near: hex(0x0b1c33),
            horizon: 0.42,
            layers: 9,
            height: 0.26,
            mist: 0.9,
            sun: None,
            seed: 41,
        }
        .shade(at)
    }),
];

const MARLOW: &[Work] = &[
    work("last swim", "Last swim of the summer", LANDSCAPE, |at| {
        const SKY: &[Rgb] = &[hex(0x46518f), hex(0xb46a92), hex(0xff9a6c), hex(0xffd18a)];
        const WATER: &[Rgb] = &[hex(0xc9786c), hex(0x5b4a74), hex(0x1c2344)];
        Sea {
            sky: SKY,
            water: WATER,
            horizon: 0.52,
            clouds: 0.9,
            seed: 6,
            sun: Sun { x: 0.8, y: 0.46, size: 0.045, colour: hex(0xffd28a), glow: 1.0 },
        }
        .shade(at)
    }),
    work("beach", "Lunch spot, seen by a gull", TALL, |at| {
        const UMBRELLAS: &[[Rgb; 2]] = &[
            [hex(0xe4572e), hex(0xfff4e0)],
            [hex(0x17bebb), hex(0xffffff)],
            [hex(0xffc914), hex(0xfff7dc)],
            [hex(0x2e5266), hex(0xe8eef2)],
            [hex(0xe4572e), hex(0xffc914)],
            [hex(0xd1495b), hex(0xfff0f0)],
            [hex(0x3d9970), hex(0xf4fff4)],
            [hex(0xff7f50), hex(0xffffff)],
        ];
        made::beach(at, UMBRELLAS, 12)
    }),
    work("open sea", "", WIDE, |at| {
        const SKY: &[Rgb] = &[hex(0x6fb1de), hex(0xb5daf0), hex(0xf3efe0)];
        const WATER: &[Rgb] = &[hex(0x7fc4d0), hex(0x2a8fae), hex(0x0c4a73)];
        Sea {
            sky: SKY,
            water: WATER,
            horizon: 0.4,
            clouds: 1.0,
            seed: 17,
            sun: Sun { x: 0.35, y: 0.12, size: 0.03, colour: hex(0xfffbe8), glow: 0.55 },
        }
        .shade(at)
    }),
    work("white arch", "Window seat", PORTRAIT, |at| made::arch(at, hex(0xf4efe6), 0.33, 8)),
    work("storm", "The storm let go just in time", LANDSCAPE, |at| {
        const SKY: &[Rgb] = &[hex(0x1d2233), hex(0x3a4660), hex(0x8a7f8c), hex(0xf1c08b)];
        const WATER: &[Rgb] = &[hex(0x8a7a78), hex(0x38455c), hex(0x10182b)];
        Sea {
            sky: SKY,
            water: WATER,
            horizon: 0.6,
            clouds: 1.25,
            seed: 33,
            sun: Sun { x: 0.45, y: 0.57, size: 0.03, colour: hex(0xffc878), glow: 0.8 },
        }
        .shade(at)
    }),
];

const TOMASZ: &[Work] = &[
    work("river city", "Blue hour, orange river", LANDSCAPE, |at| {
        made::city(at, &[hex(0x0c1030), hex(0x242a66), hex(0x6a4a8c), hex(0xd9788a)], 2)
    }),
    work("tram lights", "Missed the tram. No regrets.", LANDSCAPE, |at| {
        made::bokeh(
            at,
            &[hex(0x07090f), hex(0x141a2e), hex(0x0a0d16)],
            &[hex(0xff5d3d), hex(0xffb03a), hex(0xffe3a3), hex(0x4fb4ff), hex(0xff3f6e)],
            5,
        )
    }),
    work("pink arch", "Pink wall, 4 pm", PORTRAIT, |at| made::arch(at, hex(0xf2b8a8), 0.35, 21)),
    work("tower city", "Everybody is home", TALL, |at| {
        made::city(at, &[hex(0x101822), hex(0x1f3a4d), hex(0x3f7a86), hex(0xf0b07a)], 19)
    }),
    work("market lights", "Christmas market through wet glasses", SQUARE, |at| {
        made::bokeh(
            at,
            &[hex(0x1a0d12), hex(0x2c1420), hex(0x120a10)],
            &[hex(0xffd27a), hex(0xff9d4d), hex(0xff6b5e), hex(0x7ee08a)],
            14,
        )
    }),
];

const YUKI: &[Work] = &[
    work("citrus", "Vitamin C", SQUARE, |at| made::citrus(at, hex(0x2f7f86), 3)),
    work("suminagashi", "Suminagashi, second try", TALL, |at| {
        made::marbled(
            at,
            &[
                hex(0xf4efe4),
                hex(0x27435e),
                hex(0xf4efe4),
                hex(0x5d87a1),
                hex(0xcfdde0),
                hex(0x142436),
            ],
            4,
        )
    }),
    work("winter wood", "Winter, without a sound", LANDSCAPE, |at| {
        const SKY: &[Rgb] = &[hex(0xc3d3e4), hex(0xe6e4ea), hex(0xf7ebe6)];
        Forest {
            sky: SKY,
            far: hex(0xe9edf2),
            near: hex(0x4b6174),
            rows: 5,
            size: 0.26,
            moon: None,
            seed: 27,
        }
        .shade(at)
    }),
    work("breakfast", "breakfast, sorted", LANDSCAPE, |at| made::citrus(at, hex(0xf2a7b5), 29)),
    work("marbling", "third try. I think I like this one", SQUARE, |at| {
        made::marbled(
            at,
            &[hex(0x7a1f3d), hex(0xf6c9a8), hex(0xe2725b), hex(0x2b1a3a), hex(0xf9ead8)],
            16,
        )
    }),
    work("rose ridges", "", PORTRAIT, |at| {
        const SKY: &[Rgb] = &[hex(0xf2d5cf), hex(0xf7e6d8), hex(0xfbf3ea)];
        Ridges {
            sky: SKY,
            far: hex(0xf0cfc4),
            near: hex(0x8a5a6e),
            horizon: 0.45,
            layers: 6,
            height: 0.22,
            mist: 1.0,
            sun: Some(Sun { x: 0.3, y: 0.3, size: 0.07, colour: hex(0xff8f7a), glow: 0.35 }),
            seed: 52,
        }
        .shade(at)
    }),
];

const AMARA: &[Work] = &[
    work("savanna", "Home.", LANDSCAPE, |at| {
        let sun = Sun { x: 0.72, y: 0.62, size: 0.17, colour: hex(0xffc25e), glow: 0.8 };
        land::savanna(at, &[hex(0x5a1f45), hex(0xb8324a), hex(0xf0652f), hex(0xffb347)], sun, 8)
    }),
    work(
        "balloons",
        "Six of us in one basket, one of us afraid of heights (me)",
        LANDSCAPE,
        |at| {
            const SKY: &[Rgb] = &[hex(0x6f93c8), hex(0xbfcbe4), hex(0xf8d9c4), hex(0xffe9c9)];
            const BALLOONS: &[(f32, f32, f32, [Rgb; 2])] = &[
                (1.09, 0.42, 0.03, [hex(0x6a4c93), hex(0xe9d8f4)]),
                (0.62, 0.36, 0.036, [hex(0x2a9d8f), hex(0xf4f1de)]),
                (0.2, 0.43, 0.05, [hex(0xf4a261), hex(0xfff1d6)]),
                (0.97, 0.2, 0.075, [hex(0x264653), hex(0xe9c46a)]),
                (0.42, 0.22, 0.13, [hex(0xd62839), hex(0xffc857)]),
            ];
            let hills = Ridges {
                sky: SKY,
                far: hex(0xe8c8b4),
                near: hex(0x5a3a35),
                horizon: 0.6,
                layers: 6,
                height: 0.2,
                mist: 0.9,
                sun: Some(Sun { x: 1.22, y: 0.5, size: 0.03, colour: hex(0xfff0cc), glow: 0.7 }),
                seed: 71,
            };
            land::balloons(at, BALLOONS, hills.shade(at))
        },
    ),
    work("singing sand", "Singing sand. It really does.", WIDE, |at| {
        land::dunes(
            at,
            &[hex(0x4f86bd), hex(0xa9c9de), hex(0xf2dcc0)],
            hex(0xf0b36a),
            hex(0x7d3f2c),
            13,
        )
    }),
    work("farmland", "From the plane, just before the clouds closed", LANDSCAPE, |at| {
        made::fields(
            at,
            &[
                hex(0x7da453),
                hex(0xc9b458),
                hex(0xa3b86c),
                hex(0xd9c77e),
                hex(0x5f8a4a),
                hex(0x9c7a4d),
                hex(0xe0b93f),
            ],
            10,
        )
    }),
    work("tulips", "Bought one bunch. Wanted the row.", LANDSCAPE, |at| {
        made::tulips(
            at,
            &[hex(0x4d93d0), hex(0x9cc8ea), hex(0xe3eff2)],
            &[
                hex(0xe0304a),
                hex(0xffb62e),
                hex(0xe85d9e),
                hex(0x7d3fa0),
                hex(0xff7a3d),
                hex(0xf7e9e4),
            ],
            6,
        )
    }),
    work("dunes at dusk", "Dunes at dusk", PORTRAIT, |at| {
        land::dunes(
            at,
            &[hex(0x2f2a5a), hex(0x9a5a86), hex(0xf2a07a)],
            hex(0xe08a5c),
            hex(0x3a1f3f),
            37,
        )
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_is_a_picture_of_its_own_and_always_the_same() {
        let mut seen = Vec::new();
        for work in GALLERY.iter().flat_map(|artist| artist.works) {
            let (width, height) = (work.width / 20, work.height / 20);
            let pixels = work.pixels(width, height);
            assert_eq!(pixels, work.pixels(width, height), "{}", work.title);
            let (least, most) = (pixels.iter().min().unwrap(), pixels.iter().max().unwrap());
            assert!(most - least > 60, "{} has something to see", work.title);
            assert!(!seen.contains(&(work.title, pixels.clone())), "{}", work.title);
            seen.push((work.title, pixels));
        }
        assert_eq!(seen.len(), 28);
    }

    #[test]
    fn titles_are_told_apart() {
        for artist in &GALLERY {
            for (at, work) in artist.works.iter().enumerate() {
                let same = |other: &Work| other.title == work.title;
                assert_eq!(artist.works.iter().position(same), Some(at), "{}", work.title);
            }
        }
    }
}
