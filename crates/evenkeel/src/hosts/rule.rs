//! `evenkeel rule`: what may happen to a machine, shown and changed.

use std::str::FromStr;

use clap::{Args, Subcommand};
use evenkeel_agent::status::{MachineStatus, Status};
use evenkeel_agent::{Client, RulesWish};
use evenkeel_core::model::{Group, Place, Rules};
use evenkeel_core::printable::Printable;

use super::AskArgs;
use super::naming::{look_around, slips};
use crate::output::{self, Failure};

#[derive(Debug, Args)]
pub(crate) struct RuleArgs {
    /// The machine's name or UUID
    machine: String,
    #[command(subcommand)]
    deed: Option<Deed>,
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Debug, Subcommand)]
enum Deed {
    /// Show its rules
    List,
    /// Give it these rules, besides those that it has
    Set {
        /// Rules, such as `anti-affinity=web@rack`
        #[arg(required = true, value_name = "RULE")]
        rules: Vec<Rule>,
    },
    /// Take these rules from it
    Remove {
        /// Rules as `list` shows them, or `all`
        #[arg(required = true, value_name = "RULE")]
        rules: Vec<Gone>,
    },
}

/// One rule, as it is written on the command line.
#[derive(Clone, Debug, PartialEq)]
enum Rule {
    PinnedTo(Place),
    Affinity(Group),
    AntiAffinity(Group),
    Ignore,
    NeverLive,
    Priority(i32),
    MaxShare(f64),
}

/// Rules that are to go.
#[derive(Clone, Debug, PartialEq)]
enum Gone {
    All,
    /// With how it was written.
    One(Rule, String),
}

/// So often a change is made anew because somebody else has changed the rules meanwhile.
const TRIES: u32 = 10;

const KNOWN: &str = "pinned-to=[!]HOST[?], pinned-to=[!]LABEL=VALUE[?], affinity=GROUP[@LABEL][?], \
    anti-affinity=GROUP[@LABEL][?], priority=NUMBER, max-share=SHARE, never-live, ignore";

impl FromStr for Rule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, value) = text.split_once('=').unwrap_or((text, ""));
        let number = |what: &str| format!("`{value}` is no {what}");
        match kind {
            "pinned-to" => Ok(Self::PinnedTo(parsed(value)?)),
            "affinity" => Ok(Self::Affinity(parsed(value)?)),
            "anti-affinity" => Ok(Self::AntiAffinity(parsed(value)?)),
            "priority" => Ok(Self::Priority(value.parse().map_err(|_| number("whole number"))?)),
            "max-share" => Ok(Self::MaxShare(value.parse().map_err(|_| number("share"))?)),
            "ignore" if value.is_empty() => Ok(Self::Ignore),
            "never-live" if value.is_empty() => Ok(Self::NeverLive),
            _ => Err(format!("rules are {KNOWN}")),
        }
    }
}

fn parsed<T: FromStr<Err = E>, E: std::fmt::Display>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: E| error.to_string())
}

impl FromStr for Gone {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "priority" => Ok(Self::One(Rule::Priority(0), text.to_owned())),
            "max-share" => Ok(Self::One(Rule::MaxShare(0.0), text.to_owned())),
            _ => text.parse().map(|rule| Self::One(rule, text.to_owned())),
        }
    }
}

impl Rule {
    /// Puts it among `rules`, in the place of one of the same kind about the same.
    fn put(self, rules: &mut Rules) {
        self.take(rules);
        match self {
            Self::PinnedTo(place) => rules.pinned_to.push(place),
            Self::Affinity(group) => rules.affinity.push(group),
            Self::AntiAffinity(group) => rules.anti_affinity.push(group),
            Self::Ignore => rules.ignore = true,
            Self::NeverLive => rules.never_live = true,
            Self::Priority(priority) => rules.priority = priority,
            Self::MaxShare(share) => rules.max_share = Some(share),
        }
    }

    /// Takes it from `rules`, however soft it is there. Answers whether it was there.
    fn take(&self, rules: &mut Rules) -> bool {
        let before = rules.clone();
        match self {
            Self::PinnedTo(place) => rules.pinned_to.retain(|p| p.hosts() != place.hosts()),
            Self::Affinity(group) => rules.affinity.retain(|g| !g.is(group)),
            Self::AntiAffinity(group) => rules.anti_affinity.retain(|g| !g.is(group)),
            Self::Ignore => rules.ignore = false,
            Self::NeverLive => rules.never_live = false,
            Self::Priority(_) => rules.priority = 0,
            Self::MaxShare(_) => rules.max_share = None,
        }
        before != *rules
    }
}

/// Every rule in a line, as it is written on the command line, and what it means.
pub(super) fn lines(rules: &Rules) -> Vec<(String, String)> {
    let firmly = |soft: bool| if soft { ", if it can be" } else { "" };
    let groups = |kind: &str, verb: &str, groups: &[Group]| -> Vec<_> {
        let line = |group: &Group| {
            let of = group.label().map_or("one host".to_owned(), |label| format!("one {label}"));
            let (name, soft) = (group.name(), firmly(group.is_soft()));
            (format!("{kind}={group}"), format!("{verb} {of} with others of `{name}`{soft}"))
        };
        groups.iter().map(line).collect()
    };
    let place = |place: &Place| {
        let (not, soft) = (if place.is_not() { "not on" } else { "on" }, firmly(place.is_soft()));
        let plain = place.to_string();
        let plain = plain.trim_start_matches('!').trim_end_matches('?');
        (format!("pinned-to={place}"), format!("{not} {plain}{soft}"))
    };
    let mut lines: Vec<_> = rules.pinned_to.iter().map(place).collect();
    lines.extend(groups("affinity", "on", &rules.affinity));
    lines.extend(groups("anti-affinity", "never on", &rules.anti_affinity));
    let mut add = |set: bool, rule: String, means: &str| {
        lines.extend(set.then(|| (rule, means.to_owned())));
    };
    add(rules.ignore, "ignore".to_owned(), "left alone");
    add(rules.never_live, "never-live".to_owned(), "never migrated live");
    let priority = rules.priority;
    add(priority != 0, format!("priority={priority}"), "higher is helped first and moved last");
    let share = rules.max_share.unwrap_or(0.0);
    add(share > 0.0, format!("max-share={share}"), "the most of a host that it may come to load");
    lines
}

pub(crate) async fn run(args: &RuleArgs) -> Result<(), Failure> {
    // Groups that are not touched are written back.
    let client = args.ask.exact_client();
    let deed = args.deed.as_ref().unwrap_or(&Deed::List);
    let (name, rules) = change(&client, &args.machine, deed).await?;
    if matches!(deed, Deed::Set { .. }) {
        warn(&args.ask.client(), &rules).await;
    }
    output::print(args.ask.format, &rules, || {
        let lines = lines(&rules);
        if lines.is_empty() {
            return format!("machine `{name}` has no rules");
        }
        let mut table = output::table(&["rule", "means"]);
        lines.into_iter().for_each(|(rule, means)| {
            table.add_row([rule, means]);
        });
        table.to_string()
    })
}

/// Makes a change upon the rules as they are at that moment. The agent refuses it if somebody else has
/// changed them since they were read; then it is made anew.
async fn change(client: &Client, machine: &str, deed: &Deed) -> Result<(String, Rules), Failure> {
    let mut tried: Option<(Rules, Failure)> = None;
    for _ in 0..TRIES {
        let status = client.status().await?;
        let found = self::machine(&status, machine)?;
        let name = Printable(&found.name).to_string();
        if let Some(error) = &found.entry_error {
            let error = Printable(error);
            return Err(format!("the schedule entry of `{name}` cannot be read: {error}").into());
        }
        let over = found.rules.clone();
        if let Some((before, failure)) = tried.take()
            && before == over
        {
            return Err(failure);
        }
        let rules = changed(&name, &over, deed)?;
        if matches!(deed, Deed::List) || rules == over {
            return Ok((name, rules));
        }
        let wish = RulesWish { rules, over: Some(over) };
        match client.set_rules(&found.id, &wish).await {
            Ok(()) => return Ok((name, wish.rules)),
            Err(error) => tried = wish.over.map(|over| (over, error.into())),
        }
    }
    Err(format!(
        "the rules of `{machine}` were not changed: somebody else changes them all the time; \
         try again when that has ended"
    )
    .into())
}

/// Rules as a change makes them.
fn changed(name: &str, rules: &Rules, deed: &Deed) -> Result<Rules, Failure> {
    let mut rules = rules.clone();
    match deed {
        Deed::List => {}
        Deed::Set { rules: new } => new.iter().cloned().for_each(|rule| rule.put(&mut rules)),
        Deed::Remove { rules: gone } => {
            for gone in gone {
                match gone {
                    Gone::All => rules = Rules::default(),
                    Gone::One(rule, text) if !rule.take(&mut rules) => {
                        return Err(format!("machine `{name}` has no rule `{text}`").into());
                    }
                    Gone::One(..) => {}
                }
            }
        }
    }
    Ok(rules)
}

/// Tells at once of what rules name and no host that is alive is or has.
async fn warn(client: &Client, rules: &Rules) {
    if let Ok((named, _)) = look_around(client).await {
        let said = slips(&named, rules);
        said.iter().for_each(|slip| crate::output::tell!("warning: {slip}"));
    }
}

fn machine<'a>(status: &'a Status, name: &str) -> Result<&'a MachineStatus, Failure> {
    let named = |m: &&MachineStatus| m.name == name || m.id.as_str() == name;
    let missing = || format!("host `{}` has no machine `{name}` in its schedule", status.host);
    Ok(status.machines.iter().find(named).ok_or_else(missing)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Rules {
        let mut rules = Rules::default();
        texts.iter().for_each(|text| text.parse::<Rule>().unwrap().put(&mut rules));
        rules
    }

    #[test]
    fn what_is_shown_can_be_set_and_taken_away() {
        let texts = [
            "pinned-to=rack=r7?",
            "pinned-to=!kvm3",
            "affinity=app@room",
            "anti-affinity=web@rack",
            "ignore",
            "never-live",
            "priority=-5",
            "max-share=0.5",
        ];
        let rules = of(&texts);
        let shown: Vec<_> = lines(&rules).into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(shown, texts);
        let mut left = rules;
        for text in ["priority", "max-share"].iter().chain(&texts[..6]) {
            let Gone::One(rule, _) = text.parse().unwrap() else { panic!("{text}") };
            assert!(rule.take(&mut left), "{text}");
            assert!(!rule.take(&mut left), "{text} twice");
        }
        assert_eq!(left, Rules::default());
    }

    #[test]
    fn a_rule_about_the_same_takes_the_place_of_the_one_that_was_there() {
        assert_eq!(of(&["anti-affinity=web", "anti-affinity=web?"]), of(&["anti-affinity=web?"]));
        assert_eq!(of(&["pinned-to=h1", "pinned-to=!h1"]), of(&["pinned-to=!h1"]));
        assert_eq!(of(&["priority=1", "priority=2"]).priority, 2);
    }

    #[test]
    fn what_is_no_rule_is_refused_with_what_one_is() {
        for (text, says) in [
            ("affinity", "no name"),
            ("anti-affinity=a@b@c", "label"),
            ("pinned-to=a b", "a b"),
            ("colour=blue", "anti-affinity=GROUP"),
            ("priority=high", "high"),
            ("ignore=yes", "never-live"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.contains(says), "`{text}`: {error}");
        }
    }
}
