//! What people made: towns, fields, tables, and what a drone sees of them.

use std::f32::consts::{PI, TAU};

use super::paint::{At, Rgb, chance, cloud, gradient, hex, noise, smooth, stroke};

/// A city at night, with its lights in the river.
pub(super) fn city(at: At, sky: &[Rgb], seed: u32) -> Rgb {
    let shore = 0.7;
    let depth = (at.y - shore).max(0.0);
    let wave = cloud(at.x * 9.0, at.y * 120.0 / (1.0 + 9.0 * depth), seed + 40, 3) - 0.5;
    let seen = match depth > 0.0 {
        false => at,
        true => {
            at.to(at.x + wave * 0.09 * (0.1 + depth), shore - depth * 1.5 - wave * 0.12 * depth)
        }
    };
    let mut colour = gradient(sky, seen.y / shore);
    for row in 0..4_u32 {
        let near = (row as f32 + 1.0) / 4.0;
        let cell = 0.05 + 0.045 * near;
        let column = (seen.x / cell + row as f32 * 0.37).floor();
        let own = seed + row * 17;
        let (column, u) = (column as i32, (seen.x / cell + row as f32 * 0.37).fract());
        let tall =
            chance(column, 0, own).powi(2) * (0.44 - 0.2 * near) + 0.06 + 0.12 * (1.0 - near);
        let centre = 1.0 - 0.55 * ((seen.x - 0.75) / 0.9).powi(2).min(1.0);
        let roof = shore - tall * centre;
        if seen.y < roof - 0.05 {
            continue;
        }
        let mast =
            ((u - 0.5).abs() * cell - 0.0012).max(roof - 0.045 * chance(column, 5, own) - seen.y);
        let margin = 0.03 + 0.12 * chance(column, 1, own);
        let wall = ((u - 0.5).abs() - 0.5 + margin) * cell;
        let inside = at.inside(wall.max(roof - seen.y).min(if chance(column, 6, own) > 0.7 {
            mast
        } else {
            1.0
        }));
        let haze = sky[sky.len() - 1];
        let mut face = haze.mix(hex(0x0d1024), 0.25 + 0.68 * near);
        let (wide, high) = (0.0095 + 0.003 * near, 0.013 + 0.004 * near);
        let (pane, floor) =
            (((u - 0.5) * cell / wide).floor() as i32, ((seen.y - roof) / high).floor() as i32);
        let (pu, pv) =
            (((u - 0.5) * cell / wide).rem_euclid(1.0), ((seen.y - roof) / high).rem_euclid(1.0));
        let lit = chance(pane + column * 61, floor, own + 3);
        if lit > 0.56
            && (0.2..0.8).contains(&pu)
            && (0.25..0.72).contains(&pv)
            && seen.y > roof + 0.006
        {
            let lamp = [hex(0xffd88a), hex(0xffb45e), hex(0xfff1cf), hex(0x9fd8ff)]
                [(chance(pane, floor + column, own + 4) * 3.99) as usize];
            face = face.mix(lamp, (0.35 + 0.65 * near) * smooth(0.56, 0.8, lit));
        }
        let street = smooth(0.1, 0.0, shore - seen.y) * 0.5;
        colour = colour.mix(face.screen(hex(0xff9a4d), street * near), inside);
    }
    let lamp = ((at.x / 0.062).fract() - 0.5).abs() * 0.062;
    let glow = (-(lamp.hypot(seen.y - shore + 0.008) * 95.0)).exp();
    colour = colour.screen(hex(0xffc37a), glow);
    if depth > 0.0 {
        let streak = smooth(0.5, 0.75, cloud(at.x * 26.0, at.y * 3.0, seed + 41, 2)) * 0.08;
        colour = (colour * (0.8 - 0.7 * depth))
            .mix(sky[1], 0.12)
            .screen(hex(0xffb36b), streak * (1.0 - depth * 2.0));
    }
    colour
}

/// Lights out of focus.
pub(super) fn bokeh(at: At, ground: &[Rgb], lights: &[Rgb], seed: u32) -> Rgb {
    let mut colour = gradient(ground, at.y + 0.2 * (noise(at.x * 2.0, at.y * 2.0, seed) - 0.5));
    let glow = (-((at.y - 0.5) / 0.2).powi(2)).exp() * noise(at.x * 2.4, at.y * 2.4, seed + 60);
    colour = colour.screen(lights[0].mix(lights[1], at.x), glow * 0.5);
    for light in 0..150 {
        let draw = |what: i32| chance(light, what, seed);
        let size = 0.014 + 0.08 * draw(0).powi(3);
        let (x, y) = (1.6 * draw(1) - 0.05, 0.5 + (draw(2) - 0.5) * (0.55 + 0.6 * draw(3)));
        let distance = at.from(x, y);
        if distance > size * 1.1 {
            continue;
        }
        let disc = smooth(size, size * 0.93, distance);
        let rim = smooth(size * 0.72, size * 0.97, distance) * 0.45 + 0.55;
        let hue = lights[(draw(4) * (lights.len() as f32 - 0.01)) as usize];
        colour = colour.screen(hue, disc * rim * (0.22 + 0.7 * draw(5) * draw(5)));
    }
    colour
}

/// Slices of fruit on a coloured table, from above.
pub(super) fn citrus(at: At, table: Rgb, seed: u32) -> Rgb {
    const FRUIT: [[Rgb; 3]; 4] = [
        [hex(0xf08a1d), hex(0xffb648), hex(0xfff0d6)],
        [hex(0xd8483a), hex(0xff7f6b), hex(0xffe6da)],
        [hex(0x6fa52c), hex(0xb9db5e), hex(0xf4fbdc)],
        [hex(0xe8c023), hex(0xffe767), hex(0xfffbe0)],
    ];
    let light = 1.06 - 0.2 * (at.x * 0.5 + at.y * 0.7);
    let mut colour = table * (light + 0.02 * noise(at.x * 300.0, at.y * 300.0, seed));
    let cell = 0.34;
    let row = (at.y / (cell * 0.87)).floor() as i32;
    for row in row - 1..=row + 1 {
        let shift = if row.rem_euclid(2) == 0 { 0.0 } else { 0.5 };
        let column = (at.x / cell - shift).floor() as i32;
        for column in column - 1..=column + 1 {
            let draw = |what: u32| chance(column, row, seed + what);
            let x = (column as f32 + shift + 0.5 + 0.1 * (draw(0) - 0.5)) * cell;
            let y = (row as f32 + 0.5 + 0.1 * (draw(1) - 0.5)) * cell * 0.87;
            let size = cell * (0.37 + 0.08 * draw(2));
            let shadow = smooth(size * 1.16, size * 0.86, at.from(x + size * 0.1, y + size * 0.13));
            colour = colour.mix(table * 0.42, shadow * 0.55);
        }
        for column in column - 1..=column + 1 {
            let draw = |what: u32| chance(column, row, seed + what);
            let x = (column as f32 + shift + 0.5 + 0.1 * (draw(0) - 0.5)) * cell;
            let y = (row as f32 + 0.5 + 0.1 * (draw(1) - 0.5)) * cell * 0.87;
            let size = cell * (0.37 + 0.08 * draw(2));
            let distance = at.from(x, y);
            if distance > size * 1.02 {
                continue;
            }
            let [rind, flesh, pith] = FRUIT[(draw(3) * 3.99) as usize];
            let angle = ((at.y - y).atan2(at.x - x) / TAU + draw(4)).rem_euclid(1.0);
            let parts = (9.0 + 3.0 * draw(5)).floor();
            let across = ((angle * parts).fract() - 0.5).abs();
            // A rounded wedge between two membranes, the core and the pith.
            let membrane = (0.5 - across) * TAU / parts * distance - size * 0.02;
            let wedge = (size * 0.86 - distance).min(distance - size * 0.07).min(membrane);
            let pulp = cloud(angle * parts * 5.0, distance / size * 5.0, seed + 9, 4);
            let juice = flesh.mix(rind, 0.55 * smooth(0.35, 0.75, pulp))
                * (0.92 + 0.2 * smooth(0.2, 0.9, distance / size));
            let slice = rind
                .mix(pith, at.inside(distance - size * 0.95))
                .mix(juice, smooth(0.0, size * 0.045, wedge));
            let shine = smooth(0.64, 0.7, noise(at.x * 55.0, at.y * 55.0, seed + 12))
                * smooth(0.0, 0.02, wedge);
            colour = colour.mix(slice.mix(hex(0xffffff), shine * 0.3), at.inside(distance - size));
        }
    }
    colour
}

/// Farmland from the air.
pub(super) fn fields(at: At, crops: &[Rgb], seed: u32) -> Rgb {
    let (turn, scale) = (0.35_f32, 4.2);
    let bend = 0.09 * (cloud(at.x * 1.5, at.y * 1.5, seed + 3, 2) - 0.5);
    let (u, v) = (
        (at.x * turn.cos() - at.y * turn.sin() + bend) * scale,
        (at.x * turn.sin() + at.y * turn.cos() + bend) * scale * 1.35,
    );
    let (mut first, mut second, mut owner) = (9.0_f32, 9.0_f32, (0, 0));
    let (column, row) = (u.floor() as i32, v.floor() as i32);
    for row in row - 1..=row + 1 {
        for column in column - 1..=column + 1 {
            let x = column as f32 + 0.5 + 0.62 * (chance(column, row, seed) - 0.5);
            let y = row as f32 + 0.5 + 0.62 * (chance(column, row, seed + 1) - 0.5);
            // Fields are nearer to squares than to circles.
            let distance = (u - x).abs().max((v - y).abs()) + 0.35 * (u - x).hypot(v - y);
            if distance < first {
                (second, first, owner) = (first, distance, (column, row));
            } else {
                second = second.min(distance);
            }
        }
    }
    let draw = |what: u32| chance(owner.0, owner.1, seed + what);
    let crop = crops[(draw(5) * (crops.len() as f32 - 0.01)) as usize];
    let angle = draw(6) * PI;
    let along = u * angle.cos() + v * angle.sin();
    let rows = (along * (38.0 + 40.0 * draw(7))).sin();
    let patch = cloud(u * 2.3, v * 2.3, seed + 8, 5);
    let mut colour = crop * (0.84 + 0.3 * patch + 0.06 * rows);
    let edge = second - first;
    let hedge = 0.028 + 0.05 * noise(u * 9.0, v * 9.0, seed + 10) * draw(9);
    colour = colour.mix(hex(0x2d4a26), smooth(hedge + 0.02, hedge, edge) * 0.85);
    let course = 0.55 * at.x + 0.2 + 0.35 * (cloud(at.x * 1.3, 0.0, seed + 11, 3) - 0.5) - at.y;
    let bank = course.abs() - 0.022 - 0.008 * noise(at.x * 12.0, at.y * 12.0, seed + 13);
    colour = colour.mix(hex(0x33512c), smooth(0.02, 0.0, bank) * 0.9);
    let water = hex(0x5d94a3).mix(hex(0x9cc6c8), noise(at.x * 14.0, at.y * 14.0, seed + 14));
    colour.mix(water, at.inside(bank))
}

/// The edge of the sea from the air, with people's umbrellas.
pub(super) fn beach(at: At, umbrellas: &[[Rgb; 2]], seed: u32) -> Rgb {
    let warp = cloud(at.x * 2.2, at.y * 2.2, seed, 4) - 0.5;
    // How far out at sea; negative on the sand.
    let out = at.x * 0.8 - at.y * 0.26 - 0.19 + 0.2 * warp;
    let grain = cloud(at.x * 60.0, at.y * 60.0, seed + 1, 3) - 0.5;
    let dry = hex(0xf0dcb4)
        * (1.0 + 0.1 * grain + 0.06 * (cloud(at.x * 7.0, at.y * 7.0, seed + 2, 4) - 0.5));
    let wet = hex(0xc9a878) * (1.0 + 0.05 * grain);
    let mut colour = dry.mix(wet, smooth(-0.13, -0.02, out + 0.02 * grain));
    let wobble = cloud(at.x * 5.0, at.y * 5.0, seed + 4, 3)
        + 0.25 * cloud(at.x * 22.0, at.y * 22.0, seed + 6, 2);
    let caustic = (2.0 * cloud(at.x * 11.0 + wobble, at.y * 11.0, seed + 5, 4) - 1.0).abs();
    let deep = gradient(&[hex(0xb9ecdf), hex(0x52c9c4), hex(0x1c93b0), hex(0x0d5f8c)], out / 0.62);
    let water =
        deep.screen(hex(0xe8fff8), smooth(0.14, 0.0, caustic) * 0.3 * smooth(0.6, 0.0, out));
    colour = colour.mix(water, smooth(-0.006, 0.03, out) * 0.97);
    for (line, width) in [(0.0, 0.035), (0.13, 0.028), (0.31, 0.02)] {
        let across = out - line - 0.05 * (wobble - 0.6);
        let lace = smooth(0.36, 0.62, cloud(at.x * 34.0, at.y * 34.0, seed + 7, 4) + 0.25);
        let trail = smooth(width * 2.2, 0.0, across) * smooth(-0.004, 0.003, across);
        let front = smooth(width * 0.32, 0.0, across.abs());
        colour = colour.mix(hex(0xffffff), (front * 0.95 + trail * lace * 0.75).min(1.0));
    }
    for (index, canopy) in umbrellas.iter().enumerate() {
        let number = i32::try_from(index).unwrap_or(0);
        let y =
            0.09 + 0.84 * (index as f32 + 0.3 * chance(number, 0, seed)) / umbrellas.len() as f32;
        let x = 0.07 + 0.3 * y * (0.2 + 0.8 * chance(number, 1, seed));
        let size = 0.042 + 0.016 * chance(number, 2, seed);
        let shadow = at.from(x + size * 0.75, y + size * 0.45) - size;
        colour = colour.mix(hex(0x5b4a3a), smooth(size * 0.25, -size * 0.2, shadow) * 0.5);
        let towel = ((at.x - x + size * 1.7).abs() - size * 0.42)
            .max((at.y - y - size * 0.5).abs() - size * 0.95);
        let cloth = canopy[0].mix(
            hex(0xffffff),
            if ((at.y - y) / size * 4.0).rem_euclid(1.0) < 0.3 { 0.7 } else { 0.15 },
        );
        colour = colour.mix(cloth, at.inside(towel) * if index % 3 == 0 { 0.0 } else { 1.0 });
        let angle = ((at.y - y).atan2(at.x - x) / TAU + chance(number, 3, seed)).rem_euclid(1.0);
        let gore = canopy[(angle * 8.0) as usize % 2];
        let ridge = ((angle * 8.0).fract() - 0.5).abs();
        let lit = gore
            * (0.86 + 0.2 * smooth(0.5, 0.1, ridge))
            * (1.05 - 0.25 * smooth(-size, size, at.x - x + at.y - y));
        let scallop = size * (0.94 + 0.06 * (ridge * PI).cos());
        colour = colour.mix(lit, at.inside(at.from(x, y) - scallop));
        colour = colour.mix(hex(0xffffff), at.inside(at.from(x, y) - size * 0.07));
    }
    colour
}

/// A white wall, an arch, and the sea behind it.
pub(super) fn arch(at: At, wall: Rgb, centre: f32, seed: u32) -> Rgb {
    let plaster = 0.97
        + 0.05 * cloud(at.x * 9.0, at.y * 9.0, seed, 5)
        + 0.025 * noise(at.x * 220.0, at.y * 220.0, seed);
    let mut colour = wall * plaster;
    // The sun stands to the right, so a beam falls across the wall at a slant.
    let beam = smooth(0.004, -0.004, at.y - 0.3 - 0.62 * (centre + 0.5 - at.x));
    colour = colour.mix(colour * 0.78 + hex(0x1b2a55) * 0.1, beam);
    let opening = |x: f32, half: f32, foot: f32| {
        let up = at.y - 0.42;
        let side = (at.x - x).abs() - half;
        let round = (at.x - x).hypot(up) - half;
        (if up < 0.0 { round } else { side }).max(at.y - foot)
    };
    let outer = opening(centre, 0.24, 0.84);
    let inner = opening(centre - 0.05, 0.215, 0.84).max(outer);
    let reveal = wall.mix(hex(0xfff3dc), 0.5) * (0.98 - 0.25 * smooth(0.42, 0.2, at.y));
    colour = colour.mix(reveal * plaster, at.inside(outer));
    let horizon = 0.6;
    let sky = gradient(&[hex(0x3f8fd2), hex(0x86c5ee), hex(0xd7eef7)], at.y / horizon);
    let puff = smooth(0.55, 0.8, cloud(at.x * 3.0, at.y * 8.0, seed + 3, 5));
    let far = 1.0 / (at.y - horizon + 0.03).max(0.03);
    let ripple = noise(at.x * far * 1.4, far * 6.0, seed + 4);
    let sea = hex(0x1f74a8).mix(hex(0x3aa6c4), smooth(horizon, 0.85, at.y)) * (0.92 + 0.2 * ripple);
    let view = sky.mix(hex(0xffffff), puff * 0.75).mix(sea, at.inside(horizon - at.y));
    colour = colour.mix(view, at.inside(inner));
    // Steps lead up to it, each with a bright tread and a shaded riser.
    let step = (at.y - 0.84) / 0.055;
    if step > 0.0 {
        let widen = (at.x - centre).abs() - 0.3 - 0.07 * step.floor();
        let tread = (step.fract() < 0.42) as u8 as f32;
        let stone = wall.mix(hex(0xcfc6bd), 0.35) * (0.7 + 0.28 * tread) * plaster;
        colour = colour.mix(stone, at.inside(widen));
        let floor = wall.mix(hex(0xd9c7ae), 0.5) * (0.82 * plaster);
        colour = colour.mix(floor, at.inside(-widen).min(at.inside(0.84 - at.y)) * 0.9);
    }
    let (x, y) = (centre + 0.37, 0.84);
    let pot = ((at.x - x).abs() - 0.062 + 0.16 * (at.y - y + 0.11))
        .max(y - 0.12 - at.y)
        .max(at.y - y - 0.015);
    for leaf in 0..17 {
        let lean = PI * (0.12 + 0.76 * leaf as f32 / 16.0);
        let reach = 0.19 + 0.13 * chance(leaf, 0, seed);
        let (tx, ty) = (x - lean.cos() * reach * 0.8, y - 0.12 - lean.sin() * reach);
        let blade = stroke(at, (x, y - 0.12), (tx, ty), 0.011, 0.0015);
        let green = hex(0x2f6b3c).mix(hex(0x7fb069), chance(leaf, 1, seed));
        colour = colour.mix(green, at.inside(blade));
    }
    colour.mix(hex(0xc4673f) * (1.08 - 3.2 * (at.x - x).abs()), at.inside(pot))
}

/// Ink on water, laid on paper.
pub(super) fn marbled(at: At, inks: &[Rgb], seed: u32) -> Rgb {
    let (mut x, mut y) = (at.x * 1.7, at.y * 1.7);
    for turn in 0..3 {
        let (u, v) = (cloud(x, y, seed + turn, 3), cloud(x + 5.2, y + 1.3, seed + turn + 9, 3));
        (x, y) = (x + 1.5 * (u - 0.5), y + 1.5 * (v - 0.5));
    }
    let height = cloud(x, y, seed + 30, 3) * 17.0;
    let ring = height.floor() as i32;
    let pick = |ring: i32| inks[(chance(ring, 0, seed + 40) * (inks.len() as f32 - 0.01)) as usize];
    let edge = smooth(0.93, 1.0, height.fract());
    let colour = pick(ring).mix(pick(ring + 1), edge);
    let vein = smooth(0.05, 0.0, (height.fract() - 0.965).abs());
    let paper = 0.97 + 0.06 * cloud(at.x * 150.0, at.y * 150.0, seed + 50, 2);
    colour.mix(hex(0xf2d8a0), vein * 0.5) * paper
}

/// Rows of tulips running to the horizon.
pub(super) fn tulips(at: At, sky: &[Rgb], rows: &[Rgb], seed: u32) -> Rgb {
    let horizon = 0.42;
    let mut colour = gradient(sky, at.y / horizon);
    let puff = cloud(at.x * 2.4, at.y * 6.0, seed, 6);
    colour = colour.mix(hex(0xffffff), smooth(0.5, 0.76, puff) * 0.85);
    let trees = horizon - 0.012 - 0.022 * cloud(at.x * 24.0, 0.0, seed + 1, 4);
    colour = colour.mix(hex(0x6d8a78), at.inside(trees - at.y));
    colour = mill(at, colour, 1.08, horizon, 0.2);
    let depth = at.y - horizon;
    if depth <= 0.0 {
        return colour;
    }
    let far = 0.24 / (depth + 0.004);
    let across = (at.x - 0.62) * far * 2.1 + 40.0;
    let row = across.floor() as i32;
    let bed = rows[(row.rem_euclid(i32::try_from(rows.len()).unwrap_or(1))) as usize];
    let middle = (across.fract() - 0.5).abs();
    let (u, v) = (across * 9.0, far * 62.0);
    let (cu, cv) = (u.floor() as i32, v.floor() as i32);
    let (fx, fy) = (u.fract() - 0.3 - 0.4 * chance(cu, cv, seed + 2), v.fract() - 0.5);
    let sharp = smooth(0.03, 0.16, depth);
    let head = smooth(0.5, 0.28, fx.hypot(fy * 0.9)) * sharp + (1.0 - sharp) * 0.75;
    let leaf = hex(0x3f6b33) * (0.7 + 0.5 * noise(u * 0.7, v, seed + 3));
    let petal = bed * (0.8 + 0.32 * chance(cu, cv, seed + 4) + 0.12 * smooth(0.1, -0.4, fy));
    let flowers = leaf.mix(petal, head);
    let path = hex(0x6b5138) * (0.8 + 0.4 * noise(across * 20.0, far * 20.0, seed + 5));
    let ground =
        flowers.mix(path.mix(leaf, 0.4), smooth(0.41, 0.46, middle) * smooth(0.0, 0.06, depth));
    let haze = sky[sky.len() - 1].mix(bed, 0.6);
    colour.mix(haze.mix(ground, smooth(0.0, 0.12, depth)), at.inside(-depth))
}

fn mill(at: At, behind: Rgb, x: f32, ground: f32, size: f32) -> Rgb {
    let wall = hex(0x4e3b33);
    let up = (ground - at.y) / size;
    let tower =
        ((at.x - x).abs() - size * (0.16 - 0.075 * up)).max(-up * size).max((up - 0.86) * size);
    let hub = (x, ground - 0.86 * size);
    let cap = at.from(hub.0, hub.1) - size * 0.1;
    let mut colour = behind.mix(wall, at.inside(tower)).mix(hex(0x7b2f25), at.inside(cap));
    for sail in 0..4 {
        let angle = 0.42 + sail as f32 * PI / 2.0;
        let tip = (hub.0 + angle.cos() * size * 0.62, hub.1 + angle.sin() * size * 0.62);
        let offset = (-angle.sin() * size * 0.05, angle.cos() * size * 0.05);
        let root =
            (hub.0 + (tip.0 - hub.0) * 0.25 + offset.0, hub.1 + (tip.1 - hub.1) * 0.25 + offset.1);
        let cloth =
            stroke(at, root, (tip.0 + offset.0, tip.1 + offset.1), size * 0.042, size * 0.042);
        let spar = stroke(at, hub, tip, size * 0.012, size * 0.01);
        colour =
            colour.mix(hex(0xe8dcc8), at.inside(cloth) * 0.9).mix(hex(0x33261f), at.inside(spar));
    }
    colour
}
