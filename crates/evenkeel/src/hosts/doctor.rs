//! What is wrong with this host or the cluster before it shows: asks, and has it judged.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use evenkeel_agent::{Client, Config, facts};
use evenkeel_core::model::HostId;
use evenkeel_doctor::cluster::{self, Asked, Baseline, Way};
use evenkeel_doctor::{Facts, Finding, Level, host, worst};

use super::AskArgs;
use super::everybody::side_by_side;
use super::naming;
use crate::output::{self, Failure, table};

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Look at every host that the agent knows, and at whether they fit each other
    #[arg(long, conflicts_with_all = ["config", "host"])]
    cluster: bool,
    /// Look by this configuration file, whether an agent runs or not
    #[arg(long, value_name = "FILE", conflicts_with = "host")]
    config: Option<PathBuf>,
    #[command(flatten)]
    ask: AskArgs,
}

pub(super) async fn doctor(args: DoctorArgs) -> Result<(), Failure> {
    let mut findings = match &args.config {
        Some(file) => host::examine(&by_configuration(Config::load(file)?).await?),
        None if args.cluster => of_cluster(&args.ask.client()).await?,
        None => {
            let facts = args.ask.client().facts().await;
            let hint =
                |error| format!("{error}; or look without it: `evenkeel doctor --config FILE`");
            host::examine(&facts.map_err(hint)?)
        }
    };
    if args.config.is_none() {
        findings.extend(of_agents(&args).await?);
    }
    output::print(args.ask.format, &findings, || report(&findings))?;
    let errors = findings.iter().filter(|f| f.level == Level::Error).count();
    if worst(&findings) == Level::Error {
        return Err(format!("{errors} of {} findings are trouble", findings.len()).into());
    }
    Ok(())
}

/// What this program finds out by itself, and the agent's own word if there is one.
async fn by_configuration(config: Config) -> Result<Facts, Failure> {
    let status = Client::new(&config.api_socket).status().await;
    let mut found = tokio::task::spawn_blocking(move || facts::gather(&config)).await?;
    found.agent = status.ok().map(|status| facts::of_agent(&status));
    Ok(found)
}

/// What agents say that somebody should look at: of this host, or of all.
async fn of_agents(args: &DoctorArgs) -> Result<Vec<Finding>, Failure> {
    let (named, mut statuses) = naming::look_around(&args.ask.client()).await?;
    statuses.truncate(if args.cluster { usize::MAX } else { 1 });
    Ok(naming::findings(&named, &statuses))
}

async fn of_cluster(client: &Client) -> Result<Vec<Finding>, Failure> {
    let here = client.facts().await?;
    let here_id = HostId::new(&here.host)?;
    let known = here.agent.iter().flat_map(|agent| agent.members.iter().chain(agent.silent.keys()));
    let members: BTreeSet<String> = known.cloned().collect();
    let others = members.iter().map(|host| HostId::new(host)).collect::<Result<Vec<_>, _>>()?;
    let ask = |other| ask(client.clone(), here_id.clone(), other);
    let answers = side_by_side(others, ask).await?;
    let (mut asked, mut ways) = (
        vec![Asked { host: here.host.clone(), facts: Ok(here.clone()), skew_ms: (0, 0) }],
        Vec::new(),
    );
    for (other, between) in answers {
        asked.push(other);
        ways.extend(between);
    }
    let known = asked.iter().filter_map(|asked| asked.facts.as_ref().ok());
    let mut findings: Vec<Finding> = known.flat_map(host::examine).collect();
    let baseline = baseline(&here, &asked);
    findings.extend(cluster::examine(&asked, &ways, &baseline));
    Ok(findings)
}

/// Asks another host, and tries the way to it if it answers.
async fn ask(client: Client, here: HostId, other: HostId) -> (Asked, Vec<Way>) {
    let (there, before) = (client.of(&other), now_ms());
    let facts = there.facts().await.map_err(|error| error.to_string());
    let skew_ms = facts.as_ref().map_or((0, 0), |facts| skew(facts.at_ms, before, now_ms()));
    let mut ways = Vec::new();
    if facts.is_ok() {
        // The other way is asked on that host alone: no host opens connections on another's word.
        ways.push(way(&client, &here, &other).await);
    }
    (Asked { host: other.to_string(), facts, skew_ms }, ways)
}

/// By how much a clock is ahead that showed `at_ms` between `before` and `after` of this one, and how
/// far that may be wrong.
fn skew(at_ms: u64, before: u64, after: u64) -> (i64, u64) {
    let middle = u64::midpoint(before, after);
    let ahead = i128::from(at_ms) - i128::from(middle);
    (i64::try_from(ahead).unwrap_or(i64::MAX), after.saturating_sub(before) / 2)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

async fn way(client: &Client, from: &HostId, to: &HostId) -> Way {
    let fault = client.reach(to).await.unwrap_or_else(|error| Some(error.to_string()));
    Way { from: from.to_string(), to: to.to_string(), fault }
}

/// What this host's libvirt works out for all of them.
fn baseline(here: &Facts, asked: &[Asked]) -> Result<Baseline, String> {
    let mine =
        here.libvirt.as_ref().map_err(|why| format!("libvirt here does not answer: {why}"))?;
    let mut cpus = Vec::new();
    for facts in asked.iter().filter_map(|asked| asked.facts.as_ref().ok()) {
        match &facts.libvirt {
            Ok(libvirt) if !libvirt.cpu.is_empty() => cpus.push(libvirt.cpu.clone()),
            _ => return Err(format!("host `{}` does not tell its CPU", facts.host)),
        }
    }
    let (model, features) = evenkeel_libvirt::baseline_cpu(&mine.uri, &mine.virt_type, &cpus)?;
    Ok(Baseline { model, features })
}

fn report(findings: &[Finding]) -> String {
    let mut table = table(&["level", "host", "check", "found"]);
    let mut sorted: Vec<_> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    for finding in sorted {
        let found = match &finding.remedy {
            Some(remedy) => format!("{}\n  → {remedy}", finding.what),
            None => finding.what.clone(),
        };
        table.add_row([
            format!("{:?}", finding.level).to_lowercase(),
            finding.host.clone().unwrap_or_else(|| "all".to_owned()),
            finding.check.code().to_owned(),
            found,
        ]);
    }
    format!("{}\n{table}", summary(findings))
}

/// How many checks are how well.
fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let hosts: BTreeSet<_> = findings.iter().filter_map(|f| f.host.as_ref()).collect();
    let of = if hosts.len() > 1 { format!(" on {} hosts", hosts.len()) } else { String::new() };
    match (errors, warnings) {
        (0, 0) => format!("all {} checks{of} are well", findings.len()),
        _ => format!(
            "{errors} errors and {warnings} warnings in {} checks{of}; the worst stand first",
            findings.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_with_the_middle_of_question_and_answer() {
        assert_eq!(skew(1_050, 1_000, 1_100), (0, 50));
        assert_eq!(skew(500, 1_000, 1_100), (-550, 50));
        assert_eq!(skew(u64::MAX, 0, 0), (i64::MAX, 0));
    }
}
