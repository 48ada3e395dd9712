//! The code blocks of the documentation.
//!
//! The text behind the fence says what a block is: `sh run on HOST` is typed by a test on that host,
//! `toml` is a configuration, and so on. A block that nothing can run has the reason in an HTML comment on
//! the line before: `<!-- not run: REASON -->`.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    reason = "every test file uses its own part of this, and a test that fails panics"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// A code block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The page, from the root of the repository.
    pub page: String,
    /// The line of its first fence.
    pub line: usize,
    /// What stands behind the fence.
    pub info: String,
    /// Its text.
    pub text: String,
    /// Why nothing runs it, if the page says so.
    pub not_run: Option<String>,
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The README and every page of `docs/`.
pub fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    for dir in ["docs", "docs/decisions"] {
        let entries = fs::read_dir(root().join(dir)).expect("there");
        let names = entries.map(|entry| entry.expect("readable").file_name());
        let names = names.map(|name| name.into_string().expect("text"));
        pages.extend(names.filter(|n| n.ends_with(".md")).map(|n| format!("{dir}/{n}")));
    }
    pages.sort();
    pages
}

/// The blocks of a page, in their order.
pub fn of_page(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(root().join(page)).expect("there");
    let lines: Vec<&str> = text.lines().collect();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let indent = lines[at].len() - lines[at].trim_start().len();
        let Some(info) = lines[at].trim_start().strip_prefix("```") else {
            at += 1;
            continue;
        };
        let ends = |line: &&str| line.trim() == "```";
        let end = lines[at + 1..].iter().position(ends).expect("a block ends") + at + 1;
        let inner =
            lines[at + 1..end].iter().map(|line| line.get(indent..).unwrap_or("").to_owned());
        let before = lines[..at].iter().rev().find(|line| !line.trim().is_empty());
        let reason = before.and_then(|line| line.trim().strip_prefix("<!-- not run: "));
        blocks.push(Block {
            page: page.to_owned(),
            line: at + 1,
            info: info.trim().to_owned(),
            text: inner.map(|line| line + "\n").collect(),
            not_run: reason.and_then(|text| text.strip_suffix(" -->")).map(str::to_owned),
        });
        at = end + 1;
    }
    blocks
}
