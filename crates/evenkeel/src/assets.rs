//! What the program says of itself, for packages: manual pages, and completions for shells.

use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use crate::help;

const NAME: &str = "evenkeel";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes `man/*.1`, a page for each command that is shown, and the completions, into a directory.
pub(crate) fn write(dir: &Path) -> io::Result<()> {
    let pages = dir.join("man");
    std::fs::create_dir_all(&pages)?;
    let mut command = help::command();
    command.build();
    page_of(&command, NAME, &pages)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut shown(&help::command()), NAME, dir)?;
    }
    Ok(())
}

/// The command without what is not shown.
fn shown(command: &Command) -> Command {
    let all: Vec<_> = command.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect();
    let mut bare = Command::new(NAME).version(env!("CARGO_PKG_VERSION"));
    if let Some(about) = command.get_about() {
        bare = bare.about(about.clone());
    }
    bare.subcommands(all)
}

fn page_of(command: &Command, name: &str, dir: &Path) -> io::Result<()> {
    // The list by purpose is for a terminal; a manual has its own.
    let page = clap_mangen::Man::new(command.clone().help_template("")).title(name.to_uppercase());
    let mut text = Vec::new();
    page.render(&mut text)?;
    std::fs::write(dir.join(format!("{name}.1")), text)?;
    for below in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        page_of(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_manual_page_and_every_shell_completes_it() {
        let dir = std::env::temp_dir().join(format!("evenkeel-assets-{}", std::process::id()));
        write(&dir).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        let completions = ["evenkeel.bash", "_evenkeel", "evenkeel.fish"].map(read);
        for command in help::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let page = read(&format!("man/evenkeel-{}.1", command.get_name()));
            assert!(page.contains(".SH NAME") && page.contains(".SH OPTIONS"), "{page}");
            for completion in &completions {
                assert!(completion.contains(command.get_name()), "{}", command.get_name());
            }
        }
        assert!(read("man/evenkeel.1").contains("evenkeel\\-drain"), "{}", read("man/evenkeel.1"));
        for completion in &completions {
            assert!(!completion.contains("__assets"), "what is not shown is completed");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
