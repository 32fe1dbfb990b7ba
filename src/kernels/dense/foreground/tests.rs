use super::*;
use crate::dispatch;
use crate::kernels::dense::{dense_backward, dense_backward_sgd, dense_forward};
use crate::kernels::foreground::channels_of_group;
use crate::kernels::optimizer::sgd;
use crate::kernels::simd::Level;
use crate::kernels::testing::{assert_close, for_each_level, random};

/// Some groups of each image: none of the first, and all of the last.
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

/// All inputs of images, and of each group in their foregrounds where it is packed, where it is in
/// all inputs, and how long.
fn unpack(
    groups: &[Windows],
    packed: &[f32],
    background: &[f32],
    inputs: usize,
) -> (Vec<f32>, Vec<(usize, usize, usize)>) {
    let c = background.len();
    let image = background.iter().copied().cycle().take(inputs).collect::<Vec<_>>();
    let (mut x, mut places, mut start) = (image.repeat(groups.len()), vec![], 0);
    for (image, groups) in groups.iter().enumerate() {
        groups.for_each(|at| {
            let (to, len) = (image * inputs + at * c, c.min(inputs - at * c));
            x[to..][..len].copy_from_slice(&packed[start..][..len]);
            places.push((start, to, len));
            start += len;
        });
    }
    (x, places)
}

/// Asserts that packed and unpacked gradients agree, and the sums of what is not packed, of `terms`
/// products.
fn assert_same_gradient(
    d_x: &[f32],
    d_background: &[f32],
    expected: &[f32],
    places: &[(usize, usize, usize)],
    inputs: usize,
    terms: usize,
) {
    let c = d_background.len();
    let mut expected_rest = vec![0.0; c];
    for (at, d) in expected.iter().enumerate() {
        let channel = at % inputs % c;
        if !places.iter().any(|&(_, to, _)| to == at - channel) {
            expected_rest[channel] += d;
        }
    }
    for &(from, to, len) in places {
        assert_close(&d_x[from..][..len], &expected[to..][..len], terms);
    }
    assert_close(d_background, &expected_rest, terms * expected.len() / c);
}

/// Images of so many groups with `c` channels, of which the last one lacks some.
fn case(level: Level, c: usize, (count, lacks): (usize, usize), outputs: usize, n: usize) {
    let inputs = count * c - lacks;
    let shape = DenseShape::new(inputs, outputs).unwrap();
    let mut groups = foregrounds(n, count);
    let mut background: Vec<f32> = random(c, 7);
    let mut d_background = vec![<f32>::NAN; c];
    let weights: Vec<f32> = random(shape.weights_len(), 2);
    let biases: Vec<f32> = random(outputs, 3);
    let d_out: Vec<f32> = random(n * outputs, 4);

    let packed: Vec<f32> = random(n * inputs, 1);
    let (x, places) = unpack(&groups, &packed, &background, inputs);
    let foreground = &mut Foreground {
        groups: &mut groups,
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
        let d_background = &*foreground.d_background;
        assert_same_gradient(&d_x, d_background, &expected_d_x, &places, inputs, outputs);
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
            let lanes = dispatch!(f32, level, simd => channels_of_group::<f32, _>(simd, 8));
            for n in [2, 3, 4, 9, 64] {
                for (channels, count) in [(1, 1), (1, 6), (1, 64), (1, 65), (1, 169), (3, 4)] {
                    case(level, channels * lanes, (count, 0), outputs, n);
                }
                for count in [1, 2, 32, 33, 85, 129] {
                    case(level, lanes, (count, lanes / 2), outputs, n);
                }
            }
        }
    });
}

/// Some steps of descent by images of so many groups with `c` channels, of which the last one lacks
/// some, each with another background.
fn case_of_deferral(level: Level, c: usize, (count, lacks): (usize, usize), outputs: usize) {
    const STEPS: usize = 5;
    let inputs = count * c - lacks;
    let shape = DenseShape::new(inputs, outputs).unwrap();
    let mut weights: Vec<f32> = random(shape.weights_len(), 2);
    let mut plain = weights.clone();
    let mut deferred = vec![<f32>::NAN; deferred_len(c, &shape)];
    dispatch!(f32, level, simd => defer(simd, &mut deferred, &weights, c, &shape));
    for (step, groups) in foregrounds(STEPS, count).into_iter().enumerate() {
        let seed = 10 * step as u64;
        let mut background: Vec<f32> = random(c, seed + 3);
        let packed: Vec<f32> = random(inputs, seed + 4);
        let d_out: Vec<f32> = random(outputs, seed + 5);
        let biases: Vec<f32> = random(outputs, seed + 6);
        let biases = (step % 2 == 0).then_some(&biases[..]);
        let rate = 0.1;
        let (x, places) = unpack(&[groups], &packed, &background, inputs);
        let (mut out, mut d_x) = (vec![<f32>::NAN; outputs], vec![<f32>::NAN; inputs]);
        let (mut expected, mut expected_d_x) = (out.clone(), d_x.clone());
        let foreground = &mut Foreground {
            groups: &mut [groups],
            background: &mut background,
            d_background: &mut vec![<f32>::NAN; c],
        };
        dispatch!(f32, level, simd => {
            dense_forward(simd, &mut expected, &x, &plain, biases, &shape, 1);
            dense_forward_deferred(
                simd, &mut out, &packed, &deferred, biases, foreground, &shape,
            );
            let d_x_of_all = Some(&mut expected_d_x[..]);
            dense_backward_sgd(simd, d_x_of_all, &mut plain, &d_out, &x, rate, &shape, 1);
            dense_backward_deferred(
                simd, &mut d_x, &mut deferred, &d_out, &packed, rate, foreground, &shape,
            );
        });
        assert_close(&out, &expected, STEPS * inputs);
        let d_background = &*foreground.d_background;
        let terms = STEPS * outputs;
        assert_same_gradient(&d_x, d_background, &expected_d_x, &places, inputs, terms);
    }
    dispatch!(f32, level, simd => settle(simd, &mut weights, &deferred, c, &shape));
    assert_close(&weights, &plain, STEPS);
}

#[test]
fn descent_is_the_same_if_the_background_is_deferred() {
    for_each_level(|level| {
        if !dispatch!(f32, level, simd => is_told_apart::<f32, _>(simd)) {
            return;
        }
        let lanes = dispatch!(f32, level, simd => channels_of_group::<f32, _>(simd, 8));
        for outputs in [1, 9, 10, 11, 23] {
            for (channels, count) in [(1, 1), (1, 6), (1, 64), (1, 65), (1, 169), (3, 4)] {
                case_of_deferral(level, channels * lanes, (count, 0), outputs);
            }
            for count in [1, 2, 33, 85, 129] {
                case_of_deferral(level, lanes, (count, lanes / 2), outputs);
            }
        }
    });
}
