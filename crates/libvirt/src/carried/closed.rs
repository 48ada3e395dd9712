//! The closed list: which elements, attributes and values a domain's description and a migration's cookie
//! may have. `closed.list` is the list itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::LazyLock;

use super::document::{Content, Node, clean};

/// Longest value of an attribute, and longest text, in bytes.
const VALUE_BYTES_MAX: usize = 1024;
const TEXT_BYTES_MAX: usize = 64 << 10;
/// What a count must be below. libvirt makes every controller up to the highest that is named, for one.
const COUNT_BELOW: u32 = 1024;
/// Most elements of one name in one place.
const REPEATED_MAX: usize = 1024;

static LIST: LazyLock<List> = LazyLock::new(|| List::read(include_str!("closed.list")));

/// A kind of value that is not listed value by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Word,
    Name,
    Line,
    Text,
    Number,
    Count,
    Port,
    Address,
    Tree,
    /// The program that runs the machine.
    Emulator,
    /// Firmware, only read.
    Firmware,
    /// The variables of the firmware, written.
    Nvram,
    /// An image.
    Disk,
    /// Any other file: a kernel, a log, a socket.
    File,
}

impl Class {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "word" => Self::Word,
            "name" => Self::Name,
            "line" => Self::Line,
            "text" => Self::Text,
            "num" => Self::Number,
            "count" => Self::Count,
            "port" => Self::Port,
            "addr" => Self::Address,
            "tree" => Self::Tree,
            "emulator" => Self::Emulator,
            "firmware" => Self::Firmware,
            "nvram" => Self::Nvram,
            "disk" => Self::Disk,
            "file" => Self::File,
            _ => return None,
        })
    }

    const fn is_path(self) -> bool {
        matches!(self, Self::Emulator | Self::Firmware | Self::Nvram | Self::Disk | Self::File)
    }

    fn takes(self, value: &str) -> bool {
        let short = value.len() <= VALUE_BYTES_MAX;
        let line = short && !value.chars().any(char::is_control);
        let all = |more: &str| {
            short && value.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        match self {
            Self::Word => all("._:+-"),
            Self::Name => line && !value.contains('/'),
            Self::Line => line,
            Self::Text => value.len() <= TEXT_BYTES_MAX,
            Self::Number => {
                short && value.chars().all(|c| c.is_ascii_hexdigit() || "x,^-".contains(c))
            }
            Self::Count => is_count(value),
            Self::Port => short && value.split('.').count() <= 4 && value.split('.').all(is_count),
            Self::Address => value.parse::<IpAddr>().is_ok(),
            Self::Tree => false,
            _ => line && is_plain_path(value),
        }
    }
}

/// A number that libvirt may count to.
fn is_count(value: &str) -> bool {
    let read = match value.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16).ok(),
        _ if value.starts_with('+') => None,
        _ => value.parse().ok(),
    };
    read.is_some_and(|number| number < COUNT_BELOW)
}

/// An absolute path without steps up, sideways or in place.
pub(super) fn is_plain_path(path: &str) -> bool {
    let parts = path.strip_prefix('/').map(|rest| rest.split('/'));
    parts.is_some_and(|mut parts| parts.all(|part| !part.is_empty() && part != "." && part != ".."))
}

#[derive(Debug)]
enum Kind {
    Class(Class, Option<String>),
    OneOf(Vec<(String, Option<String>)>),
}

impl Kind {
    fn read(text: &str) -> Self {
        let keyed = |text: &str| match text.split_once('+') {
            Some((value, key)) => (value.to_owned(), Some(key.to_owned())),
            None => (text.to_owned(), None),
        };
        if let Some(class) = text.strip_prefix('%') {
            let (class, key) = keyed(class);
            if let Some(class) = Class::named(&class) {
                return Self::Class(class, key);
            }
        }
        Self::OneOf(text.split('|').map(keyed).collect())
    }
}

#[derive(Debug)]
struct Attribute {
    name: String,
    kind: Kind,
    dropped: bool,
}

#[derive(Debug, Default)]
struct Rule {
    name: String,
    many: bool,
    dropped: bool,
    key: Option<String>,
    attributes: Vec<Attribute>,
    text: Option<Kind>,
    items: Vec<Item>,
}

#[derive(Debug)]
enum Item {
    Rule(Rule),
    Group(String),
}

impl Rule {
    fn read(line: &str) -> Self {
        let mut tokens = line.split_whitespace();
        let name = tokens.next().unwrap_or_default();
        let (name, dropped) = name.strip_prefix('-').map_or((name, false), |name| (name, true));
        let (name, many) = name.strip_suffix('*').map_or((name, false), |name| (name, true));
        let mut rule = Self { name: name.to_owned(), many, dropped, ..Self::default() };
        for token in tokens {
            if let Some(key) = token.strip_prefix('+') {
                rule.key = Some(key.to_owned());
            } else if let Some(kind) = token.strip_prefix(':') {
                rule.text = Some(Kind::read(kind));
            } else if let Some((name, kind)) = token.split_once('=') {
                let (name, dropped) =
                    name.strip_prefix('-').map_or((name, false), |name| (name, true));
                let kind = Kind::read(kind);
                rule.attributes.push(Attribute { name: name.to_owned(), kind, dropped });
            } else {
                rule.text = Some(Kind::read(token));
            }
        }
        rule
    }

    fn is_tree(&self) -> bool {
        matches!(self.text, Some(Kind::Class(Class::Tree, _)))
    }
}

#[derive(Debug, Default)]
struct List {
    groups: BTreeMap<String, Vec<Item>>,
    roots: BTreeMap<String, Rule>,
}

impl List {
    fn read(text: &str) -> Self {
        let mut list = Self::default();
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let lines: Vec<(usize, &str)> =
            lines.map(|line| (line.len() - line.trim_start().len(), line.trim())).collect();
        let mut rest = &lines[..];
        while let Some(((_, line), after)) = rest.split_first() {
            let end = after.iter().position(|(depth, _)| *depth == 0).unwrap_or(after.len());
            let items = items(&after[..end], 2);
            rest = &after[end..];
            match line.strip_prefix("def ") {
                Some(name) => drop(list.groups.insert(name.to_owned(), items)),
                None => {
                    let rule = Rule { items, ..Rule::read(line) };
                    list.roots.insert(rule.name.clone(), rule);
                }
            }
        }
        list
    }

    fn child<'a>(&'a self, items: &'a [Item], name: &str) -> Option<&'a Rule> {
        items.iter().find_map(|item| match item {
            Item::Rule(rule) => (rule.name == name).then_some(rule),
            Item::Group(group) => self.child(self.groups.get(group)?, name),
        })
    }
}

fn items(lines: &[(usize, &str)], depth: usize) -> Vec<Item> {
    let mut found = Vec::new();
    let mut rest = lines;
    while let Some(((_, line), after)) = rest.split_first() {
        let end = after.iter().position(|(deep, _)| *deep <= depth).unwrap_or(after.len());
        found.push(match line.strip_prefix('&') {
            Some(group) => Item::Group(group.to_owned()),
            None => Item::Rule(Rule { items: items(&after[..end], depth + 2), ..Rule::read(line) }),
        });
        rest = &after[end..];
    }
    found
}

/// A path in a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) class: Class,
    pub(super) path: String,
    /// Which element names it.
    pub(super) by: String,
}

/// A document that has nothing but what is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// It, without what is not passed on.
    pub(super) root: Node,
    /// What has to be admitted, and the first element that needs it.
    pub(super) keys: BTreeMap<String, String>,
    /// The files that it names.
    pub(super) named: Vec<Named>,
}

/// What a document has that is not listed, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unlisted(pub(super) String);

/// A document with this root, if all of it is listed.
pub(super) fn listed(root: &Node) -> Result<Listed, Unlisted> {
    let unlisted = || Unlisted(format!("`{}` is no description", clean(&root.name)));
    let rule = LIST.roots.get(&root.name).ok_or_else(unlisted)?;
    let mut walk = Walk { keys: BTreeMap::new(), named: Vec::new() };
    let root = walk.element(root, rule, &root.name)?;
    Ok(Listed { root, keys: walk.keys, named: walk.named })
}

/// The description of a CPU, if all of it is listed.
pub(super) fn listed_cpu(root: &Node) -> Result<Node, Unlisted> {
    let rule = LIST.groups.get("cpu").and_then(|items| LIST.child(items, &root.name));
    let unlisted = || Unlisted(format!("`{}` is no CPU", clean(&root.name)));
    let mut walk = Walk { keys: BTreeMap::new(), named: Vec::new() };
    walk.element(root, rule.ok_or_else(unlisted)?, &root.name)
}

/// All keys of the list.
pub(super) fn keys() -> BTreeSet<&'static str> {
    fn of_kind<'a>(kind: &'a Kind, found: &mut BTreeSet<&'a str>) {
        match kind {
            Kind::Class(_, key) => found.extend(key.as_deref()),
            Kind::OneOf(all) => found.extend(all.iter().filter_map(|(_, key)| key.as_deref())),
        }
    }
    fn of_items<'a>(items: &'a [Item], found: &mut BTreeSet<&'a str>) {
        for item in items {
            let Item::Rule(rule) = item else { continue };
            found.extend(rule.key.as_deref());
            rule.attributes.iter().for_each(|attribute| of_kind(&attribute.kind, found));
            of_items(&rule.items, found);
        }
    }
    let mut found = BTreeSet::new();
    LIST.roots.values().for_each(|root| of_items(&root.items, &mut found));
    LIST.groups.values().for_each(|items| of_items(items, &mut found));
    found
}

struct Walk {
    keys: BTreeMap<String, String>,
    named: Vec<Named>,
}

impl Walk {
    fn element(&mut self, node: &Node, rule: &Rule, at: &str) -> Result<Node, Unlisted> {
        if let Some(key) = &rule.key {
            self.keys.entry(key.clone()).or_insert_with(|| at.to_owned());
        }
        if rule.is_tree() {
            return tree(node, at);
        }
        let mut out = Node { name: node.name.clone(), ..Node::default() };
        for (name, value) in &node.attributes {
            let known = rule.attributes.iter().find(|attribute| attribute.name == *name);
            let unlisted = || {
                Unlisted(format!("`{at}` has an attribute `{}` that is not listed", clean(name)))
            };
            let attribute = known.ok_or_else(unlisted)?;
            let place = format!("{at}/@{name}");
            if attribute.dropped {
                continue;
            }
            self.value(value, &attribute.kind, &place)?;
            out.attributes.push((name.clone(), value.clone()));
        }
        self.children(node, rule, at, &mut out)?;
        let text = node.text();
        match &rule.text {
            Some(kind) => {
                // Only a text that is words may begin or end with spaces that mean something.
                let text =
                    if matches!(kind, Kind::Class(Class::Text, _)) { &text } else { text.trim() };
                if !text.is_empty() {
                    self.value(text, kind, at)?;
                    out.content.insert(0, Content::Text(text.to_owned()));
                }
            }
            None if text.trim().is_empty() => {}
            None => return Err(Unlisted(format!("`{at}` has a text, which is not listed"))),
        }
        Ok(out)
    }

    fn children(
        &mut self,
        node: &Node,
        rule: &Rule,
        at: &str,
        out: &mut Node,
    ) -> Result<(), Unlisted> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for child in node.nodes() {
            let place = format!("{at}/{}", clean(&child.name));
            let known = LIST.child(&rule.items, &child.name);
            let known =
                known.ok_or_else(|| Unlisted(format!("it has `{place}`, which is not listed")))?;
            let count = seen.entry(&child.name).or_default();
            *count += 1;
            if *count > if known.many { REPEATED_MAX } else { 1 } {
                return Err(Unlisted(format!("it has `{place}` more often than is listed")));
            }
            if !known.dropped {
                let child = self.element(child, known, &place)?;
                out.content.push(Content::Node(child));
            }
        }
        Ok(())
    }

    fn value(&mut self, value: &str, kind: &Kind, at: &str) -> Result<(), Unlisted> {
        let unlisted = || Unlisted(format!("`{at}` is `{}`, which is not listed", clean(value)));
        let key = match kind {
            Kind::Class(class, key) if class.takes(value) => {
                if class.is_path() {
                    let (path, by) = (value.to_owned(), at.to_owned());
                    self.named.push(Named { class: *class, path, by });
                }
                key
            }
            Kind::Class(..) => return Err(unlisted()),
            Kind::OneOf(all) => &all.iter().find(|(one, _)| one == value).ok_or_else(unlisted)?.1,
        };
        if let Some(key) = key {
            self.keys.entry(key.clone()).or_insert_with(|| at.to_owned());
        }
        Ok(())
    }
}

/// Data of other programs, which libvirt keeps and does not read.
fn tree(node: &Node, at: &str) -> Result<Node, Unlisted> {
    if node.write().len() > TEXT_BYTES_MAX {
        return Err(Unlisted(format!("`{at}` is longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(node.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> Result<Listed, Unlisted> {
        listed(&Node::parse(text).unwrap())
    }

    fn device(text: &str) -> Result<Listed, Unlisted> {
        judged(&format!("<domain type='kvm'><devices>{text}</devices></domain>"))
    }

    #[test]
    fn the_list_can_be_read_to_its_last_line() {
        fn every(items: &[Item], groups: &BTreeMap<String, Vec<Item>>) -> usize {
            items.iter().fold(0, |count, item| match item {
                Item::Group(group) => {
                    assert!(groups.contains_key(group), "no group `{group}`");
                    count + 1
                }
                Item::Rule(rule) => {
                    for kind in rule.attributes.iter().map(|a| &a.kind).chain(&rule.text) {
                        if let Kind::OneOf(all) = kind {
                            assert!(!all.iter().any(|(one, _)| one.starts_with('%')), "{rule:?}");
                        }
                    }
                    count + 1 + every(&rule.items, groups)
                }
            })
        }
        let count = LIST.groups.values().map(|items| 1 + every(items, &LIST.groups)).sum::<usize>()
            + LIST.roots.values().map(|rule| 1 + every(&rule.items, &LIST.groups)).sum::<usize>();
        let text = include_str!("closed.list");
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        assert_eq!(count, lines.count());
    }

    #[test]
    fn what_is_not_listed_is_named() {
        for (xml, names) in [
            ("<hostdev mode='subsystem' type='pci'/>", "devices/hostdev"),
            ("<filesystem type='mount'><binary path='/x'/></filesystem>", "devices/filesystem"),
            ("<disk type='nvme'/>", "disk/@type` is `nvme"),
            ("<disk type='vhostuser'/>", "disk/@type` is `vhostuser"),
            ("<disk device='lun'/>", "disk/@device` is `lun"),
            ("<disk><mirror/></disk>", "disk/mirror"),
            ("<disk><source><reservations/></source></disk>", "source/reservations"),
            ("<disk><driver name='qemu' type='vmdk'/></disk>", "driver/@type` is `vmdk"),
            ("<disk><source file='a'/></disk>", "source/@file` is `a"),
            ("<disk><source file='/a/../b'/></disk>", "source/@file` is `/a/../b"),
            ("<disk><source file='/a'/><source file='/b'/></disk>", "disk/source` more often"),
            ("<interface type='ethernet'><script path='/x'/></interface>", "is `ethernet"),
            ("<interface type='bridge'><script path='/x'/></interface>", "interface/script"),
            ("<interface type='vhostuser'/>", "is `vhostuser"),
            ("<interface type='bridge'><backend tap='/x'/></interface>", "interface/backend"),
            ("<serial type='dev'/>", "serial/@type` is `dev"),
            ("<serial type='pipe'/>", "serial/@type` is `pipe"),
            ("<rng><backend model='egd' type='udp'/></rng>", "backend/@"),
            ("<rng><backend model='random'>/dev/sda</backend></rng>", "/dev/sda"),
            ("<smartcard mode='passthrough'/>", "devices/smartcard"),
            ("<shmem name='x'/>", "devices/shmem"),
            ("<input type='evdev'><source dev='/dev/input/event1'/></input>", "is `evdev"),
            ("<input type='passthrough'/>", "is `passthrough"),
            ("<audio id='1' type='file' path='/x'/>", "audio/@"),
            ("<graphics type='egl-headless'/>", "is `egl-headless"),
            ("<graphics type='vnc' socket='/x'/>", "`socket`"),
            ("<graphics type='vnc'><listen type='socket' socket='/x'/></graphics>", "is `socket"),
            ("<memory model='nvdimm'><source><path>/x</path></source></memory>", "is `nvdimm"),
            ("<memory model='dimm'><source><path>/x</path></source></memory>", "source/path"),
            ("<watchdog model='i6300esb' action='dump'/>", "is `dump"),
            ("<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>", "tpm"),
            ("<lease/>", "devices/lease"),
            ("<controller type='pci'>text</controller>", "has a text"),
            ("<controller type='scsi' index='2000000000'/>", "@index` is `2000000000"),
            ("<controller type='scsi' index='1024'/>", "@index` is `1024"),
            ("<controller type='scsi' index='0x400'/>", "@index` is `0x400"),
            ("<controller type='scsi' index='0x+1'/>", "@index` is `0x+1"),
            ("<controller type='scsi' index='0-3'/>", "@index` is `0-3"),
            ("<controller type='virtio-serial' ports='99999'/>", "@ports` is `99999"),
            ("<disk><address type='drive' controller='99999'/></disk>", "@controller` is `99999"),
            ("<input type='mouse'><address type='usb' port='1.99999'/></input>", "is `1.99999"),
            ("<interface type='bridge'><driver queues='99999'/></interface>", "is `99999"),
        ] {
            let why = device(xml).expect_err(xml).0;
            assert!(why.contains(names), "{xml}: {why}");
        }
    }

    #[test]
    fn what_stands_outside_of_devices_is_closed_as_well() {
        for (xml, names) in [
            (
                "<domain type='kvm' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>\
                 <q:commandline/></domain>",
                "`xmlns:q`",
            ),
            ("<domain type='kvm'><commandline xmlns='u'/></domain>", "domain/commandline"),
            ("<domain type='lxc'/>", "is `lxc"),
            ("<domain><launchSecurity type='sev'/></domain>", "launchSecurity"),
            ("<domain><resource><partition>/system.slice</partition></resource></domain>", "slice"),
            ("<domain><on_crash>coredump-destroy</on_crash></domain>", "coredump-destroy"),
            (
                "<domain><blkiotune><device><path>/dev/sda</path></device></blkiotune></domain>",
                "blkiotune/device",
            ),
            (
                "<domain><sysinfo type='fwcfg'><entry name='a' file='/x'/></sysinfo></domain>",
                "fwcfg",
            ),
            ("<domain><idmap/></domain>", "domain/idmap"),
            ("<domain><os><init>/bin/sh</init></os></domain>", "os/init"),
            ("<domain><name>a</name><name>b</name></domain>", "domain/name` more often"),
            ("<volume/>", "no description"),
        ] {
            let why = judged(xml).expect_err(xml).0;
            assert!(why.contains(names), "{xml}: {why}");
        }
    }

    #[test]
    fn what_has_to_be_admitted_is_told_by_its_key() {
        for (xml, key) in [
            ("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>", "tpm"),
            ("<serial type='tcp'><source mode='bind' host='0' service='1'/></serial>", "sockets"),
            ("<channel type='unix'><source mode='connect' path='/x'/></channel>", "sockets"),
            ("<disk type='network'/>", "network-disks"),
            ("<interface type='user'/>", "user-networks"),
            ("<disk><encryption/></disk>", "secrets"),
            ("<disk><source file='/a'><seclabel model='dac'/></source></disk>", "seclabel"),
        ] {
            let found = device(xml).unwrap_or_else(|why| panic!("{xml}: {why}"));
            assert!(found.keys.contains_key(key), "{xml}: {:?}", found.keys);
        }
        let label = "<domain><seclabel type='static' model='dac' relabel='no'><label>+0:+0</label>\
                     </seclabel></domain>";
        assert!(judged(label).unwrap().keys.contains_key("seclabel"));
        let admitted =
            ["network-disks", "realtime", "seclabel", "secrets", "sockets", "tpm", "user-networks"];
        assert_eq!(keys(), BTreeSet::from(admitted));
    }

    #[test]
    fn files_are_told_with_what_they_are_for_and_what_is_of_this_host_is_dropped() {
        let xml = "<emulator>/usr/bin/qemu</emulator><disk type='file'><source file='/a' index='1'/>\
                   <backingStore type='file'><source file='/b'/></backingStore>\
                   <alias name='virtio0'/></disk>\
                   <console type='pty' tty='/dev/pts/1'><log file='/c'/></console>";
        let found = device(xml).unwrap();
        let named: Vec<_> = found.named.iter().map(|n| (n.class, n.path.as_str())).collect();
        let expected = [
            (Class::Emulator, "/usr/bin/qemu"),
            (Class::Disk, "/a"),
            (Class::Disk, "/b"),
            (Class::File, "/c"),
        ];
        assert_eq!(named, expected);
        let written = found.root.write();
        for dropped in ["alias", "index", "tty"] {
            assert!(!written.contains(dropped), "{written}");
        }
    }
}
