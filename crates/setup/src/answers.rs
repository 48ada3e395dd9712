//! What a host is set up with, and the configuration that it gets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use evenkeel_agent::{Config, Members};
use evenkeel_core::model::HostId;
use evenkeel_net::JoinToken;

use crate::Places;
use crate::error::SetupError;

/// How a host comes into a cluster.
#[derive(Debug)]
pub enum Way {
    /// It makes a new one.
    First,
    /// It is let into one.
    Join(JoinToken),
}

/// What was asked and answered.
#[derive(Debug)]
pub struct Answers {
    /// The host's name.
    pub name: HostId,
    /// How it comes into its cluster.
    pub way: Way,
    /// Where other hosts reach it.
    pub address: SocketAddr,
    /// Directories that other hosts share, and what they call them.
    pub storage: BTreeMap<PathBuf, String>,
    /// What other hosts may ask of it.
    pub members: Members,
}

impl Answers {
    /// The configuration file, which is checked as an agent would.
    ///
    /// # Errors
    /// When the answers make none.
    pub(crate) fn configuration(&self, places: &Places) -> Result<(String, Config), SetupError> {
        let text = self.text(places);
        let config = Config::from_text(&text, &places.config)
            .map_err(|error| SetupError::Answers(error.to_string()))?;
        Ok((text, config))
    }

    fn text(&self, places: &Places) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut text = format!(
            "# Evenkeel on this host, as `evenkeel init` has written it. docs/configuration.md describes\n\
             # every key. The agent reads this when it is started: `systemctl restart evenkeel`.\n\
             host = {}\n\
             listen = {}  # other hosts reach this one here, by UDP and by TCP\n",
            quoted(self.name.as_str()),
            quoted(&self.address.to_string()),
        );
        if let Way::Join(token) = &self.way {
            let seeds: Vec<_> = token.seeds().iter().map(|s| quoted(&s.to_string())).collect();
            let seeds = seeds.join(", ");
            let _ = writeln!(text, "seeds = [{seeds}]  # hosts that it asks for the others");
        }
        text += &unusual(places);
        text += "\n[operation]\n\
                 mode = \"observe\"  # it moves nothing; then \"approve\", then \"automatic\"\n";
        let members = match self.members {
            Members::None => "none",
            Members::Read => "read",
            Members::Operate => "operate",
        };
        let _ = writeln!(
            text,
            "\n[api]\nmembers = \"{members}\"  # what other hosts may ask: \"none\", \"read\", \"operate\""
        );
        text += "\n[storage]  # directories that other hosts share: the same name on each\n";
        if self.storage.is_empty() {
            text += "# \"/srv/vm\" = \"nfs1\"\n";
        }
        for (path, id) in &self.storage {
            let _ = writeln!(text, "{} = {}", quoted(&path.display().to_string()), quoted(id));
        }
        if places.libvirt != Places::default().libvirt {
            let _ = write!(text, "\n[libvirt]\nuri = {}\n", quoted(&places.libvirt));
        }
        text
    }
}

/// Where things are that are not where an agent would look.
fn unusual(places: &Places) -> String {
    let quoted =
        |path: &std::path::Path| toml::Value::String(path.display().to_string()).to_string();
    let usual = Config::default();
    let mut text = String::new();
    for (key, is, usual) in [
        ("identity_dir", places.identity(), usual.identity_dir),
        ("state_dir", places.state_dir.clone(), usual.state_dir),
        ("api_socket", places.socket.clone(), usual.api_socket),
    ] {
        if is != usual {
            let _ = writeln!(text, "{key} = {}", quoted(&is));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(storage: &[(&str, &str)]) -> Answers {
        Answers {
            name: HostId::new("kvm1").unwrap(),
            way: Way::First,
            address: "192.0.2.1:7946".parse().unwrap(),
            storage: storage.iter().map(|(path, id)| (path.into(), (*id).to_owned())).collect(),
            members: Members::Operate,
        }
    }

    #[test]
    fn the_configuration_says_what_was_answered_and_is_short() {
        let answers = answers(&[("/srv/v \"m\"", "netfs:nas:/vm")]);
        let (text, config) = answers.configuration(&Places::default()).unwrap();
        assert_eq!(config.host.as_deref(), Some("kvm1"));
        assert_eq!(config.advertised(), answers.address);
        assert_eq!((&config.storage, config.api.members), (&answers.storage, Members::Operate));
        assert_eq!(config.identity_dir, Config::default().identity_dir);
        assert!(text.lines().count() < 20 && !text.contains("state_dir"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }

    #[test]
    fn places_that_are_not_the_usual_ones_are_written_down() {
        let places = Places {
            config: "/tmp/x/agent.toml".into(),
            state_dir: "/tmp/x/state".into(),
            socket: "/tmp/x/agent.sock".into(),
            libvirt: "qemu:///session".to_owned(),
        };
        let (_, config) = answers(&[]).configuration(&places).unwrap();
        assert_eq!(config.identity_dir, PathBuf::from("/tmp/x/identity"));
        assert_eq!((config.state_dir, config.api_socket), (places.state_dir, places.socket));
        assert_eq!(config.libvirt.uri, "qemu:///session");
    }

    #[test]
    fn an_answer_that_makes_no_configuration_is_named() {
        let relative = answers(&[("vm", "nfs1")]).configuration(&Places::default()).unwrap_err();
        assert!(relative.to_string().contains("storage"), "{relative}");
    }
}
