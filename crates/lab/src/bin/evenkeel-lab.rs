//! The supervisor of a lab as a program of its own, for tests that have no `evenkeel` at hand, and
//! the means to clean up after one of them that was cut short.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use evenkeel_lab::{Lab, supervise};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    let result = match words.iter().map(AsRef::as_ref).collect::<Vec<&str>>().as_slice() {
        ["supervise", dir] => supervise(Path::new(dir)),
        ["down", dir] => Lab::open(Path::new(dir)).and_then(Lab::down),
        _ => {
            eprintln!("usage: evenkeel-lab supervise DIR | down DIR");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
