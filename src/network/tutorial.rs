//! The tutorial's network, trained one image a step: 3x3 convolution without bias, 2x2 max pooling,
//! dense layer, softmax.

use crate::kernels::conv_pool_grey::{grey_backward_kernel, grey_forward};
use crate::kernels::dense::{dense_backward_sgd, dense_forward};
use crate::kernels::loss::{Loss, LossSums, Targets, loss_backward};
use crate::kernels::rescale::rescale;
use crate::kernels::shape::{ConvPoolShape, ConvShape, DenseShape};
use crate::kernels::simd::{Element, Simd};
use crate::network::{BuildError, zeros};

/// One image of a data set and its class.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// Which image.
    pub image: usize,
    /// Its class, below the network's number of classes.
    pub label: usize,
}

/// What a network scored on some examples; in training, on each before its own step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// The sum of the cross-entropy losses.
    pub loss: f64,
    /// How many examples were predicted right.
    pub correct: usize,
}

/// Parameters, and the buffers of one step.
#[derive(Debug)]
pub struct TutorialNet<T> {
    conv_pool: ConvPoolShape,
    dense: DenseShape,
    /// (3, 3, 1, filters)
    kernel: Vec<T>,
    /// (classes, pooled h * pooled w * filters)
    weights: Vec<T>,
    /// (classes,)
    biases: Vec<T>,
    buffers: Buffers<T>,
}

#[derive(Debug)]
struct Buffers<T> {
    /// (h, w)
    image: Vec<T>,
    /// (3, 3, 1, filters)
    d_kernel: Vec<T>,
    /// (pooled h, pooled w, filters), and so are the next two.
    pooled: Vec<T>,
    argmax: Vec<T>,
    d_pooled: Vec<T>,
    /// (classes,)
    totals: Vec<T>,
    d_totals: Vec<T>,
}

impl<T: Element> TutorialNet<T> {
    /// A network of zeros for images of (h, w) pixels.
    ///
    /// # Errors
    /// If the sizes do not fit together, or not into memory.
    pub fn new(h: usize, w: usize, filters: usize, classes: usize) -> Result<Self, BuildError> {
        let conv_pool = ConvPoolShape::new(ConvShape::valid((h, w, 1), (3, 3), filters)?)?;
        let dense = DenseShape::new(conv_pool.pool().output_len(), classes)?;
        Ok(Self {
            conv_pool,
            dense,
            kernel: zeros(conv_pool.conv().kernel_len())?,
            weights: zeros(dense.weights_len())?,
            biases: zeros(classes)?,
            buffers: Buffers {
                image: zeros(h * w)?,
                d_kernel: zeros(conv_pool.conv().kernel_len())?,
                pooled: zeros(dense.inputs())?,
                argmax: zeros(dense.inputs())?,
                d_pooled: zeros(dense.inputs())?,
                totals: zeros(classes)?,
                d_totals: zeros(classes)?,
            },
        })
    }

    /// The convolution and pooling.
    pub fn conv_pool(&self) -> &ConvPoolShape {
        &self.conv_pool
    }
    /// The dense layer.
    pub fn dense(&self) -> &DenseShape {
        &self.dense
    }
    /// kernel (3, 3, 1, filters), weights (classes, inputs), biases (classes,)
    pub fn parameters(&self) -> [&[T]; 3] {
        [&self.kernel, &self.weights, &self.biases]
    }
    /// The same, to be written.
    pub fn parameters_mut(&mut self) -> [&mut [T]; 3] {
        [&mut self.kernel, &mut self.weights, &mut self.biases]
    }

    /// One step of stochastic gradient descent on each example in turn.
    ///
    /// `images` (n, h, w); every example's image is below n.
    #[inline(always)]
    pub fn train<S: Simd<T>>(
        &mut self,
        simd: S,
        images: &[u8],
        examples: &[Example],
        rate: T,
    ) -> Score {
        let mut score = Score::default();
        for &example in examples {
            self.forward(simd, images, example, &mut score);
            self.backward(simd, rate);
        }
        score
    }

    /// The network's score on the examples, none of which it learns from.
    ///
    /// `images` (n, h, w); every example's image is below n.
    #[inline(always)]
    pub fn evaluate<S: Simd<T>>(&mut self, simd: S, images: &[u8], examples: &[Example]) -> Score {
        let mut score = Score::default();
        for &example in examples {
            self.forward(simd, images, example, &mut score);
        }
        score
    }

    /// Fills the buffers from the image to the loss's gradient, and adds to the score.
    #[inline(always)]
    fn forward<S: Simd<T>>(&mut self, simd: S, images: &[u8], example: Example, score: &mut Score) {
        let Self { conv_pool, dense, kernel, weights, biases, buffers: b } = self;
        let len = b.image.len();
        let pixels = &images[example.image * len..][..len];
        rescale(&mut b.image, pixels, T::from_f64(1.0 / 255.0), T::from_f64(-0.5));
        let (out, at) = (&mut b.pooled, &mut b.argmax);
        grey_forward(simd, out, at, &b.image, kernel, None, false, conv_pool, 1);
        dense_forward(simd, &mut b.totals, &b.pooled, weights, Some(biases), dense, 1);
        let mut sums = LossSums::default();
        loss_backward(
            simd,
            &mut b.d_totals,
            &mut sums,
            &b.totals,
            Targets::Labels(&[example.label as i64]),
            Loss::SparseCategoricalCrossentropy { from_logits: true },
            b.totals.len(),
            T::one(),
        );
        score.loss += sums.loss;
        score.correct += sums.correct;
    }

    /// Updates the parameters from what [`forward`](Self::forward) left in the buffers.
    #[inline(always)]
    fn backward<S: Simd<T>>(&mut self, simd: S, rate: T) {
        let Self { conv_pool, dense, kernel, weights, biases, buffers: b } = self;
        dense_backward_sgd(
            simd,
            Some(&mut b.d_pooled),
            weights,
            &b.d_totals,
            &b.pooled,
            rate,
            dense,
            1,
        );
        descend(biases, &b.d_totals, rate);
        let (d_out, at) = (&b.d_pooled, &b.argmax);
        grey_backward_kernel(simd, &mut b.d_kernel, d_out, at, &b.image, conv_pool, 1);
        descend(kernel, &b.d_kernel, rate);
    }
}

/// `parameters -= rate * gradient`
#[inline(always)]
fn descend<T: Element>(parameters: &mut [T], gradient: &[T], rate: T) {
    for (p, &d) in parameters.iter_mut().zip(gradient) {
        *p = *p - rate * d;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::kernels::simd::{self, Level};
    use crate::kernels::testing::{for_each_level, random};

    const IMAGES: usize = 3;

    fn net(seed: u64) -> (TutorialNet<f64>, Vec<u8>) {
        let mut net = TutorialNet::new(8, 7, 5, 4).unwrap();
        for (n, parameter) in net.parameters_mut().into_iter().enumerate() {
            parameter.copy_from_slice(&random(parameter.len(), seed + n as u64));
        }
        let noise: Vec<f64> = random(IMAGES * 8 * 7, seed);
        let images = noise.iter().map(|x| (x * 127.0 + 128.0) as u8).collect();
        (net, images)
    }

    fn loss(net: &mut TutorialNet<f64>, images: &[u8], example: Example) -> f64 {
        dispatch!(f64, simd::level(), simd => net.evaluate(simd, images, &[example])).loss
    }

    /// A step of size 1 moves each parameter by minus its gradient.
    #[test]
    fn a_step_is_the_central_difference_of_the_loss() {
        for_each_level(|level| {
            let (mut net, images) = net(1);
            let (mut stepped, _) = self::net(1);
            let example = Example { image: 1, label: 2 };
            dispatch!(f64, level, simd => stepped.train(simd, &images, &[example], 1.0));
            for p in 0..3 {
                for n in 0..net.parameters()[p].len() {
                    let h = 1e-6;
                    let value = net.parameters()[p][n];
                    net.parameters_mut()[p][n] = value + h;
                    let above = loss(&mut net, &images, example);
                    net.parameters_mut()[p][n] = value - h;
                    let below = loss(&mut net, &images, example);
                    net.parameters_mut()[p][n] = value;
                    let slope = (above - below) / (2.0 * h);
                    let moved = value - stepped.parameters()[p][n];
                    assert!((slope - moved).abs() < 1e-8, "{p} {n}: {slope} {moved}");
                }
            }
        });
    }

    #[test]
    fn evaluation_leaves_the_parameters_alone() {
        let (mut net, images) = net(2);
        let before: Vec<Vec<f64>> = net.parameters().map(<[_]>::to_vec).to_vec();
        let examples = [Example { image: 0, label: 1 }, Example { image: 2, label: 3 }];
        let evaluate = |net: &mut TutorialNet<f64>, level: Level| dispatch!(f64, level, simd => net.evaluate(simd, &images, &examples));
        let scores: Vec<Score> =
            Level::available().into_iter().map(|level| evaluate(&mut net, level)).collect();
        for score in &scores {
            assert!((score.loss - scores[0].loss).abs() < 1e-12);
        }
        assert_eq!(net.parameters().map(<[_]>::to_vec).to_vec(), before);
    }

    #[test]
    fn refuses_images_without_a_pooling_window() {
        assert!(TutorialNet::<f32>::new(3, 3, 8, 10).is_err());
        assert!(TutorialNet::<f32>::new(4, 4, 8, 10).is_ok());
    }

    #[test]
    fn refuses_what_does_not_fit_into_memory() {
        let error = TutorialNet::<f32>::new(1 << 20, 1 << 20, 1 << 10, 10).unwrap_err();
        assert!(matches!(error, BuildError::Memory { .. }), "{error}");
    }
}
