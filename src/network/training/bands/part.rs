//! How a network is cut into bands: which layers each has, what they see, and where their parameters
//! lie.

use std::ops::Range;

use super::BANDS;
use crate::kernels::conv_pool_grey::can_have_foreground;
use crate::kernels::images::Cut;
use crate::kernels::shape::{ConvPoolShape, POOL, ShapeError};
use crate::network::Mode;
use crate::network::layers::{Layer, Layers};
use crate::network::spec::LayerKind;
use crate::network::stages::{Operation, Stage, stages};
use crate::network::steps::Pooling;

/// Nodes of a network that can be cut, up to the loss.
pub const NODES: usize = 2;

/// What a band is of a network.
#[derive(Debug)]
pub struct Part {
    /// Its layers, a network of their own.
    pub layers: Layers,
    /// The rows of an image that they see.
    pub seen: Cut,
    /// Where its parameters lie.
    pub place: Place,
}

/// Where a band's parameters lie.
#[derive(Clone, Debug)]
pub struct Place {
    /// Among those of the whole network, and among its own.
    pub pieces: Vec<(Range<usize>, Range<usize>)>,
    /// The convolution's among its own; all bands have them alike.
    pub shared: Range<usize>,
}

/// A network that can be cut into bands.
struct Divisible<'a> {
    layers: &'a [Layer],
    conv: usize,
    dense: usize,
    shape: ConvPoolShape,
}

impl<'a> Divisible<'a> {
    /// None for a network of other layers than those, up to the node that the loss takes, or of too
    /// few rows of windows.
    fn new(layers: &'a [Layer], end: usize) -> Option<Self> {
        let stages = stages(layers, Mode::Training);
        let rescales =
            |stage: &&Stage| matches!(layers[stage.layer].spec.kind, LayerKind::Rescale { .. });
        let mut stages = stages.iter().skip_while(rescales);
        let (conv, dense) = (stages.next()?, stages.next()?);
        let (
            &Operation::Conv { norm: None, pooling: Pooling::MaxOfGrey(shape), .. },
            Operation::Dense { norm: None, relu: false, few: true },
        ) = (&conv.operation, &dense.operation)
        else {
            return None;
        };
        let (rows, ..) = shape.pool().output();
        let padded = shape.conv().windows().is_padded();
        let fits = end == NODES && can_have_foreground(&shape) && !padded && rows >= BANDS;
        fits.then_some(Self { layers, conv: conv.layer, dense: dense.layer, shape })
    }

    /// The upper band, which has the middle row of an odd number of rows, or the lower one.
    fn part(&self, band: usize) -> Result<Part, ShapeError> {
        let conv = self.shape.conv();
        let ((h, w, _), (rows, columns, c)) = (conv.input(), self.shape.pool().output());
        let first = |band: usize| (rows * band).div_ceil(BANDS);
        let rows = first(band)..first(band + 1);
        // The last one has what is left of an image below its windows.
        let end = if band + 1 < BANDS { POOL * rows.end + conv.window().0 - 1 } else { h };
        let seen = POOL * rows.start..end;
        let spec = |layer: &Layer| {
            let mut spec = layer.spec.clone();
            if let LayerKind::Dense { use_bias, .. } = &mut spec.kind {
                *use_bias &= band == 0; // one band adds it
            }
            spec
        };
        let own = Layers::new(&[seen.len(), w, 1], self.layers.iter().map(spec).collect())?;
        let shared = own.layers[self.conv].params();
        let mut pieces = vec![(self.layers[self.conv].params(), shared.clone())];
        let dense = |name| {
            Some((self.layers[self.dense].weight(name)?, own.layers[self.dense].weight(name)?))
        };
        if let Some((whole, part)) = dense("kernel") {
            // Stored (outputs, inputs), the inputs row by row of windows.
            let (all, some) = (whole.shape[0], part.shape[0]);
            for output in 0..part.size() / some {
                let from = whole.start + output * all + rows.start * columns * c;
                let to = part.start + output * some;
                pieces.push((from..from + some, to..to + some));
            }
        }
        if let Some((whole, part)) = dense("bias") {
            pieces.push((whole.range(), part.range()));
        }
        let seen = Cut { image_len: h * w, start: seen.start * w };
        Ok(Part { layers: own, seen, place: Place { pieces, shared } })
    }
}

/// The parts of a network, whose loss takes what comes of so many nodes; None if it cannot be cut.
///
/// # Errors
/// If a size overflows.
pub fn cut(layers: &[Layer], end: usize) -> Result<Option<[Part; BANDS]>, ShapeError> {
    match Divisible::new(layers, end) {
        Some(network) => Ok(Some([network.part(0)?, network.part(1)?])),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::activation::Activation;
    use crate::kernels::shape::Padding;
    use crate::network::spec::{LayerSpec, PoolSpec};

    const RELU: Activation = Activation::Relu { negative_slope: 0.0, max_value: None };

    fn conv(window: (usize, usize), padding: Padding, filters: usize) -> LayerKind {
        let (strides, activation) = ((1, 1), Activation::Linear);
        LayerKind::Conv { filters, window, strides, padding, use_bias: true, activation }
    }

    fn halving() -> LayerKind {
        let (side, padding) = ((2, 2), Padding::Valid);
        LayerKind::MaxPool(PoolSpec { window: side, strides: side, padding })
    }

    fn dense(use_bias: bool, activation: Activation) -> LayerKind {
        LayerKind::Dense { units: 3, use_bias, activation }
    }

    fn layers(h: usize, w: usize, kinds: &[LayerKind]) -> Layers {
        let named = |kind: &LayerKind| LayerSpec { name: "layer".to_owned(), kind: *kind };
        Layers::new(&[h, w, 1], kinds.iter().map(named).collect()).unwrap()
    }

    #[test]
    fn bands_have_every_parameter_of_the_dense_layer_once() {
        for (h, w, use_bias) in [(28, 28, true), (7, 9, true), (6, 4, false), (13, 33, true)] {
            let kinds = [
                LayerKind::Rescale { scale: 2.0, offset: 1.0 },
                conv((3, 3), Padding::Valid, 8),
                halving(),
                LayerKind::Flatten,
                dense(use_bias, Activation::Linear),
            ];
            let layers = layers(h, w, &kinds);
            let parts = cut(&layers.layers, NODES).unwrap().unwrap();
            let mut times = vec![0; layers.params_len];
            let mut rows = 0;
            for part in &parts {
                let mut own_times = vec![0; part.layers.params_len];
                for (whole, own) in &part.place.pieces {
                    assert_eq!(whole.len(), own.len());
                    times[whole.clone()].iter_mut().for_each(|times| *times += 1);
                    own_times[own.clone()].iter_mut().for_each(|times| *times += 1);
                }
                let own = |layer: &Layer| layer.params();
                for params in part.layers.layers.iter().map(own) {
                    assert!(own_times[params].iter().all(|&times| times == 1));
                }
                // They see the images from their first row of windows on.
                assert_eq!(part.seen, Cut { image_len: h * w, start: 2 * rows * w });
                rows += part.layers.layers[2].output[0];
            }
            assert_eq!(rows, (h - 2) / 2);
            let [conv, dense] = [1, 4].map(|at| layers.layers[at].params());
            assert!(times[conv].iter().all(|&times| times == BANDS));
            assert!(times[dense].iter().all(|&times| times == 1));
        }
    }

    #[test]
    fn only_sums_over_windows_can_be_cut() {
        let can_be_cut =
            |h, end, kinds: &[LayerKind]| cut(&layers(h, 12, kinds).layers, end).unwrap().is_some();
        let (first, flatten) = (conv((3, 3), Padding::Valid, 8), LayerKind::Flatten);
        let (linear, softmax) = (Activation::Linear, Activation::Softmax);
        let relu = LayerKind::Activation(RELU);
        let dropout = LayerKind::Dropout { rate: 0.5, seed: None };
        let norm = LayerKind::BatchNorm { momentum: 0.9, epsilon: 1e-3, center: true, scale: true };
        let many = LayerKind::Dense { units: 32, use_bias: true, activation: linear };
        assert!(can_be_cut(12, 2, &[first, halving(), flatten, dense(true, softmax)]));
        assert!(can_be_cut(12, 2, &[first, halving(), relu, flatten, dense(true, linear)]));
        assert!(can_be_cut(6, 2, &[first, halving(), flatten, dense(true, linear)]));
        // One row of windows.
        assert!(!can_be_cut(5, 2, &[first, halving(), flatten, dense(true, linear)]));
        // A loss behind more than the sums.
        assert!(!can_be_cut(12, 3, &[first, halving(), flatten, dense(true, softmax)]));
        assert!(!can_be_cut(12, 2, &[first, halving(), flatten, dense(true, RELU)]));
        // Others than a grey convolution, its maxima, and few outputs.
        for kinds in [
            vec![conv((3, 3), Padding::Same, 8), halving(), flatten, dense(true, linear)],
            vec![conv((5, 5), Padding::Valid, 8), halving(), flatten, dense(true, linear)],
            vec![conv((3, 3), Padding::Valid, 7), halving(), flatten, dense(true, linear)],
            vec![first, flatten, dense(true, linear)],
            vec![first, halving(), dropout, flatten, dense(true, linear)],
            vec![first, halving(), flatten],
            vec![first, halving(), norm, flatten, dense(true, linear)],
            vec![first, halving(), flatten, many],
            vec![flatten, dense(true, linear), dense(true, linear)],
        ] {
            assert!(!can_be_cut(12, 2, &kinds), "{kinds:?}");
        }
    }
}
