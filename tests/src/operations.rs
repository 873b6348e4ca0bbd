//! Every operation of the backend seam at awkward shapes, for comparing a device with the CPU.

use xelm_runtime::config::{Activation, Config};
use xelm_runtime::rng::Rng;
use xelm_train::backend::cuda::Precision;
use xelm_train::backend::{
    AdamW, AttentionShape, Backend, Dropout, IGNORE, Operations, Region, Residual, Sizes, Span,
    StepStats,
};
use xelm_train::model::{DropoutPlan, Model, Recompute, init};

use Region::{Activations, Constants, Grads, Moment1, Moment2, Params, Statistics};

/// Largest difference from the CPU, as a share of the tensor's largest number.
pub fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 2e-5,
        // Numbers of 8 bits, products of several of them.
        Precision::Bf16 => 1.5e-2,
    }
}

type Call = Box<dyn Fn(&mut dyn Backend)>;

/// One operation with its memory.
pub struct Case {
    /// What is computed, and its shape.
    pub name: String,
    sizes: Sizes,
    rng: Rng,
    before: Vec<(Span, Vec<f32>)>,
    compared: Vec<Span>,
    inputs: Vec<u32>,
    targets: Vec<u32>,
    call: Call,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// What an operation left: the compared spans, and the step's statistics.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Numbers of each compared span.
    pub values: Vec<Vec<f32>>,
    /// Loss and norm, where the operation adds to them.
    pub stats: StepStats,
}

impl Case {
    fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let seed = name.bytes().fold(1, |hash, b| (hash * 31 + u64::from(b)) % 1_000_003);
        Case {
            name,
            sizes: Sizes::default(),
            rng: Rng::new(seed, 0),
            before: Vec::new(),
            compared: Vec::new(),
            inputs: Vec::new(),
            targets: Vec::new(),
            call: Box::new(|_| ()),
        }
    }

    /// A span of random numbers.
    fn input(&mut self, region: Region, len: usize) -> Span {
        let span = self.sizes.take(region, len);
        let values = (0..len).map(|_| self.rng.next_normal()).collect();
        self.before.push((span, values));
        span
    }

    /// A span that the operation overwrites.
    fn output(&mut self, region: Region, len: usize) -> Span {
        let span = self.sizes.take(region, len);
        self.before.push((span, vec![f32::NAN; len]));
        self.compared.push(span);
        span
    }

    /// A span that the operation changes.
    fn changed(&mut self, region: Region, len: usize) -> Span {
        let span = self.input(region, len);
        self.compared.push(span);
        span
    }

    /// A micro-batch; every seventh target is not scored.
    fn batch(&mut self, n: usize, n_vocab: usize) {
        self.inputs = (0..n).map(|_| self.rng.below(n_vocab as u32)).collect();
        self.targets = (0..n)
            .map(|i| if i % 7 == 3 { IGNORE } else { self.rng.below(n_vocab as u32) })
            .collect();
    }

    fn computing(self, call: impl Fn(&mut dyn Operations) + 'static) -> Case {
        self.calling(move |backend| call(backend.operations()))
    }

    fn calling(self, call: impl Fn(&mut dyn Backend) + 'static) -> Case {
        Case { call: Box::new(call), ..self }
    }

    /// Runs the operation. Where the device's precision is narrow, its inputs are rounded for every
    /// backend, so that the computation alone is compared.
    pub fn run(&self, backend: &mut dyn Backend, precision: Precision) -> Outcome {
        backend.allocate(self.sizes).unwrap();
        for (span, values) in &self.before {
            let narrow = [Region::Activations, Region::Params].contains(&span.region);
            let round = precision == Precision::Bf16 && narrow;
            let values: Vec<f32> =
                values.iter().map(|&x| if round { to_bf16(x) } else { x }).collect();
            backend.write(*span, &values);
        }
        backend.load_batch(&self.inputs, &self.targets);
        (self.call)(backend);
        let mut read = |&span: &Span| {
            let mut values = vec![0.0; span.len];
            backend.read(span, &mut values).unwrap();
            values
        };
        let values = self.compared.iter().map(&mut read).collect();
        Outcome { values, stats: backend.finish_step().unwrap() }
    }
}

impl Outcome {
    /// The compared numbers, bit by bit.
    pub fn bits(&self) -> Vec<Vec<u32>> {
        self.values.iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
    }

    /// The largest difference, as a share of the largest number of its span.
    ///
    /// # Panics
    /// A number that should be finite is not.
    pub fn difference(&self, want: &Outcome, name: &str) -> f32 {
        let mut worst = 0.0f32;
        for (i, (got, want)) in self.values.iter().zip(&want.values).enumerate() {
            worst = worst.max(difference(got, want, &format!("{name} [{i}]")));
        }
        let stats =
            [(self.stats.loss, want.stats.loss), (self.stats.grad_norm, want.stats.grad_norm)];
        for (got, want) in stats {
            if want.is_finite() {
                worst = worst.max(((got - want) / want.abs().max(1.0)).abs() as f32);
            }
        }
        worst
    }
}

fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    if x.is_nan() {
        return x;
    }
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// The largest difference as a share of the largest number.
pub fn difference(got: &[f32], want: &[f32], what: &str) -> f32 {
    let largest = want.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    let mut worst = 0.0f32;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(got.is_finite() || !want.is_finite(), "{what}: number {i} is {got}, not {want}");
        worst = worst.max((got - want).abs() / largest);
    }
    worst
}

/// Every operation.
pub fn all() -> Vec<Case> {
    let groups = [
        embedding(),
        layer_norm(),
        linear(),
        activation(),
        residual_norm(),
        attention(),
        head(),
        optimizer(),
    ];
    groups.into_iter().flatten().collect()
}

/// Token embedding and its gradient.
pub fn embedding() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n_batch, t, c, v) in [(2, 5, 12, 7), (1, 37, 40, 50), (3, 1, 1, 2)] {
        let n = n_batch * t;
        let mut case = Case::new(format!("embed {n}x{c}"));
        case.batch(n, v);
        let (out, table) = (case.output(Activations, n * c), case.input(Params, v * c));
        let positions = case.input(Constants, t * c);
        cases.push(case.computing(move |b| b.embed(out, table, positions, 3.5, t)));

        let mut case = Case::new(format!("embed_backward {n}x{c}"));
        case.batch(n, v);
        let (d_table, d_out) = (case.changed(Grads, v * c), case.input(Activations, n * c));
        cases.push(case.computing(move |b| b.embed_backward(d_table, d_out, 3.5, c)));
    }
    cases
}

/// Rows and columns of a norm.
const NORMS: [(usize, usize); 4] = [(1, 1), (13, 33), (70, 128), (9, 8)];

/// Layer norm.
pub fn layer_norm() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, c) in NORMS {
        let mut case = Case::new(format!("layer_norm {n}x{c}"));
        let (out, stats) = (case.output(Activations, n * c), case.output(Statistics, n * 2));
        let x = case.input(Activations, n * c);
        let (weight, bias) = (case.input(Params, c), case.input(Params, c));
        cases.push(case.computing(move |b| b.layer_norm(out, stats, x, weight, bias, 1e-5)));

        let mut case = Case::new(format!("layer_norm_backward {n}x{c}"));
        let out = case.output(Activations, n * c);
        let stats = case.output(Statistics, n * 2);
        let (x, d_out) = (case.input(Activations, n * c), case.input(Activations, n * c));
        let (weight, bias) = (case.input(Params, c), case.input(Params, c));
        let d_x = case.changed(Activations, n * c);
        let (d_weight, d_bias) = (case.changed(Grads, c), case.changed(Grads, c));
        cases.push(case.computing(move |b| {
            // A variance of nearly nothing would magnify the rounding of the inputs.
            b.layer_norm(out, stats, x, weight, bias, 1e-2);
            b.layer_norm_backward(d_x, d_weight, d_bias, d_out, x, stats, weight);
        }));
    }
    cases
}

/// Matrix products.
pub fn linear() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, i, o) in [(5, 7, 3), (37, 40, 24), (130, 64, 136), (200, 72, 70), (1, 1, 1)] {
        let mut case = Case::new(format!("linear {n}x{i}x{o}"));
        let (out, x) = (case.output(Activations, n * o), case.input(Activations, n * i));
        let (weight, bias) = (case.input(Params, o * i), case.input(Params, o));
        cases.push(case.computing(move |b| b.linear(out, x, weight, bias)));

        let mut case = Case::new(format!("linear_backward {n}x{i}x{o}"));
        let (d_x, x) = (case.output(Activations, n * i), case.input(Activations, n * i));
        let (d_out, weight) = (case.input(Activations, n * o), case.input(Params, o * i));
        let (d_weight, d_bias) = (case.changed(Grads, o * i), case.changed(Grads, o));
        cases.push(
            case.computing(move |b| b.linear_backward(d_x, d_weight, d_bias, d_out, x, weight)),
        );
    }
    cases
}

/// Activation functions.
pub fn activation() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [Activation::GeluErf, Activation::GeluTanh, Activation::Relu] {
        for n in [1, 1003, 4096] {
            let mut case = Case::new(format!("activation {kind:?} {n}"));
            let (out, x) = (case.output(Activations, n), case.input(Activations, n));
            cases.push(case.computing(move |b| b.activation(out, x, kind)));

            let mut case = Case::new(format!("activation_backward {kind:?} {n}"));
            let (d_x, x) = (case.changed(Activations, n), case.input(Activations, n));
            cases.push(case.computing(move |b| b.activation_backward(d_x, x, kind)));
        }
    }
    cases
}

const DROPOUTS: [Dropout; 2] = [Dropout::NONE, Dropout { p: 0.3, key: 0x0123_4567_89AB_CDEF }];

/// Residual connections with the norm that follows, with dropout.
pub fn residual_norm() -> Vec<Case> {
    let mut cases = Vec::new();
    for dropout in DROPOUTS {
        for (n, c) in NORMS {
            let mut case = Case::new(format!("residual_norm p={} {n}x{c}", dropout.p));
            let (out, stats) = (case.output(Activations, n * c), case.output(Statistics, n * 2));
            let stream = case.output(Activations, n * c);
            let (x, branch) = (case.input(Activations, n * c), case.input(Activations, n * c));
            let residual = Residual { x, branch, dropout };
            let (weight, bias) = (case.input(Params, c), case.input(Params, c));
            cases.push(case.computing(move |b| {
                b.residual_norm(out, stats, stream, residual, weight, bias, 1e-2);
            }));

            let mut case = Case::new(format!("residual_norm_backward p={} {n}x{c}", dropout.p));
            let (out, stats) = (case.output(Activations, n * c), case.output(Statistics, n * 2));
            let (x, d_out) = (case.input(Activations, n * c), case.input(Activations, n * c));
            let (weight, bias) = (case.input(Params, c), case.input(Params, c));
            let (d_x, d_branch) =
                (case.changed(Activations, n * c), case.output(Activations, n * c));
            let (d_weight, d_bias) = (case.changed(Grads, c), case.changed(Grads, c));
            cases.push(case.computing(move |b| {
                b.layer_norm(out, stats, x, weight, bias, 1e-2);
                b.residual_norm_backward(
                    d_x, d_branch, dropout, d_weight, d_bias, d_out, x, stats, weight,
                );
            }));
        }
    }
    cases
}

/// A residual connection and its norm as one operation have the bits of one step after the other, forward and
/// backward.
///
/// # Panics
/// They have others.
pub fn compare_residual_norm_with_its_steps(backend: &mut dyn Backend, precision: Precision) {
    for dropout in DROPOUTS {
        for (n, c) in NORMS {
            let case = &mut Case::new(format!("steps p={} {n}x{c}", dropout.p));
            let rows = |case: &mut Case| case.input(Activations, n * c);
            let (x, branch, d_out, d_stream) = (rows(case), rows(case), rows(case), rows(case));
            let [stream, out, d_branch, stream2, out2, d_stream2] = [(); 6].map(|()| rows(case));
            let [stats, stats2] = [(); 2].map(|()| case.input(Statistics, 2 * n));
            let (weight, bias) = (case.input(Params, c), case.input(Params, c));
            let [d_weight, d_bias, d_weight2, d_bias2] = [(); 4].map(|()| case.input(Grads, c));
            case.run(backend, precision);
            let read = |backend: &mut dyn Backend, span: Span| {
                let mut values = vec![0.0; span.len];
                backend.read(span, &mut values).unwrap();
                values
            };
            let rounded = |x: f32| if precision == Precision::Bf16 { to_bf16(x) } else { x };
            let compare = |backend: &mut dyn Backend, spans: &[(Span, Span)]| {
                for (i, &(one, other)) in spans.iter().enumerate() {
                    let mut bits =
                        |span| read(backend, span).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(one), bits(other), "{case:?} {precision:?}: {i}");
                }
            };

            let (before, added) = (read(backend, x), read(backend, branch));
            let sums: Vec<f32> = (0u64..)
                .zip(before.iter().zip(added))
                .map(|(i, (&x, branch))| rounded(x + branch * dropout.factor(i)))
                .collect();
            backend.write(stream2, &sums);
            let residual = Residual { x, branch, dropout };
            let ops = backend.operations();
            ops.residual_norm(out, stats, stream, residual, weight, bias, 1e-5);
            ops.layer_norm(out2, stats2, stream2, weight, bias, 1e-5);
            compare(backend, &[(stream, stream2), (out, out2), (stats, stats2)]);

            for (from, to) in [(d_stream, d_stream2), (d_weight, d_weight2), (d_bias, d_bias2)] {
                let values = read(backend, from);
                backend.write(to, &values);
            }
            let ops = backend.operations();
            ops.residual_norm_backward(
                d_stream, d_branch, dropout, d_weight, d_bias, d_out, stream, stats, weight,
            );
            ops.layer_norm_backward(d_stream2, d_weight2, d_bias2, d_out, stream2, stats2, weight);
            let left: Vec<f32> = (0u64..)
                .zip(read(backend, d_stream2))
                .map(|(i, d)| rounded(d * dropout.factor(i)))
                .collect();
            backend.write(stream2, &left);
            compare(
                backend,
                &[
                    (d_stream, d_stream2),
                    (d_weight, d_weight2),
                    (d_bias, d_bias2),
                    (d_branch, stream2),
                ],
            );
        }
    }
}

/// Sequences, positions, heads, size of a head: for the plain kernels (sizes that are no multiple of 8,
/// or above 128) and for each of the three on tensor cores.
const ATTENTIONS: [(usize, usize, usize, usize); 10] = [
    (2, 5, 3, 4),
    (1, 1, 1, 8),
    (1, 70, 2, 8),
    (2, 65, 2, 24),
    (1, 130, 1, 32),
    (1, 67, 1, 64),
    (1, 33, 2, 40),
    (1, 40, 2, 128),
    (1, 66, 1, 96),
    (1, 35, 1, 160),
];

/// Attention, with dropout.
pub fn attention() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n_batch, n_ctx, n_head, head_dim) in ATTENTIONS {
        for dropout in DROPOUTS {
            let (n, c) = (n_batch * n_ctx, n_head * head_dim);
            let shape = AttentionShape { n_batch, n_ctx, n_head, head_dim };
            let name = format!("{n_batch}x{n_ctx}x{n_head}x{head_dim} p={}", dropout.p);
            let mut case = Case::new(format!("attention {name}"));
            let (out, lse) = (case.output(Activations, n * c), case.output(Statistics, n * n_head));
            let qkv = case.input(Activations, n * 3 * c);
            cases.push(case.computing(move |b| b.attention(out, lse, qkv, shape, dropout)));

            let mut case = Case::new(format!("attention_backward {name}"));
            let (out, lse) = (case.output(Activations, n * c), case.output(Statistics, n * n_head));
            let qkv = case.input(Activations, n * 3 * c);
            let (d_qkv, d_out) =
                (case.output(Activations, n * 3 * c), case.input(Activations, n * c));
            cases.push(case.computing(move |b| {
                b.attention(out, lse, qkv, shape, dropout);
                b.attention_backward(d_qkv, d_out, out, lse, qkv, shape, dropout);
            }));
        }
    }
    cases
}

/// Output layer and cross-entropy.
pub fn head() -> Vec<Case> {
    let mut cases = Vec::new();
    // The last is more than one chunk of rows.
    for (n, c, v) in [(9, 24, 37), (3, 8, 1), (33, 40, 1000), (4100, 8, 16)] {
        let mut case = Case::new(format!("head_loss {n}x{c}x{v}"));
        case.batch(n, v);
        let (d_x, d_table) = (case.output(Activations, n * c), case.changed(Grads, v * c));
        let (x, table) = (case.input(Activations, n * c), case.input(Params, v * c));
        cases.push(case.computing(move |b| b.head_loss(d_x, d_table, x, table, 0.25)));

        let mut case = Case::new(format!("head_eval {n}x{c}x{v}"));
        case.batch(n, v);
        let (x, table) = (case.input(Activations, n * c), case.input(Params, v * c));
        cases.push(case.computing(move |b| b.head_eval(x, table)));

        let mut case = Case::new(format!("head_logits {n}x{c}x{v}"));
        let (x, table) = (case.input(Activations, n * c), case.input(Params, v * c));
        let copy = case.output(Statistics, n * v);
        cases.push(case.calling(move |b| {
            let mut logits = vec![0.0; n * v];
            b.operations().head_logits(&mut logits, x, table).unwrap();
            b.write(copy, &logits);
        }));
    }
    cases
}

fn adamw(max_norm: f32) -> AdamW {
    AdamW { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, t: 3, max_norm }
}

/// Gradient norm and AdamW.
pub fn optimizer() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, max_norm) in [(1, 0.0), (1000, 1.0), (300_000, 1e6)] {
        let mut case = Case::new(format!("adamw {n} {max_norm}"));
        let params = case.changed(Params, n);
        let grads = case.input(Grads, n);
        let m = case.changed(Moment1, n);
        // Second moments are not negative.
        let v = case.changed(Moment2, n);
        case.before.last_mut().unwrap().1.iter_mut().for_each(|x| *x = x.abs());
        assert_eq!((m.start, v.start, grads.start), (0, 0, 0));
        cases.push(case.calling(move |b| {
            b.grad_norm(grads);
            b.adamw(params, adamw(max_norm));
        }));

        // A gradient that is not a number: nothing may change.
        let mut case = Case::new(format!("adamw_refused {n}"));
        let params = case.changed(Params, n);
        let grads = case.input(Grads, n);
        case.before.last_mut().unwrap().1[n / 2] = f32::NAN;
        let (_, _) = (case.changed(Moment1, n), case.changed(Moment2, n));
        cases.push(case.calling(move |b| {
            b.grad_norm(grads);
            b.adamw(params, adamw(max_norm));
        }));
    }
    cases
}

/// A small model.
pub fn config(n_embd: usize, n_head: usize) -> Config {
    Config {
        n_vocab: 61,
        n_embd,
        n_head,
        n_layer: 2,
        n_ff: 4 * n_embd,
        n_ctx: 24,
        activation: Activation::GeluErf,
        norm_eps: 1e-5,
    }
}

/// Five steps of two micro-batches with dropout, clipping and weight decay.
pub fn train(backend: &mut dyn Backend, config: Config) -> (Vec<StepStats>, Vec<f32>) {
    let (n_batch, n_ctx) = (2, 19);
    let model = Model::place(backend, config, n_batch, n_ctx, Recompute::None).unwrap();
    init(backend, &model.params, &config, 7);
    let grads = model.params.all.of(Grads);
    let mut rng = Rng::new(3, 0);
    let mut losses = Vec::new();
    for step in 0..5 {
        backend.begin_step(grads);
        for micro in 0..2 {
            let mut ids = || -> Vec<u32> {
                (0..n_batch * n_ctx).map(|_| rng.below(config.n_vocab as u32)).collect()
            };
            let (inputs, targets) = (ids(), ids());
            backend.load_batch(&inputs, &targets);
            let dropout = DropoutPlan { p: 0.1, key: step * 2 + micro };
            model.train(backend, dropout, 0.5 / (n_batch * n_ctx) as f32);
        }
        backend.grad_norm(grads);
        backend.adamw(model.params.all, AdamW { t: step + 1, lr: 1e-3, ..adamw(1.0) });
        losses.push(backend.finish_step().unwrap());
    }
    let mut params = vec![0.0; model.params.all.len];
    backend.read(model.params.all, &mut params).unwrap();
    (losses, params)
}
