//! Several libvirt hosts on one machine, with guests that burn what they are told.
