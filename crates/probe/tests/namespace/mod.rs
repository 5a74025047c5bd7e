//! A network namespace of a test's own, with a cable in it. Needs root and iproute2.

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a fresh network namespace. A namespace is a thread's, so that the tests do not see one another.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
        test();
    })
    .join()
    .expect("the test in the namespace");
}

/// Runs `ip` with these arguments and returns what it writes.
pub fn ip(arguments: &str) -> String {
    let done = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    assert!(
        done.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).expect("text")
}

/// Two ends of a cable; what is sent to 192.0.2.2 comes out at `far`, where nobody answers. `options` are those of `near`.
pub fn cable(options: &str) {
    ip(&format!(
        "link add near address 02:00:00:00:00:01 {options} type veth peer name far address 02:00:00:00:00:02"
    ));
    ip("link set near up");
    ip("link set far up");
    ip("address add 192.0.2.1/24 dev near");
    ip("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev near");
}

/// How many ask that the interface receive frames for other stations too.
pub fn promiscuity(interface: &str) -> u32 {
    let shown = ip(&format!("-details link show {interface}"));
    let (_, after) = shown.split_once(" promiscuity ").expect("a count");
    let count = after.split_whitespace().next().expect("a count");
    count.parse().expect("a number")
}
