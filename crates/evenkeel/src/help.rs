//! `evenkeel --help`: the commands by what they are for.

use clap::{Command, CommandFactory};

use crate::Cli;

#[cfg(test)]
#[path = "../tests/blocks/mod.rs"]
mod blocks;

/// Every command that is shown, by what an operator wants.
const GROUPS: [(&str, &[&str]); 5] = [
    ("See", &["status", "top", "ui", "explain", "history", "doctor"]),
    (
        "Decide",
        &[
            "recommendations",
            "approve",
            "skip",
            "migrate",
            "place",
            "target",
            "rule",
            "pause",
            "resume",
        ],
    ),
    ("Maintain", &["drain", "cordon", "uncordon", "claim"]),
    ("Set up", &["init", "leave", "agent", "cluster"]),
    ("Try out", &["plan", "snapshot", "simulate", "demo", "lab"]),
];

/// The command line, with its commands in groups.
pub(crate) fn command() -> Command {
    let command = Cli::command();
    let mut listed = String::new();
    for (purpose, names) in GROUPS {
        listed.push_str(&format!("\n{purpose}:\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            listed.push_str(&format!("  {name:<16} {about}\n"));
        }
    }
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{listed}\nOptions:\n{{options}}\n\n\
         `evenkeel help COMMAND` says more, with examples."
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::help::blocks;

    /// Stands for a token on a page.
    const TOKEN: &str = "ek1.x";

    /// The examples in the help of a command and of those below it.
    fn examples(command: &Command) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let own = help.lines().map(str::trim).filter(|line| line.starts_with("evenkeel "));
        let mut found: Vec<_> = own.map(str::to_owned).collect();
        let below = command.get_subcommands().filter(|command| !command.is_hide_set());
        found.extend(below.flat_map(examples));
        found
    }

    /// The words of a command, as a shell reads spaces and single quotes.
    fn words(typed: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, part) in typed.split('\'').enumerate() {
            if index % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }

    /// Whether a word is not the shell's: what begins with that is no part of the command.
    fn is_of_command(word: &str) -> bool {
        !["|", ">", "#", "&&"].contains(&word)
    }

    #[test]
    fn every_command_stands_in_one_group() {
        let grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let command = Cli::command();
        let shown = command.get_subcommands().filter(|c| !c.is_hide_set());
        let shown: BTreeSet<_> = shown.map(Command::get_name).collect();
        assert_eq!(grouped.iter().copied().collect::<BTreeSet<_>>(), shown);
        assert_eq!(grouped.len(), shown.len(), "one stands twice");
    }

    #[test]
    fn every_command_has_an_example_that_it_takes() {
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let (name, examples) = (command.get_name(), examples(command));
            let own = format!("evenkeel {name}");
            assert!(examples.iter().any(|e| e.starts_with(&own)), "`{name}` has no example");
            for example in examples {
                // Behind the command stand what it does, and what the shell does with its output.
                let typed = example.split("  ").next().unwrap_or_default();
                let words = words(typed).into_iter().take_while(|word| is_of_command(word));
                let parsed = Cli::command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "`{example}`: {}", parsed.expect_err("not ok"));
            }
        }
    }

    #[test]
    fn every_command_of_the_documentation_can_be_typed_as_it_stands() {
        let mut typed = 0;
        for block in blocks::pages().iter().flat_map(|page| blocks::of_page(page)) {
            if block.not_run.is_some() || !block.info.starts_with("sh") {
                continue;
            }
            for line in block.text.lines().filter(|line| line.trim().starts_with("evenkeel ")) {
                let at = format!("{}:{}: `{line}`", block.page, block.line);
                let bare: String = line.split('\'').step_by(2).collect();
                assert!(
                    !bare.contains('!'),
                    "{at}: an interactive shell takes `!` for its history"
                );
                // Behind the command stand a remark, and what the shell does with its output.
                let typed_line = line.replace('"', "'").replace("ek1.…", TOKEN);
                let words = words(&typed_line).into_iter().take_while(|word| is_of_command(word));
                let parsed = Cli::command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{at}: {}", parsed.expect_err("not ok"));
                typed += 1;
            }
        }
        assert!(typed > 30, "{typed} commands are found");
    }

    #[test]
    fn the_help_lists_every_group() {
        let help = command().render_help().to_string();
        for (purpose, names) in GROUPS {
            assert!(help.contains(&format!("\n{purpose}:\n")), "{help}");
            assert!(names.iter().all(|name| help.contains(&format!("\n  {name} "))), "{help}");
        }
    }
}
