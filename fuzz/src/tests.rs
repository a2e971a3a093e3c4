//! Runs every target on its corpus, then on a few thousand random mutations of it.
//!
//! That needs no fuzzer, and runs with all other tests. A failure names the input, or prints the
//! seed of the mutation: `KEYWARD_FUZZ_SEED=… cargo nextest run -p keyward-fuzz tests::TARGET`
//! repeats it, with the same corpus.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::corpus::{self, Corpus};
use super::{TARGETS, Target};

/// The number of random mutations for each target.
const ROUNDS: u64 = 2000;

/// The limits of a corpus: every run of the tests reads it, and every clone downloads it.
const MOST_INPUTS: usize = 150;
const MOST_BYTES: usize = 200 * 1024;

fn run(name: &str, target: Target) {
    let corpus = corpus::read(name);
    let try_it = |bytes: &[u8], shown: &dyn Fn() -> String| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
            eprintln!("{name} fails with {}", shown());
            resume_unwind(panic);
        }
    };
    if let Ok(seed) = std::env::var("KEYWARD_FUZZ_SEED") {
        return target(&spoiled(&corpus, seed.parse().expect("KEYWARD_FUZZ_SEED is a number")));
    }
    for (input, bytes) in &corpus {
        try_it(bytes, &|| format!("its input {input}"));
    }
    let first = rand::random::<u64>() >> 16;
    for seed in first..first + ROUNDS {
        let bytes = spoiled(&corpus, seed);
        try_it(&bytes, &|| format!("KEYWARD_FUZZ_SEED={seed}: {}", bytes.escape_ascii()));
    }
}

/// One of the inputs with a few changes.
fn spoiled(corpus: &Corpus, seed: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    let inputs: Vec<&Vec<u8>> = corpus.values().collect();
    let pick = |random: &mut StdRng| inputs[random.random_range(0..inputs.len())].clone();
    let mut bytes = pick(&mut random);
    for _ in 0..random.random_range(0..6) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][at % 5],
            4 if at + 4 <= bytes.len() => bytes[at..at + 4].fill(random.random()),
            5 => {
                let end = random.random_range(at..=bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            6 => {
                let other = pick(&mut random);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[at.min(other.len())..]);
            }
            _ => {
                let end = random.random_range(at..=bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

macro_rules! tests_of {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                run(stringify!($target), super::$target);
            }
        )*

        /// Each has this test, its program, and a corpus that is not too large.
        #[test]
        fn every_target_is_complete() {
            let names: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, BTreeSet::from([$(stringify!($target)),*]), "tests of targets");
            assert_complete(&names);
        }
    };
}

tests_of! {
    certificate checkpoint forward http http_batch http_check http_list http_lock http_tables http_unlock jwt
    log machine peer_messages proposal script settings snapshot
}

fn assert_complete(names: &BTreeSet<&str>) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in names {
        let program = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("keyward_fuzz::{name}(bytes)")), "{program}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is no program");
        let corpus = corpus::read(name);
        let bytes: usize = corpus.values().map(Vec::len).sum();
        assert!(!corpus.is_empty() && corpus.len() <= MOST_INPUTS, "{name}: {}", corpus.len());
        assert!(bytes <= MOST_BYTES, "{name}: {bytes} bytes");
    }
    for folder in ["fuzz_targets", "corpus"] {
        let found = fs::read_dir(fuzz.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let found: BTreeSet<_> =
            found.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
        assert!(found.iter().map(String::as_str).eq(names.iter().copied()), "{folder}: {found:?}");
    }
}
