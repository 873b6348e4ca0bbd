//! The flag `--device`, and `xelm devices`.

use crate::{Result, print_line};
use serde_json::json;
use std::str::FromStr;
use xelm_runtime::isa::Isa;
use xelm_train::backend::cuda::{Cuda, Driver, Precision, Replicas, cards, has_cublaslt, has_nccl};
use xelm_train::backend::{Backend, Cpu};

/// Where to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Cpu,
    Cuda(usize),
    /// The first card where it can be used, else the CPU.
    Auto,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("cpu", _) => Ok(Device::Cpu),
            ("auto", _) => Ok(Device::Auto),
            ("cuda", _) => Ok(Device::Cuda(0)),
            (_, Some(Ok(index))) => Ok(Device::Cuda(index)),
            _ => Err("give cpu, cuda, cuda:<number of the card>, or auto".into()),
        }
    }
}

/// A device, or several cards.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Devices {
    One(Device),
    Cards(Vec<usize>),
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.strip_prefix("cuda:") {
            Some(list) if list.contains(',') => {
                let numbers: std::result::Result<_, _> = list.split(',').map(str::parse).collect();
                numbers.map(Devices::Cards).map_err(|_| "give cards as in cuda:0,1".into())
            }
            _ => text.parse().map(Devices::One),
        }
    }
}

/// Which device trains, and how exactly it computes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DeviceArgs {
    /// Where to train: `cpu`, `cuda`, `cuda:<i>` for the card i of `xelm devices`, `cuda:<i>,<j>` for several cards
    /// that share every batch, or `auto` for a card where one can be used and the CPU otherwise. A job may change
    /// the device whenever it is resumed; on the same device it goes on with the same bits. On a card with cuBLASLt
    /// the fastest algorithms are found by timing, and kept in the job's `plans.json`. Several cards need NCCL, and
    /// at least a micro-batch each.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: Devices,
    /// Numbers that linear and output layers multiply: `bf16` (what a card does unless told otherwise; a CPU
    /// needs AVX512-BF16 for it) or `f32` (what a CPU does). Master weights and sums are f32 either way.
    #[arg(long, value_enum)]
    precision: Option<PrecisionArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PrecisionArg {
    Bf16,
    F32,
}

impl DeviceArgs {
    /// Opens the device. Only `auto` tries another where it cannot be had, and says so.
    pub(crate) fn open(&self) -> xelm_train::Result<Box<dyn Backend>> {
        let precision = match self.precision {
            Some(PrecisionArg::F32) => Precision::F32,
            Some(PrecisionArg::Bf16) | None => Precision::Bf16,
        };
        Ok(match &self.device {
            Devices::Cards(numbers) => Box::new(Replicas::open(numbers, precision)?),
            Devices::One(Device::Cpu) => self.open_cpu()?,
            Devices::One(Device::Cuda(index)) => {
                Box::new(Cuda::new(Driver::open(*index, precision)?))
            }
            Devices::One(Device::Auto) => match Driver::open(0, precision) {
                Ok(driver) => Box::new(Cuda::new(driver)),
                Err(why) => {
                    eprintln!("training on the CPU: {why}");
                    self.open_cpu()?
                }
            },
        })
    }

    /// How many jobs may run side by side on as many threads.
    pub(crate) fn most_jobs(&self, threads: usize) -> usize {
        if self.check_jobs(threads).is_ok() { threads } else { 1 }
    }

    /// Refuses jobs side by side that each train on several cards: their sums could wait for each other for ever.
    pub(crate) fn check_jobs(&self, jobs: usize) -> Result<()> {
        match &self.device {
            Devices::Cards(_) if jobs > 1 => Err(format!(
                "{jobs} jobs at once on several cards each: say --jobs 1, or start a command for each card"
            )
            .into()),
            _ => Ok(()),
        }
    }

    fn open_cpu(&self) -> xelm_train::Result<Box<dyn Backend>> {
        Ok(match self.precision {
            Some(PrecisionArg::Bf16) if Cpu::has_bf16() => Box::new(Cpu::bf16()),
            Some(PrecisionArg::Bf16) => {
                return Err(xelm_train::Error::usage(
                    "--precision bf16: this CPU cannot multiply bf16 (AVX512-BF16 is missing); leave the \
                     flag away to train in f32",
                ));
            }
            Some(PrecisionArg::F32) | None => Box::new(Cpu::new()),
        })
    }
}

/// Lists what this machine can train on, and what is missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, threads: usize) -> Result<()> {
        let isa = Isa::detect().name();
        let cards = cards();
        let (cublaslt, nccl) = (has_cublaslt(), has_nccl());
        if self.json {
            let list = cards.iter().flatten().map(|card| {
                json!({
                    "device": format!("cuda:{}", card.index), "name": card.name,
                    "compute_capability": [card.compute.0, card.compute.1],
                    "memory": card.memory, "unfit": card.unfit(),
                })
            });
            return print_line(json!({
                "cpu": {"threads": threads, "instructions": isa, "bf16": Cpu::has_bf16()},
                "cuda": list.collect::<Vec<_>>(),
                "cublaslt": cublaslt,
                "nccl": nccl,
                "missing": cards.as_ref().err().map(ToString::to_string),
            }));
        }
        let bf16 = if Cpu::has_bf16() { ", bf16" } else { "" };
        print_line(format_args!("cpu      {threads} threads, {isa}{bf16}"))?;
        match &cards {
            Err(why) => print_line(format_args!("cuda     none: {why}"))?,
            Ok(cards) if cards.is_empty() => {
                print_line("cuda     none: the driver works, but shows no card")?;
            }
            Ok(cards) => {
                for card in cards {
                    let gib = card.memory as f64 / f64::from(1u32 << 30);
                    let (major, minor) = card.compute;
                    let what = card.unfit().map_or_else(
                        || format!("{gib:.0} GiB, compute capability {major}.{minor}"),
                        |why| format!("cannot be used: {why}"),
                    );
                    print_line(format_args!("cuda:{:<3} {}, {what}", card.index, card.name))?;
                }
                let library = if cublaslt {
                    "found"
                } else {
                    "not found; our own kernels multiply, at about half the speed. It comes with the \
                     CUDA toolkit and with PyTorch: put its folder on LD_LIBRARY_PATH"
                };
                print_line(format_args!("cuBLASLt {library}"))?;
                if cards.len() > 1 {
                    let library =
                        if nccl { "found" } else { "not found; a model trains on one card" };
                    print_line(format_args!("NCCL     {library}"))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        for (text, device) in [
            ("cpu", Device::Cpu),
            ("cuda", Device::Cuda(0)),
            ("cuda:3", Device::Cuda(3)),
            ("auto", Device::Auto),
        ] {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(text.parse(), Ok(Devices::One(device)));
        }
        assert_eq!("cuda:2,0".parse(), Ok(Devices::Cards(vec![2, 0])));
        for text in
            ["", "gpu", "cpu:1", "cuda:", "cuda:-1", "cuda:a", "cuda:0,", "cpu,cuda:0", "CUDA"]
        {
            assert!(text.parse::<Device>().is_err(), "{text}");
            assert!(text.parse::<Devices>().is_err(), "{text}");
        }
        assert!("cuda:0,1".parse::<Device>().is_err());
    }
}
