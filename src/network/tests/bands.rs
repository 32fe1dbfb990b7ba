//! Small batches that are divided by the rows of their images, in plain gradient descent.

use super::*;

/// So little momentum that it has no effect; but then a batch is divided by its images.
const BY_IMAGES: Rule = Rule::Sgd { momentum: 1e-300, nesterov: false };

const IMAGES: usize = 93;

/// One like the tutorial's.
#[derive(Clone, Copy, Debug)]
struct Net {
    image: (usize, usize),
    filters: usize,
    units: usize,
    use_bias: bool,
    activation: Activation,
    loss: Loss,
}

const TUTORIAL: Net = Net {
    image: (28, 28),
    filters: 8,
    units: 10,
    use_bias: true,
    activation: Activation::Softmax,
    loss: SPARSE,
};

impl Net {
    fn make(self, rule: Rule) -> Network<f64> {
        let Self { image: (h, w), filters, units, use_bias, activation, loss } = self;
        let (mut first, mut last) = (conv(filters, 3, RELU), dense(units, activation));
        for kind in [&mut first, &mut last] {
            if let LayerKind::Conv { use_bias: it, .. } | LayerKind::Dense { use_bias: it, .. } =
                kind
            {
                *it = use_bias;
            }
        }
        let rescaled = LayerKind::Rescale { scale: 0.5, offset: 0.1 };
        let pool = LayerKind::MaxPool(halving());
        let mut net = network(&[h, w, 1], &[rescaled, first, pool, LayerKind::Flatten, last]);
        net.compile(loss, rule, None).unwrap();
        net
    }

    /// Goes through all images; returns the losses, and how many were right.
    fn train(self, net: &mut Network<f64>, batch: usize, threads: usize) -> (Vec<f64>, usize) {
        let x: Vec<f64> = random(IMAGES * self.image.0 * self.image.1, 5);
        let labels: Vec<i64> = (0..IMAGES as i64).map(|i| i * i % 3).collect();
        let values: Vec<f64> = random(IMAGES * self.units, 6);
        let targets = match self.loss {
            Loss::SparseCategoricalCrossentropy { .. } => Targets::Labels(&labels),
            _ => Targets::Values(&values),
        };
        let order: Vec<usize> = (0..IMAGES).map(|at| at * 5 % IMAGES).collect();
        let rates: Vec<f64> = (1..=IMAGES.div_ceil(batch)).map(|at| 0.05 / at as f64).collect();
        let outcome = train(net, &x, targets, call(&order, batch, &rates, threads));
        (outcome.losses, outcome.correct)
    }
}

#[test]
fn rows_come_to_what_images_come_to() {
    let squares = Loss::MeanSquaredError;
    let linear = Activation::Linear;
    for net in [
        TUTORIAL,
        Net { image: (27, 31), units: 3, ..TUTORIAL },
        Net { use_bias: false, ..TUTORIAL },
        Net {
            image: (34, 19),
            filters: 16,
            units: 1,
            activation: linear,
            loss: squares,
            ..TUTORIAL
        },
        Net { image: (21, 32), units: 31, activation: linear, loss: squares, ..TUTORIAL },
    ] {
        // With 1, 0 and 29 images left.
        for batch in [23, 31, 32, 64] {
            let (mut by_rows, mut by_images) = (net.make(PLAIN), net.make(BY_IMAGES));
            assert!(by_rows.divides_by_rows(batch), "{net:?} {batch}");
            assert!(!by_images.divides_by_rows(batch));
            let (losses, correct) = net.train(&mut by_rows, batch, 2);
            let (expected, expected_correct) = net.train(&mut by_images, batch, 2);
            assert_eq!(correct, expected_correct);
            let (got, expected) =
                ([losses, weights(&mut by_rows)], [expected, weights(&mut by_images)]);
            for (a, b) in got.iter().flatten().zip(expected.iter().flatten()) {
                assert!((a - b).abs() < 1e-11 * (1.0 + b.abs()), "{net:?} {batch}: {a} and {b}");
            }
        }
    }
}

#[test]
fn rows_are_the_same_bits_on_any_number_of_threads() {
    let run = |threads| {
        let mut net = TUTORIAL.make(PLAIN);
        assert!(net.divides_by_rows(32));
        (TUTORIAL.train(&mut net, 32, threads), bits(&weights(&mut net)))
    };
    let alone = run(1);
    assert!(alone.0.0.iter().all(|loss| loss.is_finite()));
    for threads in [2, 3, 7] {
        assert_eq!(run(threads), alone, "{threads} threads");
    }
}

#[test]
fn batches_of_any_size_follow_each_other() {
    let mut net = TUTORIAL.make(PLAIN);
    for batch in [16, 64, 80, 17, 1, 32] {
        // A new network goes on with the same weights.
        let mut new = TUTORIAL.make(PLAIN);
        let layers = net.layers().clone();
        for weight in layers.layers.iter().flat_map(|layer| &layer.weights) {
            let values = net.weight(weight).to_vec();
            new.weight(weight).copy_from_slice(&values);
        }
        new.weights_changed();
        let got = TUTORIAL.train(&mut net, batch, 2);
        assert_eq!(got, TUTORIAL.train(&mut new, batch, 2), "{batch}");
        assert_eq!(bits(&weights(&mut net)), bits(&weights(&mut new)), "{batch}");
    }
}

#[test]
fn rows_are_for_small_batches_of_some_work_in_plain_descent() {
    let divided = |net: Net, rule| {
        let net = net.make(rule);
        [15, 16, 32, 64, 65, 80].map(|batch| net.divides_by_rows(batch))
    };
    assert_eq!(divided(TUTORIAL, PLAIN), [false, true, true, true, false, false]);
    assert_eq!(divided(TUTORIAL, BY_IMAGES), [false; 6]);
    // Too little work, and layers that cannot be cut.
    assert_eq!(divided(Net { image: (10, 10), ..TUTORIAL }, PLAIN), [false; 6]);
    assert_eq!(divided(Net { filters: 7, ..TUTORIAL }, PLAIN), [false; 6]);
    let mut averaged = TUTORIAL.make(PLAIN);
    let averaging = Averaging { momentum: 0.9, overwrite_frequency: None };
    averaged.compile(SPARSE, PLAIN, Some(averaging)).unwrap();
    assert!(!averaged.divides_by_rows(32));
}
