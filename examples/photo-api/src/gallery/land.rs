//! Mountains, forests, water and skies.

use super::paint::{At, Rgb, chance, cloud, crests, ellipse, gradient, hex, noise, smooth, stroke};

/// A light in the sky.
#[derive(Clone, Copy)]
pub(super) struct Sun {
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) size: f32,
    pub(super) colour: Rgb,
    pub(super) glow: f32,
}

impl Sun {
    fn shine(self, at: At, sky: Rgb) -> Rgb {
        let distance = at.from(self.x, self.y);
        let halo = (-(distance - self.size).max(0.0) * 5.5).exp() * self.glow;
        let lit = sky.screen(self.colour, halo * 0.75);
        lit.mix(self.colour.mix(hex(0xffffff), 0.55), at.inside(distance - self.size))
    }
}

fn stars(at: At, sky: Rgb, seed: u32) -> Rgb {
    let (u, v) = (at.x * 70.0, at.y * 70.0);
    let (column, row) = (u.floor() as i32, v.floor() as i32);
    if chance(column, row, seed) < 0.8 {
        return sky;
    }
    let (x, y) = (chance(column, row, seed + 1), chance(column, row, seed + 2));
    let distance = (u.fract() - 0.2 - 0.6 * x).hypot(v.fract() - 0.2 - 0.6 * y);
    let brightness = chance(column, row, seed + 3).powi(3);
    sky.screen(hex(0xeef2ff), smooth(0.05 + 0.09 * brightness, 0.0, distance) * (0.35 + brightness))
}

/// Range behind range, each paler than the one before it.
pub(super) struct Ridges {
    pub(super) sky: &'static [Rgb],
    pub(super) far: Rgb,
    pub(super) near: Rgb,
    pub(super) horizon: f32,
    pub(super) layers: u32,
    pub(super) height: f32,
    pub(super) mist: f32,
    pub(super) sun: Option<Sun>,
    pub(super) seed: u32,
}

impl Ridges {
    /// From the nearest range back, as what is behind something need not be painted.
    pub(super) fn shade(&self, at: At) -> Rgb {
        let mut colour = Rgb(0.0, 0.0, 0.0);
        let mut open = 1.0;
        for layer in (0..self.layers).rev() {
            let (rock, inside) = self.range(at, layer);
            colour = colour + rock * (open * inside);
            open *= 1.0 - inside;
            if open <= 0.0 {
                return colour;
            }
        }
        colour + self.heaven(at) * open
    }

    fn heaven(&self, at: At) -> Rgb {
        let sky = gradient(self.sky, at.y / (self.horizon + 0.08));
        let wisps = cloud(at.x * 1.6, at.y * 7.0, self.seed + 90, 5);
        let veil = smooth(0.52, 0.85, wisps) * 0.28 * smooth(0.0, 0.2, at.y);
        let sky = sky.mix(hex(0xffffff), veil);
        self.sun.map_or(sky, |sun| sun.shine(at, sky))
    }

    /// One range, and how much of the pixel it covers.
    fn range(&self, at: At, layer: u32) -> (Rgb, f32) {
        let (place, layers) = (layer as f32, self.layers as f32);
        let depth = (place + 1.0) / layers;
        let base = self.horizon + (1.0 - self.horizon) * 0.86 * (place / layers).powf(1.15);
        let wide = 2.6 - 1.5 * depth;
        let skyline = crests(at.x * wide + place * 13.7, self.seed + layer * 10, 6);
        let top = base - self.height * (0.45 + 0.55 * depth) * (skyline - 0.25);
        let inside = at.inside(top - at.y);
        if inside == 0.0 {
            return (self.far, 0.0);
        }
        let grain = cloud(at.x * 14.0, (at.y - top) * 22.0, self.seed + layer, 4);
        let rock = self.far.mix(self.near, depth.powf(1.25)) * (0.93 + 0.14 * grain);
        let foot = smooth(0.0, 0.24, at.y - top) * self.mist * (1.0 - depth * 0.75);
        (rock.mix(self.far.mix(hex(0xffffff), 0.25), foot), inside)
    }
}

/// Whatever stands above the shore, once more in the water below it.
pub(super) fn mirrored(at: At, shore: f32, tint: Rgb, seed: u32, scene: impl Fn(At) -> Rgb) -> Rgb {
    if at.y <= shore {
        return scene(at);
    }
    let depth = at.y - shore;
    let ripple = cloud(at.x * 5.0, at.y * 90.0 / (1.0 + depth * 6.0), seed, 3) - 0.5;
    let bent = at.to(
        at.x + ripple * 0.05 * (0.15 + depth),
        shore - depth * 0.96 + ripple * 0.035 * depth.sqrt(),
    );
    let colour = scene(bent).mix(tint, 0.22 + 0.5 * depth);
    let glint = smooth(0.62, 0.8, noise(at.x * 3.0, at.y * 130.0, seed + 5)) * 0.06;
    colour.mix(hex(0xffffff), glint + at.inside((depth - 0.002).abs() - 0.0006) * 0.25)
}

/// The sea, with a low sun and the road of light that it lays on the water.
pub(super) struct Sea {
    pub(super) sky: &'static [Rgb],
    pub(super) water: &'static [Rgb],
    pub(super) horizon: f32,
    pub(super) sun: Sun,
    pub(super) clouds: f32,
    pub(super) seed: u32,
}

impl Sea {
    pub(super) fn shade(&self, at: At) -> Rgb {
        let sky = self.heaven(at);
        let below = at.inside(self.horizon - at.y);
        if below == 0.0 {
            return sky;
        }
        let depth = (at.y - self.horizon).max(0.0);
        let far = 1.0 / (depth + 0.02);
        let swell = cloud(at.x * 1.5 * far.powf(0.35), far * 2.2, self.seed + 3, 4);
        let chop = noise(at.x * (8.0 + 1.2 * far), far * 16.0, self.seed + 4);
        let wave = swell * 0.6 + chop * 0.4;
        let mut water = gradient(self.water, depth / (1.0 - self.horizon));
        water = water * (0.8 + 0.4 * wave);
        water = water.mix(
            self.heaven(at.to(at.x, self.horizon - depth * 0.7)),
            0.3 * smooth(0.35, 0.7, wave),
        );
        let road = (-((at.x - self.sun.x) / (0.035 + depth * 0.42)).powi(2)).exp();
        let glitter = smooth(0.68 - 0.33 * road, 0.86 - 0.2 * road, wave) * road;
        water = water.screen(self.sun.colour, glitter * 0.95 + road * 0.16);
        sky.mix(water, below)
    }

    fn heaven(&self, at: At) -> Rgb {
        let sky = self.sun.shine(at, gradient(self.sky, at.y / self.horizon));
        let warp = cloud(at.x * 2.0, at.y * 5.0, self.seed + 8, 3);
        let cover = cloud(at.x * 1.4 + warp, at.y * 6.5 + warp * 0.8, self.seed, 6);
        let cover = smooth(0.5, 0.78, cover) * self.clouds * smooth(0.0, 0.12, self.horizon - at.y);
        let lit =
            self.sun.colour.mix(self.sky[0], smooth(0.0, 0.75, at.from(self.sun.x, self.sun.y)));
        sky.mix(lit, cover * 0.8)
    }
}

/// A line of firs, standing on `ground`; negative inside.
fn firs(at: At, ground: f32, size: f32, seed: u32) -> f32 {
    let cell = size * 0.34;
    let column = (at.x / cell).floor() as i32;
    let mut nearest = ground - at.y;
    for column in column - 2..=column + 2 {
        let height = size * (0.5 + 0.75 * chance(column, 1, seed));
        let centre = (column as f32 + 0.2 + 0.6 * chance(column, 2, seed)) * cell;
        let below_top = at.y - (ground - height);
        if below_top < 0.0 || at.y > ground + size {
            continue;
        }
        let part = below_top / height;
        let tiers = (part * 9.0 + chance(column, 3, seed)).fract();
        let ragged =
            0.75 + 0.5 * noise(at.x * 140.0 / size * 0.2, at.y * 110.0 / size * 0.2, seed + 6);
        let half = height * 0.19 * part.min(1.0) * (0.55 + 0.6 * tiers) * ragged;
        nearest = nearest.min((at.x - centre).abs() - half);
    }
    nearest
}

/// Firs fading into fog, or snow, or night.
pub(super) struct Forest {
    pub(super) sky: &'static [Rgb],
    pub(super) far: Rgb,
    pub(super) near: Rgb,
    pub(super) rows: u32,
    pub(super) size: f32,
    pub(super) moon: Option<Sun>,
    pub(super) seed: u32,
}

impl Forest {
    pub(super) fn shade(&self, at: At) -> Rgb {
        let mut colour = gradient(self.sky, at.y);
        if let Some(moon) = self.moon {
            colour = stars(at, colour, self.seed + 50);
            let spots = cloud(
                (at.x - moon.x) / moon.size * 1.3,
                (at.y - moon.y) / moon.size * 1.3,
                self.seed,
                5,
            );
            let lit = moon.shine(at, colour);
            let disc = at.inside(at.from(moon.x, moon.y) - moon.size);
            colour = lit.mix(lit * 0.8, disc * smooth(0.4, 0.58, spots));
        }
        for row in 0..self.rows {
            let depth = (row as f32 + 1.0) / self.rows as f32;
            let ground = 0.42
                + 0.62 * depth.powf(1.1)
                + 0.16 * (noise(at.x * 1.3 + row as f32 * 5.1, 0.5, self.seed + row) - 0.5);
            let inside =
                at.inside(firs(at, ground, self.size * (0.35 + 0.9 * depth), self.seed + row * 7));
            let fog = smooth(-0.05, 0.22, at.y - ground + 0.12) * (1.0 - depth);
            let tree = self.far.mix(self.near, depth.powf(1.4)).mix(self.far, fog * 0.8);
            colour = colour.mix(tree, inside);
            let drift = cloud(at.x * 2.2 + row as f32 * 3.0, at.y * 9.0, self.seed + 31 + row, 4);
            let bank = smooth(0.16, 0.0, (at.y - ground).abs()) * smooth(0.45, 0.75, drift);
            colour = colour.mix(self.far, bank * 0.55 * (1.1 - depth));
        }
        colour
    }
}

/// Northern lights above firs.
pub(super) fn aurora(at: At, seed: u32) -> Rgb {
    let sky = gradient(&[hex(0x060b1c), hex(0x0b1a33), hex(0x16324a), hex(0x1f4a57)], at.y / 0.85);
    let mut colour = stars(at, sky, seed);
    for curtain in 0..3 {
        let own = seed + curtain * 31;
        let wave = cloud(at.x * 0.9 + curtain as f32 * 2.0, 0.4, own, 3);
        let hem = 0.36 + 0.16 * curtain as f32 + 0.34 * (wave - 0.5);
        let above = hem - at.y;
        let folds = cloud(at.x * 5.0 + above * 0.7, 0.3, own + 1, 3);
        let rays = noise(at.x * 46.0 + above * 3.0, 1.5, own + 2);
        let light = smooth(-0.012, 0.02, above)
            * (-above.max(0.0) * (3.6 + 3.0 * rays)).exp()
            * smooth(0.3, 0.75, folds)
            * (0.65 + 0.35 * rays);
        let hue =
            gradient(&[hex(0xa8ffcf), hex(0x35e6a0), hex(0x2aa8c9), hex(0x8d5bd6)], above * 2.6);
        colour = colour.screen(hue, light * 0.92);
    }
    let ground = 0.9 + 0.05 * noise(at.x * 1.7, 0.0, seed);
    let far = at.inside(firs(at, ground - 0.03, 0.1, seed + 3));
    let near = at.inside(firs(at, ground + 0.09, 0.3, seed + 4));
    colour.mix(hex(0x0a2027), far).mix(hex(0x03090d), near)
}

/// Dunes, lit from one side.
pub(super) fn dunes(at: At, sky: &[Rgb], light: Rgb, shadow: Rgb, seed: u32) -> Rgb {
    let mut colour = gradient(sky, at.y / 0.5);
    for layer in 0..6_u32 {
        let depth = (layer as f32 + 1.0) / 6.0;
        let wide = 1.9 - 1.15 * depth;
        let line = |x: f32| {
            let hill = noise(x * wide + layer as f32 * 4.7, 0.2, seed + layer);
            let detail = noise(x * wide * 3.1, 3.1, seed + layer);
            0.36 + 0.58 * depth - (0.1 + 0.24 * depth) * (hill + 0.13 * detail - 0.4)
        };
        let top = line(at.x);
        let inside = at.inside(top - at.y);
        if inside == 0.0 {
            continue;
        }
        let down = at.y - top;
        // The crest wanders as the slope goes down, so that the shadow has an edge of its own.
        let lean = at.x + down * 0.75 + 0.05 * (noise(down * 7.0, layer as f32, seed + 9) - 0.5);
        let slope = (line(lean + 0.012) - line(lean - 0.012)) / 0.024;
        let shade = smooth(-0.06, 0.07, slope + 0.02);
        let ripples = (down * (230.0 - 130.0 * depth)
            + 9.0 * cloud(at.x * 4.0, down * 6.0, seed + 20, 3))
        .sin();
        let sand = light.mix(shadow, shade) * (1.0 + 0.028 * ripples * (1.0 - shade * 0.7));
        let haze = sky[sky.len() - 1].mix(light, 0.3);
        colour = colour.mix(haze.mix(sand, 0.25 + 0.75 * depth), inside);
    }
    let bright = noise(at.x * 900.0, at.y * 900.0, seed) - 0.5;
    colour * (1.0 + 0.03 * bright)
}

/// Acacias before a great sun.
pub(super) fn savanna(at: At, sky: &[Rgb], sun: Sun, seed: u32) -> Rgb {
    let mut colour = sun.shine(at, gradient(sky, at.y / 0.86));
    let bands = cloud(at.x * 1.1, at.y * 16.0, seed + 1, 4);
    colour = colour.mix(sky[0], smooth(0.55, 0.8, bands) * 0.35);
    let hills = 0.77 - 0.06 * noise(at.x * 1.8, 0.0, seed + 2);
    colour = colour.mix(sky[1].mix(hex(0x2a1020), 0.55), at.inside(hills - at.y));
    let ink = hex(0x1b0f14);
    let ground = 0.86 + 0.02 * noise(at.x * 3.0, 0.0, seed + 3);
    let blade = 0.035 * noise(at.x * 130.0, 0.0, seed + 4) * noise(at.x * 9.0, 1.0, seed + 5);
    colour = colour.mix(ink, at.inside(ground - blade - at.y));
    for (x, size) in [(0.27, 0.34), (1.06, 0.2), (1.24, 0.13)] {
        colour = colour.mix(ink, at.inside(acacia(at, x, ground + 0.01, size, seed)));
    }
    for bird in 0..7 {
        let (x, y) = (0.55 + 0.4 * chance(bird, 0, seed), 0.14 + 0.2 * chance(bird, 1, seed));
        let wing = 0.008 + 0.008 * chance(bird, 2, seed);
        let left = stroke(at, (x, y), (x - wing, y - wing * 0.45), 0.0016, 0.0006);
        let right = stroke(at, (x, y), (x + wing, y - wing * 0.6), 0.0016, 0.0006);
        colour = colour.mix(ink, at.inside(left.min(right)));
    }
    colour
}

fn acacia(at: At, x: f32, ground: f32, size: f32, seed: u32) -> f32 {
    let top = ground - size;
    let fork = (x + size * 0.03, ground - size * 0.45);
    let mut tree = stroke(at, (x, ground), fork, size * 0.045, size * 0.028);
    for reach in [-0.5, -0.22, 0.08, 0.38, 0.62] {
        let tip = (x + size * reach, top + size * (0.1 + 0.05 * reach.abs()));
        tree = tree.min(stroke(at, fork, tip, size * 0.024, size * 0.008));
    }
    let ragged =
        size * 0.07 * (cloud(at.x * 34.0 / size * 0.3, at.y * 48.0 / size * 0.3, seed, 4) - 0.35);
    for (offset, lift, width) in [(-0.34, 0.05, 0.4), (0.1, -0.02, 0.5), (0.46, 0.06, 0.36)] {
        let canopy =
            ellipse(at, x + size * offset, top + size * (0.06 + lift), size * width, size * 0.085);
        tree = tree.min(canopy + ragged);
    }
    tree
}

/// Balloons in the morning, above whatever `scene` shows.
pub(super) fn balloons(at: At, list: &[(f32, f32, f32, [Rgb; 2])], scene: Rgb) -> Rgb {
    list.iter().fold(scene, |below, &(x, y, size, stripes)| {
        let (u, v) = ((at.x - x) / size, (at.y - y) / size);
        let narrow = if v > 0.0 {
            (1.0 - (v / 1.45).powi(2)).max(0.0).sqrt() * (1.0 - 0.22 * v)
        } else {
            (1.0 - v * v).max(0.0).sqrt()
        };
        let envelope = if (-1.0..1.22).contains(&v) { u.abs() - narrow } else { 1.0 };
        let gore = ((u / narrow.max(0.05)).clamp(-1.0, 1.0).asin() / std::f32::consts::PI * 9.0
            + 0.5)
            .floor();
        let stripe = if (gore as i32).rem_euclid(2) == 0 { stripes[0] } else { stripes[1] };
        let band =
            if (0.32..0.5).contains(&v) { stripes[1].mix(hex(0xffffff), 0.6) } else { stripe };
        let lit = band * (0.72 + 0.34 * smooth(1.0, -0.7, u + 0.35 * v));
        let ropes = stroke(
            at,
            (x - 0.3 * size, y + 1.2 * size),
            (x - 0.1 * size, y + 1.6 * size),
            0.006 * size,
            0.006 * size,
        )
        .min(stroke(
            at,
            (x + 0.3 * size, y + 1.2 * size),
            (x + 0.1 * size, y + 1.6 * size),
            0.006 * size,
            0.006 * size,
        ));
        let basket =
            ((at.x - x).abs() - 0.12 * size).max((at.y - y - 1.68 * size).abs() - 0.1 * size);
        below
            .mix(hex(0x4a3428), at.inside(ropes))
            .mix(hex(0x6b4429), at.inside(basket))
            .mix(lit, at.inside(envelope * size))
    })
}
