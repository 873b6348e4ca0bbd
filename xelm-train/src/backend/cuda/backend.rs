//! Memory, steps and updates on a card.

use super::{
    Arg, BLOCK, Cuda, Device, LOOP_BLOCKS, Precision, Ptr, grow, memory_bytes, region_bytes,
};
use crate::Result;
use crate::backend::{AdamW, Backend, Operations, Plans, Region, Sizes, Span, StepStats};

/// What a card has gathered in a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathered {
    pub(super) loss_sum: f64,
    pub(super) grad_norm: f64,
    pub(super) n_targets: u64,
}

impl<D: Device> Cuda<D> {
    /// Waits for the card, and begins to gather anew.
    pub(super) fn gather(&mut self) -> Result<Gathered> {
        self.check()?;
        let mut stats = [0.0f64; 2];
        self.device.download(self.stats.at, bytemuck::cast_slice_mut(&mut stats))?;
        self.device.clear(self.stats.at, 2 * 8);
        let [loss_sum, grad_norm] = stats;
        Ok(Gathered { loss_sum, grad_norm, n_targets: std::mem::take(&mut self.n_targets) })
    }
}

impl<D: Device> Backend for Cuda<D> {
    fn allocate(&mut self, sizes: Sizes) -> Result<()> {
        let precision = self.precision();
        let n_bytes = memory_bytes(&sizes, precision);
        grow(&mut self.device, &mut self.memory, n_bytes)?;
        grow(&mut self.device, &mut self.stats, 3 * 8)?;
        self.device.clear(self.memory.at, n_bytes);
        self.device.clear(self.stats.at, 3 * 8);
        let mut end = self.memory.at;
        for region in Region::ALL {
            self.base[region as usize] = end;
            end = end.offset(region_bytes(&sizes, region, precision));
        }
        self.weights = match precision {
            Precision::F32 => self.base[Region::Params as usize],
            Precision::Bf16 => end,
        };
        (self.n_targets, self.failed) = (0, None);
        self.device.finish()
    }

    fn n_bytes(&self) -> usize {
        [self.memory, self.stats, self.scratch, self.batch.buffer].iter().map(|b| b.n_bytes).sum()
    }

    fn plans(&self) -> Option<Plans> {
        self.device.plans()
    }

    fn repeat(&mut self, plans: &Plans) -> bool {
        self.device.repeat(plans)
    }

    fn write(&mut self, to: Span, values: &[f32]) {
        let bytes = bytemuck::cast_slice(values);
        let address = self.address(to);
        if self.precision() == Precision::Bf16 && to.region == Region::Activations {
            let wide = self.scratch(bytes.len());
            self.device.upload(wide, bytes);
            self.narrow(address, wide, values.len());
            return;
        }
        self.device.upload(address, bytes);
        if self.precision() == Precision::Bf16 && to.region == Region::Params {
            self.narrow(self.weight(to), address, values.len());
        }
    }

    fn read(&mut self, from: Span, values: &mut [f32]) -> Result<()> {
        if self.precision() == Precision::Bf16 && from.region == Region::Activations {
            let mut bits = vec![0u16; values.len()];
            self.device.download(self.address(from), bytemuck::cast_slice_mut(&mut bits))?;
            for (value, bits) in values.iter_mut().zip(bits) {
                *value = f32::from_bits(u32::from(bits) << 16);
            }
            return Ok(());
        }
        self.device.download(self.address(from), bytemuck::cast_slice_mut(values))
    }

    fn begin_step(&mut self, grads: Span) {
        self.zero(grads);
    }

    fn load_batch(&mut self, inputs: &[u32], targets: &[u32]) {
        if let Err(error) = self.batch.load(&mut self.device, inputs, targets) {
            // The step goes on without launching anything.
            self.failed.get_or_insert(error);
        }
    }

    fn operations(&mut self) -> &mut dyn Operations {
        self
    }

    fn grad_norm(&mut self, grads: Span) {
        // An update differs from the last one, the micro-batch before it does not.
        self.device.submit();
        let partial = self.scratch(LOOP_BLOCKS as usize * 8);
        let n_blocks = (grads.len as u64).div_ceil(u64::from(BLOCK)).min(LOOP_BLOCKS);
        let args = [Arg::Ptr(partial), self.at(grads), Arg::U64(grads.len as u64)];
        self.launch("square_sums", [n_blocks as usize, 1, 1], &args);
        let norm = self.stats.at.offset(8);
        let args = [Arg::Ptr(norm), Arg::Ptr(partial), Arg::U32(n_blocks as u32)];
        self.launch("norm_of_sums", [1, 1, 1], &args);
    }

    fn adamw(&mut self, params: Span, settings: AdamW) {
        let AdamW { lr, beta1, beta2, eps, weight_decay, max_norm, .. } = settings;
        let (correction1, correction2) = settings.corrections();
        let copy = match self.precision() {
            Precision::F32 => Ptr::NULL,
            Precision::Bf16 => self.weight(params),
        };
        let args = [
            self.at(params),
            Arg::Ptr(copy),
            self.at(params.of(Region::Grads)),
            self.at(params.of(Region::Moment1)),
            self.at(params.of(Region::Moment2)),
            Arg::Ptr(self.stats.at.offset(8)),
            Arg::U64(params.len as u64),
            Arg::F32(1.0 - lr * weight_decay),
            Arg::F32(lr / correction1),
            Arg::F32(1.0 / xelm_runtime::math::sqrt(correction2)),
            Arg::F32(beta1),
            Arg::F32(beta2),
            Arg::F32(eps),
            Arg::F32(max_norm),
        ];
        self.launch_loop("adamw", params.len as u64, &args);
    }

    fn finish_step(&mut self) -> Result<StepStats> {
        let Gathered { loss_sum, grad_norm, n_targets } = self.gather()?;
        Ok(StepStats { loss: loss_sum / n_targets as f64, grad_norm })
    }

    fn first_non_finite(&mut self, spans: &[Span]) -> Result<Option<usize>> {
        for (i, &span) in spans.iter().enumerate() {
            let mut values = vec![0.0; span.len];
            self.read(span, &mut values)?;
            if !values.iter().all(|x| x.is_finite()) {
                return Ok(Some(i));
            }
        }
        Ok(None)
    }
}
