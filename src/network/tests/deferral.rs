//! Plain gradient descent by one image after the other, in which something is deferred for `f32`.

use super::*;
use crate::kernels::run;

const SIDE: usize = 12;
const IMAGES: usize = 40;

/// One like the tutorial's, with random weights.
fn tutorial() -> Network<f32> {
    let pool = LayerKind::MaxPool(halving());
    let kinds = [conv(8, 3, RELU), pool, LayerKind::Flatten, dense(10, Activation::Softmax)];
    let named = |(i, kind)| LayerSpec { name: format!("layer_{i}"), kind };
    let specs = kinds.into_iter().enumerate().map(named).collect();
    let mut net = Network::new(&[SIDE, SIDE, 1], specs).unwrap();
    for (i, layer) in net.layers().clone().layers.iter().enumerate() {
        for weight in &layer.weights {
            net.weight(weight).copy_from_slice(&random::<f32>(weight.size(), 7 + i as u64));
        }
    }
    net.compile(SPARSE, PLAIN, None).unwrap();
    net.weights_changed();
    net
}

/// Another one with the same weights, from which nothing is deferred.
fn anew(net: &mut Network<f32>) -> Network<f32> {
    let mut new = tutorial();
    for layer in &net.layers().clone().layers {
        for weight in &layer.weights {
            new.weight(weight).copy_from_slice(net.weight(weight));
        }
    }
    new.weights_changed();
    new
}

fn all_bits(net: &mut Network<f32>) -> Vec<u32> {
    let layers = net.layers().clone();
    let weights = layers.layers.iter().flat_map(|layer| &layer.weights);
    weights
        .flat_map(|weight| net.weight(weight).iter().map(|w| w.to_bits()).collect::<Vec<_>>())
        .collect()
}

/// Images of a background with a square of something else.
fn pictures() -> Vec<f32> {
    let mut x = vec![-0.5; IMAGES * SIDE * SIDE];
    for (at, image) in x.chunks_exact_mut(SIDE * SIDE).enumerate() {
        let (top, left, pixels) = (at % 7, at * 3 % 7, random::<f32>(25, at as u64));
        for (row, pixels) in pixels.chunks_exact(5).enumerate() {
            image[(top + row) * SIDE + left..][..5].copy_from_slice(pixels);
        }
    }
    x
}

/// Takes as many steps as there are images in so many batches, in turn.
fn go_on(
    net: &mut Network<f32>,
    steps: usize,
    batch: usize,
    first: u64,
    poll: Poll<'_>,
) -> Outcome {
    let x = pictures();
    let order: Vec<usize> = (0..steps * batch).map(|at| (first as usize + at) % IMAGES).collect();
    let labels: Vec<i64> = order.iter().map(|&image| (image * image % 10) as i64).collect();
    let (examples, rates) =
        (Examples { x: Source::F32(&x), targets: Targets::Labels(&labels) }, vec![1e-3; steps]);
    let call = Call { first_step: first, ..call(&order, batch, &rates, 1) };
    net.train(examples, call, poll).unwrap()
}

#[test]
fn a_stop_leaves_whole_steps_and_weights_that_lack_nothing() {
    let (mut net, mut again) = (tutorial(), tutorial());
    let polls = AtomicUsize::new(0);
    let poll = || polls.fetch_add(1, Ordering::Relaxed) > 0;
    let outcome = go_on(&mut net, 200_000, 1, 0, &poll);
    assert!(outcome.stopped);
    let steps = outcome.losses.len();
    let expected = go_on(&mut again, steps, 1, 0, &|| false);
    assert_eq!((expected.losses, expected.correct), (outcome.losses, outcome.correct));
    assert_eq!(all_bits(&mut net), all_bits(&mut again), "{steps}");
}

#[test]
fn calls_go_on_with_what_is_deferred_unless_weights_have_changed() {
    for batch in [1, 2, 30] {
        let mut net = tutorial();
        go_on(&mut net, 700, 1, 1000, &|| false);
        if batch > 1 {
            // By which something else has changed the weights.
            go_on(&mut net, 3, batch, 1700, &|| false);
        }
        let mut other = anew(&mut net);
        for net in [&mut net, &mut other] {
            go_on(net, 50, 1, 1703, &|| false);
        }
        let goes_on = all_bits(&mut net) != all_bits(&mut other);
        assert_eq!(goes_on, batch == 1 && run::is_told_apart::<f32>(), "{batch}");
    }
}
