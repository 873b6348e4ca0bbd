//! Every CUDA kernel against the CPU backend, executed on this CPU from its own source: each operation
//! at awkward shapes, in both precisions, with the threads of a block in three orders.

use std::collections::BTreeMap;
use xelm_runtime::config::Config;
use xelm_tests::operations::{self, Case, config, difference, tolerance, train};
use xelm_tests::shim::{Order, Shim};
use xelm_train::backend::cuda::{Cuda, Precision};
use xelm_train::backend::{Backend, Cpu};
use xelm_train::model::{Model, Recompute};

/// Runs operations on the CPU and, in both precisions and all orders, on the shim; prints the worst
/// errors.
fn check(cases: Vec<Case>) {
    let mut worst: BTreeMap<(&str, &str), (f32, usize)> = BTreeMap::new();
    for case in &cases {
        for (precision, name) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16")] {
            let want = case.run(&mut Cpu::new(), precision);
            let mut first = None;
            for order in [Order::Forward, Order::Reverse, Order::Shuffled] {
                let Some(shim) = Shim::new(precision, order) else { return };
                let got = case.run(&mut Cuda::new(shim), precision);
                let bits = got.bits();
                let first = first.get_or_insert_with(|| bits.clone());
                assert!(*first == bits, "{case:?} {precision:?}: {order:?} gives other bits");
                let off = got.difference(&want, &case.name);
                let bound = tolerance(precision);
                assert!(off <= bound, "{case:?} {precision:?} {order:?}: {off:.1e}");
                let operation = case.name.split(' ').next().unwrap_or(&case.name);
                let entry = worst.entry((operation, name)).or_default();
                *entry = (entry.0.max(off), entry.1 + 1);
            }
        }
    }
    for ((operation, precision), (worst, n)) in worst {
        println!("{operation:24} {precision:4} {n:3} cases, worst {worst:.1e}");
    }
}

#[test]
fn embedding() {
    check(operations::embedding());
}

#[test]
fn layer_norm() {
    check(operations::layer_norm());
}

#[test]
fn linear() {
    check(operations::linear());
}

#[test]
fn activation() {
    check(operations::activation());
}

#[test]
fn residual_norm() {
    check(operations::residual_norm());
}

/// What is done in one pass has the bits of one step after the other.
#[test]
fn residual_norm_has_the_bits_of_its_steps() {
    operations::compare_residual_norm_with_its_steps(&mut Cpu::new(), Precision::F32);
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(shim) = Shim::new(precision, Order::Forward) else { return };
        operations::compare_residual_norm_with_its_steps(&mut Cuda::new(shim), precision);
    }
}

#[test]
fn attention() {
    check(operations::attention());
}

#[test]
fn head() {
    check(operations::head());
}

#[test]
fn optimizer() {
    check(operations::optimizer());
}

/// What no kernel computes is an error, not a wrong number.
#[test]
fn heads_that_are_too_large_are_refused() {
    let Some(shim) = Shim::new(Precision::Bf16, Order::Forward) else { return };
    let backend = &mut Cuda::new(shim);
    let config = Config { n_ctx: 4, ..config(264, 1) };
    let model = Model::place(backend, config, 1, 4, Recompute::None).unwrap();
    backend.load_batch(&[1, 2, 3, 4], &[2, 3, 4, 5]);
    model.evaluate(backend);
    let error = backend.finish_step().unwrap_err().to_string();
    assert!(error.contains("264") && error.contains("256"), "{error}");
    // The next step is a new one.
    model.evaluate(backend);
    assert!(backend.finish_step().is_err());
}

/// No kernel is left out of what the other tests compare.
#[test]
fn every_kernel_is_executed() {
    for precision in [Precision::F32, Precision::Bf16] {
        for case in operations::all() {
            let Some(shim) = Shim::new(precision, Order::Forward) else { return };
            case.run(&mut Cuda::new(shim), precision);
        }
        let shim = Shim::new(precision, Order::Forward).unwrap();
        assert_eq!(shim.launched(), shim.kernels());
        println!("{precision:?}: {} kernels executed", shim.kernels().len());
    }
}

/// Whole training steps, on heads for tensor cores and on heads for the plain kernels; a second run has
/// the same bits.
#[test]
fn training_steps() {
    for (n_embd, n_head) in [(48, 2), (20, 2)] {
        let config = config(n_embd, n_head);
        let (want, want_params) = train(&mut Cpu::new(), config);
        for (precision, loss_bound, bound) in
            [(Precision::F32, 1e-5, 1e-3), (Precision::Bf16, 1e-2, 2e-2)]
        {
            let run =
                |order| Shim::new(precision, order).map(|shim| train(&mut Cuda::new(shim), config));
            let Some((got, params)) = run(Order::Forward) else { return };
            let (again, again_params) = run(Order::Shuffled).unwrap();
            assert_eq!((&got, &params), (&again, &again_params), "{precision:?}");
            for (step, (got, want)) in got.iter().zip(&want).enumerate() {
                let off = (got.loss - want.loss).abs();
                assert!(off <= loss_bound, "{precision:?} step {step}: {got:?}, not {want:?}");
            }
            let worst = difference(&params, &want_params, "parameters");
            println!(
                "{n_embd} wide, {precision:?}: parameters after 5 steps differ by {worst:.1e}"
            );
            assert!(worst <= bound, "{precision:?}: {worst}");
        }
    }
}
