use super::*;
use crate::dispatch;
use crate::kernels::dense::{dense_backward, dense_forward};
use crate::kernels::optimizer::sgd;
use crate::kernels::simd::Level;
use crate::kernels::testing::{assert_close, for_each_level, random};

/// Some windows of each image: none of the first, and all of the last.
fn foregrounds(n: usize, count: usize) -> Vec<Windows> {
    let set = |image: usize| {
        let mut windows = Windows::default();
        for at in 0..count {
            if image + 1 == n || image > 0 && (at * 7 + image * 3) % 5 < 2 {
                windows.add(at, 1);
            }
        }
        windows
    };
    (0..n).map(set).collect()
}

fn case(level: Level, c: usize, count: usize, outputs: usize, n: usize) {
    let shape = DenseShape::new(count * c, outputs).unwrap();
    let mut windows = foregrounds(n, count);
    let mut background: Vec<f32> = random(c, 7);
    let mut d_background = vec![<f32>::NAN; c];
    let weights: Vec<f32> = random(shape.weights_len(), 2);
    let biases: Vec<f32> = random(outputs, 3);
    let d_out: Vec<f32> = random(n * outputs, 4);

    let packed: Vec<f32> = random(n * count * c, 1);
    let mut x = background.repeat(n * count);
    let mut places = vec![]; // of windows that are packed
    let mut start = 0;
    for (image, windows) in windows.iter().enumerate() {
        windows.for_each(|at| {
            let to = (image * count + at) * c;
            x[to..][..c].copy_from_slice(&packed[start..][..c]);
            places.push((start, to));
            start += c;
        });
    }
    let foreground = &mut Foreground {
        windows: &mut windows,
        background: &mut background,
        d_background: &mut d_background,
    };
    for biases in [Some(&biases[..]), None] {
        let mut sums = vec![<f32>::NAN; sums_len(c, outputs)];
        let mut out = vec![<f32>::NAN; n * outputs];
        let mut expected = out.clone();
        dispatch!(f32, level, simd => {
            dense_forward_foreground(
                simd, &mut out, &mut sums, &packed, &weights, biases, foreground,
                &Ahead::nothing(), &shape, n,
            );
            dense_forward(simd, &mut expected, &x, &weights, biases, &shape, n);
        });
        assert_close(&out, &expected, shape.inputs() + 1);

        let (mut d_x, mut expected_d_x) = (vec![<f32>::NAN; x.len()], vec![0.0; x.len()]);
        let mut expected = vec![<f32>::NAN; shape.weights_len()];
        let mut d_weights = expected.clone();
        let mut backward = |weights: Weights<f32>| {
            dispatch!(f32, level, simd => dense_backward_foreground(
                simd, &mut d_x, weights, &d_out, &packed, &sums, foreground,
                &Ahead::nothing(), &shape, n,
            ));
        };
        backward(Weights::Kept { weights: &weights, d_weights: &mut d_weights, adds: false });
        let plus = |d: &[f32], to: Option<&[f32]>| -> Vec<f32> {
            let add = |to: &[f32]| d.iter().zip(to).map(|(d, to)| d + to).collect();
            to.map_or(d.to_vec(), add)
        };
        let (one, other): (Vec<f32>, Vec<f32>) =
            (random(weights.len(), 8), random(weights.len(), 9));
        let mut sum = one.clone();
        backward(Weights::Kept { weights: &weights, d_weights: &mut sum, adds: true });
        assert_eq!(sum, plus(&d_weights, Some(&one)));
        for sum in [None, Some(&one[..])] {
            for before in [None, Some(&other[..])] {
                let (mut descended, mut expected) = (weights.clone(), weights.clone());
                let rate = 0.3;
                backward(Weights::Descending { weights: &mut descended, sum, before, rate });
                let all = plus(&plus(&d_weights, sum), before);
                dispatch!(f32, level, simd => sgd(simd, &mut expected, &all, rate.into()));
                assert_eq!(descended, expected);
            }
        }
        dispatch!(f32, level, simd => {
            let d_x = Some(&mut expected_d_x[..]);
            dense_backward(simd, d_x, &mut expected, &d_out, &x, &weights, &shape, n);
        });
        let mut expected_rest = vec![0.0; c];
        for (at, d) in expected_d_x.iter().enumerate() {
            if !places.iter().any(|&(_, to)| to == at - at % c) {
                expected_rest[at % c] += d;
            }
        }
        for &(from, to) in &places {
            assert_close(&d_x[from..][..c], &expected_d_x[to..][..c], outputs);
        }
        assert_close(foreground.d_background, &expected_rest, n * count * outputs);
        assert_close(&d_weights, &expected, n);
    }
}

#[test]
fn equals_the_kernels_that_leave_nothing_out() {
    for_each_level(|level| {
        if !dispatch!(f32, level, simd => is_told_apart::<f32, _>(simd)) {
            return;
        }
        for outputs in [1, 4, 9, 10, 11, 23] {
            for (channels, count) in [(8, 1), (8, 6), (8, 169), (16, 35), (48, 4)] {
                for n in [2, 3, 4, 9, 64] {
                    case(level, channels, count, outputs, n);
                }
            }
        }
    });
}
