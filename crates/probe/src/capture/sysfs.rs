//! Where sysfs tells of an interface.

use std::fs;
use std::path::{Path, PathBuf};

use nix::net::if_::if_nametoindex;

/// Where sysfs is.
pub(super) const ROOT: &str = "/sys";

/// The index of an interface in the network namespace of this thread.
pub(super) fn index_of(interface: &str) -> Option<u32> {
    if_nametoindex(interface).ok()
}

/// The directory of an interface of the network namespace of this thread; see [`directory_in`].
pub(crate) fn directory_of(interface: &str) -> Option<PathBuf> {
    directory_in(Path::new(ROOT), interface, index_of(interface)?)
}

/// The directory below `root` of the interface with this name and index. Sysfs shows the interfaces of the network namespace
/// that mounted it: another one's interface of the same name says nothing.
pub(super) fn directory_in(root: &Path, interface: &str, index: u32) -> Option<PathBuf> {
    let directory = root.join("class/net").join(interface);
    let shown: u32 = fs::read_to_string(directory.join("ifindex"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    (shown == index).then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_of_another_network_namespace_has_no_directory() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(directory_in(root.path(), "eth0", 7), None);
        let directory = root.path().join("class/net/eth0");
        fs::create_dir_all(&directory).unwrap();
        assert_eq!(directory_in(root.path(), "eth0", 7), None);
        fs::write(directory.join("ifindex"), "7\n").unwrap();
        assert_eq!(directory_in(root.path(), "eth0", 7), Some(directory));
        assert_eq!(directory_in(root.path(), "eth0", 8), None);
        assert_eq!(directory_of("nosuchif0"), None);
    }
}
