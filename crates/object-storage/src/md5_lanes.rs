//! MD5 of several bodies at once. One MD5 is a chain in which every step waits for the one before, so that a processor
//! spends most of it waiting; several chains side by side in the lanes of its vectors take hardly longer than one.
//!
//! While there are no more bodies than threads, each has one to itself; further ones join those that are under
//! way, and all that one thread has step forward together, block by block. A body joins between two strides and leaves
//! when its bytes are used up. Source of the algorithm: RFC 1321.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

/// Bytes that are digested in one step.
const BLOCK: usize = 64;
/// Chains side by side: what a vector of AVX2 has.
const LANES: usize = 8;
/// So few are done as fast one after the other.
const FEW: usize = 1;
/// After so many steps somebody may join.
const STRIDE: usize = 256;

type Block = [u8; BLOCK];

/// What is known of a body so far.
#[derive(Debug, Clone)]
pub(crate) struct Md5 {
    words: [u32; 4],
    tail: Block,
    length: u64,
}

impl Md5 {
    pub(crate) fn new() -> Self {
        Self { words: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476], tail: [0; BLOCK], length: 0 }
    }

    /// Bytes in `tail`.
    fn held(&self) -> usize {
        (self.length % BLOCK as u64) as usize
    }

    /// On this thread, alone.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        bytes = self.top_up(bytes);
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        digest(blocks, &mut self.words);
        self.length += (blocks.len() * BLOCK) as u64;
        self.hold(rest);
    }

    /// Together with whoever else is at it, where the processor can. The answer comes when all of `pieces` are in.
    pub(crate) fn update_beside_others(mut self, pieces: Arc<[Bytes]>) -> Receiver<Self> {
        let (answer, wait) = channel();
        if let Some(threads) = *THREADS {
            threads.push(Job { md5: self, pieces, piece: 0, offset: 0, answer });
        } else {
            pieces.iter().for_each(|piece| self.update(piece));
            // The receiver is here.
            let _ = answer.send(self);
        }
        wait
    }

    pub(crate) fn finish(mut self) -> [u8; 16] {
        let bits = self.length.wrapping_mul(8).to_le_bytes();
        let padding = if self.held() < 56 { 56 - self.held() } else { 120 - self.held() };
        let mut end = [0; 128];
        end[0] = 0x80;
        end[padding..padding + 8].copy_from_slice(&bits);
        self.update(&end[..padding + 8]);
        let mut digest = [0; 16];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.words) {
            *bytes = word.to_le_bytes();
        }
        digest
    }

    /// Completes the block that is held, if there is one. Returns what it did not take.
    fn top_up<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let held = self.held();
        if held == 0 {
            return bytes;
        }
        let (more, rest) = bytes.split_at(bytes.len().min(BLOCK - held));
        self.tail[held..held + more.len()].copy_from_slice(more);
        self.length += more.len() as u64;
        if self.held() == 0 {
            digest(&[self.tail], &mut self.words);
        }
        rest
    }

    /// Less than a block, where none is held.
    fn hold(&mut self, bytes: &[u8]) {
        self.tail[..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len() as u64;
    }
}

struct Job {
    md5: Md5,
    pieces: Arc<[Bytes]>,
    /// Where it is: a piece, and a place in it.
    piece: usize,
    offset: usize,
    answer: Sender<Md5>,
}

impl Job {
    /// Goes over what does not fill a block. False: nothing is left.
    fn reach_blocks(&mut self) -> bool {
        while let Some(piece) = self.pieces.get(self.piece) {
            let rest = self.md5.top_up(&piece[self.offset..]);
            if rest.len() >= BLOCK {
                self.offset = piece.len() - rest.len();
                return true;
            }
            if !rest.is_empty() {
                self.md5.hold(rest);
            }
            (self.piece, self.offset) = (self.piece + 1, 0);
        }
        false
    }

    fn blocks(&self) -> &[Block] {
        self.pieces.get(self.piece).map_or(&[], |piece| piece[self.offset..].as_chunks().0)
    }

    fn has_done(&mut self, blocks: usize, words: [u32; 4]) {
        self.md5.words = words;
        self.md5.length += (blocks * BLOCK) as u64;
        self.offset += blocks * BLOCK;
    }
}

/// The threads that digest: one for two processors.
struct Threads {
    queue: Mutex<Queue>,
    bell: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that wait for the bell.
    idle: usize,
}

/// None: this processor has no lanes, or no thread could be started.
static THREADS: LazyLock<Option<&'static Threads>> = LazyLock::new(|| {
    if !has_lanes() {
        return None;
    }
    let threads: &'static Threads = Box::leak(Box::new(Threads { queue: Mutex::default(), bell: Condvar::new() }));
    // The other half has to bring the bytes.
    let wanted = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2);
    let start = |_| std::thread::Builder::new().name("md5".into()).spawn(|| threads.run());
    let started = (0..wanted).filter_map(|number| start(number).ok()).count();
    (started > 0).then_some(threads)
});

impl Threads {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) {
        self.queue().jobs.push_back(job);
        self.bell.notify_one();
    }

    fn run(&self) {
        let mut lanes: Vec<Job> = Vec::with_capacity(LANES);
        loop {
            self.board(&mut lanes);
            for job in lanes.extract_if(.., |job| !job.reach_blocks()) {
                // Nobody waits any more if the body was given up.
                let _ = job.answer.send(job.md5);
            }
            stride(&mut lanes);
        }
    }

    /// Takes in who waits: one, if there is nothing to do; more of them only if every other thread is busy, too.
    fn board(&self, lanes: &mut Vec<Job>) {
        let mut queue = self.queue();
        while lanes.is_empty() {
            match queue.jobs.pop_front() {
                Some(job) => lanes.push(job),
                None => {
                    queue.idle += 1;
                    queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
                    queue.idle -= 1;
                }
            }
        }
        while queue.idle == 0
            && lanes.len() < LANES
            && let Some(job) = queue.jobs.pop_front()
        {
            lanes.push(job);
        }
    }
}

/// Takes all of them forward by as many blocks as each of them has.
fn stride(lanes: &mut [Job]) {
    let steps = lanes.iter().map(|job| job.blocks().len()).min().unwrap_or(0).min(STRIDE);
    if lanes.len() <= FEW {
        for job in lanes {
            let mut words = job.md5.words;
            digest(&job.blocks()[..steps], &mut words);
            job.has_done(steps, words);
        }
    } else if let Some(first) = lanes.first() {
        // A lane without a job does what the first does.
        let job = |lane: usize| lanes.get(lane).unwrap_or(first);
        let blocks = std::array::from_fn(|lane| &job(lane).blocks()[..steps]);
        let mut words = std::array::from_fn(|word| std::array::from_fn(|lane| job(lane).md5.words[word]));
        side_by_side(blocks, &mut words);
        for (lane, job) in lanes.iter_mut().enumerate() {
            job.has_done(steps, words.map(|word| word[lane]));
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_lanes() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[cfg(target_arch = "x86_64")]
fn side_by_side(blocks: [&[Block]; LANES], words: &mut [[u32; LANES]; 4]) {
    if std::arch::is_x86_feature_detected!("avx512vl") {
        // SAFETY: who has AVX-512VL has AVX-512F and AVX2.
        return unsafe { vectors::avx512(blocks, words) };
    }
    // SAFETY: nothing gets here unless the processor has AVX2.
    unsafe { vectors::avx2(blocks, words) }
}

#[cfg(not(target_arch = "x86_64"))]
fn has_lanes() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn side_by_side(blocks: [&[Block]; LANES], words: &mut [[u32; LANES]; 4]) {
    for lane in 0..LANES {
        let mut chain = words.map(|lanes| lanes[lane]);
        digest(blocks[lane], &mut chain);
        for (lanes, word) in words.iter_mut().zip(chain) {
            lanes[lane] = word;
        }
    }
}

/// The constants of RFC 1321, 3.4: 2^32 times the absolute value of the sine of 1 to 64.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
];
/// By how much the four steps of each round rotate.
const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// One chain.
fn digest(blocks: &[Block], words: &mut [u32; 4]) {
    for block in blocks {
        let message: [u32; 16] = std::array::from_fn(|word| u32::from_le_bytes(block.as_chunks().0[word]));
        let [mut a, mut b, mut c, mut d] = *words;
        macro_rules! round {
            ($round:literal, $mix:expr, $word:expr) => {
                for at in 0..16 {
                    let mixed: u32 = $mix(b, c, d);
                    let sum = a
                        .wrapping_add(mixed)
                        .wrapping_add(SINES[$round * 16 + at])
                        .wrapping_add(message[$word(at) % 16]);
                    (a, b, c, d) = (d, sum.rotate_left(TURNS[$round][at % 4]).wrapping_add(b), b, c);
                }
            };
        }
        round!(0, |x: u32, y: u32, z: u32| z ^ (x & (y ^ z)), |at: usize| at);
        round!(1, |x: u32, y: u32, z: u32| (x & z) | (y & !z), |at: usize| 5 * at + 1);
        round!(2, |x: u32, y: u32, z: u32| x ^ y ^ z, |at: usize| 3 * at + 5);
        round!(3, |x: u32, y: u32, z: u32| y ^ (x | !z), |at: usize| 7 * at);
        for (word, more) in words.iter_mut().zip([a, b, c, d]) {
            *word = word.wrapping_add(more);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vectors {
    use super::{Block, LANES, SINES};
    use std::arch::x86_64::*;

    /// Words of all lanes.
    type Words = __m256i;

    /// Eight chains, each over its own blocks: as many as the one that has the fewest.
    macro_rules! kernel {
        ($name:ident, $features:literal, rotate: $rotate:ident, mix: [$first:expr, $second:expr, $third:expr, $fourth:expr]) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(blocks: [&[Block]; LANES], words: &mut [[u32; LANES]; 4]) {
                let steps = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
                let [mut w, mut x, mut y, mut z] =
                    [load(&words[0]), load(&words[1]), load(&words[2]), load(&words[3])];
                for step in 0..steps {
                    let [first, second] = [message(&blocks, step, 0), message(&blocks, step, 1)];
                    let [mut a, mut b, mut c, mut d] = [w, x, y, z];
                    macro_rules! turn {
                        ($round:literal, $by:literal, $at:expr, $word:expr, $mix:expr) => {
                            let word: usize = $word % 16;
                            let sine = _mm256_set1_epi32(SINES[$round * 16 + $at].cast_signed());
                            let piece = if word < 8 { first[word] } else { second[word - 8] };
                            let known = _mm256_add_epi32(_mm256_add_epi32(a, sine), piece);
                            let sum = _mm256_add_epi32(known, $mix(b, c, d));
                            (a, b, c, d) = (d, _mm256_add_epi32($rotate!(sum, $by), b), b, c);
                        };
                    }
                    macro_rules! round {
                        ($round:literal, [$by0:literal, $by1:literal, $by2:literal, $by3:literal], $word:expr, $mix:expr) => {
                            for at in [0, 4, 8, 12] {
                                turn!($round, $by0, at, $word(at), $mix);
                                turn!($round, $by1, at + 1, $word(at + 1), $mix);
                                turn!($round, $by2, at + 2, $word(at + 2), $mix);
                                turn!($round, $by3, at + 3, $word(at + 3), $mix);
                            }
                        };
                    }
                    round!(0, [7, 12, 17, 22], |at| at, $first);
                    round!(1, [5, 9, 14, 20], |at| 5 * at + 1, $second);
                    round!(2, [4, 11, 16, 23], |at| 3 * at + 5, $third);
                    round!(3, [6, 10, 15, 21], |at| 7 * at, $fourth);
                    w = _mm256_add_epi32(w, a);
                    x = _mm256_add_epi32(x, b);
                    y = _mm256_add_epi32(y, c);
                    z = _mm256_add_epi32(z, d);
                }
                *words = [store(w), store(x), store(y), store(z)];
            }
        };
    }

    macro_rules! two_shifts {
        ($sum:expr, $by:literal) => {
            _mm256_or_si256(_mm256_slli_epi32::<$by>($sum), _mm256_srli_epi32::<{ 32 - $by }>($sum))
        };
    }

    macro_rules! one_rotation {
        ($sum:expr, $by:literal) => {
            _mm256_rol_epi32::<$by>($sum)
        };
    }

    kernel!(avx2, "avx2", rotate: two_shifts, mix: [
        |x, y, z| _mm256_xor_si256(z, _mm256_and_si256(x, _mm256_xor_si256(y, z))),
        |x, y, z| _mm256_or_si256(_mm256_and_si256(x, z), _mm256_andnot_si256(z, y)),
        |x, y, z| _mm256_xor_si256(x, _mm256_xor_si256(y, z)),
        |x, y, z| _mm256_xor_si256(y, _mm256_or_si256(x, _mm256_xor_si256(z, _mm256_set1_epi32(-1))))
    ]);

    // The number of a ternary operation is its column of results for x, y, z from 111 down to 000.
    kernel!(avx512, "avx2,avx512f,avx512vl", rotate: one_rotation, mix: [
        |x, y, z| _mm256_ternarylogic_epi32::<0b1100_1010>(x, y, z),
        |x, y, z| _mm256_ternarylogic_epi32::<0b1110_0100>(x, y, z),
        |x, y, z| _mm256_ternarylogic_epi32::<0b1001_0110>(x, y, z),
        |x, y, z| _mm256_ternarylogic_epi32::<0b0011_1001>(x, y, z)
    ]);

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(lanes: &[u32; LANES]) -> Words {
        // SAFETY: 32 bytes are read, which the array has; the load needs no alignment.
        unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(vector: Words) -> [u32; LANES] {
        let mut lanes = [0; LANES];
        // SAFETY: 32 bytes are written, which the array has; the store needs no alignment.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), vector) };
        lanes
    }

    /// One half of every lane's block, word by word.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn message(blocks: &[&[Block]; LANES], step: usize, half: usize) -> [Words; 8] {
        let row = |lane: usize| {
            let bytes: &[u8; 32] = &blocks[lane][step].as_chunks().0[half];
            // SAFETY: 32 bytes are read, which the array has; the load needs no alignment.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
        };
        let [a, b, c, d, e, f, g, h] = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
        let low = |x, y| _mm256_unpacklo_epi32(x, y);
        let high = |x, y| _mm256_unpackhi_epi32(x, y);
        let pairs = [low(a, b), high(a, b), low(c, d), high(c, d), low(e, f), high(e, f), low(g, h), high(g, h)];
        let low = |x: usize, y: usize| _mm256_unpacklo_epi64(pairs[x], pairs[y]);
        let high = |x: usize, y: usize| _mm256_unpackhi_epi64(pairs[x], pairs[y]);
        let fours = [low(0, 2), high(0, 2), low(1, 3), high(1, 3), low(4, 6), high(4, 6), low(5, 7), high(5, 7)];
        let low = |x: usize| _mm256_permute2x128_si256::<0x20>(fours[x], fours[x + 4]);
        let high = |x: usize| _mm256_permute2x128_si256::<0x31>(fours[x], fours[x + 4]);
        [low(0), low(1), low(2), low(3), high(0), high(1), high(2), high(3)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use md5::Digest as _;

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn cut(bytes: &[u8], seed: u64) -> Arc<[Bytes]> {
        let mut pieces = Vec::new();
        let (mut rest, mut at) = (bytes, seed);
        while !rest.is_empty() {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (piece, left) = rest.split_at(rest.len().min((at >> 33) as usize % 700));
            pieces.push(Bytes::copy_from_slice(piece));
            rest = left;
        }
        pieces.into()
    }

    #[test]
    fn alone_it_is_md5() {
        for length in (0..200).chain([1000, 4095, 4096, 70_000]) {
            let bytes = noise(length as u64 + 7, length);
            let mut md5 = Md5::new();
            let (start, end) = bytes.split_at(length / 3);
            md5.update(start);
            md5.update(end);
            assert_eq!(md5.finish(), <[u8; 16]>::from(md5::Md5::digest(&bytes)), "{length} bytes");
        }
    }

    #[test]
    fn beside_others_it_is_md5() {
        let threads: Vec<_> = (0..24_u64)
            .map(|number| {
                std::thread::spawn(move || {
                    for round in 0..20 {
                        let seed = number * 1000 + round;
                        let bytes = noise(seed + 1, (seed as usize * 7919) % 50_000);
                        let mut md5 = Md5::new();
                        let (start, end) = bytes.split_at(bytes.len() / 2);
                        for half in [start, end] {
                            md5 = md5.update_beside_others(cut(half, seed)).recv().unwrap();
                        }
                        assert_eq!(md5.finish(), <[u8; 16]>::from(md5::Md5::digest(&bytes)), "{seed}");
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_kind_of_vector_is_md5() {
        type Kernel = unsafe fn([&[Block]; LANES], &mut [[u32; LANES]; 4]);
        let kinds: [(&str, bool, Kernel); 2] = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2"), vectors::avx2),
            ("avx512", std::arch::is_x86_feature_detected!("avx512vl"), vectors::avx512),
        ];
        for (name, _, kernel) in kinds.into_iter().filter(|(_, is_here, _)| *is_here) {
            let bytes: [Vec<u8>; LANES] = std::array::from_fn(|lane| noise(lane as u64 + 11, 5 * BLOCK));
            let blocks = std::array::from_fn(|lane| bytes[lane].as_chunks().0);
            let mut words = std::array::from_fn(|word| [Md5::new().words[word]; LANES]);
            // SAFETY: looked up above.
            unsafe { kernel(blocks, &mut words) };
            for lane in 0..LANES {
                let mut alone = Md5::new().words;
                digest(blocks[lane], &mut alone);
                assert_eq!(words.map(|lanes| lanes[lane]), alone, "{name}, lane {lane}");
            }
        }
    }

    #[test]
    fn whoever_gives_up_holds_nobody_up() {
        drop(Md5::new().update_beside_others(cut(&noise(3, 30_000), 5)));
        let md5 = Md5::new().update_beside_others(cut(b"abc", 1)).recv().unwrap();
        assert_eq!(md5.finish(), <[u8; 16]>::from(md5::Md5::digest(b"abc")));
    }
}
