//! Small batches that are divided by the rows of their images, in plain gradient descent.

use super::*;

/// So little momentum that it has no effect; but then a batch is divided by its images.
const BY_IMAGES: Rule = Rule::Sgd { momentum: 1e-300, nesterov: false };

const IMAGES: usize = 70;

fn data(image: usize) -> (Vec<f64>, Vec<i64>) {
    (random(IMAGES * image, 5), (0..IMAGES as i64).map(|i| i * i % 3).collect())
}

/// The tutorial's network of images of that size, with a gradient for everything.
fn tutorial(
    h: usize,
    w: usize,
    filters: usize,
    units: usize,
    activation: Activation,
) -> Network<f64> {
    network(
        &[h, w, 1],
        &[
            LayerKind::Rescale { scale: 0.5, offset: 0.1 },
            conv(filters, 3, RELU),
            LayerKind::MaxPool(halving()),
            LayerKind::Flatten,
            dense(units, activation),
        ],
    )
}

/// The losses, how many were right, and the weights.
fn trained(
    mut net: Network<f64>,
    rule: Rule,
    loss: Loss,
    batch: usize,
) -> (Vec<f64>, usize, Vec<f64>) {
    net.compile(loss, rule, None).unwrap();
    let input = net.layers().input.iter().product();
    let (x, labels) = data(input);
    let outputs: usize = net.layers().output().iter().product();
    let values: Vec<f64> = random(IMAGES * outputs, 6);
    let targets = match loss {
        Loss::SparseCategoricalCrossentropy { .. } => Targets::Labels(&labels),
        _ => Targets::Values(&values),
    };
    let order: Vec<usize> = (0..IMAGES).map(|at| at * 3 % IMAGES).collect();
    let rates = vec![0.02; IMAGES.div_ceil(batch)];
    let outcome = train(&mut net, &x, targets, call(&order, batch, &rates, 2));
    (outcome.losses, outcome.correct, weights(&mut net))
}

#[test]
fn rows_come_to_what_images_come_to() {
    let squares = Loss::MeanSquaredError;
    for (h, w, filters, units, activation, loss) in [
        (28, 28, 8, 10, Activation::Softmax, SPARSE),
        (27, 31, 8, 3, Activation::Softmax, SPARSE),
        (34, 19, 16, 1, Activation::Linear, squares),
        (21, 34, 8, 31, Activation::Linear, squares),
    ] {
        // With 6, 3, 0 and 1 images left.
        for batch in [16, 23, 32, 35] {
            let of = |rule| trained(tutorial(h, w, filters, units, activation), rule, loss, batch);
            let (by_rows, by_images) = (of(PLAIN), of(BY_IMAGES));
            for (a, b) in [(&by_rows.0, &by_images.0), (&by_rows.2, &by_images.2)] {
                let far = a.iter().zip(b).map(|(a, b)| (a - b).abs() / (1.0 + b.abs()));
                let most = far.fold(0.0, f64::max);
                assert!(most < 1e-11, "{h}x{w} {batch}: {most}");
            }
            assert_eq!(by_rows.1, by_images.1);
            // They are other sums.
            assert_ne!(bits(&by_rows.2), bits(&by_images.2), "{h}x{w} {batch}");
        }
    }
}

#[test]
fn rows_are_the_same_bits_on_any_number_of_threads_and_in_any_calls() {
    let (x, labels) = data(28 * 28);
    let order: Vec<usize> = (0..IMAGES).rev().collect();
    let rates = [0.05, 0.04, 0.03];
    let run = |threads, cuts: &[usize]| {
        let mut net = tutorial(28, 28, 8, 10, Activation::Softmax);
        net.compile(SPARSE, PLAIN, None).unwrap();
        let mut losses = vec![];
        for cut in cuts.windows(2) {
            let images = &order[32 * cut[0]..IMAGES.min(32 * cut[1])];
            let call = call(images, 32, &rates[cut[0]..cut[1]], threads);
            losses.extend(train(&mut net, &x, Targets::Labels(&labels), call).losses);
        }
        (losses, bits(&weights(&mut net)))
    };
    let alone = run(1, &[0, 3]);
    assert!(alone.0.iter().all(|loss| loss.is_finite()));
    for threads in [1, 2, 3, 7] {
        for cuts in [&[0, 3][..], &[0, 1, 2, 3], &[0, 2, 3]] {
            assert_eq!(run(threads, cuts), alone, "{threads} threads, {cuts:?}");
        }
    }
}
