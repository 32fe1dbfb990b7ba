//! Minimal filtering in one direction, F(2, 3) and F(2, 5): two outputs beside each other from as
//! many products as there are pixels under them (Winograd, "Arithmetic Complexity of Computations",
//! 1980).
//!
//! Pixels and taps are taken as polynomials to the same points, multiplied there, and the products
//! to outputs.

/// Outputs beside each other.
const OUTPUTS: usize = 2;

/// Three taps, at the points 0, 1, -1 and infinity.
pub mod three {
    use super::OUTPUTS;
    use crate::kernels::simd::{Element, Simd};

    /// Taps of a filter.
    pub const TAPS: usize = 3;

    /// Pixels for two outputs, and points.
    pub const POINTS: usize = TAPS + OUTPUTS - 1;

    /// The points of some pixels in a row, or in a column. Of equal pixels, all but the second are
    /// 0.
    #[inline(always)]
    pub fn pixel_points<T: Element, S: Simd<T>>(
        simd: S,
        d: [S::Vector; POINTS],
    ) -> [S::Vector; POINTS] {
        [simd.sub(d[0], d[2]), simd.add(d[1], d[2]), simd.sub(d[2], d[1]), simd.sub(d[3], d[1])]
    }

    /// Those of some taps.
    #[inline(always)]
    pub fn kernel_points<T: Element, S: Simd<T>>(
        simd: S,
        g: [S::Vector; TAPS],
        half: S::Vector,
    ) -> [S::Vector; POINTS] {
        let ends = simd.add(g[0], g[2]);
        let (sum, difference) = (simd.add(ends, g[1]), simd.sub(ends, g[1]));
        [g[0], simd.mul(sum, half), simd.mul(difference, half), g[2]]
    }

    /// The outputs from the products at the points.
    #[inline(always)]
    pub fn outputs<T: Element, S: Simd<T>>(
        simd: S,
        m: [S::Vector; POINTS],
    ) -> [S::Vector; OUTPUTS] {
        [simd.add(simd.add(m[0], m[1]), m[2]), simd.add(simd.sub(m[1], m[2]), m[3])]
    }

    /// The gradient of the products at the points, from that of their [`outputs`].
    #[inline(always)]
    pub fn output_points<T: Element, S: Simd<T>>(
        simd: S,
        d: [S::Vector; OUTPUTS],
    ) -> [S::Vector; POINTS] {
        [d[0], simd.add(d[0], d[1]), simd.sub(d[0], d[1]), d[1]]
    }

    /// The gradient of the taps, from that of their [`kernel_points`].
    #[inline(always)]
    pub fn taps<T: Element, S: Simd<T>>(
        simd: S,
        d: [S::Vector; POINTS],
        half: S::Vector,
    ) -> [S::Vector; TAPS] {
        let even = simd.mul(simd.add(d[1], d[2]), half);
        let odd = simd.mul(simd.sub(d[1], d[2]), half);
        [simd.add(d[0], even), odd, simd.add(even, d[3])]
    }
}

/// Five taps, at the points 0, 1, -1, 2, -2 and infinity.
pub mod five {
    use super::OUTPUTS;
    use crate::kernels::simd::{Element, Simd};

    /// Taps of a filter.
    pub const TAPS: usize = 5;

    /// Pixels for two outputs, and points.
    pub const POINTS: usize = TAPS + OUTPUTS - 1;

    /// The points of some pixels.
    #[inline(always)]
    pub fn pixel_points<T: Element, S: Simd<T>>(
        simd: S,
        d: [S::Vector; POINTS],
    ) -> [S::Vector; POINTS] {
        let [two, minus_two, four, minus_four] = simd.constants([2.0, -2.0, 4.0, -4.0]);
        let (even, odd) =
            (simd.mul_add(minus_four, d[2], d[4]), simd.mul_add(minus_four, d[1], d[3]));
        let (steps, odd_steps) = (simd.sub(d[4], d[2]), simd.sub(d[3], d[1]));
        [
            simd.mul_add(four, simd.sub(d[0], d[2]), steps),
            simd.add(even, odd),
            simd.sub(even, odd),
            simd.mul_add(two, odd_steps, steps),
            simd.mul_add(minus_two, odd_steps, steps),
            simd.mul_add(minus_four, odd_steps, simd.sub(d[5], d[3])),
        ]
    }

    /// Those of a kernel's taps: the values at the points of a polynomial with these coefficients,
    /// divided by the product of the point's distances from the others.
    #[inline(always)]
    pub fn kernel_points<T: Element, S: Simd<T>>(
        simd: S,
        g: [S::Vector; TAPS],
    ) -> [S::Vector; POINTS] {
        let [two, four] = simd.constants([2.0, 4.0]);
        let [at_zero, at_one, at_two] = simd.constants([1.0 / 4.0, -1.0 / 6.0, 1.0 / 24.0]);
        let (even, odd) = (simd.add(simd.add(g[0], g[2]), g[4]), simd.add(g[1], g[3]));
        let even_two = simd.mul_add(four, simd.mul_add(four, g[4], g[2]), g[0]);
        let odd_two = simd.mul(two, simd.mul_add(four, g[3], g[1]));
        [
            simd.mul(at_zero, g[0]),
            simd.mul(at_one, simd.add(even, odd)),
            simd.mul(at_one, simd.sub(even, odd)),
            simd.mul(at_two, simd.add(even_two, odd_two)),
            simd.mul(at_two, simd.sub(even_two, odd_two)),
            g[4],
        ]
    }

    /// The two outputs from the products at the points.
    #[inline(always)]
    pub fn outputs<T: Element, S: Simd<T>>(
        simd: S,
        m: [S::Vector; POINTS],
    ) -> [S::Vector; OUTPUTS] {
        let (ones, twos) = (simd.add(m[1], m[2]), simd.add(m[3], m[4]));
        let (between_ones, between_twos) = (simd.sub(m[1], m[2]), simd.sub(m[3], m[4]));
        let two = simd.splat(T::from_f64(2.0));
        [
            simd.add(m[0], simd.add(ones, twos)),
            simd.add(simd.mul_add(two, between_twos, between_ones), m[5]),
        ]
    }

    /// Adds the product at a point to both outputs, as [`outputs`] does for all of them.
    #[inline(always)]
    pub fn add_point<T: Element, S: Simd<T>>(
        simd: S,
        [upper, lower]: &mut [S::Vector; OUTPUTS],
        point: usize,
        product: S::Vector,
    ) {
        if point < POINTS - 1 {
            *upper = simd.add(*upper, product);
        }
        match point {
            1 | 5 => *lower = simd.add(*lower, product),
            2 => *lower = simd.sub(*lower, product),
            3 => *lower = simd.add(*lower, simd.add(product, product)),
            4 => *lower = simd.sub(*lower, simd.add(product, product)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::simd::{Element, Simd};
    use crate::kernels::testing::{assert_close, for_each_level, random};
    use std::array::from_fn;

    /// `sum over t of pixels[output + t] * taps[t]`
    fn sliding<T: Element>(pixels: &[T], taps: &[T]) -> Vec<T> {
        let products = |seen: &[T]| seen.iter().zip(taps).map(|(&x, &g)| x * g).collect();
        let sum = |products: Vec<T>| products.into_iter().fold(T::zero(), |sum, x| sum + x);
        pixels.windows(taps.len()).map(|seen| sum(products(seen))).collect()
    }

    #[inline(always)]
    fn case<T: Element, S: Simd<T>>(simd: S) {
        let (pixels, taps): (Vec<T>, Vec<T>) = (random(five::POINTS, 1), random(five::TAPS, 2));
        let expected = |n| sliding(&pixels[..n + OUTPUTS - 1], &taps[..n]);
        let (d, g) = (|n| simd.splat(pixels[n]), |n| simd.splat(taps[n]));
        let value = |v| simd.largest(v);

        let k = three::kernel_points(simd, from_fn(g), simd.splat(T::from_f64(0.5)));
        let x = three::pixel_points(simd, from_fn(d));
        let products = from_fn(|n| simd.mul(k[n], x[n]));
        let outputs = three::outputs(simd, products);
        assert_close(&outputs.map(value), &expected(three::TAPS), 9);

        // The gradient of the taps where it is 1 and 2 for the outputs.
        let (one, two) = (simd.splat(T::one()), simd.splat(T::from_f64(2.0)));
        let at_points = three::output_points(simd, [one, two]);
        let products = from_fn(|n| simd.mul(at_points[n], x[n]));
        let taps_gradient = three::taps(simd, products, simd.splat(T::from_f64(0.5)));
        let seen = |n| pixels[n] + pixels[n + 1] + pixels[n + 1];
        assert_close(&taps_gradient.map(value), &from_fn::<_, { three::TAPS }, _>(seen), 9);

        let (k, x) = (five::kernel_points(simd, from_fn(g)), five::pixel_points(simd, from_fn(d)));
        let products = from_fn(|n| simd.mul(k[n], x[n]));
        let mut added = [simd.zero(); OUTPUTS];
        for point in 0..five::POINTS {
            five::add_point(simd, &mut added, point, products[point]);
        }
        for outputs in [five::outputs(simd, products), added] {
            assert_close(&outputs.map(value), &expected(five::TAPS), 20);
        }
    }

    #[test]
    fn outputs_are_those_of_a_sliding_filter() {
        for_each_level(|level| {
            dispatch!(f32, level, simd => case::<f32, _>(simd));
            dispatch!(f64, level, simd => case::<f64, _>(simd));
        });
    }
}
