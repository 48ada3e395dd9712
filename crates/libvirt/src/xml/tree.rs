//! Small XML documents as trees: what libvirt describes itself in.

use std::ops::Range;

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

/// Longest document that is read, in bytes: a large domain has a hundred times less.
const DOCUMENT_BYTES_MAX: usize = 4 << 20;

/// How deep elements may be nested: libvirt's own go to about ten.
const DEPTH_MAX: usize = 64;

/// Why a text is no XML document that is read here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not readable as XML: {0}")]
pub(crate) struct XmlError(String);

/// An element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    /// Its name without a prefix.
    pub(crate) name: String,
    /// The namespace that its prefix stands for; empty without one.
    pub(crate) namespace: String,
    /// Name, prefix included, and value of its attributes.
    pub(crate) attributes: Vec<(String, String)>,
    /// The text in it, trimmed; that of its children is theirs.
    pub(crate) text: String,
    /// The elements in it.
    pub(crate) children: Vec<Element>,
    /// Where it is in the document, its tags included.
    pub(crate) span: Range<usize>,
    /// Where its start tag is.
    pub(crate) start_tag: Range<usize>,
}

impl Element {
    /// Reads a document: its root.
    pub(crate) fn parse(document: &str) -> Result<Self, XmlError> {
        if document.len() > DOCUMENT_BYTES_MAX {
            return Err(XmlError(format!("longer than {DOCUMENT_BYTES_MAX} bytes")));
        }
        let mut reader = NsReader::from_str(document);
        let mut open: Vec<Self> = Vec::new();
        loop {
            let from = position(&reader);
            let (resolved, event) = reader.read_resolved_event().map_err(error)?;
            let namespace = match &resolved {
                ResolveResult::Bound(namespace) => namespace.into_inner().to_owned(),
                _ => String::new(),
            };
            let to = position(&reader);
            let closed = match event {
                Event::Start(tag) | Event::Empty(tag) if open.len() >= DEPTH_MAX => {
                    return Err(XmlError(format!("`{}` is nested too deep", tag.name().0)));
                }
                Event::Start(tag) => {
                    open.push(Self::from_tag(&tag, namespace, from..to)?);
                    None
                }
                Event::Empty(tag) => Some(Self::from_tag(&tag, namespace, from..to)?),
                Event::End(_) => open.pop(),
                Event::Text(text) => append(&mut open, &text),
                Event::CData(text) => append(&mut open, &text),
                Event::GeneralRef(name) => match name.resolve_char_ref().map_err(error)? {
                    Some(character) => append(&mut open, character.encode_utf8(&mut [0; 4])),
                    None => append(&mut open, resolve_predefined_entity(&name).unwrap_or("")),
                },
                Event::Eof => return Err(XmlError("it ends within an element".to_owned())),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => None,
            };
            if let Some(mut element) = closed {
                element.span.end = to;
                element.text = element.text.trim().to_owned();
                match open.last_mut() {
                    Some(parent) => parent.children.push(element),
                    None => return Ok(element),
                }
            }
        }
    }

    fn from_tag(
        tag: &BytesStart<'_>,
        namespace: String,
        at: Range<usize>,
    ) -> Result<Self, XmlError> {
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(error)?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(error)?;
            attributes.push((attribute.key.0.to_owned(), value.into_owned()));
        }
        let name = tag.local_name().into_inner().to_owned();
        let start_tag = at.clone();
        let (text, children) = (String::new(), Vec::new());
        Ok(Self { name, namespace, attributes, text, children, span: at, start_tag })
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The children of a name, whatever their namespace.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first element along a path of names, such as `os/type`.
    pub(crate) fn find(&self, path: &str) -> Option<&Self> {
        path.split('/').try_fold(self, |element, name| {
            element.children.iter().find(|child| child.name == name)
        })
    }

    /// The text of the first element along a path; empty if there is none.
    pub(crate) fn text_of(&self, path: &str) -> &str {
        self.find(path).map_or("", |element| &element.text)
    }

    /// This element and all below it.
    pub(crate) fn walk(&self, visit: &mut impl FnMut(&Self)) {
        visit(self);
        for child in &self.children {
            child.walk(visit);
        }
    }
}

fn append(open: &mut [Element], text: &str) -> Option<Element> {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
    None
}

fn position(reader: &NsReader<&[u8]>) -> usize {
    // A document is no longer than its limit, so its positions fit.
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

fn error(error: impl std::fmt::Display) -> XmlError {
    XmlError(error.to_string())
}

/// A text as it stands between the quotes of an attribute, or `None` if it holds a character that
/// XML cannot express at all.
pub(crate) fn escaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // As themselves they would be read back as spaces.
            '\t' => out.push_str("&#9;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => return None,
            _ => out.push(character),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_document_is_read_with_its_namespaces_and_places() {
        let text = "<?xml version='1.0'?>\n<!-- c --><a><b x='1 &amp; 2'>t &lt;&#x41;<c/></b>\
                    <m xmlns:e='urn:e'><e:d e:y=\"z\"/></m></a>";
        let root = Element::parse(text).unwrap();
        let b = root.find("b").unwrap();
        assert_eq!((b.attribute("x"), b.text.as_str()), (Some("1 & 2"), "t <A"));
        assert_eq!(&text[b.span.clone()], "<b x='1 &amp; 2'>t &lt;&#x41;<c/></b>");
        assert_eq!(&text[b.start_tag.clone()], "<b x='1 &amp; 2'>");
        let d = root.find("m/d").unwrap();
        assert_eq!((d.namespace.as_str(), &text[d.span.clone()]), ("urn:e", "<e:d e:y=\"z\"/>"));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let deep = "<a>".repeat(100);
        for text in ["", "no", "<a>", "<a></b>", "<a b=1/>", "<a x='1' x='2'/>", &deep] {
            assert!(Element::parse(text).is_err(), "`{text}` was read");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}") {
            let _ = Element::parse(&text);
        }

        #[test]
        fn no_markup_makes_the_reader_panic(
            text in "(<a>|</a>|<b x='|'/>|&amp;|&#x|;|<!--|-->|<!\\[CDATA\\[|\\]\\]>|xmlns:p='u'|<p:q|é| ){0,40}",
        ) {
            if let Ok(root) = Element::parse(&text) {
                prop_assert!(text.get(root.span.clone()).is_some());
            }
        }

        #[test]
        fn an_escaped_text_reads_back(text in any::<String>()) {
            if let Some(escaped) = escaped(&text) {
                let root = Element::parse(&format!("<a b=\"{escaped}\"/>")).unwrap();
                prop_assert_eq!(root.attribute("b"), Some(text.as_str()));
            }
        }
    }
}
