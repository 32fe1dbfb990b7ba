//! Averages of the weights.

use std::num::NonZeroU64;

use super::*;

fn averaging(momentum: f64, every: u64) -> Option<Averaging> {
    Some(Averaging { momentum, overwrite_frequency: NonZeroU64::new(every) })
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-13)
}

/// The averages of the trained weights.
fn averages(net: &mut Network<f64>) -> Vec<f64> {
    net.optimizer().unwrap().slots().last().unwrap().to_vec()
}

#[test]
fn averages_follow_the_weights() {
    let adam = Rule::Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7, weight_decay: 0.01 };
    let order: Vec<usize> = (0..150).collect();
    for (rule, batch) in [PLAIN, Rule::Sgd { momentum: 0.9, nesterov: false }, adam]
        .into_iter()
        .flat_map(|rule| [(rule, 1), (rule, 32)])
    {
        let (mut net, x, labels) = busy();
        net.compile(SPARSE, rule, averaging(0.75, 0)).unwrap();
        let (mut without, ..) = busy();
        without.compile(SPARSE, rule, None).unwrap();
        let targets = Targets::Labels(&labels);
        let mut expected: Vec<f64> = vec![];
        for step in 0..4 {
            let part = Call {
                first_step: step as u64,
                ..call(&order[batch * step..batch * (step + 1)], batch, &[0.01], 1)
            };
            train(&mut net, &x, targets, part);
            train(&mut without, &x, targets, part);
            // Not bit by bit: at batch 1 dense layers descend by themselves without averages.
            assert!(close(&weights(&mut net), &weights(&mut without)));
            let params = trained(&mut net);
            if step == 0 {
                expected = params.clone();
            }
            expected.iter_mut().zip(&params).for_each(|(mean, w)| *mean += 0.25 * (w - *mean));
            assert!(close(&averages(&mut net), &expected));
        }
    }
}

/// All trained weights, as they are stored.
fn trained(net: &mut Network<f64>) -> Vec<f64> {
    let layers = net.layers().clone();
    let mut all = vec![0.0; layers.params_len];
    for weight in layers.layers.iter().flat_map(|layer| &layer.weights).filter(|w| w.trainable) {
        all[weight.range()].copy_from_slice(net.weight(weight));
    }
    all
}

#[test]
fn averages_are_the_same_bits_on_any_number_of_threads() {
    let order: Vec<usize> = (0..150).collect();
    let run = |threads| {
        let (mut net, x, labels) = busy();
        net.compile(SPARSE, PLAIN, averaging(0.5, 2)).unwrap();
        let call = call(&order, 32, &[0.05; 5], threads);
        train(&mut net, &x, Targets::Labels(&labels), call);
        (bits(&weights(&mut net)), bits(&averages(&mut net)))
    };
    let alone = run(1);
    for threads in [2, 3, 7] {
        assert!(run(threads) == alone, "{threads} threads");
    }
}

#[test]
fn averages_stand_in_for_weights_until_training_goes_on() {
    let (mut net, x, labels) = busy();
    net.compile(SPARSE, PLAIN, averaging(0.5, 0)).unwrap();
    let before = weights(&mut net);
    net.show_averages(true);
    net.take_averages();
    assert!(weights(&mut net) == before, "there are none yet");

    let order: Vec<usize> = (0..64).collect();
    let step = call(&order, 16, &[0.05; 4], 1);
    train(&mut net, &x, Targets::Labels(&labels), step);
    let (params, means) = (trained(&mut net), averages(&mut net));
    for _ in 0..2 {
        net.show_averages(true);
        assert!(trained(&mut net) == means && averages(&mut net) == params);
    }
    train(&mut net, &x, Targets::Labels(&labels), step);
    let went_on = trained(&mut net);

    let (mut other, ..) = busy();
    other.compile(SPARSE, PLAIN, averaging(0.5, 0)).unwrap();
    for _ in 0..2 {
        train(&mut other, &x, Targets::Labels(&labels), step);
    }
    assert!(went_on == trained(&mut other));
    let means = averages(&mut other);
    other.show_averages(true);
    other.take_averages();
    assert!(trained(&mut other) == means && averages(&mut other) == means);
}

#[test]
fn weights_become_their_averages_every_so_many_steps() {
    let order: Vec<usize> = (0..150).collect();
    let (mut net, x, labels) = busy();
    net.compile(SPARSE, PLAIN, averaging(0.5, 3)).unwrap();
    let equal = (0..7).map(|step| {
        let call = call(&order[16 * step..16 * (step + 1)], 16, &[0.05], 1);
        train(&mut net, &x, Targets::Labels(&labels), call);
        trained(&mut net) == averages(&mut net)
    });
    assert_eq!(equal.collect::<Vec<_>>(), [true, false, true, false, false, true, false]);
}
