//! Where sysfs tells of an interface.

use std::fs;
use std::path::{Path, PathBuf};

use nix::net::if_::{if_indextoname, if_nametoindex};

/// Where sysfs is.
pub(super) const ROOT: &str = "/sys";

/// The index of an interface in the network namespace of this thread.
pub(super) fn index_of(interface: &str) -> Option<u32> {
    if_nametoindex(interface).ok()
}

/// The name that the kernel uses for an interface of the network namespace of this thread, of which an alternative name
/// (`ip link property`) was given perhaps: messages about it and sysfs have its own name only. What is no network interface
/// keeps its name.
pub(crate) fn own_name(interface: &str) -> String {
    index_of(interface)
        .and_then(|index| if_indextoname(index).ok())
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| interface.to_owned())
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

    #[cfg(feature = "root-tests")]
    #[test]
    fn an_alternative_name_stands_for_the_interface_s_own() {
        use nix::sched::{CloneFlags, unshare};

        let ip = |arguments: &str| {
            let mut ip = std::process::Command::new("ip");
            assert!(ip.args(arguments.split(' ')).status().unwrap().success());
        };
        let test = move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
            ip("link add near type veth peer name far");
            ip("link property add dev far altname mirror0");
            assert_eq!(own_name("mirror0"), "far");
        };
        std::thread::spawn(test)
            .join()
            .expect("the test in the namespace");
    }

    #[test]
    fn what_is_no_network_interface_keeps_its_name() {
        assert_eq!(own_name("usbmon0"), "usbmon0");
        assert_eq!(own_name("lo"), "lo");
    }
}
