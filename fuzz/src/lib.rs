//! What the fuzz targets share: bytes as a reader wants them, and the use of whatever opens.

use std::path::Path;
use xelm_runtime::Result;
use xelm_runtime::ensemble::Ensemble;
use xelm_runtime::expert::{Expert, Layer};
use xelm_runtime::format::{Gguf, Value};
use xelm_runtime::isa::Isa;
use xelm_runtime::kernels::Kernels;
use xelm_runtime::parallel::Serial;
use xelm_runtime::router::Router;
use xelm_runtime::sampler::{Sampler, SamplerOptions};
use xelm_runtime::session::{Options, Session};
use xelm_runtime::tokenizer::TextStream;

/// Sessions larger than this are not made: a model may ask for any size, and the caller decides
/// what is too much.
const MAX_MEMORY: usize = 1 << 24;

/// Memory aligned to 64 bytes.
#[derive(Debug)]
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` bytes of no particular value.
    pub fn new(len: usize) -> Self {
        let bytes = vec![0xa5; len + 63];
        let start = bytes.as_ptr().addr().next_multiple_of(64) - bytes.as_ptr().addr();
        Aligned { bytes, start, len }
    }

    /// A copy.
    pub fn copy(bytes: &[u8]) -> Self {
        let mut copy = Aligned::new(bytes.len());
        copy.bytes().copy_from_slice(bytes);
        copy
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Walks everything that an open file offers.
pub fn walk(gguf: &Gguf<'_>) {
    for (key, value) in gguf.metadata() {
        assert!(gguf.get(key).is_some());
        if let Value::Array(array) = value {
            let n = array.strings().count();
            assert!(n == 0 || n == array.len);
            for i in [0, array.len / 2, array.len] {
                let _ = (array.bits32(i), array.bits64(i));
            }
        }
    }
    assert_eq!(gguf.tensors().count(), gguf.n_tensors());
    for tensor in gguf.tensors() {
        assert!(gguf.tensor(tensor.name).is_some());
        assert_eq!(tensor.dtype.row_bytes(tensor.n_cols()).map(|n| n * tensor.n_rows()), {
            Some(tensor.bytes.len())
        });
    }
}

/// Opens an expert and reads, writes, rewinds and scores with it.
///
/// # Errors
/// The rule that the file breaks, or the call that the model cannot serve.
pub fn use_expert(bytes: &[u8], text: &[u8]) -> Result<()> {
    let gguf = Gguf::open(bytes)?;
    let mut layers = vec![Layer::default(); Expert::n_layer(&gguf)?];
    let expert = Expert::open(gguf, &mut layers)?;
    let _ = Expert::verify(&gguf);
    let n_ctx = expert.config().n_ctx.min(24);
    let options = Options { n_ctx, n_batch: 3, max_text: 256, ..Options::default() };
    let plan = Session::plan(&expert, &options)?;
    if plan.total > MAX_MEMORY {
        return Ok(());
    }
    let mut memory = Aligned::new(plan.total);
    let kernels = Kernels::new(Isa::detect());
    let mut session = Session::init(&expert, &options, memory.bytes(), kernels, &Serial)?;
    session.prefill(&[0])?;
    session.reset();
    use_session(&mut session, text)
}

/// Reads, writes, rewinds and scores.
///
/// # Errors
/// The call that the model cannot serve.
pub fn use_session(session: &mut Session<'_>, text: &[u8]) -> Result<()> {
    session.prefill_text(text)?;
    let n_past = session.n_past();
    let options = SamplerOptions {
        temperature: 0.8,
        top_k: 9,
        top_p: 0.9,
        min_p: 0.01,
        repeat_penalty: 1.1,
        repeat_last: 5,
        seed: 1,
    };
    let mut sampler = Sampler::new(options)?;
    session.generate(&mut sampler, 3, TextStream::continuing(), |_| true)?;
    session.rewind(n_past)?;
    session.score_text(text).map(drop)
}

/// Changes bytes as a fuzzer says: the first byte is the number of changes, each being three bytes of
/// position and one to xor. Returns what follows them.
pub fn change<'d>(bytes: &mut [u8], data: &'d [u8]) -> Option<&'d [u8]> {
    let (&n, rest) = data.split_first()?;
    let (changes, rest) = rest.split_at_checked(4 * usize::from(n))?;
    for &[a, b, c, change] in changes.as_chunks::<4>().0 {
        let at = u32::from_le_bytes([a, b, c, 0]) as usize;
        if let Some(byte) = at.checked_rem(bytes.len()).and_then(|at| bytes.get_mut(at)) {
            *byte ^= change;
        }
    }
    Some(rest)
}

/// A file that `fuzz/seeds.sh` made, for the life of the process.
pub fn seed(name: &str) -> &'static [u8] {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let bytes = std::fs::read(&path).expect("fuzz/seeds.sh has been run");
    let Aligned { bytes, start, len } = Aligned::copy(&bytes);
    &bytes.leak()[start..start + len]
}

/// Two tiny experts and their router.
pub fn ensemble() -> Ensemble<'static> {
    let expert = |name| -> Option<&'static Expert<'static>> {
        let gguf = Gguf::open(seed(name)).expect("a valid file");
        let layers = vec![Layer::default(); Expert::n_layer(&gguf).expect("an expert")].leak();
        Some(Box::leak(Box::new(Expert::open(gguf, layers).expect("an expert"))))
    };
    let experts = vec![expert("de.gguf"), expert("ja.gguf")].leak();
    let router = Gguf::open(seed("router.gguf")).expect("a valid file");
    Ensemble::new(experts, Router::open(&router).expect("a router")).expect("they fit")
}
