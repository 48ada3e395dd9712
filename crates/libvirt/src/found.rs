//! Storage of this host that other hosts may reach too, for whoever writes a configuration.

use std::path::{Path, PathBuf};

use crate::ffi::{Connection, run_event_loop};
use crate::locks::Mounts;
use crate::storage::shared_pool_id;
use crate::xml::Element;

/// File systems that several hosts can have mounted at the same time.
const SHARED_KINDS: [&str; 15] = [
    "9p",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.ceph",
    "fuse.ceph-fuse",
    "fuse.glusterfs",
    "gfs2",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "virtiofs",
];

/// A directory that other hosts may reach too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundStorage {
    /// Where it is on this host.
    pub path: PathBuf,
    /// What to call it: the same text on every host that has the same mounted.
    pub id: String,
    /// Whether a storage pool of libvirt lies on it.
    pub pooled: bool,
}

/// What was found of storage on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Directories that are to be declared.
    pub directories: Vec<FoundStorage>,
    /// Names of pools that need no declaration: libvirt says what they are made from.
    pub pools: Vec<String>,
}

/// Looks at the mounts of this host and at the pools of the libvirt at `uri`.
///
/// # Errors
/// Why libvirt did not answer, in its own words.
pub fn find_storage(uri: &str) -> Result<Found, String> {
    let pools = run_event_loop()
        .and_then(|()| Connection::open(uri, true))
        .and_then(|connection| connection.active_storage_pools())
        .map_err(|error| error.to_string())?;
    Ok(found(&Mounts::read(), &pools))
}

fn found(mounts: &Mounts, pools: &[String]) -> Found {
    let pools: Vec<_> = pools.iter().filter_map(|text| Element::parse(text).ok()).collect();
    let target = |pool: &Element| PathBuf::from(pool.text_of("target/path"));
    let (known, own): (Vec<_>, Vec<_>) =
        pools.iter().partition(|pool| shared_pool_id(pool).is_some());
    let is_known = |path: &Path| known.iter().any(|pool| path == target(pool));
    let directories = mounts.of_kinds(&SHARED_KINDS).filter(|(path, ..)| !is_known(path));
    let directories = directories.map(|(path, source, kind)| FoundStorage {
        pooled: own.iter().any(|pool| target(pool).starts_with(path)),
        path: path.to_owned(),
        id: id_of(source, kind),
    });
    Found {
        directories: directories.collect(),
        pools: known.iter().map(|pool| pool.text_of("name").to_owned()).collect(),
    }
}

/// A mount is called as libvirt's pool of the same source would be, so that a host which has it as a
/// pool and one which has it mounted agree.
fn id_of(source: &str, kind: &str) -> String {
    let kind = match kind {
        "nfs" | "nfs4" | "fuse.glusterfs" => "netfs",
        kind => kind.trim_start_matches("fuse."),
    };
    format!("{kind}:{source}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_that_hosts_can_share_are_found_and_pools_that_say_so_themselves_need_no_word() {
        let mounts = Mounts::parse(
            "36 35 0:30 / / rw - ext4 /dev/vda rw\n\
             37 35 0:31 / /srv/vm rw - nfs4 nas:/vm rw,vers=4.2\n\
             38 35 0:32 / /mnt/pool rw - nfs4 nas:/pool rw,vers=4.2\n\
             39 35 0:33 / /mnt/my\\040gfs rw - fuse.glusterfs g1:vms rw\n",
        );
        let pools = [
            "<pool type='netfs'><name>nas</name><source><host name='nas'/><dir path='/pool'/>\
             </source><target><path>/mnt/pool</path></target></pool>",
            "<pool type='dir'><name>images</name><source/><target><path>/srv/vm/images</path>\
             </target></pool>",
            "<broken",
        ];
        let found = found(&mounts, &pools.map(str::to_owned));
        let at = |path: &str, id: &str, pooled| FoundStorage {
            path: path.into(),
            id: id.to_owned(),
            pooled,
        };
        let directories =
            vec![at("/srv/vm", "netfs:nas:/vm", true), at("/mnt/my gfs", "netfs:g1:vms", false)];
        assert_eq!(found, Found { directories, pools: vec!["nas".to_owned()] });
    }
}
