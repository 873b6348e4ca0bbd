//! Steps whose loss stands out from those before: broken documents, or a learning rate that is too high.

use std::collections::VecDeque;

/// Losses that the next one is compared with.
const WINDOW: usize = 64;
/// Fewer say nothing.
const ENOUGH: usize = 16;
/// Deviations above the mean at which a loss stands out.
const DEVIATIONS: f64 = 6.0;

/// The last losses.
#[derive(Debug, Default)]
pub(super) struct Spikes {
    losses: VecDeque<f64>,
}

impl Spikes {
    /// Goes on after these losses.
    pub(super) fn after(losses: &[f64]) -> Self {
        let mut spikes = Spikes::default();
        for &loss in losses {
            spikes.is_spike(loss);
        }
        spikes
    }

    /// Whether a loss stands out; it counts among the last ones from then on, unless it does.
    pub(super) fn is_spike(&mut self, loss: f64) -> bool {
        let n = self.losses.len();
        if n >= ENOUGH {
            let mean = self.losses.iter().sum::<f64>() / n as f64;
            let variance = self.losses.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / n as f64;
            // A loss that hardly varies must not make rounding a spike.
            let deviation = variance.sqrt().max(0.01 * mean);
            if loss > mean + DEVIATIONS * deviation {
                return true;
            }
        }
        self.losses.push_back(loss);
        if self.losses.len() > WINDOW {
            self.losses.pop_front();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_out() {
        let steady: Vec<f64> = (0..40).map(|i| 5.0 + 0.1 * f64::from(i % 3)).collect();
        let mut spikes = Spikes::after(&steady);
        assert!(!spikes.is_spike(5.3));
        assert!(spikes.is_spike(7.0));
        // A spike does not raise the bar for the next one.
        assert!(spikes.is_spike(7.0));
        assert!(!spikes.is_spike(4.0));
        // At the start nothing is known, and constant losses do not make noise a spike.
        assert!(!Spikes::after(&steady[..10]).is_spike(100.0));
        assert!(!Spikes::after(&[2.0; 64]).is_spike(2.001));
    }
}
