//! Networks as a whole: threads, interruptions, fusing, and by files averages, bands, deferral and
//! gradients.

mod averages;
mod bands;
mod deferral;
mod gradients;

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::kernels::activation::Activation;
use crate::kernels::elastic::Elastic;
use crate::kernels::erase::Paint;
use crate::kernels::loss::{Loss, Targets};
use crate::kernels::rescale::Source;
use crate::kernels::shape::Padding;
use crate::kernels::testing::random;
use crate::kernels::warp::{FillMode, Interpolation};

const PLAIN: Rule = Rule::Sgd { momentum: 0.0, nesterov: false };
const SPARSE: Loss = Loss::SparseCategoricalCrossentropy { from_logits: false };
const RELU: Activation = Activation::Relu { negative_slope: 0.0, max_value: None };

fn conv(filters: usize, side: usize, activation: Activation) -> LayerKind {
    LayerKind::Conv {
        filters,
        window: (side, side),
        strides: (1, 1),
        padding: Padding::Valid,
        use_bias: true,
        activation,
    }
}

fn halving() -> PoolSpec {
    PoolSpec { window: (2, 2), strides: (2, 2), padding: Padding::Valid }
}

fn dense(units: usize, activation: Activation) -> LayerKind {
    LayerKind::Dense { units, use_bias: true, activation }
}

fn dropout(rate: f64) -> LayerKind {
    LayerKind::Dropout { rate, seed: None }
}

fn warp() -> WarpSpec {
    WarpSpec {
        rotation: (-0.1, 0.1),
        translation: [(-0.1, 0.1), (0.0, 0.2)],
        zoom: ((-0.2, 0.1), None),
        shear: (0.0, 0.1),
        flip: [false, true],
        elastic: Some(Elastic { alpha: 10.0, sigma: 3.0 }),
        fill: FillMode::Reflect,
        interpolation: Interpolation::Bilinear,
        seed: None,
    }
}

fn erase() -> EraseSpec {
    EraseSpec {
        factor: (0.5, 0.5),
        scale: (0.1, 0.3),
        paint: Paint::Noise(1.0),
        value_range: (-1.0, 1.0),
        seed: None,
    }
}

fn norm() -> LayerKind {
    LayerKind::BatchNorm { momentum: 0.9, epsilon: 1e-3, center: true, scale: true }
}

/// A network with random weights.
fn network(input: &[usize], kinds: &[LayerKind]) -> Network<f64> {
    let named = |(i, &kind): (usize, &LayerKind)| LayerSpec { name: format!("layer_{i}"), kind };
    let mut net = Network::new(input, kinds.iter().enumerate().map(named).collect()).unwrap();
    let layers = net.layers().clone();
    for (i, layer) in layers.layers.iter().enumerate() {
        for weight in &layer.weights {
            let values: Vec<f64> = random(weight.size(), 7 + i as u64);
            let positive = weight.name == "moving_variance";
            let value = |&x: &f64| if positive { 1.5 + x } else { 0.5 * x };
            net.weight(weight).iter_mut().zip(&values).for_each(|(w, x)| *w = value(x));
        }
    }
    net.weights_changed();
    net
}

fn call<'a>(order: &'a [usize], batch: usize, rates: &'a [f64], threads: usize) -> Call<'a> {
    Call { order, batch, rates, seed: 3, first_step: 0, threads }
}

/// With labels of all images.
fn train(net: &mut Network<f64>, x: &[f64], targets: Targets<'_, f64>, call: Call<'_>) -> Outcome {
    let taken: Vec<i64>;
    let targets = match targets {
        Targets::Labels(labels) => {
            taken = call.order.iter().map(|&image| labels[image]).collect();
            Targets::Labels(&taken)
        }
        values => values,
    };
    net.train(Examples { x: Source::F64(x), targets }, call, &|| false).unwrap()
}

fn weights(net: &mut Network<f64>) -> Vec<f64> {
    let layers = net.layers().clone();
    let weights = layers.layers.iter().flat_map(|layer| &layer.weights);
    weights.flat_map(|weight| net.weight(weight).to_vec()).collect()
}

/// Images for it: enough work for seven threads.
const BUSY: usize = 200;

/// A network with everything that could depend on how work is divided, and data for it.
fn busy() -> (Network<f64>, Vec<f64>, Vec<i64>) {
    let mut net = network(
        &[12, 12, 1],
        &[
            LayerKind::Warp(warp()),
            LayerKind::Erase(EraseSpec { seed: Some(5), ..erase() }),
            conv(8, 3, Activation::Linear),
            LayerKind::MaxPool(halving()),
            norm(),
            LayerKind::Activation(RELU),
            dropout(0.25),
            conv(64, 2, RELU),
            LayerKind::Flatten,
            dense(10, Activation::Softmax),
        ],
    );
    net.compile(SPARSE, Rule::Sgd { momentum: 0.9, nesterov: true }, None).unwrap();
    let x = random(BUSY * 144, 5);
    let labels = (0..BUSY as i64).map(|i| i * i % 10).collect();
    (net, x, labels)
}

fn bits(weights: &[f64]) -> Vec<u64> {
    weights.iter().map(|w| w.to_bits()).collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let order: Vec<usize> = (0..BUSY).rev().collect();
    let run = |threads| {
        let (mut net, x, labels) = busy();
        let call = call(&order, 64, &[0.05, 0.04, 0.03, 0.02], threads);
        let outcome = train(&mut net, &x, Targets::Labels(&labels), call);
        (outcome, bits(&weights(&mut net)))
    };
    let (outcome, alone) = run(1);
    assert!(outcome.losses.iter().all(|loss| loss.is_finite()) && !outcome.stopped);
    for threads in [2, 3, 7] {
        assert_eq!(run(threads), (outcome.clone(), alone.clone()), "{threads} threads");
    }
}

#[test]
fn the_steps_of_one_call_may_be_those_of_several() {
    let adam = Rule::Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7, weight_decay: 0.01 };
    for rule in [PLAIN, Rule::Sgd { momentum: 0.9, nesterov: false }, adam] {
        assert_parts_make_a_whole(rule);
    }
}

fn assert_parts_make_a_whole(rule: Rule) {
    let order: Vec<usize> = (0..150).collect();
    let rates = [0.05, 0.04, 0.03, 0.02, 0.01];
    let (mut at_once, x, labels) = busy();
    at_once.compile(SPARSE, rule, None).unwrap();
    let targets = Targets::Labels(&labels);
    let whole = train(&mut at_once, &x, targets, call(&order, 32, &rates, 2));
    let (mut in_parts, ..) = busy();
    in_parts.compile(SPARSE, rule, None).unwrap();
    let mut sum = Outcome::default();
    for (first, last) in [(0, 2), (2, 3), (3, 5)] {
        let order = &order[32 * first..(32 * last).min(150)];
        let part = Call { first_step: first as u64, ..call(order, 32, &rates[first..last], 2) };
        let outcome = train(&mut in_parts, &x, targets, part);
        sum.losses.extend(outcome.losses);
        sum.correct += outcome.correct;
    }
    assert_eq!(sum, whole);
    assert_eq!(bits(&weights(&mut in_parts)), bits(&weights(&mut at_once)));
}

/// A network with random weights that do not depend on where layers without weights are.
fn numbered_network(input: &[usize], kinds: &[LayerKind]) -> Network<f64> {
    let mut net = network(input, kinds);
    let named: Vec<Weight> = net.layers().layers.iter().flat_map(|l| l.weights.clone()).collect();
    for (i, weight) in named.iter().enumerate() {
        let values: Vec<f64> = random(weight.size(), i as u64);
        let value = |x: &f64| if weight.name == "moving_variance" { 1.5 + x } else { *x };
        let values: Vec<f64> = values.iter().map(value).collect();
        let mut stored = vec![0.0; values.len()];
        weight.import(&mut stored, &values);
        net.weight(weight).copy_from_slice(&stored);
    }
    net.weights_changed();
    net
}

#[test]
fn fusing_and_folding_change_nothing() {
    // A rescaling by 1 stands between layers that would else be one step.
    let apart = LayerKind::Rescale { scale: 1.0, offset: 0.0 };
    for relu in [Activation::Linear, RELU] {
        for (input, n) in [([9, 8, 1], 1), ([8, 9, 3], 11)] {
            let first = conv(6, 3, Activation::Linear);
            let relu = LayerKind::Activation(relu);
            let pool = LayerKind::MaxPool(halving());
            let rest = [LayerKind::Flatten, dense(40, Activation::Linear), norm(), relu];
            let end = [dense(5, Activation::Linear), norm(), dense(4, Activation::Softmax)];
            let together = [&[first, norm(), relu, pool][..], &rest, &end].concat();
            let split = [
                &[first, apart, norm(), apart, relu, apart, pool][..],
                &[LayerKind::Flatten, dense(40, Activation::Linear), apart, norm(), apart, relu],
                &[dense(5, Activation::Linear), apart, norm(), dense(4, Activation::Softmax)],
            ]
            .concat();
            let len: usize = input.iter().product();
            let x: Vec<f64> = random(n * len, 1);
            let outputs = [&together, &split].map(|kinds| {
                let mut net = numbered_network(&input, kinds);
                let mut out = vec![f64::NAN; n * 4];
                assert!(!net.predict(&mut out, Source::F64(&x), n, None, 2, &|| false).unwrap());
                out
            });
            for (a, b) in outputs[0].iter().zip(&outputs[1]) {
                assert!((a - b).abs() < 1e-12, "{a} {b}");
            }
        }
    }
}

#[test]
fn a_normalisations_relu_is_bit_by_bit_that_of_a_step_of_its_own() {
    // A rescaling by 1 stands between layers that would else be one step.
    let apart = LayerKind::Rescale { scale: 1.0, offset: 0.0 };
    let bare = LayerKind::BatchNorm { momentum: 0.9, epsilon: 1e-3, center: false, scale: false };
    let relu = LayerKind::Activation(RELU);
    let net = |between: &[LayerKind]| {
        [
            &[LayerKind::MaxPool(halving()), bare][..],
            between,
            &[relu, conv(5, 3, Activation::Elu), norm()],
            between,
            &[relu, LayerKind::MaxPool(halving()), norm()],
            between,
            &[relu, LayerKind::Flatten, dense(4, Activation::Softmax)],
        ]
        .concat()
    };
    let x = random(50 * 20 * 18, 1);
    let labels: Vec<i64> = (0..50).map(|i| i * i % 4).collect();
    let run = |between: &[LayerKind], images, batch, threads| {
        let order: Vec<usize> = (0..50).cycle().take(images).collect();
        let mut net = numbered_network(&[20, 18, 1], &net(between));
        net.compile(SPARSE, Rule::Sgd { momentum: 0.9, nesterov: false }, None).unwrap();
        let call = call(&order, batch, &[0.05; 3], threads);
        let outcome = train(&mut net, &x, Targets::Labels(&labels), call);
        let mut out = vec![f64::NAN; 50 * 4];
        net.predict(&mut out, Source::F64(&x), 50, None, 1, &|| false).unwrap();
        (outcome, bits(&weights(&mut net)), bits(&out))
    };
    assert!(run(&[], 50, 20, 1) == run(&[apart], 50, 20, 1));
    // Larger batches, which three threads share, are not divided alike with a step more.
    assert!(run(&[], 1600, 600, 3) == run(&[], 1600, 600, 1));
}

#[test]
fn evaluation_is_the_loss_of_predictions() {
    let (mut net, x, labels) = busy();
    let mut p = vec![0.0; BUSY * 10];
    net.predict(&mut p, Source::F64(&x), BUSY, None, 3, &|| false).unwrap();
    let examples = Examples { x: Source::F64(&x), targets: Targets::Labels(&labels) };
    let outcome = net.evaluate(examples, BUSY, 2, &|| false).unwrap();
    let rows = || p.chunks_exact(10).zip(&labels);
    let expected: f64 = rows().map(|(p, &label)| -p[label as usize].ln()).sum();
    assert!((outcome.losses[0] - expected).abs() < 1e-9, "{:?} {expected}", outcome.losses);
    let right = rows().filter(|(p, label)| p.iter().all(|&q| q <= p[**label as usize]));
    assert_eq!(outcome.correct, right.count());
}

#[test]
fn a_stop_leaves_whole_steps() {
    let descending = || {
        let kinds = [conv(8, 3, RELU), LayerKind::Flatten, dense(10, Activation::Softmax)];
        let mut net = network(&[12, 12, 1], &kinds);
        net.compile(SPARSE, PLAIN, None).unwrap();
        net
    };
    let divided_by_rows = || {
        let pool = LayerKind::MaxPool(halving());
        let kinds = [conv(64, 3, RELU), pool, LayerKind::Flatten, dense(10, Activation::Softmax)];
        let mut net = network(&[12, 12, 1], &kinds);
        net.compile(SPARSE, PLAIN, None).unwrap();
        assert!(net.divides_by_rows(32));
        net
    };
    let (_, x, labels) = busy();
    let order: Vec<usize> = (0..150).cycle().take(60_000).collect();
    let taken: Vec<i64> = order.iter().map(|&image| labels[image]).collect();
    let examples = Examples { x: Source::F64(&x), targets: Targets::Labels(&taken) };
    let busy = || busy().0;
    for (make, batch) in
        [(&busy as &dyn Fn() -> _, 1), (&busy, 64), (&descending, 1), (&divided_by_rows, 32)]
    {
        let rates = vec![1e-4; order.len().div_ceil(batch)];
        let polls = AtomicUsize::new(0);
        let poll = || polls.fetch_add(1, Ordering::Relaxed) > 0;
        let mut net: Network<f64> = make();
        let outcome = net.train(examples, call(&order, batch, &rates, 2), &poll).unwrap();
        assert!(outcome.stopped, "{polls:?}");
        let steps = net.optimizer().unwrap().steps as usize;
        assert!(0 < steps && steps < rates.len());
        assert_eq!(outcome.losses.len(), steps);

        let order = &order[..steps * batch];
        let mut again = make();
        let expected = again.train(examples, call(order, batch, &rates[..steps], 1), &|| false);
        let Outcome { losses, correct, stopped } = expected.unwrap();
        assert_eq!((losses, correct, stopped), (outcome.losses, outcome.correct, false));
        assert_eq!(bits(&weights(&mut net)), bits(&weights(&mut again)), "{steps} of {batch}");
    }
}

#[test]
fn each_step_tells_its_loss() {
    let (mut net, mut x, labels) = busy();
    x[100 * 144..101 * 144].fill(f64::NAN);
    let order: Vec<usize> = (0..150).collect();
    let call = call(&order, 32, &[0.01; 5], 2);
    let outcome = train(&mut net, &x, Targets::Labels(&labels), call);
    let finite: Vec<bool> = outcome.losses.iter().map(|loss| loss.is_finite()).collect();
    assert_eq!(finite, [true, true, true, false, false]);
}

#[test]
fn augmentation_stands_before_all_weights_and_is_left_out_of_inference() {
    let kinds = [LayerKind::Warp(warp()), LayerKind::Erase(erase()), LayerKind::Flatten];
    let plain = &kinds[2..];
    let x: Vec<f64> = random(3 * 50, 1);
    let outputs = [&kinds[..], plain].map(|kinds| {
        let mut net = network(&[5, 10, 1], kinds);
        let mut out = vec![f64::NAN; 150];
        net.predict(&mut out, Source::F64(&x), 3, None, 2, &|| false).unwrap();
        out
    });
    assert_eq!(outputs[0], outputs[1]);
    for kind in &kinds[..2] {
        let specs = [conv(2, 1, RELU), LayerKind::MaxPool(halving()), *kind].map(|kind| {
            LayerSpec { name: format!("{kind:?}").to_lowercase()[..4].to_owned(), kind }
        });
        let error = Network::<f32>::new(&[4, 4, 1], specs.to_vec()).unwrap_err().to_string();
        assert!(error.contains("before all layers with weights"), "{error}");
        assert!(error.ends_with("got one behind conv"), "{error}");
    }
}

#[test]
fn layers_that_do_not_fit_are_named() {
    let refusal = |input: &[usize], kind: LayerKind| {
        let spec = LayerSpec { name: "the_layer".to_owned(), kind };
        Network::<f32>::new(input, vec![spec]).unwrap_err().to_string()
    };
    for (input, kind, parts) in [
        (&[2, 2, 1][..], conv(1, 3, RELU), ["at least 3x3", "got 2x2"]),
        (&[4, 4], conv(1, 3, RELU), ["(height, width, channels)", "(4, 4)"]),
        (&[4, 4, 1], dense(3, RELU), ["Flatten", "(4, 4, 1)"]),
        (&[1, 4, 1], LayerKind::MaxPool(halving()), ["at least 2x2", "got 1x4"]),
        (&[4], dropout(1.0), ["below 1", "got 1"]),
        (&[4, 4], LayerKind::Warp(warp()), ["(height, width, channels)", "(4, 4)"]),
        (
            &[4, 4, 1],
            LayerKind::Warp(WarpSpec { shear: (0.5, 0.1), ..warp() }),
            ["shear from -1 to 1", "(0.5, 0.1)"],
        ),
        (
            &[4, 4, 1],
            LayerKind::Erase(EraseSpec { factor: (f64::NAN, 1.0), ..erase() }),
            ["factor from 0 to 1", "(NaN, 1)"],
        ),
        (&[4, 4, 1], conv(usize::MAX / 2, 3, RELU), ["too large", ""]),
    ] {
        let text = refusal(input, kind);
        assert!(text.starts_with("the_layer: expected") || text.contains("too large"), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    assert!(Network::<f32>::new(&[], vec![]).is_err());
    let huge = conv(1 << 10, 1, RELU);
    let spec = LayerSpec { name: "huge".to_owned(), kind: huge };
    let error = Network::<f32>::new(&[1 << 20, 1 << 20, 1], vec![spec]);
    assert!(!matches!(error, Err(BuildError::Memory { .. })), "only arenas are that large");
}
