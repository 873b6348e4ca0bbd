//! The C ABI on a card: the library's host side over a driver that executes the kernels on this CPU.

use core::mem::MaybeUninit;
use core::ptr::null_mut;
use xelm::params::*;
use xelm::session::*;
use xelm::status::*;
use xelm_tests::c_abi::{Opened, Params, filled, generate, pointer, prefill_text, tiny_expert};
use xelm_tests::shim::FakeDriver;

/// Options with a device.
fn on(device: xelm_device) -> Params {
    let mut params = Params::new();
    // SAFETY: initialised options.
    assert_eq!(unsafe { xelm_params_set_device(params.get(), device) }, XELM_OK);
    params
}

fn plan(params: &mut Params, opened: &Opened) -> xelm_plan {
    let mut plan = MaybeUninit::<xelm_plan>::uninit();
    // SAFETY: initialised options, an open expert and a place for the plan.
    let status = unsafe { xelm_session_plan(params.get(), opened.expert, plan.as_mut_ptr()) };
    assert_eq!(status, XELM_OK);
    // SAFETY: filled, as the status says.
    unsafe { plan.assume_init() }
}

#[test]
fn a_card_writes_what_the_cpu_writes() {
    let Some(driver) = FakeDriver::load() else { return };
    let cpu = Opened::new(&tiny_expert(), &mut on(XELM_DEVICE_CPU));
    let launches = driver.counts().launches;
    let card = Opened::new(&tiny_expert(), &mut on(0));
    let texts = [&cpu, &card].map(|opened| {
        assert_eq!(prefill_text(opened.session, "Am Morgen"), XELM_OK);
        generate(opened.session, 20)
    });
    assert_eq!(texts[0], texts[1]);
    assert!(driver.counts().launches > launches);
    let (on_cpu, on_card) = (plan(&mut on(XELM_DEVICE_CPU), &cpu), plan(&mut on(0), &cpu));
    assert!(on_cpu.device == 0 && on_card.kv < on_cpu.kv, "{on_card:?}");
    assert!(on_card.device > on_cpu.mapped && on_card.total < on_cpu.total, "{on_card:?}");
}

#[test]
fn a_card_that_is_not_there_is_refused() {
    let Some(_driver) = FakeDriver::load() else { return };
    let cpu = Opened::new(&tiny_expert(), &mut Params::new());
    let mut params = on(7);
    let total = plan(&mut params, &cpu).total;
    let (mut memory, mut session) = (filled(total), null_mut());
    let memory = pointer(&mut memory);
    // SAFETY: initialised options, an open expert, memory of this size and a place for the handle.
    let status =
        unsafe { xelm_session_init(params.get(), cpu.expert, memory, total, &mut session) };
    assert_eq!((status, session), (XELM_DEVICE, null_mut()));
    assert!(params.error().contains("no such card"), "{}", params.error());
    // SAFETY: initialised options.
    assert_eq!(unsafe { xelm_params_set_device(params.get(), -2) }, XELM_BAD_PARAMETER);
}
