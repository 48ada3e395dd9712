//! The hypervisor trait over libvirt: the only unsafe code and the only LGPL dependency.
