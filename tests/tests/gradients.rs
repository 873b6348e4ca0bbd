//! The trainer's forward and backward passes and AdamW against `transformers`, against finite
//! differences in double precision, and against themselves.

use xelm_runtime::config::{Activation, Config};
use xelm_runtime::rng::Rng;
use xelm_tests::oracle::{CONFIG, differences, load, model, shifted};
use xelm_tests::reference;
use xelm_train::backend::{AdamW, Backend, Cpu, IGNORE, Region, StepStats};
use xelm_train::model::{DropoutPlan, Model, Recompute, init, position_table};

/// Zeroes the gradients, runs one micro-batch, returns the statistics.
fn step(backend: &mut Cpu, model: &Model, inputs: &[u32], targets: &[u32]) -> StepStats {
    let n_targets = targets.iter().filter(|&&t| t != IGNORE).count();
    backend.begin_step(model.params.all.of(Region::Grads));
    backend.load_batch(inputs, targets);
    model.train(backend, DropoutPlan::NONE, 1.0 / n_targets as f32);
    backend.grad_norm(model.params.all.of(Region::Grads));
    backend.finish_step().unwrap()
}

fn read(backend: &mut Cpu, span: xelm_train::backend::Span) -> Vec<f32> {
    let mut values = vec![0.0; span.len];
    backend.read(span, &mut values).unwrap();
    values
}

/// Every gradient by name: ≤ 1e-4 of the tensor's largest; the keys' bias, whose true gradient is 0,
/// ≤ 1e-8.
fn check_gradients(
    backend: &mut Cpu,
    model: &Model,
    prefix: &str,
    expected: &xelm_tests::oracle::Tensors,
) {
    let mut worst = (0.0f32, String::new());
    for tensor in model.params.tensors(&model.config) {
        let got = read(backend, tensor.span.of(Region::Grads));
        let want = &expected[&format!("{prefix}{}", tensor.name)];
        if tensor.name.ends_with("k_proj.bias") {
            assert!(got.iter().all(|g| g.abs() <= 1e-8), "{}", tensor.name);
            continue;
        }
        let (_, relative) = differences(&got, want);
        assert!(relative <= 1e-4, "{}: {relative}", tensor.name);
        if relative > worst.0 {
            worst = (relative, tensor.name);
        }
    }
    println!("worst gradient: {:.2e} ({})", worst.0, worst.1);
}

#[test]
fn logits_loss_and_gradients_of_the_oracle() {
    let (batch, forward) = (load("batch.safetensors"), load("forward.safetensors"));
    let backend = &mut Cpu::new();
    let full = model(backend, 32);
    let ids: Vec<u32> = batch["input_ids"].iter().map(|&x| x as u32).collect();
    let (absolute, _) = differences(&full.logits(backend, &ids).unwrap(), &forward["logits"]);
    println!("logits: {absolute:.2e}");
    assert!(absolute <= 2e-5);

    let model = model(backend, 31);
    let (inputs, targets) = shifted(&batch["input_ids"], &batch["labels"]);
    let stats = step(backend, &model, &inputs, &targets);
    assert!((stats.loss - f64::from(forward["loss"][0])).abs() < 1e-5);
    check_gradients(backend, &model, "", &load("grads.safetensors"));
}

#[test]
fn padded_batch_of_the_oracle() {
    let (batch, padded) = (load("batch.safetensors"), load("padded.safetensors"));
    let backend = &mut Cpu::new();
    let model = model(backend, 31);
    let (inputs, targets) = shifted(&batch["padded.input_ids"], &batch["padded.labels"]);
    assert_eq!(targets.iter().filter(|&&t| t != IGNORE).count(), 50);
    let stats = step(backend, &model, &inputs, &targets);
    assert!((stats.loss - f64::from(padded["loss"][0])).abs() < 1e-5);
    check_gradients(backend, &model, "grad.", &padded);
}

#[test]
fn three_steps_of_adamw_under_both_weight_decays() {
    let batch = load("batch.safetensors");
    let (inputs, targets) = shifted(&batch["input_ids"], &batch["labels"]);
    for weight_decay in [0.0f32, 0.01] {
        let expected = load(&format!("adamw_wd{weight_decay:?}.safetensors"));
        let backend = &mut Cpu::new();
        let model = model(backend, 31);
        for t in 1..=3 {
            let stats = step(backend, &model, &inputs, &targets);
            // `finish_step` ends the step; the norm is computed again for the update.
            backend.grad_norm(model.params.all.of(Region::Grads));
            backend.adamw(
                model.params.all,
                AdamW {
                    lr: 1e-3,
                    beta1: 0.9,
                    beta2: 0.98,
                    eps: 1e-8,
                    weight_decay,
                    t,
                    max_norm: 0.0,
                },
            );
            let want = f64::from(expected["losses"][t as usize - 1]);
            assert!((stats.loss - want).abs() < 2e-5, "loss {t}: {} {want}", stats.loss);
        }
        for tensor in model.params.tensors(&CONFIG) {
            // The keys' bias has a zero gradient; Adam amplifies its noise.
            if tensor.name.ends_with("k_proj.bias") {
                continue;
            }
            let want = &expected[&format!("step3.{}", tensor.name)];
            // Adam divides a gradient by its own size plus 1e-8: the few gradients of that order
            // turn rounding noise into a share of the learning rate (1e-3).
            let got = read(backend, tensor.span);
            let (absolute, _) = differences(&got, want);
            assert!(absolute <= 5e-5, "wd {weight_decay}, {}: {absolute}", tensor.name);
            let far = got.iter().zip(want).filter(|(a, b)| (*a - *b).abs() > 2e-6).count();
            assert!(far * 500 <= got.len(), "wd {weight_decay}, {}: {far} differ", tensor.name);
        }
    }
}

#[test]
fn position_table_is_torchs() {
    let table = position_table(128, 64);
    let (absolute, _) = differences(&table, &load("batch.safetensors")["pos_table"][2 * 64..]);
    assert!(absolute <= 1e-6, "{absolute}");
}

/// Central differences in double precision at random coordinates of every tensor, at awkward shapes
/// and for every activation.
#[test]
fn gradients_match_finite_differences() {
    for (activation, n_embd, n_head, n_ctx, n_vocab) in [
        (Activation::GeluErf, 12, 3, 7, 23),
        (Activation::GeluTanh, 10, 1, 1, 5),
        (Activation::Relu, 20, 2, 70, 31),
    ] {
        let config = Config {
            n_vocab,
            n_ctx,
            n_embd,
            n_layer: 2,
            n_head,
            n_ff: 2 * n_embd + 1,
            activation,
            norm_eps: 1e-5,
        };
        let backend = &mut Cpu::new();
        let model = Model::place(backend, config, 2, n_ctx, Recompute::None).unwrap();
        init(backend, &model.params, &config, 1);
        let mut rng = Rng::new(2, 0);
        let mut weights = reference::Weights::new();
        for tensor in model.params.tensors(&config) {
            // Larger than at initialisation, so that no term is negligible.
            let values: Vec<f32> =
                read(backend, tensor.span).iter().map(|x| x + 0.3 * rng.next_normal()).collect();
            backend.write(tensor.span, &values);
            weights.insert(tensor.name, values.iter().map(|&x| f64::from(x)).collect());
        }
        let n = 2 * n_ctx;
        let mut draw = || (0..n).map(|_| rng.below(n_vocab as u32)).collect::<Vec<u32>>();
        let (inputs, targets) = (draw(), draw());
        let stats = step(backend, &model, &inputs, &targets);
        let positions = position_table(n_ctx, n_embd);
        let loss = |w: &reference::Weights| {
            reference::loss(&config, w, &positions, &inputs, &targets, n_ctx)
        };
        assert!((stats.loss - loss(&weights)).abs() < 1e-5);
        let h = 1e-5;
        for tensor in model.params.tensors(&config) {
            let grads = read(backend, tensor.span.of(Region::Grads));
            let largest = grads.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            for _ in 0..6 {
                let i = rng.below(grads.len() as u32) as usize;
                let at = |offset: f64, weights: &mut reference::Weights| {
                    let slot = &mut weights.get_mut(&tensor.name).unwrap()[i];
                    let before = *slot;
                    *slot += offset;
                    let value = loss(weights);
                    weights.get_mut(&tensor.name).unwrap()[i] = before;
                    value
                };
                let difference = (at(h, &mut weights) - at(-h, &mut weights)) / (2.0 * h);
                let error = (difference - f64::from(grads[i])).abs();
                // The second term is what rounding sums to single precision costs.
                let bound = 1e-4 * f64::from(largest) + 1e-7;
                assert!(error <= bound, "{activation:?} {}[{i}]: {error:.2e}", tensor.name);
            }
        }
    }
}

fn small(n_vocab: usize, n_embd: usize) -> Config {
    Config { n_vocab, n_ctx: 64, n_embd, n_layer: 3, n_head: 4, n_ff: 4 * n_embd, ..CONFIG }
}

#[test]
fn first_loss_is_the_log_of_the_vocabulary() {
    for (n_vocab, n_embd) in [(2048, 128), (500, 64), (4096, 256), (1000, 512)] {
        let config = small(n_vocab, n_embd);
        let backend = &mut Cpu::new();
        let model = Model::place(backend, config, 4, 64, Recompute::None).unwrap();
        init(backend, &model.params, &config, 7);
        let mut rng = Rng::new(1, 1);
        let mut draw = || (0..256).map(|_| rng.below(n_vocab as u32)).collect::<Vec<u32>>();
        let (inputs, targets) = (draw(), draw());
        let loss = step(backend, &model, &inputs, &targets).loss;
        assert!((loss - (n_vocab as f64).ln()).abs() <= 0.05, "V {n_vocab} C {n_embd}: {loss}");
    }
}

#[test]
fn one_batch_can_be_learnt_by_heart() {
    let config = small(97, 64);
    let backend = &mut Cpu::new();
    let model = Model::place(backend, config, 4, 33, Recompute::None).unwrap();
    init(backend, &model.params, &config, 3);
    let mut rng = Rng::new(5, 5);
    let mut draw = || (0..4 * 33).map(|_| rng.below(97)).collect::<Vec<u32>>();
    let (inputs, targets) = (draw(), draw());
    let mut loss = f64::MAX;
    for t in 1..=300 {
        loss = step(backend, &model, &inputs, &targets).loss;
        backend.grad_norm(model.params.all.of(Region::Grads));
        backend.adamw(
            model.params.all,
            AdamW {
                lr: 3e-3,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.0,
                t,
                max_norm: 1.0,
            },
        );
    }
    println!("loss after 300 steps: {loss:.4}");
    assert!(loss < 0.05, "{loss}");
}

/// The same bits for 1, 2 and 3 threads, with and without dropout.
#[test]
fn threads_do_not_change_a_bit() {
    let config = small(300, 96);
    let run = |n_threads: usize, p: f32| -> Vec<u32> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| {
            let backend = &mut Cpu::new();
            let model = Model::place(backend, config, 13, 64, Recompute::None).unwrap();
            init(backend, &model.params, &config, 3);
            let mut rng = Rng::new(5, 5);
            for t in 1..=3 {
                let mut draw = || (0..13 * 64).map(|_| rng.below(300)).collect::<Vec<u32>>();
                let (inputs, targets) = (draw(), draw());
                backend.begin_step(model.params.all.of(Region::Grads));
                backend.load_batch(&inputs, &targets);
                model.train(backend, DropoutPlan { p, key: t }, 1.0 / 832.0);
                backend.grad_norm(model.params.all.of(Region::Grads));
                let settings = AdamW {
                    lr: 1e-3,
                    beta1: 0.9,
                    beta2: 0.95,
                    eps: 1e-8,
                    weight_decay: 0.1,
                    t,
                    max_norm: 1.0,
                };
                backend.adamw(model.params.all, settings);
                backend.finish_step().unwrap();
            }
            read(backend, model.params.all).iter().map(|x| x.to_bits()).collect()
        })
    };
    for p in [0.0, 0.1] {
        let one = run(1, p);
        assert_eq!(one, run(2, p));
        assert_eq!(one, run(3, p));
    }
    assert_ne!(run(2, 0.0), run(2, 0.1));
}

/// Dropout's backward pass draws the forward pass's mask: the loss with a fixed mask falls along its
/// own gradient as fast as the gradient says.
#[test]
fn dropout_gradients_match_the_dropped_forward_pass() {
    let config = small(50, 32);
    let backend = &mut Cpu::new();
    let model = Model::place(backend, config, 2, 20, Recompute::None).unwrap();
    init(backend, &model.params, &config, 9);
    let mut rng = Rng::new(8, 8);
    let mut draw = || (0..40).map(|_| rng.below(50)).collect::<Vec<u32>>();
    let (inputs, targets) = (draw(), draw());
    let dropout = DropoutPlan { p: 0.2, key: 77 };
    let all = model.params.all;
    let run = |backend: &mut Cpu, dropout| {
        backend.begin_step(all.of(Region::Grads));
        backend.load_batch(&inputs, &targets);
        model.train(backend, dropout, 1.0 / 40.0);
        backend.grad_norm(all.of(Region::Grads));
        backend.finish_step().unwrap()
    };
    let before = run(backend, dropout);
    let (grads, params) = (read(backend, all.of(Region::Grads)), read(backend, all));
    let h = 1e-3 / before.grad_norm as f32;
    let moved = |sign: f32| -> Vec<f32> {
        params.iter().zip(&grads).map(|(p, g)| p + sign * h * g).collect()
    };
    backend.write(all, &moved(1.0));
    let up = run(backend, dropout).loss;
    backend.write(all, &moved(-1.0));
    let down = run(backend, dropout).loss;
    let slope = (up - down) / (2.0 * f64::from(h));
    let want = before.grad_norm * before.grad_norm;
    assert!((slope / want - 1.0).abs() < 0.02, "{slope} {want}");
    backend.write(all, &params);
    assert_ne!(run(backend, DropoutPlan { key: 78, ..dropout }).loss, before.loss);
}

/// Products of bf16 give the gradients of f32 but for the rounding of the factors, and are in use.
#[test]
fn bf16_gradients_are_those_of_f32_rounded() {
    let config = small(80, 32);
    let mut rng = Rng::new(4, 4);
    let mut draw = || (0..2 * 21).map(|_| rng.below(80)).collect::<Vec<u32>>();
    let (inputs, targets) = (draw(), draw());
    let run = |mut backend: Cpu| {
        let model = Model::place(&mut backend, config, 2, 21, Recompute::None).unwrap();
        init(&mut backend, &model.params, &config, 9);
        let stats = step(&mut backend, &model, &inputs, &targets);
        (stats.loss, read(&mut backend, model.params.all.of(Region::Grads)))
    };
    let ((loss, want), (rounded_loss, got)) = (run(Cpu::new()), run(Cpu::bf16()));
    let norm = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let apart: Vec<f32> = got.iter().zip(&want).map(|(a, b)| a - b).collect();
    let relative = norm(&apart) / norm(&want);
    println!("loss {loss} {rounded_loss}, gradients {relative:.1e} apart");
    assert!((1e-4..1e-2).contains(&relative), "{relative}");
    assert!((loss - rounded_loss).abs() < 1e-2);
}

/// Two micro-batches with a common scale give the gradient of one large batch.
#[test]
fn accumulated_gradients_equal_the_large_batch() {
    let config = small(80, 32);
    let mut rng = Rng::new(4, 4);
    let mut draw = || (0..6 * 24).map(|_| rng.below(80)).collect::<Vec<u32>>();
    let (inputs, targets) = (draw(), draw());
    let grads = |n_batch: usize| -> Vec<f32> {
        let backend = &mut Cpu::new();
        let model = Model::place(backend, config, n_batch, 24, Recompute::None).unwrap();
        init(backend, &model.params, &config, 9);
        for (i, t) in inputs.chunks(n_batch * 24).zip(targets.chunks(n_batch * 24)) {
            backend.load_batch(i, t);
            model.train(backend, DropoutPlan::NONE, 1.0 / 144.0);
        }
        read(backend, model.params.all.of(Region::Grads))
    };
    let (_, relative) = differences(&grads(2), &grads(6));
    assert!(relative < 1e-5, "{relative}");
}

/// What is computed again in the backward pass has the same bits, dropout included, and less is kept.
#[test]
fn recomputing_changes_no_bit() {
    let config = small(80, 32);
    let mut rng = Rng::new(4, 4);
    let mut draw = || (0..3 * 20).map(|_| rng.below(80)).collect::<Vec<u32>>();
    let (inputs, targets) = (draw(), draw());
    let run = |recompute| {
        let backend = &mut Cpu::new();
        let model = Model::place(backend, config, 3, 20, recompute).unwrap();
        init(backend, &model.params, &config, 9);
        backend.load_batch(&inputs, &targets);
        model.train(backend, DropoutPlan { p: 0.2, key: 5 }, 1.0 / 60.0);
        let (_, sizes) = Model::plan(config, 3, 20, recompute);
        (read(backend, model.params.all.of(Region::Grads)), sizes.total())
    };
    let (grads, kept) = run(Recompute::None);
    let mut last = kept;
    for recompute in [Recompute::Activations, Recompute::Layers] {
        let (again, kept) = run(recompute);
        assert!(grads.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert!(kept < last, "{recompute:?} keeps {kept} numbers");
        last = kept;
    }
}

#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let config = small(80, 32);
    let backend = &mut Cpu::new();
    let model = Model::place(backend, config, 1, 16, Recompute::None).unwrap();
    init(backend, &model.params, &config, 9);
    let bad = model.params.layers[1].ffn_up.weight.part(5, 1);
    backend.write(bad, &[f32::NAN]);
    let before: Vec<u32> = read(backend, model.params.all).iter().map(|x| x.to_bits()).collect();
    let inputs: Vec<u32> = (0..16).collect();
    let stats = step(backend, &model, &inputs, &inputs);
    assert!(!stats.is_finite());
    backend.grad_norm(model.params.all.of(Region::Grads));
    let settings = AdamW {
        lr: 1.0,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        t: 1,
        max_norm: 1.0,
    };
    backend.adamw(model.params.all, settings);
    let after: Vec<u32> = read(backend, model.params.all).iter().map(|x| x.to_bits()).collect();
    assert_eq!(before, after);
    let tensors = model.params.tensors(&config);
    let spans: Vec<_> = tensors.iter().map(|t| t.span).collect();
    let found = backend.first_non_finite(&spans).unwrap().map(|i| tensors[i].name.as_str());
    assert_eq!(found, Some("model.layers.1.fc1.weight"));
}
