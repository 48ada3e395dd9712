//! What libFuzzer drives: the target that `EVENKEEL_FUZZ_TARGET` names.
#![no_main]

use std::sync::OnceLock;

use evenkeel_fuzz::{Target, target};

fn chosen() -> Target {
    let name = std::env::var("EVENKEEL_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        let names: Vec<_> = evenkeel_fuzz::TARGETS.iter().map(|target| target.name).collect();
        panic!("EVENKEEL_FUZZ_TARGET is `{name}` and must be one of {}", names.join(", "))
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<Target> = OnceLock::new();
    (TARGET.get_or_init(chosen).run)(bytes);
});
