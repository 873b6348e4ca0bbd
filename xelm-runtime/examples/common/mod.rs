//! What the examples share: memory, and opening experts.

#![allow(dead_code, reason = "not every example takes all of it")]

use std::path::Path;
use std::process::ExitCode;
use xelm_runtime::arena::ALIGN;
use xelm_runtime::mmap::ExpertFile;
use xelm_runtime::pack::SetFolder;
use xelm_runtime::sampler::SamplerOptions;

/// Anything that ends an example.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The most probable token every time, but what has just been said is made rarer.
pub(crate) const GREEDY: SamplerOptions = SamplerOptions {
    temperature: 0.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repeat_penalty: 1.1,
    repeat_last: 64,
    seed: 0,
};

/// Runs an example with the program's arguments.
pub(crate) fn run(example: impl FnOnce(&[&str]) -> Result<()>) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match example(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// `n` bytes of a vector, aligned as sessions ask for. A program with a fixed arena would take them from
/// there, as `embedded` does.
pub(crate) fn memory(vec: &mut Vec<u8>, n: usize) -> &mut [u8] {
    vec.resize(n + ALIGN, 0);
    let start = vec.as_ptr().align_offset(ALIGN);
    &mut vec[start..][..n]
}

/// Opens the expert of the set in a folder that speaks a language; with the tag "-", an expert file.
pub(crate) fn open_model(path: &str, tag: &str) -> Result<ExpertFile> {
    let path = Path::new(path);
    if tag == "-" {
        return Ok(ExpertFile::open(path)?);
    }
    let folder = SetFolder::open(path)?;
    let set = folder.set()?;
    let selected = set.select(tag, |i| folder.is_present(i))?;
    eprintln!("{selected}");
    open_expert(&folder, selected.expert)
}

/// Opens expert `index` of a set.
pub(crate) fn open_expert(folder: &SetFolder, index: usize) -> Result<ExpertFile> {
    Ok(ExpertFile::open(&folder.expert(index).ok_or("the set has no such expert")?)?)
}
