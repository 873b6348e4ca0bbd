//! Blocks that ggml itself has written: the same bytes, and the same numbers read back.
//!
//! `tests/ggml_quants.sh` makes the committed ones, and streams many more through the test that is
//! ignored otherwise.

use std::fs::File;
use std::io::{BufReader, Read};
use xelm_quantize::quantize_row;
use xelm_runtime::quant::{DType, dequantize_row};

/// What `ggml_quants.c` writes.
struct Stream<R>(R);

impl<R: Read> Stream<R> {
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.0.read_exact(&mut bytes).expect("a whole batch");
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes(4).try_into().unwrap())
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        self.bytes(4 * n).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// The width of the next batch; `None` at the end.
    fn begin(&mut self) -> Option<usize> {
        let mut first = [0; 4];
        let n = self.0.read(&mut first).unwrap();
        if n == 0 {
            return None;
        }
        self.0.read_exact(&mut first[n..]).unwrap();
        Some(u32::from_le_bytes(first) as usize)
    }
}

fn fnv(hash: u64, x: &[f32]) -> u64 {
    let bytes = x.iter().flat_map(|x| x.to_le_bytes());
    bytes.fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Compares a stream to its end: blocks per type and (0, 1) importance.
fn compare(stream: impl Read) -> Vec<(DType, usize, u64)> {
    let mut stream = Stream(stream);
    let mut counts: Vec<(DType, usize, u64)> = Vec::new();
    let mut back = Vec::new();
    while let Some(n_cols) = stream.begin() {
        let n_rows = stream.u32() as usize;
        let importance = stream.floats(n_cols);
        let rows = stream.floats(n_rows * n_cols);
        for _ in 0..stream.u32() {
            let dtype = DType::from_ggml(stream.u32()).unwrap();
            let weighted = stream.u32() as usize;
            let importance = (weighted == 1).then_some(&importance[..]);
            let row_bytes = dtype.row_bytes(n_cols).unwrap();
            let expected = stream.bytes(n_rows * row_bytes);
            let mut hash = 0xcbf2_9ce4_8422_2325;
            let mut found = vec![0; row_bytes];
            back.resize(n_cols, 0.0);
            for (row, expected) in rows.chunks(n_cols).zip(expected.chunks(row_bytes)) {
                quantize_row(dtype, row, importance, &mut found).unwrap();
                assert_eq!(found, expected, "{dtype:?} {weighted}: {row:?}");
                dequantize_row(dtype, expected, &mut back).unwrap();
                hash = fnv(hash, &back);
            }
            assert_eq!(hash.to_le_bytes(), stream.bytes(8)[..], "{dtype:?}, read back");
            let n_blocks = (n_rows * n_cols / dtype.block_len()) as u64;
            match counts.iter_mut().find(|(d, w, _)| (*d, *w) == (dtype, weighted)) {
                Some((.., count)) => *count += n_blocks,
                None => counts.push((dtype, weighted, n_blocks)),
            }
        }
    }
    counts
}

#[test]
fn blocks_are_ggmls_bit_for_bit() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/ggml_quants.bin");
    let counts = compare(File::open(path).unwrap());
    let weights = DType::ALL.into_iter().filter(|d| d.holds_weights() && *d != DType::F32);
    for dtype in weights {
        assert!(counts.iter().any(|(d, w, n)| (*d, *w) == (dtype, 0) && *n > 10), "{dtype:?}");
    }
    assert_eq!(counts.iter().filter(|(_, weighted, _)| *weighted == 1).count(), 5);
}

#[test]
#[ignore = "tests/ggml_quants.sh runs it"]
fn many_blocks_are_ggmls() {
    let path = std::env::var_os("XELM_GGML_BLOCKS").expect("a stream");
    for (dtype, weighted, n) in
        compare(BufReader::with_capacity(1 << 20, File::open(path).unwrap()))
    {
        let how = if weighted == 1 { "with importance" } else { "without importance" };
        println!("{}\t{how}\t{n} blocks, the same bytes, the same numbers", dtype.name());
    }
}
