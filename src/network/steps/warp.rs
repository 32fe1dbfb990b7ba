//! Random maps of coordinates, in training; in inference there are none.

use std::f64::consts::TAU;

use crate::kernels::counter::{mix, uniform};
use crate::kernels::run;
use crate::kernels::simd::Element;
use crate::kernels::warp::{Affine, ImageShape};
use crate::network::spec::{Bounds, WarpSpec};
use crate::network::step::{Backward, Forward, Step};

/// It has no weights, and none stand before it, so that nobody asks for a gradient.
#[derive(Clone, Debug)]
pub struct WarpStep {
    /// What is drawn.
    pub spec: WarpSpec,
    /// Sizes of an image.
    pub shape: ImageShape,
    /// Which step of the network this is: each draws its own numbers.
    pub salt: u64,
}

/// Number `n` of a key, within bounds; the bound itself if both are the same.
pub fn within((least, most): Bounds, key: u64, n: u64) -> f64 {
    least + (most - least) * uniform(key, n)
}

impl WarpStep {
    /// From pixels of the result to those of the image: back by the translation, then rotated,
    /// sheared, and zoomed and mirrored about the centre.
    fn map(&self, key: u64) -> Affine {
        let WarpSpec { rotation, translation: [down, right], zoom, shear, flip, .. } = self.spec;
        let (h, w) = (self.shape.h as f64, self.shape.w as f64);
        let (sin, cos) = (TAU * within(rotation, key, 0)).sin_cos();
        let (down, right) = (h * within(down, key, 1), w * within(right, key, 2));
        let shear = within(shear, key, 3);
        let zoom_h = 1.0 + within(zoom.0, key, 4);
        let zoom_w = zoom.1.map_or(zoom_h, |zoom| 1.0 + within(zoom, key, 5));
        let mirrored = |axis: usize| flip[axis] && uniform(key, 6 + axis as u64) < 0.5;
        let [zoom_h, zoom_w] = [(zoom_h, 0), (zoom_w, 1)]
            .map(|(zoom, axis)| if mirrored(axis) { -zoom } else { zoom });
        let rows = [
            [zoom_w * (cos + shear * sin), zoom_w * (shear * cos - sin)],
            [zoom_h * sin, zoom_h * cos],
        ];
        let centre = [(w - 1.0) / 2.0, (h - 1.0) / 2.0];
        let moved = [centre[0] + right, centre[1] + down];
        Affine([0, 1].map(|axis| {
            let [a, b] = rows[axis];
            [a, b, centre[axis] - a * moved[0] - b * moved[1]]
        }))
    }
}

impl<T: Element> Step<T> for WarpStep {
    fn forward(&self, pass: Forward<'_, T>) {
        let Forward { x, out, scratch, random, .. } = pass;
        let WarpSpec { fill, interpolation, elastic, seed, .. } = self.spec;
        let (shape, len) = (&self.shape, self.shape.image_len());
        let (bordered, rest) = scratch.split_at_mut(shape.bordered_len());
        for (n, (out, x)) in out.chunks_exact_mut(len).zip(x.chunks_exact(len)).enumerate() {
            let key = random.key(self.salt, seed, n);
            let map = self.map(key);
            let shift = elastic.map(|elastic| {
                let (shift, scratch) = rest.split_at_mut(2 * shape.h * shape.w);
                run::displacements(shift, scratch, mix(key), elastic, shape.h, shape.w);
                let (down, right) = shift.split_at(shape.h * shape.w);
                [down, right]
            });
            run::warp(out, x, &map, shift, fill, interpolation, bordered, shape);
        }
    }

    fn backward(&self, _: Backward<'_, T>, _: &[T]) {}

    fn scratch_len(&self, _: usize) -> usize {
        let ImageShape { h, w, .. } = self.shape;
        let elastic = self.spec.elastic.map_or(0, |it| it.scratch_len(h, w) + 2 * h * w);
        self.shape.bordered_len() + elastic
    }
}
