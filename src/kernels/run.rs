//! The kernels on the instruction set in use, for code that knows the element type only: each is
//! compiled here once for every type and instruction set, however many call it.

use std::ops::Range;

use super::activation::Activation;
use super::ahead::Ahead;
use super::dense::Weights;
use super::elastic::Elastic;
use super::foreground::Foreground;
use super::images::Images;
use super::loss::{Loss, LossSums, Targets};
use super::optimizer::Adam;
use super::rescale::{Number, Source};
use super::shape::{ConvPoolShape, ConvShape, DenseShape, PoolShape};
use super::simd::{self, Element};
use super::warp::{Affine, FillMode, ImageShape, Interpolation};
use crate::dispatch;

/// For `module::kernel(parameters)`, a function `kernel` that dispatches to it.
macro_rules! kernels {
    ($($module:ident::$kernel:ident($($name:ident: $t:ty),* $(,)?);)*) => {$(
        #[doc = concat!("[`", stringify!($kernel), "`](super::", stringify!($module), "::", stringify!($kernel), ")")]
        pub fn $kernel<T: Element>($($name: $t),*) {
            dispatch!(T, simd::level(), simd => super::$module::$kernel(simd, $($name),*))
        }
    )*};
}

kernels! {
    activation::activation_forward(
        out: &mut [T], x: &[T], activation: Activation, width: usize,
    );
    activation::relu_in_place(x: &mut [T]);
    activation::activation_backward(
        d_x: &mut [T], d_out: &[T], out: &[T], activation: Activation, width: usize,
    );
    activation::relu_backward_in_place(d: &mut [T], out: &[T]);
    batch_norm::batch_stats(mean: &mut [T], m2: &mut [T], x: &[T]);
    batch_norm::merge_stats(
        mean: &mut [T], m2: &mut [T], rows: usize,
        other_mean: &[T], other_m2: &[T], other_rows: usize,
    );
    batch_norm::normalize(
        out: &mut [T], x: &[T], mean: &[T], scale: &[T], beta: Option<&[T]>, relu: bool,
    );
    batch_norm::batch_norm_backward_sums(
        sum_d: &mut [T], sum_d_xhat: &mut [T], d_out: &mut [T], x: &[T], mean: &[T], inv: &[T],
        relu_out: Option<&[T]>,
    );
    batch_norm::batch_norm_backward(
        d_x: &mut [T], d_out: &[T], x: &[T], mean: &[T], inv: &[T], gamma: Option<&[T]>,
        sum_d: &[T], sum_d_xhat: &[T], rows: usize,
    );
    conv::conv_forward(
        out: &mut [T], x: &[T], packed: &[T], bias: Option<&[T]>, relu: bool,
        shape: &ConvShape, n: usize,
    );
    conv::conv_pool_forward(
        out: &mut [T], argmax: Option<&mut [T]>, x: &[T], packed: &[T], bias: Option<&[T]>,
        relu: bool, shape: &ConvPoolShape, n: usize,
    );
    conv_backward::conv_backward_kernel(
        d_kernel: &mut [T], d_out: &[T], x: &[T], shape: &ConvShape, n: usize,
    );
    conv_backward::conv_backward_input(
        d_x: &mut [T], d_out: &[T], packed: &[T], scratch: &mut [T], shape: &ConvShape, n: usize,
    );
    conv_backward::sum_rows(out: &mut [T], x: &[T]);
    conv_pool_grey::grey_forward(
        out: &mut [T], argmax: Option<&mut [T]>, x: &[T], kernel: &[T], bias: Option<&[T]>,
        relu: bool, ahead: &Ahead, shape: &ConvPoolShape, n: usize,
    );
    conv_pool_grey::grey_backward_kernel(
        d_kernel: &mut [T], d_out: &[T], argmax: &[T], x: &[T], ahead: &Ahead,
        shape: &ConvPoolShape, n: usize,
    );
    conv_pool_grey::grey_backward_foreground(
        d_kernel: &mut [T], d_bias: Option<&mut [T]>, d_out: &[T], argmax: &[T],
        foreground: &Foreground<T>, ahead: &Ahead, images: &Images<T>, relu: bool,
        shape: &ConvPoolShape, n: usize,
    );
    conv_pool_sparse::sparse_backward_kernel(
        d_filters: &mut [T], d_out: &[T], argmax: &[T], x: &[T], shape: &ConvPoolShape, n: usize,
    );
    conv_pool_sparse::sparse_backward_input(
        d_x: &mut [T], d_out: &[T], argmax: &[T], filters: &[T], shape: &ConvPoolShape, n: usize,
    );
    dense::dense_forward(
        out: &mut [T], x: &[T], weights: &[T], biases: Option<&[T]>, shape: &DenseShape, n: usize,
    );
    dense::dense_backward(
        d_x: Option<&mut [T]>, d_weights: &mut [T], d_out: &[T], x: &[T], weights: &[T],
        shape: &DenseShape, n: usize,
    );
    dense::dense_backward_sgd(
        d_x: Option<&mut [T]>, weights: &mut [T], d_out: &[T], x: &[T], rate: T,
        shape: &DenseShape, n: usize,
    );
    dense::dense_forward_foreground(
        out: &mut [T], sums: &mut [T], x: &[T], weights: &[T], biases: Option<&[T]>,
        foreground: &Foreground<T>, ahead: &Ahead, shape: &DenseShape, n: usize,
    );
    dense::dense_backward_foreground(
        d_x: &mut [T], weights: Weights<T>, d_out: &[T], x: &[T], sums: &[T],
        foreground: &mut Foreground<T>, ahead: &Ahead, shape: &DenseShape, n: usize,
    );
    dense::defer(deferred: &mut [T], weights: &[T], channels: usize, shape: &DenseShape);
    dense::settle(weights: &mut [T], deferred: &[T], channels: usize, shape: &DenseShape);
    dense::dense_forward_deferred(
        out: &mut [T], x: &[T], deferred: &[T], biases: Option<&[T]>,
        foreground: &Foreground<T>, shape: &DenseShape,
    );
    dense::dense_backward_deferred(
        d_x: &mut [T], deferred: &mut [T], d_out: &[T], x: &[T], rate: T,
        foreground: &mut Foreground<T>, shape: &DenseShape,
    );
    dropout::multiply(out: &mut [T], x: &[T], mask: &[T]);
    elastic::displacements(
        out: &mut [T], scratch: &mut [T], key: u64, elastic: Elastic, h: usize, w: usize,
    );
    loss::loss_forward(sums: &mut LossSums, x: &[T], targets: Targets<T>, loss: Loss, width: usize);
    loss::loss_backward(
        d_x: &mut [T], sums: &mut LossSums, x: &[T], targets: Targets<T>, loss: Loss,
        width: usize, scale: T,
    );
    optimizer::adam(
        params: &mut [T], m: &mut [T], v: &mut [T], grad: &[T], rate: f64, rule: &Adam, t: u64,
    );
    optimizer::add_gradient(sum: &mut [T], grad: &[T]);
    optimizer::follow(average: &mut [T], params: &[T], momentum: f64);
    optimizer::sgd(params: &mut [T], grad: &[T], rate: f64);
    optimizer::sgd_momentum(
        params: &mut [T], velocity: &mut [T], grad: &[T], rate: f64, momentum: f64, nesterov: bool,
    );
    pack::pack_filters(packed: &mut [T], filters: &[T], taps: usize, c_out: usize);
    pack::pack_input(packed: &mut [T], kernel: &[T], shape: &ConvShape);
    pool::average_pool_forward(out: &mut [T], x: &[T], shape: &PoolShape, n: usize);
    pool::average_pool_backward(d_x: &mut [T], d_out: &[T], shape: &PoolShape, n: usize);
    pool::max_pool_forward(out: &mut [T], x: &[T], shape: &PoolShape, n: usize);
    pool::max_pool_backward_ties(
        d_x: &mut [T], d_out: &[T], x: &[T], shape: &PoolShape, n: usize,
    );
    pool::max_pool_forward_argmax(
        out: &mut [T], argmax: &mut [T], x: &[T], shape: &PoolShape, n: usize,
    );
    pool::max_pool_backward(d_x: &mut [T], d_out: &[T], argmax: &[T], shape: &PoolShape, n: usize);
    softmax::softmax_forward(p: &mut [T], totals: &[T], width: usize);
    softmax::softmax_backward(d_totals: &mut [T], d_p: &[T], p: &[T], width: usize);
    warp::warp(
        out: &mut [T], x: &[T], map: &Affine, shift: Option<[&[T]; 2]>, fill: FillMode,
        interpolation: Interpolation, bordered: &mut [T], shape: &ImageShape,
    );
    winograd::winograd_forward(
        out: &mut [T], x: &[T], packed: &[T], bias: Option<&[T]>, relu: bool, scratch: &mut [T],
        shape: &ConvShape, n: usize,
    );
    winograd::winograd_backward_kernel(
        d_kernel: &mut [T], d_out: &[T], x: &[T], scratch: &mut [T], shape: &ConvShape, n: usize,
    );
    winograd::winograd_pack(packed: &mut [T], kernel: &[T], shape: &ConvShape);
    winograd::winograd_pool_forward(
        out: &mut [T], argmax: Option<&mut [T]>, x: &[T], packed: &[T], bias: Option<&[T]>,
        relu: bool, scratch: &mut [T], shape: &ConvPoolShape, n: usize,
    );
}

/// [`sum_gradients`](super::optimizer::sum_gradients)
pub fn sum_gradients<'a, T: Element>(
    out: &mut [T],
    count: usize,
    in_pairs: bool,
    gradient: impl Fn(usize) -> &'a [T],
) {
    dispatch!(T, simd::level(), simd => {
        super::optimizer::sum_gradients(simd, out, count, in_pairs, gradient)
    });
}

/// [`grey_forward_foreground`](super::conv_pool_grey::grey_forward_foreground)
pub fn grey_forward_foreground<T: Element>(
    out: &mut [T],
    argmax: &mut [T],
    foreground: &mut Foreground<T>,
    ahead: &Ahead,
    images: &Images<T>,
    kernel: &[T],
    bias: Option<&[T]>,
    relu: bool,
    shape: &ConvPoolShape,
    n: usize,
) -> bool {
    dispatch!(T, simd::level(), simd => super::conv_pool_grey::grey_forward_foreground(
        simd, out, argmax, foreground, ahead, images, kernel, bias, relu, shape, n,
    ))
}

/// [`channels_of_group`](super::foreground::channels_of_group)
pub fn channels_of_group<T: Element>(c_out: usize) -> usize {
    dispatch!(T, simd::level(), simd => {
        super::foreground::channels_of_group::<T, _>(simd, c_out)
    })
}

/// [`is_told_apart`](super::foreground::is_told_apart)
pub fn is_told_apart<T: Element>() -> bool {
    dispatch!(T, simd::level(), simd => super::foreground::is_told_apart::<T, _>(simd))
}

/// [`rescale`](super::rescale::rescale)
pub fn rescale<T: Element, X: Number>(out: &mut [T], x: &[X], scale: T, offset: T) {
    dispatch!(T, simd::level(), simd => {
        let _ = simd;
        super::rescale::rescale(out, x, scale, offset);
    });
}

/// [`rescale`] of some elements of a source.
pub fn read<T: Element>(out: &mut [T], x: Source<'_>, at: Range<usize>, scale: T, offset: T) {
    match x {
        Source::U8(x) => rescale(out, &x[at], scale, offset),
        Source::F32(x) => rescale(out, &x[at], scale, offset),
        Source::F64(x) => rescale(out, &x[at], scale, offset),
    }
}

/// [`dropout_mask`](super::dropout::dropout_mask)
pub fn dropout_mask<T: Element>(mask: &mut [T], rate: f64, key: u64) {
    dispatch!(T, simd::level(), simd => {
        let _ = simd;
        super::dropout::dropout_mask(mask, rate, key);
    });
}
