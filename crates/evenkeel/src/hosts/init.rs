//! `evenkeel init`: few questions, a host that is set up.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use evenkeel_agent::Members;
use evenkeel_agent::config::PORT;
use evenkeel_core::model::HostId;
use evenkeel_doctor::{Finding, Level};
use evenkeel_net::JoinToken;
use evenkeel_setup::{
    Answers, Circumstances, Installed, Member, Places, Proposed, Service, SetupError, Way, install,
};
use serde_json::json;

use super::cluster::CONFIG;
use super::{AGENT_SOCKET, block_on, read_token};
use crate::output::{self, Failure, Format};

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    evenkeel init                                     asks, and proposes an answer to each question\n  \
    evenkeel init --yes                               takes what is proposed\n  \
    evenkeel init --join ek1.… --yes                  the next host\n  \
    evenkeel init --first --name kvm1 --address 192.0.2.1 --storage /srv/vm=nfs1 --yes\n\n\
    It writes the configuration and starts the agent, which moves nothing until it is told to. If it \
    fails, the\nhost is as it was. Run on a host that is set up, it changes nothing.";

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Make a new cluster with this host
    #[arg(long, conflicts_with_all = ["join", "join_file"])]
    first: bool,
    /// Join the cluster of this token
    #[arg(long, value_name = "TOKEN", conflicts_with = "join_file")]
    join: Option<String>,
    /// The same with the token in a file, where it does not show in the list of processes
    #[arg(long, value_name = "FILE")]
    join_file: Option<PathBuf>,
    /// This host's name in the cluster
    #[arg(long)]
    name: Option<HostId>,
    /// Where other hosts reach this one; its port is 7946 unless given
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = address)]
    address: Option<SocketAddr>,
    /// A directory that other hosts share, and the name that it has on all of them; may be given more
    /// than once
    #[arg(long, value_name = "DIR=NAME", value_parser = storage)]
    storage: Vec<(PathBuf, String)>,
    /// Other hosts share no directory with this one
    #[arg(long, conflicts_with = "storage")]
    no_storage: bool,
    /// What other hosts may ask of this one
    #[arg(long, value_enum)]
    members: Option<Asking>,
    /// Take what is proposed for everything that is not given
    #[arg(long)]
    yes: bool,
    /// Do not start the agent
    #[arg(long)]
    no_start: bool,
    #[command(flatten)]
    places: PlacesArgs,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Where things are, for whoever has them elsewhere.
#[derive(Debug, Args)]
pub(crate) struct PlacesArgs {
    /// The configuration file; certificates are in directories beside it
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// Where the agent keeps its records
    #[arg(long, value_name = "DIR", default_value = "/var/lib/evenkeel")]
    state_dir: PathBuf,
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = AGENT_SOCKET)]
    socket: PathBuf,
    /// The libvirt of this host
    #[arg(long, value_name = "URI", default_value = "qemu:///system")]
    libvirt: String,
}

impl PlacesArgs {
    pub(super) fn places(&self) -> Result<Places, Failure> {
        let absolute = |path: &Path| std::path::absolute(path);
        Ok(Places {
            config: absolute(&self.config)?,
            state_dir: absolute(&self.state_dir)?,
            socket: absolute(&self.socket)?,
            libvirt: self.libvirt.clone(),
        })
    }
}

/// What other hosts may ask.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Asking {
    /// Nothing
    None,
    /// What this host knows
    Read,
    /// To act, too: move its machines, empty it
    Operate,
}

impl From<Asking> for Members {
    fn from(asking: Asking) -> Self {
        match asking {
            Asking::None => Self::None,
            Asking::Read => Self::Read,
            Asking::Operate => Self::Operate,
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_port = || bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT));
    let found = text.parse().ok().or_else(with_port);
    found.ok_or_else(|| {
        "write an IP address of this host, such as 192.0.2.1 or [2001:db8::1]".into()
    })
}

fn storage(text: &str) -> Result<(PathBuf, String), String> {
    let wanted = || "write DIRECTORY=NAME, such as /srv/vm=nfs1".to_owned();
    let (path, name) = text.rsplit_once('=').ok_or_else(wanted)?;
    if !path.starts_with('/') || name.is_empty() {
        return Err(wanted());
    }
    Ok((path.into(), name.to_owned()))
}

pub(super) fn run(args: InitArgs) -> Result<(), Failure> {
    let places = args.places.places()?;
    let mut token = token_of(&args)?;
    if let Some(member) = Circumstances::member(&places)? {
        return unchanged(&args, &places, &member, token.as_ref());
    }
    let mut asker = Asker { takes_proposals: args.yes };
    if token.is_none() && !args.first {
        let text = asker.ask("Token of the cluster to join; empty makes a new cluster", "")?;
        token = Some(text).filter(|text| !text.is_empty()).map(|text| text.parse()).transpose()?;
    }
    let towards = token.as_ref().and_then(|token| token.seeds().first().copied());
    let found = Circumstances::look(&places, towards)?;
    let start = !args.no_start;
    let format = args.format;
    let pools = found.storage.pools.clone();
    let answers = answers(args, token, found.proposed(), &mut asker)?;
    let installed = block_on(async { Ok(install(&places, answers, start).await?) })?;
    output::print(format, &summary(&installed), || report(&places, &installed, &pools))
}

fn token_of(args: &InitArgs) -> Result<Option<JoinToken>, Failure> {
    let text = match (&args.join, &args.join_file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(file)) => Some(read_token(file)?),
        (None, None) => None,
    };
    Ok(text.map(|text| text.parse()).transpose()?)
}

/// What to do on a host that is set up: nothing, if that is what is wanted.
fn unchanged(
    args: &InitArgs,
    places: &Places,
    member: &Member,
    token: Option<&JoinToken>,
) -> Result<(), Failure> {
    let Member { host, cluster } = member;
    if token.is_some_and(|token| token.cluster().to_string() != *cluster) {
        let (host, cluster) = (host.clone(), cluster.clone());
        return Err(SetupError::OtherCluster { host, cluster }.into());
    }
    if let Some(wanted) = args.name.clone().filter(|name| name != host) {
        return Err(SetupError::OtherName { is: host.clone(), wanted }.into());
    }
    let data = json!({ "host": host, "cluster": cluster, "changed": false });
    output::print(args.format, &data, || {
        format!(
            "host `{host}` of cluster {cluster} is set up already by `{}`: nothing was changed",
            places.config.display()
        )
    })
}

/// Asks on standard error, and reads the answers from standard input.
struct Asker {
    takes_proposals: bool,
}

impl Asker {
    fn ask(&mut self, question: &str, proposal: &str) -> Result<String, Failure> {
        if self.takes_proposals {
            return Ok(proposal.to_owned());
        }
        let shown = if proposal.is_empty() { String::new() } else { format!(" [{proposal}]") };
        anstream::eprint!("{question}{shown}: ");
        std::io::stderr().flush()?;
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            crate::output::tell!("");
            return Err(format!(
                "nobody answers `{question}`: nothing was changed\nhint: take what is proposed with \
                 --yes, or give every answer as an option (`evenkeel init --help`)"
            )
            .into());
        }
        let line = line.trim();
        Ok(if line.is_empty() { proposal } else { line }.to_owned())
    }

    /// The answer to a question, asked again until it can be used.
    fn until<T>(
        &mut self,
        question: &str,
        proposal: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        loop {
            match read(&self.ask(question, proposal)?) {
                Ok(value) => return Ok(value),
                Err(why) if self.takes_proposals => return Err(format!("{question}: {why}").into()),
                Err(why) => crate::output::tell!("  {why}"),
            }
        }
    }
}

fn answers(
    args: InitArgs,
    token: Option<JoinToken>,
    proposed: Proposed,
    asker: &mut Asker,
) -> Result<Answers, Failure> {
    let shown = proposed.name.map_or_else(String::new, |name| name.to_string());
    let name = match args.name {
        Some(name) => name,
        None => asker.until("Name of this host", &shown, |text| {
            HostId::new(text).map_err(|e| format!("{e}; give it with --name"))
        })?,
    };
    let shown = proposed.address.map_or_else(String::new, |at| at.ip().to_string());
    let address = match args.address {
        Some(address) => address,
        None => asker.until("Address at which other hosts reach this one", &shown, address)?,
    };
    let storage = match (args.storage, args.no_storage) {
        (given, false) if !given.is_empty() => given.into_iter().collect(),
        (_, true) => BTreeMap::new(),
        _ => asker.until(
            "Directories that other hosts share, as DIRECTORY=NAME; `none` if there is none",
            &listed(&proposed.storage),
            several,
        )?,
    };
    let members = match args.members {
        Some(asking) => asking.into(),
        None => asker.until("What other hosts may ask: none, read or operate", "read", |text| {
            Asking::from_str(text, true).map(Members::from)
        })?,
    };
    let way = token.map_or(Way::First, Way::Join);
    Ok(Answers { name, way, address, storage, members })
}

fn listed(storage: &BTreeMap<PathBuf, String>) -> String {
    if storage.is_empty() {
        return "none".to_owned();
    }
    let each = storage.iter().map(|(path, name)| format!("{}={name}", path.display()));
    each.collect::<Vec<_>>().join(" ")
}

fn several(text: &str) -> Result<BTreeMap<PathBuf, String>, String> {
    if text == "none" {
        return Ok(BTreeMap::new());
    }
    text.split_whitespace().map(storage).collect()
}

/// `evenkeel.init/v1`.
fn summary(installed: &Installed) -> serde_json::Value {
    json!({
        "format": "evenkeel.init/v1",
        "host": installed.host,
        "cluster": installed.cluster,
        "changed": true,
        "service": installed.service,
        "members": installed.status.as_ref().map(|status| &status.members),
        "machines": installed.status.as_ref().map(|status| status.machines.len()),
        "findings": installed.findings,
        "join": installed.token.as_ref().map(joining),
    })
}

/// The line to type on the next host.
fn joining(token: &JoinToken) -> String {
    format!("evenkeel init --join {}", token.to_text())
}

fn report(places: &Places, installed: &Installed, pools: &[String]) -> String {
    let Installed { host, cluster, service, status, findings, token } = installed;
    let config = places.config.display();
    let mut text = format!("host `{host}` of cluster {cluster} is set up: `{config}`\n");
    text += &match service {
        Service::Started => "the agent runs, also after a boot; it only observes\n".to_owned(),
        Service::Manual => format!("start its agent: evenkeel agent --config {config}\n"),
    };
    if let Some(status) = status {
        let members: Vec<_> = status.members.iter().map(HostId::as_str).collect();
        text += &match members.as_slice() {
            [] if token.is_some() => String::new(),
            [] => "it has not heard of another host yet: open the port for UDP and TCP, then see \
                   `evenkeel status`\n"
                .to_owned(),
            members => format!("it knows {}\n", members.join(", ")),
        };
        text += &format!("machines on this host: {}\n", status.machines.len());
    }
    if !pools.is_empty() {
        text += &format!("shared without a word, by libvirt's pools: {}\n", pools.join(", "));
    }
    text += &troubles(findings, service);
    match token {
        Some(token) => {
            text += "on the next host, within an hour:\n";
            text += &joining(token);
        }
        None => {
            text += "to let a further host in, on the host that made the cluster: \
                     evenkeel cluster join-token";
        }
    }
    text
}

fn troubles(findings: &[Finding], service: &Service) -> String {
    // That no agent answers is no news where none was started.
    let told = |finding: &&Finding| {
        finding.level != Level::Ok
            && (*service == Service::Started || finding.check.code() != "AGENT")
    };
    let mut found: Vec<_> = findings.iter().filter(told).collect();
    found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let good = findings.iter().filter(|finding| finding.level == Level::Ok).count();
    let mut text = format!("the doctor: {good} checks are well, {} are not\n", found.len());
    for finding in found {
        let level = format!("{:?}", finding.level).to_lowercase();
        text += &format!("  {level} {}: {}\n", finding.check.code(), finding.what);
        text += &finding.remedy.as_ref().map_or_else(String::new, |what| format!("    → {what}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_the_usual_port_unless_another_is_given() {
        for (text, addr) in [
            ("192.0.2.1", "192.0.2.1:7946"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("2001:db8::1", "[2001:db8::1]:7946"),
            ("[2001:db8::1]", "[2001:db8::1]:7946"),
            ("[2001:db8::1]:9", "[2001:db8::1]:9"),
        ] {
            assert_eq!(address(text), Ok(addr.parse().unwrap()), "{text}");
        }
        assert!(address("kvm1").unwrap_err().contains("IP address"));
    }

    #[test]
    fn storage_is_an_absolute_directory_and_a_name_which_may_hold_what_mounts_hold() {
        assert_eq!(storage("/srv/vm=nfs1"), Ok(("/srv/vm".into(), "nfs1".to_owned())));
        let two = several("/a=netfs:nas:/a /b=c").unwrap();
        assert_eq!(two.len(), 2);
        assert_eq!(several(&listed(&two)), Ok(two));
        assert_eq!(several(&listed(&BTreeMap::new())), Ok(BTreeMap::new()));
        for wrong in ["srv=nfs1", "/srv", "/srv="] {
            assert!(storage(wrong).unwrap_err().contains("/srv/vm=nfs1"), "{wrong}");
        }
    }
}
