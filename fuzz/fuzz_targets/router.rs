//! Any router with any text: the first byte is the text's length, then come the text and the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xelm_fuzz::Aligned;
use xelm_runtime::arena::Arena;
use xelm_runtime::format::Gguf;
use xelm_runtime::router::{Context, Power, RouteOptions, Router};

fuzz_target!(|data: &[u8]| {
    let Some((&len, rest)) = data.split_first() else { return };
    let Some((text, file)) = rest.split_at_checked(len.into()) else { return };
    let text = String::from_utf8_lossy(text);
    let mut file = Aligned::copy(file);
    let Ok(gguf) = Gguf::open(file.bytes()) else { return };
    let Ok(Some(router)) = Router::open(&gguf) else { return };
    assert!(router.term(&text).is_none_or(|id| id < router.n_terms()));

    let mut plan = Arena::measure();
    Context::carve(&mut plan, Some(&router)).expect("nothing is taken");
    let mut memory = Aligned::new(plan.used());
    let mut arena = Arena::new(memory.bytes()).expect("aligned");
    let mut context = Context::carve(&mut arena, Some(&router)).expect("as planned");
    context.feed(&router, &text);
    let whole = context.vector(&router).to_vec();
    context.reset();
    for c in text.chars() {
        context.feed(&router, c.encode_utf8(&mut [0; 4]));
    }
    let x = context.vector(&router);
    // The same bits however the text is cut.
    assert!(whole.iter().zip(x).all(|(a, b)| a.to_bits() == b.to_bits()));

    let n = router.n_experts();
    let mut weights = vec![f32::NAN; n];
    for power in [Power::Paper, Power::Release] {
        let options = RouteOptions { power, ..RouteOptions::default() };
        for is_present in [|_| true, |i: usize| i % 2 == 1] {
            let result = router.weights(x, &options, &is_present, &mut weights);
            let nearest = router.nearest(x, &is_present);
            assert_eq!(result.is_ok(), nearest.is_some());
            if let Some(nearest) = nearest {
                assert!(is_present(nearest));
                assert!(weights.iter().all(|w| (0.0..=1.0).contains(w)));
                let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
                assert!((sum - 1.0).abs() < 1e-2, "{sum}");
            }
        }
    }
});
