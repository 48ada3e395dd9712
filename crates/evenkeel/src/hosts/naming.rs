//! What agents say that somebody should look at: rules that name what is not there, and hosts that are
//! left out because migrations to them fail.

use std::time::Duration;

use evenkeel_agent::{Client, Status};
use evenkeel_config::nearest;
use evenkeel_core::model::{HostId, Rules};
use evenkeel_core::named::{Missing, Named};
use evenkeel_doctor::{Check, Finding};

use super::everybody::{everybody, side_by_side};
use super::report;
use crate::output::Failure;

/// A host that takes longer to say its labels is left out.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// What every host says that answers, the one that is asked first, and what there is to be named.
pub(super) async fn look_around(client: &Client) -> Result<(Named, Vec<Status>), Failure> {
    let hosts = everybody(client.clone()).await?;
    let alive = hosts.iter().map(|(host, _)| host.clone()).collect();
    let mut named = Named { hosts: alive, ..Named::default() };
    let ask = |(_, client): (HostId, Client)| async move {
        let answer = tokio::time::timeout(ANSWER_TIME_MAX, client.status()).await;
        answer.ok().and_then(Result::ok)
    };
    let statuses: Vec<_> = side_by_side(hosts, ask).await?.into_iter().flatten().collect();
    statuses.iter().for_each(|status| named.add(&status.host, &status.labels));
    Ok((named, statuses))
}

/// What rules name and is not there, each with what may have been meant.
pub(super) fn slips(named: &Named, rules: &Rules) -> Vec<String> {
    let said = |missing: &Missing| {
        let known = named.known(missing);
        let hint = match nearest(missing.name(), known.iter().copied()) {
            Some(near) => format!("; did you mean `{near}`?"),
            None if known.is_empty() => String::new(),
            None => format!("; there are: {}", known.join(", ")),
        };
        format!("{missing}{hint}")
    };
    named.missing(rules).iter().map(said).collect()
}

/// What is found about these hosts.
pub(super) fn findings(named: &Named, statuses: &[Status]) -> Vec<Finding> {
    statuses
        .iter()
        .flat_map(|status| of_rules(named, status).into_iter().chain(of_targets(status)))
        .collect()
}

fn of_rules(named: &Named, status: &Status) -> Vec<Finding> {
    let host = status.host.as_str();
    let found = |(name, what): (&str, String)| {
        let remedy =
            format!("`evenkeel rule {name}` shows its rules; start or add the host, or mend them");
        Finding::warning(Check::Rules, host, format!("machine `{name}`: {what}"), remedy)
    };
    let machines = status.machines.iter();
    let slips =
        machines.flat_map(|m| slips(named, &m.rules).into_iter().map(|s| (m.name.as_str(), s)));
    let findings: Vec<_> = slips.map(found).collect();
    if findings.is_empty() {
        let ok = "what the rules of its machines name is there";
        return vec![Finding::ok(Check::Rules, host, ok)];
    }
    findings
}

fn of_targets(status: &Status) -> Vec<Finding> {
    let host = status.host.as_str();
    let found = |left_out| {
        let remedy = "find out why they failed: `evenkeel history` holds the hypervisor's words; one \
                      machine is tried again by itself, and `evenkeel migrate MACHINE HOST` tries at once";
        Finding::warning(Check::Targets, host, report::left_out(status, left_out), remedy)
    };
    let findings: Vec<_> = status.left_out.iter().map(found).collect();
    if findings.is_empty() {
        return vec![Finding::ok(Check::Targets, host, "no host is left out for its failures")];
    }
    findings
}
