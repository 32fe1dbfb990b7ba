//! Images seen through a map of their coordinates: each pixel of the result is read where the map
//! says.
//!
//! The image is copied into one with a border first: one row above and one column to the left, two
//! below and to the right. The coordinates are then folded into what the copy holds, several at
//! once and without a branch, and every read is inside.

use super::simd::{Element, MAX_LANES, Simd, for_each_vector};

/// Rows, and columns, that the border adds: one before, two behind.
const BORDER: usize = 3;

/// What an image is taken to be outside of its borders; `a b c d` is a row of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FillMode {
    /// `k k k | a b c d | k k k`
    Constant(f64),
    /// `a a a | a b c d | d d d`
    Nearest,
    /// `c b a | a b c d | d c b`
    Reflect,
    /// `b c d | a b c d | a b c`
    Wrap,
}

/// How to read between pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// The nearest pixel; of two, the one below or to the right.
    Nearest,
    /// The four around, weighted by how near they are.
    Bilinear,
}

/// Where in the image each pixel of the result comes from: that at row y and column x from row
/// `m[1] . (x, y, 1)` and column `m[0] . (x, y, 1)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine(pub [[f64; 3]; 2]);

impl Affine {
    /// Each pixel from its own place.
    pub const IDENTITY: Self = Self([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);
}

/// An image's sizes.
#[derive(Clone, Copy, Debug)]
pub struct ImageShape {
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
}

impl ImageShape {
    /// Elements of an image.
    pub fn image_len(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Pixels of an image with its border.
    pub fn bordered_pixels(&self) -> usize {
        (self.h + BORDER).saturating_mul(self.w + BORDER)
    }

    /// Elements of an image with its border.
    pub fn bordered_len(&self) -> usize {
        self.bordered_pixels().saturating_mul(self.c)
    }
}

/// How coordinates along one axis get into the bordered image.
#[derive(Clone, Copy)]
struct Fold<V> {
    /// Whether all repeats itself outside. If it does not, the next four are of no use.
    repeats: bool,
    /// What is added to have the mirrors at multiples of the length.
    half: V,
    /// After which all repeats itself, negative for a product to be added, and its inverse.
    period: V,
    inverse: V,
    /// Where a coordinate counted backwards starts; beyond all coordinates if none is.
    mirror: V,
    least: V,
    most: V,
}

impl<V: Copy> Fold<V> {
    #[inline(always)]
    fn new<T: Element, S: Simd<T, Vector = V>>(simd: S, fill: FillMode, len: usize) -> Self {
        let len = len as f64;
        let never = 1e30;
        let [half, period, mirror, least, most] = match fill {
            FillMode::Constant(_) => [0.0, 1.0, never, -1.0, len],
            FillMode::Nearest => [0.0, 1.0, never, 0.0, len - 1.0],
            FillMode::Reflect => [0.5, 2.0 * len, 2.0 * len, 0.0, len - 1.0],
            FillMode::Wrap => [0.0, len, never, 0.0, len],
        };
        let [half, period, inverse, mirror, least, most] =
            simd.constants([half, -period, 1.0 / period, mirror, least, most]);
        let repeats = matches!(fill, FillMode::Reflect | FillMode::Wrap);
        Self { repeats, half, period, inverse, mirror, least, most }
    }

    /// From any coordinate to one between -1 and the length.
    #[inline(always)]
    fn fold<T: Element, S: Simd<T, Vector = V>>(&self, simd: S, mut at: V) -> V {
        if self.repeats {
            at = simd.add(at, self.half);
            at = simd.mul_add(simd.floor(simd.mul(at, self.inverse)), self.period, at);
            at = simd.sub(simd.min(at, simd.sub(self.mirror, at)), self.half);
        }
        simd.min(self.most, simd.max(self.least, at))
    }
}

/// Which of `len` pixels stands at `at - 1`, one of them or the border; None is the constant.
#[inline(always)]
fn behind_border(at: usize, len: usize, fill: FillMode) -> Option<usize> {
    if (1..=len).contains(&at) {
        return Some(at - 1);
    }
    match fill {
        FillMode::Constant(_) => None,
        FillMode::Nearest | FillMode::Reflect => Some(if at == 0 { 0 } else { len - 1 }),
        FillMode::Wrap => Some((at + len - 1) % len),
    }
}

/// `out` (h + 3, w + 3, c): `x` (h, w, c) with its border.
#[inline(always)]
fn add_border<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    fill: FillMode,
    shape: &ImageShape,
) {
    let &ImageShape { h, w, c } = shape;
    let constant = T::from_f64(if let FillMode::Constant(value) = fill { value } else { 0.0 });
    let sides = [0, w + 1, w + 2].map(|column| (column, behind_border(column, w, fill)));
    for (row, out) in out.chunks_exact_mut((w + BORDER) * c).enumerate() {
        let Some(from) = behind_border(row, h, fill) else {
            out.fill(constant);
            continue;
        };
        let x = &x[from * w * c..][..w * c];
        let inner = &mut out[c..][..w * c];
        for_each_vector(
            simd,
            w * c,
            #[inline(always)]
            |at| simd.store_up_to(simd.load_up_to(&x[at.clone()]), &mut inner[at]),
        );
        for (column, from) in sides {
            for channel in 0..c {
                out[column * c + channel] = from.map_or(constant, |from| x[from * c + channel]);
            }
        }
    }
}

/// Rows and columns that come from the map are moved by `shift`, (h, w) each.
///
/// `out` and `x` (h, w, c), `bordered` ([`bordered_len`](ImageShape::bordered_len),) of anything.
/// Coordinates are numbers of type `T` and so are bordered pixels' places.
#[inline(always)]
pub fn warp<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    x: &[T],
    map: &Affine,
    shift: Option<[&[T]; 2]>,
    fill: FillMode,
    interpolation: Interpolation,
    bordered: &mut [T],
    shape: &ImageShape,
) {
    let &ImageShape { h, w, c } = shape;
    assert_eq!(out.len(), shape.image_len(), "out");
    assert_eq!(x.len(), shape.image_len(), "x");
    if *map == Affine::IDENTITY && shift.is_none() {
        return out.copy_from_slice(x);
    }
    add_border(simd, bordered, x, fill, shape);
    let columns = simd.numbers(
        #[inline(always)]
        |lane| lane,
    );
    let [fold_y, fold_x] = [Fold::new(simd, fill, h), Fold::new(simd, fill, w)];
    let half = simd.splat(T::from_f64(0.5));
    let stride = w + BORDER;
    // The place of row 0, column 0; rows are this far apart.
    let [origin, apart] = simd.constants([(stride + 1) as f64, stride as f64]);
    let Affine([to_x, to_y]) = *map;
    let [step_y, step_x] = simd.constants([to_y[0], to_x[0]]);
    for (y, out) in out.chunks_exact_mut(w * c).enumerate() {
        let [start_y, start_x] =
            simd.constants([to_y[1] * y as f64 + to_y[2], to_x[1] * y as f64 + to_x[2]]);
        for_each_vector(
            simd,
            w,
            #[inline(always)]
            |pixels| {
                let column = simd.add(columns, simd.splat(T::from_f64(pixels.start as f64)));
                let mut row = simd.mul_add(step_y, column, start_y);
                let mut column = simd.mul_add(step_x, column, start_x);
                if let Some([down, right]) = shift {
                    let at = y * w + pixels.start..y * w + pixels.end;
                    row = simd.add(row, simd.load_up_to(&down[at.clone()]));
                    column = simd.add(column, simd.load_up_to(&right[at]));
                }
                row = fold_y.fold(simd, row);
                column = fold_x.fold(simd, column);
                if interpolation == Interpolation::Nearest {
                    row = simd.add(row, half);
                    column = simd.add(column, half);
                }
                let (above, left) = (simd.floor(row), simd.floor(column));
                let mut places = [0; MAX_LANES];
                let place = simd.mul_add(above, apart, simd.add(left, origin));
                simd.store_indices(place, &mut places);
                let out = &mut out[pixels.start * c..pixels.end * c];
                match (interpolation, c) {
                    (Interpolation::Nearest, 1) => {
                        for (out, place) in out.iter_mut().zip(places) {
                            *out = bordered[place as usize];
                        }
                    }
                    (Interpolation::Nearest, _) => {
                        for (out, place) in out.chunks_exact_mut(c).zip(places) {
                            let pixel = &bordered[place as usize * c..][..c];
                            for (out, &value) in out.iter_mut().zip(pixel) {
                                *out = value;
                            }
                        }
                    }
                    (Interpolation::Bilinear, _) => {
                        let weights = [simd.sub(row, above), simd.sub(column, left)];
                        if c == 1 {
                            mix_grey(simd, out, bordered, &places, weights, stride);
                        } else {
                            mix_pixels(simd, out, bordered, &places, weights, shape);
                        }
                    }
                }
            },
        );
    }
}

/// `a + weight * (b - a)`: `a` itself where the two are the same.
#[inline(always)]
fn blend<T: Element, S: Simd<T>>(
    simd: S,
    a: S::Vector,
    b: S::Vector,
    weight: S::Vector,
) -> S::Vector {
    simd.mul_add(weight, simd.sub(b, a), a)
}

/// `out` (pixels,) from the pixels at `places`, those below, and the neighbours to the right of
/// both; `weights` are those of the lower and of the right ones.
#[inline(always)]
fn mix_grey<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    bordered: &[T],
    places: &[u32; MAX_LANES],
    weights: [S::Vector; 2],
    stride: usize,
) {
    // A pixel and its neighbour are read as one.
    let mut pairs = [[[T::zero(); 2]; MAX_LANES]; 2];
    for lane in 0..out.len() {
        let from = &bordered[places[lane] as usize..][..stride + 2];
        pairs[0][lane] = [from[0], from[1]];
        pairs[1][lane] = [from[stride], from[stride + 1]];
    }
    let [below, right] = weights;
    let mut rows = [simd.zero(); 2];
    for side in 0..2 {
        let pairs = pairs[side].as_flattened();
        let [a, b] = simd.unzip(simd.load(pairs), simd.load(&pairs[S::LANES..]));
        rows[side] = blend(simd, a, b, right);
    }
    simd.store_up_to(blend(simd, rows[0], rows[1], below), out);
}

/// As [`mix_grey`], with the channels in vectors.
#[inline(always)]
fn mix_pixels<T: Element, S: Simd<T>>(
    simd: S,
    out: &mut [T],
    bordered: &[T],
    places: &[u32; MAX_LANES],
    weights: [S::Vector; 2],
    shape: &ImageShape,
) {
    let &ImageShape { w, c, .. } = shape;
    let [mut below, mut right] = [[T::zero(); MAX_LANES]; 2];
    simd.store(weights[0], &mut below);
    simd.store(weights[1], &mut right);
    for (lane, out) in out.chunks_exact_mut(c).enumerate() {
        let upper = &bordered[places[lane] as usize * c..];
        let lower = &upper[(w + BORDER) * c..][..2 * c];
        let (below, right) = (simd.splat(below[lane]), simd.splat(right[lane]));
        for_each_vector(
            simd,
            c,
            #[inline(always)]
            |at| {
                let (from, next) = (at.clone(), c + at.start..c + at.end);
                let mut rows = [simd.zero(); 2];
                for (row, pixels) in rows.iter_mut().zip([upper, lower]) {
                    let a = simd.load_up_to(&pixels[from.clone()]);
                    *row = blend(simd, a, simd.load_up_to(&pixels[next.clone()]), right);
                }
                simd.store_up_to(blend(simd, rows[0], rows[1], below), &mut out[at]);
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::reference;
    use crate::kernels::simd::Level;
    use crate::kernels::testing::{for_each_level, random};

    const MODES: [FillMode; 4] =
        [FillMode::Constant(0.75), FillMode::Nearest, FillMode::Reflect, FillMode::Wrap];

    fn warped<T: Element>(
        level: Level,
        x: &[T],
        map: &Affine,
        shift: Option<[&[T]; 2]>,
        fill: FillMode,
        interpolation: Interpolation,
        shape: &ImageShape,
    ) -> Vec<T> {
        let mut out = vec![T::nan(); shape.image_len()];
        let mut bordered = vec![T::nan(); shape.bordered_len()];
        dispatch!(T, level, simd => warp(
            simd, &mut out, x, map, shift, fill, interpolation, &mut bordered, shape,
        ));
        out
    }

    /// Maps that stay inside, and maps that go far out.
    fn maps(shape: &ImageShape) -> Vec<Affine> {
        let (h, w) = (shape.h as f64, shape.w as f64);
        let mut maps = vec![
            Affine([[1.0, 0.0, 0.3], [0.0, 1.0, -0.4]]),
            Affine([[0.8, -0.6, 0.3 * w], [0.6, 0.8, -0.2 * h]]),
            Affine([[0.4, 0.0, 0.3 * w], [0.0, 0.3, 0.35 * h]]),
            Affine([[-2.9, 1.7, 2.2 * w], [0.9, 2.3, -3.1 * h]]),
        ];
        for numbers in random::<f64>(6 * 4, 3).chunks_exact(6) {
            let [a, b, c, d, e, f] = std::array::from_fn(|n| 2.0 * numbers[n]);
            maps.push(Affine([[a, b, c * w], [d, e, f * h]]));
        }
        maps
    }

    fn case<T: Element>(level: Level, tolerance: f64) {
        for (h, w) in [(1, 1), (1, 7), (6, 1), (2, 2), (5, 15), (9, 16), (4, 17), (7, 33)] {
            for c in [1, 2, 3, 17] {
                let shape = ImageShape { h, w, c };
                let x: Vec<T> = random(shape.image_len(), 1);
                let shift: Vec<T> = random::<T>(2 * h * w, 2).iter().map(|&s| s + s + s).collect();
                let (rows, columns) = shift.split_at(h * w);
                for map in maps(&shape) {
                    for fill in MODES {
                        for shift in [None, Some([rows, columns])] {
                            let expected = reference::warp(&x, &map, shift, fill, &shape);
                            let got = warped(
                                level,
                                &x,
                                &map,
                                shift,
                                fill,
                                Interpolation::Bilinear,
                                &shape,
                            );
                            for (i, (&g, &e)) in got.iter().zip(&expected).enumerate() {
                                let close = (g.to_f64() - e).abs() <= tolerance;
                                assert!(close, "{shape:?} {map:?} {fill:?} {i}: {g:?} {e}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn reads_between_pixels_as_the_definition_says() {
        for_each_level(|level| {
            case::<f32>(level, 2e-4); // coordinates are some 100, their last place 1e-5
            case::<f64>(level, 1e-12);
        });
    }

    /// Coordinates that no rounding takes to another pixel.
    fn nearest_case<T: Element>(level: Level) {
        for (h, w, c) in [(1, 1, 1), (5, 17, 1), (6, 3, 4)] {
            let shape = ImageShape { h, w, c };
            let x: Vec<T> = random(shape.image_len(), 1);
            for (column, row) in [(0.4f64, 0.4f64), (-0.4, 2.3), (3.75, -8.25), (-40.4, 25.6)] {
                for fill in MODES {
                    for ([a, b], [d, e]) in [([1.0, 0.0], [0.0, 1.0]), ([0.0, -1.0], [1.0, 0.0])] {
                        let map = |column, row| Affine([[a, b, column], [d, e, row]]);
                        let whole = map((column + 0.5).floor(), (row + 0.5).floor());
                        let [got, expected] = [
                            (map(column, row), Interpolation::Nearest),
                            (whole, Interpolation::Bilinear),
                        ]
                        .map(|(map, how)| warped(level, &x, &map, None, fill, how, &shape));
                        assert_eq!(got, expected, "{shape:?} {column} {row} {fill:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_nearest_pixel_is_the_one_at_the_rounded_place() {
        for_each_level(nearest_case::<f32>);
        for_each_level(nearest_case::<f64>);
    }

    #[test]
    fn the_identity_copies_all_bits() {
        let shape = ImageShape { h: 3, w: 5, c: 1 };
        let mut x: Vec<f32> = random(15, 1);
        (x[3], x[7], x[9]) = (f32::NAN, f32::INFINITY, -0.0);
        for_each_level(|level| {
            for interpolation in [Interpolation::Nearest, Interpolation::Bilinear] {
                let out = warped(
                    level,
                    &x,
                    &Affine::IDENTITY,
                    None,
                    FillMode::Reflect,
                    interpolation,
                    &shape,
                );
                assert!(out.iter().zip(&x).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        });
    }

    #[test]
    fn outside_is_what_the_fill_mode_says() {
        let x: Vec<f64> = vec![1.0, 2.0, 3.0, 4.0];
        let shape = ImageShape { h: 1, w: 4, c: 1 };
        for (fill, expected) in [
            (FillMode::Constant(9.0), [9.0; 12]),
            (FillMode::Nearest, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]),
            (FillMode::Reflect, [3.0, 4.0, 4.0, 3.0, 2.0, 1.0, 4.0, 3.0, 2.0, 1.0, 1.0, 2.0]),
            (FillMode::Wrap, [3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 1.0, 2.0]),
        ] {
            for_each_level(|level| {
                let at = |from: f64| {
                    let map = Affine([[1.0, 0.0, from], [0.0, 1.0, 0.0]]);
                    warped(level, &x, &map, None, fill, Interpolation::Bilinear, &shape)
                };
                let got = [&at(-6.0)[..], &at(-2.0)[..2], &at(2.0)[2..], &at(6.0)].concat();
                assert_eq!(got, expected, "{fill:?}");
            });
        }
    }
}
