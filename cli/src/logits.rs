//! `xelm logits`

use crate::Result;
use crate::compute::ComputeArgs;
use crate::open::ExpertArgs;
use std::io::Write;
use std::path::PathBuf;
use xelm_runtime::format::AtomicFile;
use xelm_runtime::pool::Pool;
use xelm_runtime::session::{KvType, Options, Want};

/// Writes the logits after every token of a sequence as a NumPy array, f32 [n_token, n_vocab].
///
/// Keys and values are kept in full precision. A shortlist is not used.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    expert: ExpertArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Token ids, separated by commas; sequences begin with 2 (</s>).
    #[arg(long, value_delimiter = ',', required = true, value_name = "IDS")]
    tokens: Vec<u32>,
    /// The .npy file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Args {
    pub(crate) fn run(self, threads: usize) -> Result<()> {
        let opened = self.expert.open()?;
        let expert = opened.file.expert();
        let options = Options {
            kv: KvType::F32,
            n_logits: 8,
            max_text: 0,
            full_output: true,
            ..Options::default()
        };
        let pool = Pool::new(threads)?;
        let fail = |e: std::io::Error| format!("cannot write {}: {e}", self.out.display());
        let mut file = AtomicFile::create(&self.out).map_err(fail)?;
        let shape = [self.tokens.len(), expert.config().n_vocab];
        file.write_all(&npy_header(shape)).map_err(fail)?;
        let mut written = Ok(());
        let mut write = |_: usize, logits: &[f32]| {
            for logit in logits {
                if written.is_ok() {
                    written = file.write_all(&logit.to_le_bytes());
                }
            }
        };
        self.compute.with_session(expert.into(), &options, &pool, |session, _| {
            Ok(session.run(&self.tokens, Want::All(&mut write))?)
        })?;
        written.map_err(fail)?;
        Ok(file.commit().map_err(fail)?)
    }
}

/// The header of a version 1.0 .npy file of little-endian f32 in C order.
fn npy_header(shape: [usize; 2]) -> Vec<u8> {
    let mut dict = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
        shape[0], shape[1]
    );
    // Magic, version and length take ten bytes; the whole is padded to 64 and ends in a newline.
    let len = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    while dict.len() + 1 < len {
        dict.push(' ');
    }
    dict.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((len as u16).to_le_bytes());
    header.extend(dict.into_bytes());
    header
}
