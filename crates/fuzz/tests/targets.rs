//! Every target on its corpus, and on what chance makes of that.

use std::path::PathBuf;

use evenkeel_fuzz::{TARGETS, Target};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let files = std::fs::read_dir(&directory).expect("every target has a corpus");
    let mut paths: Vec<_> = files.map(|file| file.expect("readable").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

/// What is done to one of the corpus: bytes changed, cut out, doubled, or another's put in.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index, usize),
    Double(prop::sample::Index, usize),
    Splice(prop::sample::Index, prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 1..64usize).prop_map(|(at, count)| Change::Cut(at, count)),
        (at(), 1..64usize).prop_map(|(at, count)| Change::Double(at, count)),
        (at(), at(), 1..64usize).prop_map(|(at, of, count)| Change::Splice(at, of, count)),
        (at(), prop::collection::vec(any::<u8>(), 1..16)).prop_map(|(at, b)| Change::Insert(at, b)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change, other: &[u8]) {
    let place = |at: &prop::sample::Index, of: &[u8]| at.index(of.len() + 1);
    match change {
        Change::Set(at, byte) => {
            let at = place(at, bytes);
            if let Some(there) = bytes.get_mut(at) {
                *there = *byte;
            }
        }
        Change::Cut(at, count) => {
            let at = place(at, bytes);
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Change::Double(at, count) => {
            let at = place(at, bytes);
            let part = bytes[at..(at + count).min(bytes.len())].to_vec();
            bytes.splice(at..at, part);
        }
        Change::Splice(at, of, count) => {
            let (at, of) = (place(at, bytes), place(of, other));
            let part = other[of..(of + count).min(other.len())].to_vec();
            bytes.splice(at..at, part);
        }
        Change::Insert(at, part) => {
            let at = place(at, bytes);
            bytes.splice(at..at, part.clone());
        }
    }
}

#[test]
fn no_decoder_panics_or_takes_what_it_would_not_write() {
    for target in TARGETS {
        let corpus = corpus(target);
        assert!(!corpus.is_empty(), "`{}` has an empty corpus", target.name);
        for bytes in &corpus {
            (target.run)(bytes);
        }
        let mut runner = TestRunner::new(Config { cases: 20_000, ..Config::default() });
        let pick = any::<prop::sample::Index>;
        let inputs = (pick(), pick(), prop::collection::vec(change(), 0..8));
        let ran = runner.run(&inputs, |(of, other, changes)| {
            let (mut bytes, other) = (of.get(&corpus).clone(), other.get(&corpus));
            for change in &changes {
                apply(&mut bytes, change, other);
            }
            (target.run)(&bytes);
            Ok(())
        });
        if let Err(why) = ran {
            panic!("target `{}`: {why}", target.name);
        }
    }
}
