//! Reading and editing libvirt's XML, without a libvirt.

pub(crate) mod disks;
pub(crate) mod domain;
pub(crate) mod entry;
pub(crate) mod host;
pub(crate) mod needs;
mod tree;

pub(crate) use tree::{Element, escaped};
