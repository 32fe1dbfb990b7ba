//! Patches of images painted over (Z. Zhong et al., "Random erasing data augmentation", 2017).

use super::counter::normals;
use super::simd::Element;
use std::ops::Range;

/// What a patch is painted with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Paint {
    /// One number for all channels.
    Grey(f64),
    /// One number for each of three channels.
    Colour([f64; 3]),
    /// A number of its own for each element: normal ones of that standard deviation.
    Noise(f64),
}

/// The pixels from `start` to below `start + len`: of a patch whose borders lie anywhere, those
/// whose coordinates it covers.
pub fn covered(start: f64, len: f64) -> Range<usize> {
    start.ceil() as usize..(start + len).ceil() as usize
}

/// Paints a patch of an image `x` (h, w, c) of rows of `w` pixels; all paint is clipped to
/// `bounds`, and noise follows from `key`.
pub fn erase<T: Element>(
    x: &mut [T],
    rows: Range<usize>,
    columns: Range<usize>,
    paint: Paint,
    bounds: (f64, f64),
    key: u64,
    (w, c): (usize, usize),
) {
    let clipped = |value: f64| T::from_f64(value.max(bounds.0).min(bounds.1));
    for row in rows {
        let start = (row * w + columns.start) * c;
        let patch = &mut x[start..start + columns.len() * c];
        match paint {
            Paint::Grey(value) => patch.fill(clipped(value)),
            Paint::Colour(colour) => {
                let colour = colour.map(clipped);
                patch.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&colour));
            }
            Paint::Noise(deviation) => {
                for (n, pair) in patch.chunks_mut(2).enumerate() {
                    // Two numbers come at once: each row has a stretch of its own.
                    let numbers = normals(key, (row * w * c + n) as u64);
                    for (x, number) in pair.iter_mut().zip(numbers) {
                        *x = clipped(deviation * number);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: (f64, f64) = (-1.0, 1.5);

    #[test]
    fn a_patch_covers_the_coordinates_between_its_borders() {
        for (start, len, expected) in [
            (0.0, 3.0, 0..3),
            (0.5, 1.0, 1..2),
            (0.5, 0.4, 1..1),
            (2.1, 1.9, 3..4),
            (1.0, 0.0, 1..1),
        ] {
            assert_eq!(covered(start, len), expected);
        }
    }

    #[test]
    fn paints_the_patch_alone() {
        for (c, paint) in [
            (1, Paint::Grey(7.0)),
            (2, Paint::Grey(0.5)),
            (3, Paint::Colour([0.0, -3.0, 0.5])),
            (2, Paint::Noise(2.0)),
        ] {
            let mut x = vec![9.0f32; 5 * 6 * c];
            erase(&mut x, 1..4, 2..5, paint, BOUNDS, 11, (6, c));
            for (i, &x) in x.iter().enumerate() {
                let (row, column, channel) = (i / c / 6, i / c % 6, i % c);
                if !(1..4).contains(&row) || !(2..5).contains(&column) {
                    assert_eq!(x, 9.0);
                    continue;
                }
                match paint {
                    Paint::Grey(value) => assert_eq!(x, value.min(1.5) as f32),
                    Paint::Colour(_) => assert_eq!(x, [0.0, -1.0, 0.5][channel]),
                    Paint::Noise(_) => assert!((-1.0..=1.5).contains(&x)),
                }
            }
        }
    }

    #[test]
    fn noise_has_its_deviation_and_no_number_twice() {
        let mut x = vec![0.0f64; 64 * 64];
        erase(&mut x, 0..64, 0..64, Paint::Noise(2.0), (-100.0, 100.0), 5, (64, 1));
        let square = x.iter().map(|x| x * x).sum::<f64>() / 4096.0;
        assert!((square - 4.0).abs() < 0.4, "{square}");
        x.sort_by(f64::total_cmp);
        x.dedup();
        assert_eq!(x.len(), 4096);
    }
}
