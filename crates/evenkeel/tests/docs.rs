//! What `docs/claims.md` says is shown, is shown; what `docs/security.md` says that nobody can, a test
//! shows; every code block of the documentation is run or says why not; and every link leads somewhere.

mod blocks;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use blocks::Block;
use evenkeel_agent::Config;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/claims.md");
const SECURITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/security.md");
const CRATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const CLAIMS: std::ops::RangeInclusive<u32> = 1..=33;

fn page() -> String {
    fs::read_to_string(PAGE).unwrap_or_else(|error| panic!("{PAGE}: {error}"))
}

/// Every `file::function` of the page, the file below `crates/`.
fn places(text: &str) -> Vec<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|place| place.split_once(".rs::"))
        .map(|(f, n)| (format!("{f}.rs"), n.to_owned()))
        .collect()
}

/// All tests of all crates.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![Path::new(CRATES).to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(CRATES).expect("below").display().to_string();
                found.extend(functions(&file).into_iter().filter(|(_, test)| *test).map(|f| f.0));
            }
        }
    }
    found
}

/// The functions of a file, and whether each is a test.
fn functions(file: &str) -> BTreeMap<String, bool> {
    let path = Path::new(CRATES).join(file);
    let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut marked = false;
    let mut functions = BTreeMap::new();
    for line in source.lines().map(str::trim) {
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((before, name)) = line.split_once("fn ")
            && (before.is_empty() || before.ends_with(' '))
            && !line.starts_with("//")
        {
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            let is_test = std::mem::take(&mut marked);
            *functions.entry(name[..end].to_owned()).or_default() |= is_test;
        }
    }
    functions
}

#[test]
fn every_place_that_the_page_of_claims_names_is_there() {
    let places = places(&page());
    assert!(places.len() > 50, "the page names places in another way: {places:?}");
    for (file, name) in places {
        assert!(functions(&file).contains_key(&name), "{file} has no function `{name}`");
    }
}

#[test]
fn every_claim_is_done_somewhere_and_shown_on_real_machines_and_in_simulation() {
    let page = page();
    let mut seen = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let numbers: Option<Vec<u32>> = cells[0].split(", ").map(|n| n.parse().ok()).collect();
        let Some(numbers) = numbers else { continue };
        for number in &numbers {
            assert!(
                CLAIMS.contains(number) && seen.insert(*number),
                "claim {number} is there twice"
            );
        }
        assert_eq!(cells.len(), 5, "{line}");
        assert!(!places(cells[2]).is_empty(), "claims {numbers:?} are done nowhere");
        for (cell, tests_of) in [(cells[3], "evenkeel/tests/"), (cells[4], "sim/tests/")] {
            let tests = places(cell);
            assert!(!tests.is_empty(), "claims {numbers:?} are not shown by {tests_of}");
            for (file, name) in tests {
                assert!(file.starts_with(tests_of), "{file}::{name} in the wrong column");
                assert_eq!(functions(&file).get(&name), Some(&true), "{file}::{name} is no test");
            }
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), CLAIMS.collect::<Vec<_>>());
}

/// What of a block of commands a test other than this one checks: `evenkeel` itself parses its own
/// (`cargo test -p evenkeel --bins help`).
const CHECKED_ELSEWHERE: [&str; 1] = ["evenkeel"];

fn commands(block: &Block) {
    for line in block.text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let at = || format!("{}:{}: `{line}`", block.page, block.line);
        let words: Vec<_> = line.split_whitespace().take_while(|word| *word != "#").collect();
        match words.as_slice() {
            [] => {}
            ["make", target, ..] => {
                let makefile = fs::read_to_string(blocks::root().join("Makefile")).expect("there");
                assert!(makefile.contains(&format!("\n{target}:")), "{}: no such target", at());
            }
            ["cargo", "test", "-p", name, "--test", test, ..] => {
                let dir = name.strip_prefix("evenkeel-").unwrap_or("evenkeel");
                let tests = blocks::root().join("crates").join(dir).join("tests");
                let there = [format!("{test}.rs"), format!("{test}/main.rs")];
                assert!(there.iter().any(|file| tests.join(file).exists()), "{}: no test", at());
            }
            [command, ..] => {
                assert!(CHECKED_ELSEWHERE.contains(command), "{}: what runs it?", at());
            }
        }
    }
}

/// A configuration, or a part of one.
fn configuration(block: &Block) {
    let text = if block.text.contains("listen = ") {
        block.text.clone()
    } else {
        format!("listen = '192.0.2.1:7946'\n{}", block.text)
    };
    let at = format!("{}:{}", block.page, block.line);
    Config::from_text(&text, Path::new(&at)).unwrap_or_else(|error| panic!("{error}"));
}

/// A scenario, which must run and keep every invariant.
fn scenario(block: &Block) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("scenario.toml");
    fs::write(&file, &block.text).expect("written");
    let ran = Command::new(env!("CARGO_BIN_EXE_evenkeel")).arg("simulate").arg(&file).output();
    let ran = ran.expect("it starts");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{}:{}: {said}", block.page, block.line);
}

#[test]
fn every_code_block_is_run_or_says_why_it_is_not() {
    let mut run = 0;
    for block in blocks::pages().iter().flat_map(|page| blocks::of_page(page)) {
        let at = format!("{}:{}", block.page, block.line);
        if let Some(reason) = &block.not_run {
            assert!(reason.len() > 10, "{at}: give a reason");
            continue;
        }
        run += 1;
        match block.info.as_str() {
            "sh" => commands(&block),
            "toml" => configuration(&block),
            "toml scenario" => scenario(&block),
            // `packages.rs` types all of them.
            info if info.starts_with("sh run on ") && block.page == "docs/start.md" => {}
            info => panic!("{at}: nothing runs a block of `{info}`, and it does not say why"),
        }
    }
    assert!(run > 30, "{run} blocks are found");
}

#[test]
fn the_example_of_a_configuration_is_one() {
    let file = blocks::root().join("dist/agent.toml");
    Config::load(&file).unwrap_or_else(|error| panic!("{error}"));
}

/// How GitHub and mdbook make an anchor of a heading.
fn anchor(heading: &str) -> String {
    let keep = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.trim().to_lowercase().chars().filter(|c| keep(*c)).collect::<String>().replace(' ', "-")
}

fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).expect("a page");
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// The targets of the links of a page, code left out.
fn links(page: &str) -> Vec<String> {
    let text = fs::read_to_string(blocks::root().join(page)).expect("a page");
    let parts = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    parts.map(|(target, _)| target.to_owned()).filter(|t| !t.contains([' ', '`', '\n'])).collect()
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let mut pages = blocks::pages();
    pages.extend(["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned));
    let mut followed = 0;
    for page in pages {
        let path = blocks::root().join(&page);
        for link in links(&page).into_iter().filter(|link| !link.contains("://")) {
            let (file, fragment) =
                link.split_once('#').map_or((&*link, None), |(f, a)| (f, Some(a)));
            let target = if file.is_empty() {
                path.clone()
            } else {
                path.parent().expect("in a directory").join(file)
            };
            assert!(target.exists(), "{page}: `{link}` leads nowhere");
            if let Some(fragment) = fragment.filter(|_| target.extension() == Some("md".as_ref())) {
                assert!(
                    anchors(&target).contains(fragment),
                    "{page}: `{link}` has no such heading"
                );
            }
            followed += 1;
        }
    }
    assert!(followed > 50, "{followed} links are found");
}

/// Whether a cell names a test that there is, or a command that runs some.
fn names_a_test(cell: &str, tests: &BTreeSet<String>) -> bool {
    let mut quoted = cell.split('`').skip(1).step_by(2);
    quoted.any(|name| {
        tests.contains(name) || name.starts_with("cargo test ") || name.starts_with("scripts/fuzz ")
    })
}

#[test]
fn whatever_the_page_on_security_says_that_nobody_can_a_test_shows() {
    let page = fs::read_to_string(SECURITY).unwrap_or_else(|error| panic!("{SECURITY}: {error}"));
    let tests = tests();
    // Names of tests are sentences. What is named and is none was renamed.
    for name in page.split('`').skip(1).step_by(2) {
        let words = name.split('_').count();
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let sentence = plain && words >= 4 && !name.starts_with("evenkeel_");
        assert!(!sentence || tests.contains(name), "there is no test `{name}`");
    }
    let (mut by_test, mut rows) = (false, 0);
    for line in page.lines() {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        match cells.last() {
            _ if !line.starts_with('|') => by_test = false,
            Some(&"test") => by_test = true,
            Some(last) if by_test && !line.starts_with("| ---") => {
                assert!(names_a_test(last, &tests), "no test shows this: {line}");
                rows += 1;
            }
            _ => {}
        }
    }
    assert!(rows > 75, "the page has its tables in another way: {rows} rows");
}
