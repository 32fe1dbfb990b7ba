//! The gradient of the kernel, by the way forward turned round: a tile's pixels and the gradients
//! of its 2x2 outputs become 16 points each; their products, summed over all tiles, become the nine
//! taps' gradients.

use super::{
    PATCH, POINTS, Points, SIDE, TAPS, Tile, block, for_each_vector, step, three::output_points,
    three::taps,
};
use crate::kernels::conv_backward::backward_kernel;
use crate::kernels::shape::ConvShape;
use crate::kernels::simd::{Element, Simd};

/// Tiles that go together: enough that the sums, which are read and written for each group, cost
/// little beside the products.
const GROUP: usize = 48;

/// Fewest tiles that outweigh what is done once, with the sums.
pub const FEWEST_TILES: usize = 32;

/// From one point to the next among the sums.
fn sums_step<T>(shape: &ConvShape) -> usize {
    shape.input().2 * shape.c_out() + block::<T>()
}

/// Elements of workspace.
pub fn scratch_len<T>(shape: &ConvShape) -> usize {
    let steps = step::<T>(GROUP, shape.input().2) + step::<T>(GROUP, shape.c_out());
    POINTS * (steps + sums_step::<T>(shape))
}

/// Sets `d_kernel`; `counts` are images, and tiles below and beside each other.
#[inline(always)]
pub fn run<T: Element, S: Simd<T>>(
    simd: S,
    d_kernel: &mut [T],
    d_out: &[T],
    x: &[T],
    scratch: &mut [T],
    shape: &ConvShape,
    counts: [usize; 3],
) {
    let [n, rows, columns] = counts;
    let ((_, _, c_in), c_out) = (shape.input(), shape.c_out());
    let (pixels, rest) = scratch.split_at_mut(POINTS * step::<T>(GROUP, c_in));
    let (gradients, sums) = rest.split_at_mut(POINTS * step::<T>(GROUP, c_out));
    let mut pixels = Points { x: pixels, tiles: GROUP, channels: c_in };
    let mut gradients = Points { x: gradients, tiles: GROUP, channels: c_out };
    // At each point, this is the gradient of a dense layer, of which the tiles are the images.
    let Ok(dense) = ConvShape::dense(c_in, c_out) else {
        panic!("fewer weights than the kernel's")
    };
    let tiles = n * rows * columns;
    let mut next = Tile { number: 0, image: 0, i: 0, j: 0 };
    let mut places = [next; GROUP];
    for start in (0..tiles).step_by(GROUP) {
        let count = GROUP.min(tiles - start);
        let places = &mut places[..count];
        for place in &mut *places {
            *place = next;
            next = next.following(rows, columns);
        }
        pixels.set_all(simd, x, shape, places);
        for (t, &place) in places.iter().enumerate() {
            gradients.set_gradient(simd, t, d_out, shape, place);
        }
        for (point, sums) in sums.chunks_exact_mut(sums_step::<T>(shape)).enumerate() {
            let sums = &mut sums[..dense.kernel_len()];
            let x = &pixels.at(point)[..count * c_in];
            let d = &gradients.at(point)[..count * c_out];
            backward_kernel(simd, sums, d, x, &dense, count, start > 0);
        }
    }
    finish(simd, d_kernel, sums, shape);
}

/// From the sums at the points to the taps' gradients (kh, kw, c_in, c_out).
#[inline(always)]
fn finish<T: Element, S: Simd<T>>(simd: S, d_kernel: &mut [T], sums: &[T], shape: &ConvShape) {
    let step = sums_step::<T>(shape);
    let len = step - block::<T>();
    let half = simd.splat(T::from_f64(0.5));
    assert!(len >= S::LANES, "a vector at least");
    for start in (0..len).step_by(S::LANES) {
        // The last vector begins before the end of the one before it.
        let start = start.min(len - S::LANES);
        let mut columns = [[simd.zero(); TAPS]; PATCH];
        for x in 0..PATCH {
            let mut d = [simd.zero(); PATCH];
            for y in 0..PATCH {
                d[y] = simd.load(&sums[(y * PATCH + x) * step + start..]);
            }
            columns[x] = taps(simd, d, half);
        }
        let [a, b, c, d] = columns;
        for y in 0..TAPS {
            let taps = taps(simd, [a[y], b[y], c[y], d[y]], half);
            for x in 0..TAPS {
                simd.store(taps[x], &mut d_kernel[(y * TAPS + x) * len + start..]);
            }
        }
    }
}

impl<T: Element> Points<'_, T> {
    /// Sets tile `t` from the gradient of the output (n, out_h, out_w, c_out). That of outputs
    /// beyond the image is 0.
    #[inline(always)]
    fn set_gradient<S: Simd<T>>(
        &mut self,
        simd: S,
        t: usize,
        d_out: &[T],
        shape: &ConvShape,
        tile: Tile,
    ) {
        let (out_h, out_w, c) = shape.output();
        let step = step::<T>(self.tiles, c);
        let (i, j) = (SIDE * tile.i, SIDE * tile.j);
        let first = ((tile.image * out_h + i) * out_w + j) * c;
        for_each_vector(
            simd,
            c,
            #[inline(always)]
            |channels| {
                let place = self.place(t, &channels);
                let mut columns = [[simd.zero(); PATCH]; SIDE];
                for x in 0..SIDE.min(out_w - j) {
                    let mut d = [simd.zero(); SIDE];
                    for y in 0..SIDE.min(out_h - i) {
                        let pixel = first + (y * out_w + x) * c;
                        let d_out = &d_out[pixel + channels.start..pixel + channels.end];
                        d[y] = simd.load_up_to(d_out);
                    }
                    columns[x] = output_points(simd, d);
                }
                let [a, b] = columns;
                for y in 0..PATCH {
                    let points = output_points(simd, [a[y], b[y]]);
                    for x in 0..PATCH {
                        let at = (y * PATCH + x) * step;
                        // SAFETY: `place` says that it is a tile, and that there are all points.
                        let out =
                            unsafe { self.x.get_unchecked_mut(at + place.start..at + place.end) };
                        simd.store_up_to(points[x], out);
                    }
                }
            },
        );
    }
}
