//! The schedule entry as an element of a domain's metadata.
//!
//! ```xml
//! <evenkeel:entry xmlns:evenkeel="https://evenkeel.dev/schedule/1"
//!                 epoch="3" handoff="00c0ffee00c0ffee" target-load="0.25" ignore="yes"
//!                 never-live="yes" priority="10" max-share="0.5" copy-storage="yes" mode="approve">
//!   <evenkeel:pinned-to host="h1"/>
//!   <evenkeel:pinned-to label="room" value="r2" soft="yes"/>
//!   <evenkeel:pinned-to host="h9" not="yes"/>
//!   <evenkeel:affinity group="web"/>
//!   <evenkeel:anti-affinity group="db" across="rack"/>
//!   <evenkeel:last-move at="2026-11-23T02:03:18.250Z" from="h3" moves="2" cost-percent="120"/>
//! </evenkeel:entry>
//! ```
//!
//! Everything may be missing: a domain without the element has the default entry. Elements and
//! attributes that are not known are passed over, so that a newer version may add some. What is
//! known and makes no sense is an error, never a default: a rule that somebody mistyped must not
//! silently cease to hold.

use evenkeel_core::control::Autonomy;
use evenkeel_core::model::{
    Entry, Epoch, Group, HandoffId, HostId, Hosts, LastMove, Place, RuleError, Rules,
    TARGET_LOAD_MAX, Time,
};

use super::tree::{Element, escaped};

/// The namespace of the element.
pub(crate) const NAMESPACE: &str = "https://evenkeel.dev/schedule/1";

/// The prefix that it is written with.
pub(crate) const PREFIX: &str = "evenkeel";

/// Why an entry cannot be written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum UnwritableEntry {
    /// The target load is none.
    #[error("the target load {0} is not between 0 and {TARGET_LOAD_MAX}")]
    TargetLoad(f64),
    /// A rule is none.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A name holds something that no XML can.
    #[error("{0:?} holds a character that cannot be written to XML")]
    Character(String),
}

/// The attribute of a copy that waits to be claimed by the host that it was sent to.
const HELD: &str = "held";

/// The entry as an element, each name after `prefix` (`evenkeel:` or nothing) and with `declared`
/// in its start tag.
fn element(entry: &Entry, prefix: &str, declared: &str) -> Result<String, UnwritableEntry> {
    let Entry { epoch, target_load, rules, last_move, handoff } = entry;
    rules.check()?;
    let mut out = format!("<{prefix}entry{declared} epoch=\"{epoch}\"");
    if let Some(handoff) = handoff {
        out.push_str(&format!(" handoff=\"{handoff}\""));
    }
    if let Some(load) = *target_load {
        if !(0.0..=TARGET_LOAD_MAX).contains(&load) {
            return Err(UnwritableEntry::TargetLoad(load));
        }
        out.push_str(&format!(" target-load=\"{load}\""));
    }
    write_rules(&mut out, rules, prefix)?;
    if let Some(LastMove { at, from, moves, cost_percent, others }) = last_move {
        let at = written_time(*at);
        out.push_str(&format!("<{prefix}last-move at=\"{at}\" from=\"{from}\""));
        for (name, number) in [("moves", moves), ("cost-percent", cost_percent)] {
            if let Some(number) = number {
                out.push_str(&format!(" {name}=\"{number}\""));
            }
        }
        if *others == Some(true) {
            out.push_str(" by=\"others\"");
        }
        out.push_str("/>");
    }
    out.push_str(&format!("</{prefix}entry>"));
    Ok(out)
}

/// The rest of the start tag, and an element for each place and group.
fn write_rules(out: &mut String, rules: &Rules, prefix: &str) -> Result<(), UnwritableEntry> {
    for (name, set) in [
        ("ignore", rules.ignore),
        ("never-live", rules.never_live),
        ("copy-storage", rules.copy_storage),
    ] {
        out.push_str(&flag(name, set));
    }
    if rules.priority != 0 {
        out.push_str(&format!(" priority=\"{}\"", rules.priority));
    }
    if let Some(share) = rules.max_share {
        out.push_str(&format!(" max-share=\"{share}\""));
    }
    if let Some(mode) = rules.mode {
        out.push_str(&format!(" mode=\"{mode}\""));
    }
    out.push('>');
    for place in &rules.pinned_to {
        let hosts = match place.hosts() {
            Hosts::One(host) => format!("host=\"{host}\""),
            Hosts::Labelled { label, value } => {
                format!("label=\"{label}\" value=\"{}\"", written(value)?)
            }
        };
        let (not, soft) = (flag("not", place.is_not()), flag("soft", place.is_soft()));
        out.push_str(&format!("<{prefix}pinned-to {hosts}{not}{soft}/>"));
    }
    for (name, groups) in [("affinity", &rules.affinity), ("anti-affinity", &rules.anti_affinity)] {
        for group in groups {
            let across = group.label().map(|label| format!(" across=\"{label}\""));
            let (across, soft) = (across.unwrap_or_default(), flag("soft", group.is_soft()));
            let group = written(group.name())?;
            out.push_str(&format!("<{prefix}{name} group=\"{group}\"{across}{soft}/>"));
        }
    }
    Ok(())
}

fn flag(name: &str, set: bool) -> String {
    if set { format!(" {name}=\"yes\"") } else { String::new() }
}

fn written(text: &str) -> Result<String, UnwritableEntry> {
    escaped(text).ok_or_else(|| UnwritableEntry::Character(text.to_owned()))
}

/// The entry as libvirt takes it for a domain's metadata: it adds the namespace itself.
pub(crate) fn as_metadata(entry: &Entry) -> Result<String, UnwritableEntry> {
    element(entry, "", "")
}

/// A domain's description with its entry replaced by this one.
///
/// A copy that is `held` says so, until its entry is written again.
pub(crate) fn replaced_in(domain: &str, entry: &Entry, held: bool) -> Result<String, String> {
    let mark = if held { format!(" {HELD}=\"yes\"") } else { String::new() };
    let declared = format!(" xmlns:{PREFIX}=\"{NAMESPACE}\"{mark}");
    let element =
        element(entry, &format!("{PREFIX}:"), &declared).map_err(|error| error.to_string())?;
    let root = Element::parse(domain).map_err(|error| error.to_string())?;
    let mut out = domain.to_owned();
    let Some(metadata) = root.find("metadata") else {
        let whole = format!("<metadata>{element}</metadata>");
        insert(&mut out, domain, &root, &whole);
        return Ok(out);
    };
    // From the end, so that the places before stay right.
    let entries: Vec<&Element> = metadata.children.iter().filter(|e| is_entry(e)).collect();
    for old in entries.iter().skip(1).rev() {
        out.replace_range(old.span.clone(), "");
    }
    match entries.first() {
        Some(old) => out.replace_range(old.span.clone(), &element),
        None => insert(&mut out, domain, metadata, &element),
    }
    Ok(out)
}

/// Puts `text` right behind the start tag of `parent`, which may be an empty-element tag.
fn insert(out: &mut String, document: &str, parent: &Element, text: &str) {
    let tag = parent.start_tag.clone();
    match document[tag.clone()].strip_suffix("/>") {
        Some(opening) => {
            let name = opening.trim_start_matches('<');
            let end = name.find(char::is_whitespace).unwrap_or(name.len());
            let whole = format!("{opening}>{text}</{}>", &name[..end]);
            out.replace_range(tag, &whole);
        }
        None => out.insert_str(tag.end, text),
    }
}

fn is_entry(element: &Element) -> bool {
    element.namespace == NAMESPACE && element.name == "entry"
}

fn entries_of(domain: &Element) -> impl Iterator<Item = &Element> {
    let metadata = domain.find("metadata");
    metadata.into_iter().flat_map(|m| &m.children).filter(|e| is_entry(e))
}

/// Whether a domain's description says that it waits to be claimed.
pub(crate) fn is_held(domain: &Element) -> bool {
    entries_of(domain).any(|entry| entry.attribute(HELD) == Some("yes"))
}

/// The entry in a domain's description, or what is wrong with it.
pub(crate) fn of_domain(domain: &Element) -> Result<Entry, String> {
    let mut found = entries_of(domain);
    match (found.next(), found.next()) {
        (None, _) => Ok(Entry::default()),
        (Some(one), None) => read(one),
        (Some(_), Some(_)) => Err("the schedule entry is there twice".to_owned()),
    }
}

fn read(element: &Element) -> Result<Entry, String> {
    let epoch = match element.attribute("epoch") {
        None => Epoch(0),
        Some(text) => Epoch(
            text.trim()
                .parse()
                .map_err(|_| wrong("entry", "epoch", text, "a whole number, 0 or more"))?,
        ),
    };
    let handoff = element.attribute("handoff").map(read_handoff).transpose()?;
    let target_load = element.attribute("target-load").map(read_target_load).transpose()?;
    let mut rules = read_figures(element)?;
    let mut last_move = None;
    for child in element.children.iter().filter(|child| child.namespace == NAMESPACE) {
        match child.name.as_str() {
            "pinned-to" => rules.pinned_to.push(read_place(child)?),
            "affinity" => rules.affinity.push(read_group(child)?),
            "anti-affinity" => rules.anti_affinity.push(read_group(child)?),
            "last-move" if last_move.is_some() => {
                return Err("`last-move` is there twice".to_owned());
            }
            "last-move" => {
                last_move = Some(LastMove {
                    at: read_time(child)?,
                    from: read_host(child, "from")?,
                    moves: read_number(child, "moves")?,
                    cost_percent: read_number(child, "cost-percent")?,
                    others: child.attribute("by").map(|by| by == "others").filter(|others| *others),
                });
            }
            _ => {}
        }
    }
    rules.check().map_err(|error| in_entry(&error))?;
    Ok(Entry { epoch, target_load, rules, last_move, handoff })
}

fn in_entry(error: &RuleError) -> String {
    format!("in the schedule entry: {error}")
}

/// The rules that are attributes of the entry itself.
fn read_figures(element: &Element) -> Result<Rules, String> {
    let priority = element.attribute("priority").map(|text| {
        let number = text.trim().parse::<i32>();
        number.map_err(|_| wrong("entry", "priority", text, "a whole number, such as 10 or -5"))
    });
    let max_share = element.attribute("max-share").map(|text| {
        let share = text.trim().parse::<f64>();
        share.map_err(|_| wrong("entry", "max-share", text, "a share, such as 0.5 for half a host"))
    });
    let mode = element.attribute("mode").map(|text| {
        let mode = text.trim().parse::<Autonomy>();
        mode.map_err(|_| wrong("entry", "mode", text, "`observe`, `approve` or `automatic`"))
    });
    Ok(Rules {
        ignore: read_flag(element, "ignore")?,
        never_live: read_flag(element, "never-live")?,
        copy_storage: read_flag(element, "copy-storage")?,
        priority: priority.transpose()?.unwrap_or_default(),
        max_share: max_share.transpose()?,
        mode: mode.transpose()?,
        ..Rules::default()
    })
}

fn wrong(element: &str, attribute: &str, value: &str, expected: &str) -> String {
    let value: String = value.chars().take(40).collect();
    format!("the schedule entry has {attribute}=\"{value}\" in `{element}`: expected {expected}")
}

fn required<'a>(element: &'a Element, attribute: &str) -> Result<&'a str, String> {
    element
        .attribute(attribute)
        .ok_or_else(|| format!("the schedule entry has a `{}` without `{attribute}`", element.name))
}

fn read_target_load(text: &str) -> Result<f64, String> {
    let load = text.trim().parse::<f64>().ok();
    load.filter(|load| (0.0..=TARGET_LOAD_MAX).contains(load)).ok_or_else(|| {
        let expected = "a share of the host from 0 to 10, such as 0.25 for a quarter";
        wrong("entry", "target-load", text, expected)
    })
}

fn read_handoff(text: &str) -> Result<HandoffId, String> {
    let expected = "the id of a handoff, 16 hexadecimal digits";
    HandoffId::try_from(text.trim().to_owned())
        .map_err(|_| wrong("entry", "handoff", text, expected))
}

fn read_flag(element: &Element, name: &str) -> Result<bool, String> {
    match element.attribute(name) {
        None | Some("no" | "false") => Ok(false),
        Some("yes" | "true") => Ok(true),
        Some(text) => Err(wrong(&element.name, name, text, "`yes` or `no`")),
    }
}

fn read_host(element: &Element, attribute: &str) -> Result<HostId, String> {
    let text = required(element, attribute)?;
    HostId::new(text)
        .map_err(|error| wrong(&element.name, attribute, text, &format!("a host ({error})")))
}

fn read_number(element: &Element, attribute: &str) -> Result<Option<u32>, String> {
    let Some(text) = element.attribute(attribute) else { return Ok(None) };
    let number = text.trim().parse().map(Some);
    number.map_err(|_| wrong(&element.name, attribute, text, "a whole number, 0 or more"))
}

fn read_group(element: &Element) -> Result<Group, String> {
    let (name, across) = (required(element, "group")?, element.attribute("across"));
    Group::new(name, across, read_flag(element, "soft")?).map_err(|error| in_entry(&error))
}

fn read_place(element: &Element) -> Result<Place, String> {
    let hosts = match (element.attribute("host"), element.attribute("label")) {
        (_, None) => Hosts::One(read_host(element, "host")?),
        (None, Some(label)) => {
            let value = required(element, "value")?;
            Hosts::Labelled { label: label.to_owned(), value: value.to_owned() }
        }
        (Some(_), Some(label)) => {
            return Err(wrong(&element.name, "label", label, "either `host` or `label`, not both"));
        }
    };
    let (not, soft) = (read_flag(element, "not")?, read_flag(element, "soft")?);
    Place::new(hosts, not, soft).map_err(|error| in_entry(&error))
}

/// A time for people, or the bare number where their calendar ends.
fn written_time(at: Time) -> String {
    let ms = i64::try_from(at.unix_ms()).ok();
    let stamp = ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(|| at.unix_ms().to_string(), |stamp| stamp.to_string())
}

fn read_time(element: &Element) -> Result<Time, String> {
    let text = required(element, "at")?;
    let bare = text.trim().parse::<u64>().ok();
    let stamped = || text.trim().parse::<jiff::Timestamp>().ok()?.as_millisecond().try_into().ok();
    bare.or_else(stamped)
        .map(Time::from_unix_ms)
        .ok_or_else(|| wrong(&element.name, "at", text, "a time such as 2026-11-23T02:03:18Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn domain(metadata: &str) -> String {
        format!("<domain type='kvm'>\n  <name>m</name>\n  {metadata}\n  <vcpu>1</vcpu>\n</domain>")
    }

    fn with(inner: &str) -> String {
        domain(&format!("<metadata><e:entry xmlns:e='{NAMESPACE}' {inner}</metadata>"))
    }

    fn read_from(domain: &str) -> Result<Entry, String> {
        of_domain(&Element::parse(domain).unwrap())
    }

    #[test]
    fn what_is_missing_has_its_default_and_what_is_unknown_is_passed_over() {
        for text in [
            domain(""),
            domain("<metadata/>"),
            domain("<metadata><x:entry xmlns:x='urn:other' epoch='7'/></metadata>"),
            with("/>"),
            with("colour='blue'><e:shape/><other/> text </e:entry>"),
        ] {
            assert_eq!(read_from(&text), Ok(Entry::default()), "{text}");
        }
        let by_hand = with(" target-load = ' 0.25 ' >\n <e:affinity group='web'/>\n</e:entry>");
        let entry = read_from(&by_hand).unwrap();
        let web = "web".parse().unwrap();
        assert_eq!((entry.target_load, entry.rules.affinity), (Some(0.25), vec![web]));
    }

    #[test]
    fn nonsense_is_an_error_that_names_attribute_and_value() {
        for (inner, names) in [
            ("epoch='abc'/>", ["epoch", "abc"]),
            ("epoch='-1'/>", ["epoch", "-1"]),
            ("handoff='me'/>", ["handoff", "me"]),
            ("epoch='99999999999999999999'/>", ["epoch", "99999999999999999999"]),
            ("target-load='-1'/>", ["target-load", "-1"]),
            ("target-load='NaN'/>", ["target-load", "NaN"]),
            ("target-load='inf'/>", ["target-load", "inf"]),
            ("target-load='25'/>", ["target-load", "25"]),
            ("target-load='25%'/>", ["target-load", "25%"]),
            ("ignore='maybe'/>", ["ignore", "maybe"]),
            ("><e:pinned-to host='a b'/></e:entry>", ["host", "a b"]),
            ("><e:pinned-to/></e:entry>", ["pinned-to", "host"]),
            ("><e:pinned-to label='rack'/></e:entry>", ["pinned-to", "value"]),
            ("><e:pinned-to host='h' label='rack'/></e:entry>", ["label", "not both"]),
            ("><e:pinned-to host='h' not='never'/></e:entry>", ["not", "never"]),
            ("><e:affinity group=' '/></e:entry>", ["group", "schedule entry"]),
            ("><e:affinity group='a@b'/></e:entry>", ["group", "a@b"]),
            ("><e:anti-affinity group='a' across='b c'/></e:entry>", ["label", "b c"]),
            ("><e:anti-affinity group='a' soft='a bit'/></e:entry>", ["soft", "a bit"]),
            ("never-live='once'/>", ["never-live", "once"]),
            ("copy-storage='some'/>", ["copy-storage", "some"]),
            ("priority='high'/>", ["priority", "high"]),
            ("priority='100000'/>", ["priority", "100000"]),
            ("max-share='half'/>", ["max-share", "half"]),
            ("mode='manual'/>", ["mode", "manual"]),
            ("max-share='50'/>", ["largest share", "50"]),
            ("><e:last-move at='yesterday' from='h'/></e:entry>", ["at", "yesterday"]),
            ("><e:last-move at='1' from='h' moves='many'/></e:entry>", ["moves", "many"]),
            ("><e:last-move at='1' /></e:entry>", ["last-move", "from"]),
            ("/><e:entry xmlns:e='https://evenkeel.dev/schedule/1'/>", ["entry", "twice"]),
        ] {
            let text = read_from(&with(inner)).unwrap_err();
            assert!(names.iter().all(|name| text.contains(name)), "`{inner}` gave `{text}`");
        }
    }

    #[test]
    fn an_entry_that_names_too_much_is_an_error_and_the_rest_of_the_host_can_be_offered() {
        let many = "<e:anti-affinity group='g'/>".repeat(65);
        let long = format!("<e:affinity group='{}'/>", "g".repeat(250)).repeat(13);
        for names in [many, long] {
            let text = read_from(&with(&format!(">{names}</e:entry>"))).unwrap_err();
            assert!(text.contains("names more than 64"), "{text}");
        }
    }

    #[test]
    fn an_entry_is_put_where_it_belongs_and_nothing_else_changes() {
        let other = "<x:y xmlns:x='urn:x'>keep <z/></x:y>";
        let entry = Entry { epoch: Epoch(4), ..Entry::default() };
        for text in [
            domain(""),
            domain("<metadata/>"),
            domain("<metadata a='b' />"),
            domain(&format!("<metadata>{other}</metadata>")),
            domain(&format!(
                "<metadata>{other}<e:entry xmlns:e='{NAMESPACE}' epoch='1'/></metadata>"
            )),
            with("epoch='x'>junk</e:entry>"),
            with("/><e:entry xmlns:e='https://evenkeel.dev/schedule/1'/>"),
        ] {
            let edited = replaced_in(&text, &entry, false).unwrap();
            assert_eq!(read_from(&edited), Ok(entry.clone()), "{edited}");
            assert_eq!(text.contains(other), edited.contains(other), "{edited}");
            assert!(edited.contains("<name>m</name>") && edited.ends_with("</domain>"));
        }
    }

    #[test]
    fn a_held_copy_says_so_until_its_entry_is_written_again() {
        let entry = Entry { epoch: Epoch(4), ..Entry::default() };
        let held = replaced_in(&with("epoch='3'/>"), &entry, true).unwrap();
        assert_eq!(read_from(&held), Ok(entry.clone()));
        assert!(is_held(&Element::parse(&held).unwrap()), "{held}");
        let claimed = replaced_in(&held, &entry, false).unwrap();
        assert!(!is_held(&Element::parse(&claimed).unwrap()), "{claimed}");
        let alone = as_metadata(&entry).unwrap();
        assert!(!alone.contains(HELD), "{alone}");
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(written_time(Time::from_unix_ms(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
        assert_eq!(written_time(Time::from_unix_ms(u64::MAX)), u64::MAX.to_string());
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let host = "[a-z0-9][a-zA-Z0-9._-]{0,20}".prop_map(|id| HostId::new(&id).unwrap());
        let label = || "[a-z/._-]{1,8}".prop_map(|label| label.to_owned());
        let group = (any::<String>(), prop::option::of(label()), any::<bool>())
            .prop_filter_map("no group", |(name, label, soft)| {
                Group::new(&name, label.as_deref(), soft).ok()
            });
        let groups = || prop::collection::vec(group.clone(), 0..4);
        let labelled = (label(), any::<String>());
        let hosts = prop_oneof![
            host.clone().prop_map(Hosts::One),
            labelled.prop_map(|(label, value)| Hosts::Labelled { label, value }),
        ];
        let place = (hosts, any::<(bool, bool)>())
            .prop_filter_map("no place", |(hosts, (not, soft))| Place::new(hosts, not, soft).ok());
        let modes = prop::option::of(prop::sample::select(Autonomy::ALL.to_vec()));
        let figures = (any::<(bool, bool)>(), -1100..1100, prop::option::of(-0.1..1.1f64), modes);
        let rules = (prop::collection::vec(place, 0..4), groups(), groups(), figures).prop_map(
            |(
                pinned_to,
                affinity,
                anti_affinity,
                ((ignore, never_live), priority, max_share, mode),
            )| {
                Rules {
                    pinned_to,
                    affinity,
                    anti_affinity,
                    ignore,
                    never_live,
                    copy_storage: never_live != ignore,
                    priority,
                    max_share,
                    mode,
                }
            },
        );
        let numbers = (any::<Option<u32>>(), any::<Option<u32>>(), prop::option::of(Just(true)));
        let last = prop::option::of((any::<u64>(), host, numbers));
        let stamp = (any::<u64>(), prop::option::of(any::<u64>().prop_map(HandoffId)));
        (stamp, prop::option::of(any::<f64>()), rules, last).prop_map(
            |((epoch, handoff), target_load, rules, last)| Entry {
                epoch: Epoch(epoch),
                handoff,
                target_load,
                rules,
                last_move: last.map(|(at, from, (moves, cost_percent, others))| LastMove {
                    at: Time::from_unix_ms(at),
                    from,
                    moves,
                    cost_percent,
                    others,
                }),
            },
        )
    }

    proptest! {
        #[test]
        fn an_entry_that_can_be_written_reads_back(entry in entries()) {
            if let Ok(edited) = replaced_in(&domain(""), &entry, false) {
                prop_assert_eq!(read_from(&edited), Ok(entry.clone()));
                prop_assert!(as_metadata(&entry).is_ok());
            } else {
                prop_assert!(as_metadata(&entry).is_err());
            }
        }

        #[test]
        fn no_entry_makes_the_reader_panic(inner in "[ -~é]{0,80}") {
            if let Ok(root) = Element::parse(&with(&inner)) {
                let _ = of_domain(&root);
                let _ = replaced_in(&with(&inner), &Entry::default(), true);
            }
        }
    }
}
