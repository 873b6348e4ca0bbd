//! Micro-batches as CUDA graphs, over a driver without a card: the same bits as kernel by kernel.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use xelm_tests::operations::{self, config, train};
use xelm_tests::shim::{FakeDriver, Order, Shim};
use xelm_train::backend::cuda::{Cuda, Driver, Precision};
use xelm_train::backend::{Backend, Region};
use xelm_train::model::{DropoutPlan, Model, Recompute, init};

static DRIVER: LazyLock<Option<Mutex<FakeDriver>>> =
    LazyLock::new(|| FakeDriver::load_for_training(Precision::Bf16).map(Mutex::new));

/// The driver, for one test at a time; none where it cannot be compiled.
fn driver() -> Option<MutexGuard<'static, FakeDriver>> {
    Some(DRIVER.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
}

fn open() -> Driver {
    Driver::open(0, Precision::Bf16).unwrap()
}

/// Every operation as the host asks the driver for it.
#[test]
fn operations_are_those_of_the_shim() {
    let Some(_driver) = driver() else { return };
    let shim = Shim::new(Precision::Bf16, Order::Forward).unwrap();
    let (own, through_driver) = (&mut Cuda::new(shim), &mut Cuda::new(open().without_cublaslt()));
    for case in operations::all() {
        let [want, got] = [
            case.run(own, Precision::Bf16).bits(),
            case.run(through_driver, Precision::Bf16).bits(),
        ];
        assert!(want == got, "{case:?}");
    }
}

/// Micro-batches with dropout, of which each has another key: all but the first are graphs, updates are not. Where
/// algorithms are chosen in its midst, the first is no model for the second.
#[test]
fn a_micro_batch_is_a_graph() {
    let Some(driver) = driver() else { return };
    let config = config(48, 2);
    let graphs_of = |work: &mut dyn FnMut()| {
        let before = driver.counts().graph_launches;
        work();
        driver.counts().graph_launches - before
    };
    for library in [false, true] {
        let open = || if library { open() } else { open().without_cublaslt() };
        let want = train(&mut Cuda::new(open().without_graphs()), config);
        let mut got = None;
        let n = graphs_of(&mut || got = Some(train(&mut Cuda::new(open()), config)));
        assert!(got == Some(want), "cuBLASLt {library}: other bits");
        // Five steps of two.
        assert_eq!(n, if library { 10 - 2 } else { 10 - 1 }, "cuBLASLt {library}");
    }
    // Graphs hold algorithms: with those of a record they are made anew.
    let backend = &mut Cuda::new(open());
    let want = train(backend, config);
    assert!(backend.repeat(&backend.plans().unwrap()));
    let mut got = None;
    assert_eq!(graphs_of(&mut || got = Some(train(backend, config))), 10 - 2);
    assert!(got == Some(want));
    // A new model in the same memory and a change between training and evaluation.
    let work = |backend: &mut dyn Backend| {
        let mut losses = Vec::new();
        for n_ctx in [7, 19, 7] {
            let model = Model::place(backend, config, 2, n_ctx, Recompute::Activations).unwrap();
            init(backend, &model.params, &config, 3);
            let grads = model.params.all.of(Region::Grads);
            backend.begin_step(grads);
            for i in 0..6 {
                let ids: Vec<u32> = (0..2 * n_ctx as u32).map(|k| (k * k + i) % 61).collect();
                backend.load_batch(&ids, &ids);
                if i % 3 == 1 {
                    model.evaluate(backend);
                } else {
                    let dropout = DropoutPlan { p: 0.2, key: u64::from(i) };
                    model.train(backend, dropout, 0.1);
                }
                backend.grad_norm(grads);
                losses.push(backend.finish_step().unwrap());
            }
        }
        losses
    };
    let want = work(&mut Cuda::new(open().without_graphs()));
    let mut got = Vec::new();
    let n = graphs_of(&mut || got = work(&mut Cuda::new(open())));
    assert_eq!(got, want);
    assert!(n > 6, "{n} graphs ran");
}
