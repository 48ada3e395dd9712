//! XML as a tree that is written anew.
//!
//! The parser takes less than libvirt's does, so that the two cannot read one text differently: UTF-8
//! without a byte order mark, no document type, no processing instructions, no entities but the five
//! that every parser knows, no attribute twice. Comments are dropped and CDATA becomes text. libvirt
//! gets what [`Node::write`] makes of the tree, never the text that was parsed.

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use crate::xml::escaped;

/// Longest document, in bytes; libvirt's own limit for a description is 4 MiB.
pub(super) const DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// How deep elements may be nested.
const DEPTH_MAX: usize = 32;
/// Most elements of a document. A domain with 200 disks has some 2,000.
const NODES_MAX: usize = 50_000;

/// An element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Its name, prefix included.
    pub(super) name: String,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) content: Vec<Content>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Node(Node),
    Text(String),
}

impl Node {
    /// Reads a document: its root.
    pub(super) fn parse(document: &str) -> Result<Self, String> {
        if document.len() > DOCUMENT_BYTES_MAX {
            return Err(format!("it is longer than {DOCUMENT_BYTES_MAX} bytes"));
        }
        if let Some(found) = document.chars().find(|c| is_forbidden(*c)) {
            return Err(format!("it holds the character U+{:04X}", u32::from(found)));
        }
        let mut reader = Reader::from_str(document);
        let (mut open, mut root, mut count) = (Vec::<Self>::new(), None, 0_usize);
        loop {
            let event = reader.read_event().map_err(|error| error.to_string())?;
            let closed = match event {
                Event::Start(tag) => {
                    open.push(Self::from_tag(&tag)?);
                    None
                }
                Event::Empty(tag) => Some(Self::from_tag(&tag)?),
                Event::End(_) => open.pop(),
                Event::Text(text) => append(&mut open, &text)?,
                Event::CData(text) => append(&mut open, &text)?,
                Event::GeneralRef(name) => {
                    let resolved = name.resolve_char_ref().map_err(|error| error.to_string())?;
                    match resolved {
                        Some(c) if is_forbidden(c) => {
                            return Err(format!(
                                "it refers to the character U+{:04X}",
                                u32::from(c)
                            ));
                        }
                        Some(c) => append(&mut open, c.encode_utf8(&mut [0; 4]))?,
                        None => {
                            let known = resolve_predefined_entity(&name);
                            let known = known
                                .ok_or_else(|| format!("it has an entity `{}`", clean(&name)))?;
                            append(&mut open, known)?
                        }
                    }
                }
                Event::Comment(_) => None,
                Event::Decl(_) | Event::PI(_) => {
                    return Err("it has a processing instruction".to_owned());
                }
                Event::DocType(_) => return Err("it has a document type".to_owned()),
                Event::Eof => break,
            };
            count += usize::from(closed.is_some());
            if open.len() > DEPTH_MAX || count > NODES_MAX {
                return Err("it has too many elements, or nests them too deep".to_owned());
            }
            let Some(node) = closed else { continue };
            match open.last_mut() {
                Some(parent) => parent.content.push(Content::Node(node)),
                None if root.is_none() => root = Some(node),
                None => return Err("it has two roots".to_owned()),
            }
        }
        if !open.is_empty() {
            return Err("it ends within an element".to_owned());
        }
        root.ok_or_else(|| "it has no element".to_owned())
    }

    fn from_tag(tag: &BytesStart<'_>) -> Result<Self, String> {
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0);
            let value = value.map_err(|error| error.to_string())?.into_owned();
            if let Some(c) = value.chars().find(|c| is_forbidden(*c)) {
                return Err(format!("it refers to the character U+{:04X}", u32::from(c)));
            }
            attributes.push((attribute.key.0.to_owned(), value));
        }
        let name = tag.name().0.to_owned();
        for name in std::iter::once(&name).chain(attributes.iter().map(|(name, _)| name)) {
            if !is_name(name) {
                return Err(format!("`{}` is no name", clean(name)));
            }
        }
        Ok(Self { name, attributes, content: Vec::new() })
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The elements in it.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Self> {
        self.content.iter().filter_map(|content| match content {
            Content::Node(node) => Some(node),
            Content::Text(_) => None,
        })
    }

    /// The elements of a name in it.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.nodes().filter(move |node| node.name == name)
    }

    pub(super) fn find(&self, name: &str) -> Option<&Self> {
        self.nodes().find(|node| node.name == name)
    }

    /// All text in it, of its children not.
    pub(super) fn text(&self) -> String {
        let text = self.content.iter().filter_map(|content| match content {
            Content::Text(text) => Some(text.as_str()),
            Content::Node(_) => None,
        });
        text.collect()
    }

    /// The document anew.
    pub(super) fn write(&self) -> String {
        let mut out = String::new();
        self.write_to(&mut out);
        out
    }

    fn write_to(&self, out: &mut String) {
        // What cannot be written was not read.
        let written = |text: &str| escaped(text).unwrap_or_default();
        out.push('<');
        out.push_str(&self.name);
        for (name, value) in &self.attributes {
            out.push_str(&format!(" {name}=\"{}\"", written(value)));
        }
        if self.content.is_empty() {
            return out.push_str("/>");
        }
        out.push('>');
        for content in &self.content {
            match content {
                Content::Node(node) => node.write_to(out),
                Content::Text(text) => out.push_str(&written(text)),
            }
        }
        out.push_str(&format!("</{}>", self.name));
    }
}

fn append(open: &mut [Node], text: &str) -> Result<Option<Node>, String> {
    match open.last_mut().map(|node| &mut node.content) {
        // An empty CDATA section is no text at all, as it reads when it is written anew.
        Some(_) if text.is_empty() => {}
        Some(content) => match content.last_mut() {
            Some(Content::Text(before)) => before.push_str(text),
            _ => content.push(Content::Text(text.to_owned())),
        },
        None if text.trim().is_empty() => {}
        None => return Err("it has text outside of its root".to_owned()),
    }
    Ok(None)
}

/// Characters that XML cannot hold, or that a parser may take for something else.
fn is_forbidden(c: char) -> bool {
    matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && name.len() <= 128 && name.chars().all(plain)
}

/// A text of another host as a line of a log or a message: short, and without control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_two_parsers_may_read_differently_is_refused() {
        for (text, why) in [
            ("<?xml version='1.0' encoding='utf-16'?><a/>", "processing instruction"),
            ("<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>", "document type"),
            ("<a>&e;</a>", "entity"),
            ("<?pi x?><a/>", "processing instruction"),
            ("\u{feff}<a/>", "U+FEFF"),
            ("<a>\0</a>", "U+0000"),
            ("<a>&#1;</a>", "U+0001"),
            ("<a b='&#x1b;'/>", "U+001B"),
            ("<a x='1' x='2'/>", "duplicate"),
            ("<a/><b/>", "two roots"),
            ("<a/>b", "outside"),
            ("<a><b></a></b>", ""),
            ("<a>", "ends within"),
            ("<é/>", "no name"),
            ("", "no element"),
            (&"<a>".repeat(100), "too deep"),
        ] {
            let error = Node::parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_document_is_written_anew_without_its_remarks() {
        let text =
            "<a x='1 &amp; \"2\"'><!-- </a> -->t &lt;<![CDATA[<b/>]]>&#x41;<p:c xmlns:p='u'/></a>";
        let root = Node::parse(text).unwrap();
        let written = root.write();
        assert_eq!(
            written,
            "<a x=\"1 &amp; &quot;2&quot;\">t &lt;&lt;b/&gt;A<p:c xmlns:p=\"u\"/></a>"
        );
        assert_eq!(Node::parse(&written), Ok(root));
        let empty = Node::parse("<r><![CDATA[]]></r>");
        assert_eq!(empty, Node::parse("<r/>"), "an empty section is no text");
    }

    proptest! {
        #[test]
        fn what_is_read_reads_the_same_when_written(
            text in "(<a>|</a>|<b x='|'/>|&amp;|&#x9;|&#xd;|;|<!--|-->|<!\\[CDATA\\[|\\]\\]>|p:q|é| |\n){0,40}",
        ) {
            if let Ok(root) = Node::parse(&format!("<r>{text}</r>")) {
                prop_assert_eq!(Node::parse(&root.write()), Ok(root));
            }
        }
    }
}
