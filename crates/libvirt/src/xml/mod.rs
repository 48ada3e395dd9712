//! Reading and editing libvirt's XML, without a libvirt.

pub(crate) mod domain;
pub(crate) mod entry;
pub(crate) mod host;
mod tree;

pub(crate) use tree::Element;
