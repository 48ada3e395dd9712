//! What the documentation lists, it lists completely.

use std::fmt::Write;
use std::path::Path;

use evenkeel_core::decision::Reason;

/// `docs/reasons.md` is written from the code: run with `UPDATE_DOCS=1` to write it anew.
#[test]
fn the_documentation_lists_every_reason_with_what_to_do() {
    let mut page = String::from(
        "# Reason codes\n\nEvery exchange ends with one of these, and every machine that was \
         considered has one as its verdict. The list is closed: a code once published keeps its \
         meaning.\n\n| code | what it means | what to do |\n| --- | --- | --- |\n",
    );
    for reason in Reason::ALL {
        let (meaning, remedy) = (reason.meaning(), reason.remedy());
        writeln!(page, "| `{reason}` | {meaning} | {remedy} |").unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reasons.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "docs/reasons.md is out of date: run this test with UPDATE_DOCS=1");
}
