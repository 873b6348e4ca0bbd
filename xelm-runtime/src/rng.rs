//! Counter-based random numbers: Philox 4x32-10 (Salmon et al., SC 2011).
//!
//! A number depends on (seed, stream, counter) alone, so nothing has to be saved but three
//! integers, and a CPU and a GPU draw the same ones.

/// One stream of random numbers. `Copy`, so that saving it is saving its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng {
    key: [u32; 2],
    stream: u64,
    /// Index of the next 32-bit number.
    counter: u64,
}

impl Rng {
    /// The stream `stream` of seed `seed`, at its beginning.
    pub const fn new(seed: u64, stream: u64) -> Self {
        Rng { key: [seed as u32, (seed >> 32) as u32], stream, counter: 0 }
    }

    /// How many 32-bit numbers were drawn.
    pub const fn position(&self) -> u64 {
        self.counter
    }

    /// Goes to where `n` numbers have been drawn.
    pub const fn set_position(&mut self, n: u64) {
        self.counter = n;
    }

    /// The next uniform 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        let block = philox(self.counter / 4, self.stream, self.key);
        let word = block[(self.counter % 4) as usize];
        self.counter = self.counter.wrapping_add(1);
        word
    }

    /// The next uniform number in [0, 1), a multiple of 2⁻²⁴.
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// The next uniform integer in `0..n` (Lemire's multiplication, without the rejection step:
    /// the bias is below n / 2³²). `n = 0` gives 0.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(n)) >> 32) as u32
    }

    /// The next number of the standard normal distribution (Box–Muller).
    pub fn next_normal(&mut self) -> f32 {
        let u = 1.0 - self.next_f32();
        let (sin, _) = crate::math::sin_cos(core::f32::consts::TAU * self.next_f32());
        crate::math::sqrt(-2.0 * crate::math::ln(u)) * sin
    }

    /// Permutes a slice uniformly (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

/// Ten rounds of Philox 4x32 over the counter (`block`, `stream`).
#[inline]
pub const fn philox(block: u64, stream: u64, mut key: [u32; 2]) -> [u32; 4] {
    let mut c = [block as u32, (block >> 32) as u32, stream as u32, (stream >> 32) as u32];
    let mut round = 0;
    while round < 10 {
        let a = c[0] as u64 * 0xD251_1F53;
        let b = c[2] as u64 * 0xCD9E_8D57;
        c = [
            (b >> 32) as u32 ^ c[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ c[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        round += 1;
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors published with Random123.
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox(0, 0, [0, 0]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = u64::MAX;
        assert_eq!(
            philox(ones, ones, [u32::MAX, u32::MAX]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(0x85a3_08d3_243f_6a88, 0x0370_7344_1319_8a2e, [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn moments_and_bounds() {
        let mut rng = Rng::new(7, 1);
        let n = 100_000;
        let mut sum = 0.0;
        let mut squares = 0.0;
        for _ in 0..n {
            let x = f64::from(rng.next_normal());
            sum += x;
            squares += x * x;
        }
        assert!((sum / f64::from(n)).abs() < 0.02);
        assert!((squares / f64::from(n) - 1.0).abs() < 0.03);
        assert!((0..1000).all(|_| rng.below(3) < 3));
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn shuffle_is_a_permutation() {
        let mut items: [u32; 50] = core::array::from_fn(|i| i as u32);
        Rng::new(3, 9).shuffle(&mut items);
        let mut sorted = items;
        sorted.sort_unstable();
        assert_ne!(items, sorted);
        assert_eq!(sorted, core::array::from_fn(|i| i as u32));
    }
}
