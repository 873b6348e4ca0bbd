//! `plans.json`: which of several algorithms the job's device computes with, so that a job that is resumed goes on
//! with the same bits.

use super::write_json;
use crate::backend::{Backend, Plans};
use crate::report::Report;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Name of the record in a job's folder.
const PLANS: &str = "plans.json";

/// The record of a job.
#[derive(Debug)]
pub(super) struct PlansFile {
    path: PathBuf,
    /// What the file says, where it fits the device.
    written: Option<Plans>,
}

impl PlansFile {
    /// Makes the backend go on as the record says. Another device chooses anew, which is said.
    pub(super) fn open(
        folder: &Path,
        name: &str,
        backend: &mut dyn Backend,
        report: &mut dyn Report,
    ) -> Result<Self> {
        let path = folder.join(PLANS);
        let Some(own) = backend.plans() else { return Ok(PlansFile { path, written: None }) };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(PlansFile { path, written: None });
            }
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let recorded: Plans = serde_json::from_slice(&text).map_err(|e| {
            Error::usage(format!(
                "{} is no record of algorithms ({e}): remove it, and they are chosen anew",
                path.display()
            ))
        })?;
        let fits = backend.repeat(&recorded);
        if !fits {
            report.note(&format!(
                "{name}: was trained on {} with cuBLASLt {}, now it is {} with {}; algorithms are chosen anew, \
                 and last bits may differ from those of a job that stays where it is",
                recorded.card, recorded.library, own.card, own.library
            ));
        }
        Ok(PlansFile { path, written: fits.then_some(recorded) })
    }

    /// Writes what was chosen since the last call: before a checkpoint that was computed with it.
    pub(super) fn update(&mut self, backend: &dyn Backend) -> Result<()> {
        let plans = backend.plans();
        if let Some(now) = &plans
            && plans != self.written
        {
            write_json(&self.path, now)?;
            self.written = plans;
        }
        Ok(())
    }
}
