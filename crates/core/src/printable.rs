//! Texts of others on their way to a terminal or a log.
//!
//! Names of machines, details and reasons come from guests' owners, other hosts, libvirt and the network.
//! What of them is no character that stands in a line by itself is written as an escape: control
//! characters (which move a terminal's cursor, forge a line or a row of a table), those that turn the
//! direction of writing, and those that cannot be seen. JSON and what is stored keep the texts as they are.
//!
//! | where texts go out | what sees to it |
//! | --- | --- |
//! | the log | the formatter of its fields |
//! | tables and messages of commands that ask an agent | the client, as the answer comes in |
//! | any other table, and errors | the printing of data, and of the error |

use std::fmt::{self, Write as _};

/// Most characters of one text; a longer one is cut.
pub const CHARS_MAX: usize = 2048;

/// A text as people read it, in one line. Writes escapes as Rust does, such as `\n` and `\u{1b}`.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

/// The text as people read it, in one line.
#[must_use]
pub fn printable(text: &str) -> String {
    Printable(text).to_string()
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, c) in self.0.chars().enumerate() {
            if count == CHARS_MAX {
                return f.write_char('…');
            }
            if stands_alone(c) {
                f.write_char(c)?;
            } else {
                write!(f, "{}", c.escape_default())?;
            }
        }
        Ok(())
    }
}

/// Whether a character is seen where it stands and changes nothing around it.
#[must_use]
pub const fn stands_alone(c: char) -> bool {
    !matches!(c,
        // Control characters; line and paragraph separators.
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}'
        // What turns the direction of writing.
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        // What cannot be seen.
        | '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}'
        | '\u{206a}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_turns_or_hides_is_printed_as_it_is() {
        for (text, printed) in [
            ("web-1 ü 機 🐧", "web-1 ü 機 🐧"),
            ("a\nINFO forged", "a\\nINFO forged"),
            ("\x1b[2J\x1b]0;title\x07", "\\u{1b}[2J\\u{1b}]0;title\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\r\tb\u{2028}c", "a\\r\\tb\\u{2028}c"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("we\u{200b}b\u{feff}\u{e0041}", "we\\u{200b}b\\u{feff}\\u{e0041}"),
        ] {
            assert_eq!(printable(text), printed);
            assert!(printable(text).chars().all(stands_alone));
        }
        let cut = printable(&"x".repeat(CHARS_MAX + 9));
        assert_eq!((cut.chars().count(), cut.ends_with('…')), (CHARS_MAX + 1, true));
    }
}
