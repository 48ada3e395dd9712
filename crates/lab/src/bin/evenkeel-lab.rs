//! The supervisor of a lab as a program of its own, for tests that have no `evenkeel` at hand.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [command, dir] = arguments.as_slice() else {
        eprintln!("usage: evenkeel-lab supervise DIR");
        return ExitCode::from(2);
    };
    if command != "supervise" {
        eprintln!("usage: evenkeel-lab supervise DIR");
        return ExitCode::from(2);
    }
    match evenkeel_lab::supervise(Path::new(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
