//! From a text's vector to the experts' weights.

use super::{Floats, Router};
use crate::error::{Error, Result};
use crate::math;

/// How an expert's weight falls with d², the squared distance of the text to its centroid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Power {
    /// exp(−d² / T), as the paper prints it.
    #[default]
    Paper,
    /// exp(−(d²)² / T), as the code released with the paper computes it.
    Release,
}

/// How experts are weighted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteOptions {
    /// The exponent of the distance.
    pub power: Power,
    /// T: the lower, the more the nearest expert counts. Finite and above 0.
    pub temperature: f32,
}

impl Default for RouteOptions {
    fn default() -> Self {
        RouteOptions { power: Power::Paper, temperature: 0.1 }
    }
}

impl Router<'_> {
    /// The weights of all experts for the text with the vector `x`: 0 for those not present, all others
    /// adding up to 1. Where `x` is zero, nothing is known of the text, and all present weigh the same.
    ///
    /// # Errors
    /// [`Error::BadParameter`] for a vector that does not have `n_dims` finite numbers or a temperature out
    /// of range; [`Error::BufferTooSmall`] where `out` does not have exactly `n_experts` elements;
    /// [`Error::NoExpert`] where none is present.
    pub fn weights(
        &self,
        x: &[f32],
        options: &RouteOptions,
        is_present: &dyn Fn(usize) -> bool,
        out: &mut [f32],
    ) -> Result<()> {
        let RouteOptions { power, temperature } = *options;
        if x.len() != self.n_dims || !x.iter().all(|x| x.abs() <= super::MAX_NUMBER) {
            return Err(Error::BadParameter { what: "the text's vector" });
        }
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(Error::BadParameter { what: "route_temperature" });
        }
        if out.len() != self.n_experts {
            return Err(Error::BufferTooSmall { needed: self.n_experts });
        }
        // Absent experts are infinitely far, which leaves them a weight of 0.
        let mut lowest = f32::INFINITY;
        for (expert, energy) in out.iter_mut().enumerate() {
            *energy = f32::INFINITY;
            if is_present(expert) {
                let d2 = self.distance(x, expert);
                *energy = if power == Power::Paper { d2 } else { d2 * d2 };
                lowest = lowest.min(*energy);
            }
        }
        if lowest == f32::INFINITY {
            return Err(Error::NoExpert);
        }
        let mut sum = 0.0;
        for weight in out.iter_mut() {
            *weight = math::exp((lowest - *weight) / temperature);
            sum += *weight;
        }
        out.iter_mut().for_each(|weight| *weight /= sum);
        Ok(())
    }

    /// The present expert of the largest weight: the nearest one, or the first where `x` is zero or several
    /// are equally near. `None` where none is present.
    pub fn nearest(&self, x: &[f32], is_present: &dyn Fn(usize) -> bool) -> Option<usize> {
        let mut nearest: Option<(usize, f32)> = None;
        for expert in (0..self.n_experts).filter(|&expert| is_present(expert)) {
            let d2 = self.distance(x, expert);
            if nearest.is_none_or(|(_, least)| d2 < least) {
                nearest = Some((expert, d2));
            }
        }
        nearest.map(|(expert, _)| expert)
    }

    /// ‖x − c‖² for the centroid c of an expert; 0 for all where `x` is zero.
    fn distance(&self, x: &[f32], expert: usize) -> f32 {
        if x.iter().all(|&x| x == 0.0) {
            return 0.0;
        }
        let centroid: Floats<'_> =
            self.centroids.chunks(self.n_dims).nth(expert).unwrap_or_default();
        x.iter().zip(centroid).fold(0.0, |sum, (x, c)| {
            let difference = x - f32::from_le_bytes(*c);
            sum + difference * difference
        })
    }
}
