//! Where experts compute: the flag `--device` of what runs them, and sessions there.

use crate::Result;
use crate::device::Device;
use clap::ValueEnum;
use xelm_runtime::cuda::Cuda;
use xelm_runtime::ensemble::Ensemble;
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::Parallel;
use xelm_runtime::session::{KvType, Options, Session};
use xelm_train::memory::Memory;

/// Tokens that a card reads at a time: enough to keep it busy.
const CARD_BATCH: usize = 256;

/// Where to run experts.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct ComputeArgs {
    /// Where to compute: `cpu`, `cuda`, `cuda:<i>` for the card i of `xelm devices`, or `auto` for a card where
    /// one can be used and the CPU otherwise. A card holds all experts that are present.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: Device,
    /// How keys and values are stored; q8_0 on the CPU only, where heads have a multiple of 32 numbers. The default
    /// is f32 where text is scored, f16 elsewhere.
    #[arg(long, value_name = "TYPE")]
    kv: Option<KvArg>,
}

/// [`KvType`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KvArg {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<KvArg> for KvType {
    fn from(kv: KvArg) -> Self {
        match kv {
            KvArg::F32 => KvType::F32,
            KvArg::F16 => KvType::F16,
            KvArg::Q8_0 => KvType::Q8_0,
        }
    }
}

impl ComputeArgs {
    /// This processor.
    pub(crate) const CPU: Self = ComputeArgs { device: Device::Cpu, kv: None };

    /// Calls `work` with a new session there, and the bytes that were taken of a card's memory.
    pub(crate) fn with_session<T>(
        self,
        ensemble: Ensemble<'_>,
        options: &Options,
        parallel: &dyn Parallel,
        work: impl FnOnce(&mut Session<'_>, usize) -> Result<T>,
    ) -> Result<T> {
        let options = &Options { kv: self.kv.map_or(options.kv, KvType::from), ..*options };
        let mut cuda = match self.device {
            Device::Cpu => None,
            Device::Cuda(index) => Some(open(index, ensemble, options)?),
            Device::Auto => match open(0, ensemble, options) {
                Ok(opened) => Some(opened),
                Err(why) => {
                    eprintln!("computing on the CPU: {why}");
                    None
                }
            },
        };
        let options = cuda.as_ref().map_or(*options, |(_, options)| *options);
        let mut memory = Memory::new(Session::plan(ensemble, &options)?.total);
        let (memory, kernels) = (memory.bytes(), Kernels::new(Isa::detect()));
        match &mut cuda {
            None => work(&mut Session::init(ensemble, &options, memory, kernels, parallel)?, 0),
            Some((cuda, _)) => {
                let taken = cuda.plan().total;
                let session = Session::init_on(cuda, ensemble, &options, memory, kernels, parallel);
                work(&mut session?, taken)
            }
        }
    }
}

/// A card, and the options of a session on it.
fn open(
    index: usize,
    ensemble: Ensemble<'_>,
    options: &Options,
) -> xelm_runtime::Result<(Cuda, Options)> {
    let options = on_card(options);
    let needs = Session::needs(ensemble, &options)?;
    Ok((Cuda::open(index, ensemble, &needs)?, options))
}

/// The same session on a card. One without a preference reads [`CARD_BATCH`] tokens at a time there.
pub(crate) fn on_card(options: &Options) -> Options {
    let is_default = options.n_batch == Options::default().n_batch;
    let n_batch = if is_default { CARD_BATCH } else { options.n_batch };
    Options { n_batch, on_device: true, ..*options }
}
