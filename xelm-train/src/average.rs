//! One model out of several: the weighted mean of their parameters. It makes sense for models that branched
//! from one seed, which share their geometry, and costs on a device what one of them costs.

use crate::assignment::Assignment;
use crate::checkpoint::{Checkpoint, CheckpointInfo, save_weights};
use crate::job::{JobSpec, to_json};
use crate::pack::export;
use crate::run::{ASSIGNMENT, Run};
use crate::weights::Weights;
use crate::{Error, Result};
use std::path::Path;
use xelm_runtime::config::Config;
use xelm_runtime::mmap::MappedFile;

/// A weighted sum of models.
#[derive(Debug)]
struct Mean<'a> {
    parts: &'a [(f32, Checkpoint)],
}

impl Weights for Mean<'_> {
    fn config(&self) -> &Config {
        // `average` takes one model at least.
        &self.parts[0].1.info.config
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) {
        let mut values = vec![0.0; out.len()];
        out.fill(0.0);
        for (weight, checkpoint) in self.parts {
            checkpoint.read(name, start, &mut values);
            out.iter_mut().zip(&values).for_each(|(sum, x)| *sum += weight * x);
        }
    }
}

/// Experts of a run and their shares in a mean, which add up to 1.
///
/// # Errors
/// Weights that are not as many as experts, negative, not finite, or all zero.
pub fn shares(experts: &[String], weights: Option<&[f32]>) -> Result<Vec<(String, f32)>> {
    let equal = vec![1.0; experts.len()];
    let weights = weights.unwrap_or(&equal);
    let sum: f32 = weights.iter().sum();
    let sound = weights.iter().all(|w| w.is_finite() && *w >= 0.0) && sum > 0.0;
    if weights.len() != experts.len() || !sound {
        return Err(Error::usage(format!(
            "{} experts need as many weights, none negative and not all zero",
            experts.len()
        )));
    }
    Ok(experts.iter().cloned().zip(weights.iter().map(|w| w / sum)).collect())
}

/// The shares that a language's training documents have in the `m` clusters that hold most of them.
///
/// # Errors
/// The run's clusters are not of documents, or have none of the language.
pub fn shares_of_language(run: &Run, language: &str, m: usize) -> Result<Vec<(String, f32)>> {
    let clusters = run.clusters()?;
    let path = run.path(ASSIGNMENT);
    if !path.exists() {
        return Err(Error::usage(format!(
            "{} has clusters of languages: a language's documents are all in one",
            run.path("").display()
        )));
    }
    let assignment = Assignment::open(&path, clusters.len())?;
    let of_language = assignment.languages.get(language).ok_or_else(|| {
        Error::usage(format!("the run has no documents of the language {language:?}"))
    })?;
    let mut sizes: Vec<(usize, usize)> =
        of_language.sizes(clusters.len()).into_iter().enumerate().collect();
    sizes.sort_by_key(|&(cluster, size)| (std::cmp::Reverse(size), cluster));
    sizes.truncate(m.max(1));
    sizes.retain(|&(_, size)| size > 0);
    let experts: Vec<String> = sizes.iter().map(|&(c, _)| clusters[c].id.clone()).collect();
    let weights: Vec<f32> = sizes.iter().map(|&(_, size)| size as f32).collect();
    shares(&experts, Some(&weights))
}

/// Writes the mean of a run's experts: as a checkpoint without moments, to branch from, as an expert file, or
/// both.
///
/// # Errors
/// An expert is not trained; they differ in dimensions or vocabulary; a file cannot be written.
pub fn average(
    run: &Run,
    name: &str,
    shares: &[(String, f32)],
    checkpoint: Option<&Path>,
    expert: Option<&Path>,
) -> Result<()> {
    let finished = |(id, weight): &(String, f32)| Ok((*weight, run.finished(id)?));
    let parts: Vec<(f32, Checkpoint)> = shares.iter().map(finished).collect::<Result<_>>()?;
    let Some((_, first)) = parts.first() else {
        return Err(Error::usage("a mean needs an expert at least"));
    };
    let alike = |c: &Checkpoint| {
        c.info.config == first.info.config && c.info.vocabulary == first.info.vocabulary
    };
    if !parts.iter().all(|(_, checkpoint)| alike(checkpoint)) {
        return Err(Error::usage("the experts differ in dimensions or vocabulary"));
    }
    let mut languages: Vec<String> = Vec::new();
    for (id, spoken) in run.experts()? {
        if shares.iter().any(|(expert, _)| *expert == id) {
            languages.extend(spoken);
        }
    }
    let of: Vec<String> = shares.iter().map(|(id, share)| format!("{share:.3} {id}")).collect();
    let spec = JobSpec::of(&first.info, &run.job_folder(&shares[0].0))?;
    let spec = JobSpec { name: name.to_owned(), languages, parent: of.join(" + "), ..spec };
    let info = CheckpointInfo {
        step: spec.settings.steps,
        tokens: parts.iter().map(|(_, c)| c.info.tokens).max().unwrap_or(0),
        adam_steps: 0,
        parent: spec.parent.clone(),
        job: to_json(&spec)?,
        ..first.info.clone()
    };
    let mean = Mean { parts: &parts };
    checkpoint.map_or(Ok(()), |path| save_weights(path, &info, &mean))?;
    let Some(path) = expert else { return Ok(()) };
    let vocabulary = run.tokenizer_path();
    let tokenizer = MappedFile::open(&vocabulary).map_err(Error::io("open", &vocabulary))?;
    let tokenizer = tokenizer.gguf().map_err(Error::file(&vocabulary))?;
    export(&info, &mean, &tokenizer, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let experts = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let equal = shares(&experts, None).unwrap();
        assert!(equal.iter().all(|(_, w)| (w - 1.0 / 3.0).abs() < 1e-7));
        let weighted = shares(&experts, Some(&[2.0, 0.0, 6.0])).unwrap();
        assert_eq!(weighted.iter().map(|(_, w)| *w).collect::<Vec<_>>(), [0.25, 0.0, 0.75]);
        for wrong in [&[1.0, 1.0][..], &[0.0; 3], &[1.0, -1.0, 1.0], &[f32::NAN; 3]] {
            assert!(shares(&experts, Some(wrong)).is_err());
        }
    }
}
