//! Reading and editing libvirt's XML, without a libvirt.

pub(crate) mod disks;
pub(crate) mod domain;
pub(crate) mod entry;
pub(crate) mod fixtures;
pub(crate) mod host;
pub(crate) mod needs;
pub(crate) mod network;
mod tree;

pub(crate) use tree::{Element, escaped};
