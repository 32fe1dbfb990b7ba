//! Gradients of whole networks against central differences.

use super::*;

/// The mean loss in training, with the weights as they are.
fn loss(net: &mut Network<f64>, x: &[f64], targets: Targets<'_, f64>, n: usize) -> f64 {
    let order: Vec<usize> = (0..n).collect();
    let before = weights(net);
    let outcome = train(net, x, targets, call(&order, n, &[0.0], 1));
    let layers = net.layers().clone();
    // Moving averages have moved.
    let mut before = &before[..];
    for weight in layers.layers.iter().flat_map(|layer| &layer.weights) {
        let (own, rest) = before.split_at(weight.size());
        net.weight(weight).copy_from_slice(own);
        before = rest;
    }
    outcome.losses[0] / n as f64
}

/// A step of size 1 moves each parameter by minus its gradient; compares that with central
/// differences of the loss.
fn assert_gradients(input: &[usize], kinds: &[LayerKind], loss_kind: Loss, n: usize) {
    let mut net = network(input, kinds);
    net.compile(loss_kind, PLAIN, None).unwrap();
    let len: usize = input.iter().product();
    let width: usize = net.layers().output().iter().product();
    let x: Vec<f64> = random(n * len, 1);
    let labels: Vec<i64> = (0..n).map(|i| (i * 7 % width) as i64).collect();
    let values: Vec<f64> = random::<f64>(n * width, 2).iter().map(|y| y.abs()).collect();
    let targets = match loss_kind {
        Loss::SparseCategoricalCrossentropy { .. } => Targets::Labels(&labels),
        _ => Targets::Values(&values),
    };
    let order: Vec<usize> = (0..n).collect();
    let layers = net.layers().clone();
    let params: Vec<Weight> = layers.layers.iter().flat_map(|l| l.weights.clone()).collect();
    let params: Vec<Weight> = params.into_iter().filter(|w| w.trainable).collect();

    let mut stepped = network(input, kinds);
    stepped.compile(loss_kind, PLAIN, None).unwrap();
    train(&mut stepped, &x, targets, call(&order, n, &[1.0], 1));
    for weight in &params {
        for i in (0..weight.size()).step_by(weight.size() / 10 + 1) {
            let (value, h) = (net.weight(weight)[i], 1e-6);
            let mut moved_to = |value: f64| {
                net.weight(weight)[i] = value;
                net.weights_changed();
                loss(&mut net, &x, targets, n)
            };
            let slope = (moved_to(value + h) - moved_to(value - h)) / (2.0 * h);
            moved_to(value);
            let moved = value - stepped.weight(weight)[i];
            assert!(
                (slope - moved).abs() < 1e-7,
                "{kinds:?}: {} {i}: {slope} by differences, {moved} by the way back",
                weight.name
            );
        }
    }
}

#[test]
fn gradients_are_central_differences() {
    let same = LayerKind::Conv {
        filters: 5,
        window: (3, 2),
        strides: (2, 1),
        padding: Padding::Same,
        use_bias: false,
        activation: Activation::Tanh,
    };
    let pool = PoolSpec { window: (3, 2), strides: (2, 2), padding: Padding::Same };
    let softmax = dense(4, Activation::Softmax);
    let nets: &[&[LayerKind]] = &[
        &[
            conv(3, 3, Activation::Linear),
            LayerKind::MaxPool(halving()),
            LayerKind::Flatten,
            softmax,
        ],
        &[
            conv(4, 3, RELU),
            LayerKind::MaxPool(halving()),
            conv(3, 2, RELU),
            LayerKind::MaxPool(halving()),
            LayerKind::Flatten,
            dense(40, RELU),
            softmax,
        ],
        &[same, norm(), LayerKind::Activation(RELU), LayerKind::Flatten, softmax],
        &[
            norm(),
            conv(3, 3, Activation::Linear),
            LayerKind::MaxPool(halving()),
            norm(),
            LayerKind::Activation(Activation::Elu),
            conv(2, 2, Activation::Sigmoid),
            LayerKind::AveragePool(pool),
            LayerKind::Flatten,
            softmax,
        ],
        &[
            same,
            LayerKind::MaxPool(pool),
            LayerKind::Rescale { scale: 0.5, offset: 0.1 },
            LayerKind::GlobalAveragePool { keepdims: false },
            softmax,
        ],
        &[
            LayerKind::Rescale { scale: 2.0, offset: -0.5 },
            LayerKind::Warp(warp()),
            dropout(0.3),
            LayerKind::Erase(erase()),
            conv(3, 2, RELU),
            dropout(0.5),
            LayerKind::Flatten,
            dense(33, Activation::Softplus),
            dropout(0.2),
            softmax,
        ],
    ];
    for kinds in nets {
        for (input, n) in [([9, 8, 1], 1), ([8, 9, 2], 3), ([9, 9, 3], 21)] {
            assert_gradients(&input, kinds, SPARSE, n);
        }
    }
    for loss in [
        Loss::MeanSquaredError,
        Loss::CategoricalCrossentropy { from_logits: false, label_smoothing: 0.1 },
        Loss::CategoricalCrossentropy { from_logits: true, label_smoothing: 0.0 },
    ] {
        assert_gradients(&[5], &[dense(7, Activation::Tanh), softmax], loss, 4);
    }
    let probabilities = dense(4, Activation::Sigmoid);
    assert_gradients(&[6], &[probabilities], SPARSE, 4);
}
