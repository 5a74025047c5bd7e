//! Which cores the workers run on.
//!
//! A worker's ring is memory of the core that sets it up, and its frames pass through that core's caches: on a machine
//! with several NUMA nodes both should be the network card's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::{CaptureError, sysfs};

/// The calling thread.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// Logical processors that a worker may run on: one, or those of a NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(Vec<usize>);

impl Place {
    /// One core.
    pub fn core(core: usize) -> Self {
        Self(vec![core])
    }

    /// Where a single worker of an interface runs that nobody gave a core: anywhere on the interface's NUMA node, which is
    /// the scheduler's choice. None where every processor that this process may use is as near.
    pub fn near(interface: &str) -> Option<Self> {
        Machine::of(interface).node
    }

    /// Binds the calling thread to it.
    fn bind(&self) -> io::Result<()> {
        let mut set = CpuSet::new();
        self.0.iter().try_for_each(|&core| set.set(core))?;
        Ok(sched_setaffinity(THIS_THREAD, &set)?)
    }
}

/// The cores of this machine that this process may use, and where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Machine {
    /// Logical processors that the process may use.
    allowed: Vec<usize>,
    /// Of each physical core among them one, those of the interface's NUMA node only; the first is another one for each
    /// interface, so that several probes on one machine do not all begin with the same core.
    near: Vec<usize>,
    /// All logical processors of that node that the process may use, if it may use others too.
    node: Option<Place>,
}

/// A number that is the interface's own and the same at every start (FNV-1a of its name).
fn number_of(interface: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    interface.bytes().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// Reads a list as sysfs writes it: `0-3,8`.
fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last - first > CpuSet::count() {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

fn read_list(path: PathBuf) -> Option<Vec<usize>> {
    parse_list(&fs::read_to_string(path).ok()?)
}

fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(THIS_THREAD) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|&core| set.is_set(core).unwrap_or(false))
        .collect()
}

impl Machine {
    fn of(interface: &str) -> Self {
        let index = sysfs::index_of(interface);
        let name = sysfs::own_name(interface);
        Self::read(Path::new(sysfs::ROOT), &name, index, allowed())
    }

    /// What sysfs below `root` says. `index`: the interface's, where there is one.
    fn read(root: &Path, interface: &str, index: Option<u32>, allowed: Vec<usize>) -> Self {
        let node = index
            .and_then(|index| sysfs::directory_in(root, interface, index))
            .and_then(|directory| fs::read_to_string(directory.join("device/numa_node")).ok())
            .and_then(|text| text.trim().parse::<usize>().ok());
        // -1, or no such file: every node is as near (virtual interfaces, machines with one node). So it is where sysfs shows
        // another network namespace.
        let of_node = node
            .and_then(|node| read_list(root.join(format!("devices/system/node/node{node}/cpulist"))))
            .filter(|cores| cores.iter().any(|core| allowed.contains(core)));
        let mut near: Vec<usize> = allowed
            .iter()
            .copied()
            .filter(|core| of_node.as_ref().is_none_or(|cores| cores.contains(core)))
            .filter(|core| {
                let siblings = root.join(format!(
                    "devices/system/cpu/cpu{core}/topology/thread_siblings_list"
                ));
                let siblings = read_list(siblings).unwrap_or_default();
                let first = siblings.iter().find(|sibling| allowed.contains(sibling));
                first.is_none_or(|first| first == core)
            })
            .collect();
        if let Some(first) = number_of(interface).checked_rem(near.len() as u64) {
            near.rotate_left(first as usize);
        }
        let node = of_node.map(|cores| {
            let of_node = allowed.iter().copied().filter(|core| cores.contains(core));
            Place(of_node.collect())
        });
        let node = node.filter(|node| node.0.len() < allowed.len());
        Self { allowed, near, node }
    }

    fn plan(
        &self,
        workers: Option<usize>,
        cores: &[usize],
        most: usize,
    ) -> Result<Vec<Option<Place>>, CaptureError> {
        if let Some(&core) = cores.iter().find(|core| !self.allowed.contains(core)) {
            return Err(CaptureError::NoSuchCore {
                core,
                available: list(&self.allowed),
            });
        }
        if !cores.is_empty() {
            let workers = workers.unwrap_or(cores.len());
            if workers > cores.len() {
                return Err(CaptureError::TooFewCores {
                    workers,
                    cores: cores.len(),
                });
            }
            let chosen = cores.iter().copied().take(workers);
            return Ok(chosen.map(Place::core).map(Some).collect());
        }
        // One physical core is left for sealing, spooling and delivery.
        let workers = workers
            .unwrap_or(self.near.len().saturating_sub(1).min(most))
            .max(1);
        // The scheduler knows better what else runs here; several probes must not all choose the same core.
        if workers == 1 {
            return Ok(vec![self.node.clone()]);
        }
        if workers > self.allowed.len() {
            return Ok(vec![None; workers]);
        }
        let further = self.allowed.iter().filter(|core| !self.near.contains(core));
        let chosen = self.near.iter().chain(further).copied().take(workers);
        Ok(chosen.map(Place::core).map(Some).collect())
    }
}

fn list(cores: &[usize]) -> String {
    let names: Vec<String> = cores.iter().map(usize::to_string).collect();
    names.join(",")
}

/// The processors of workers' places, for a message; `any` where the scheduler chooses.
pub fn list_of(places: &[Option<Place>]) -> String {
    let cores: Vec<usize> = places
        .iter()
        .flatten()
        .flat_map(|place| &place.0)
        .copied()
        .collect();
    if cores.is_empty() {
        "any".to_owned()
    } else {
        list(&cores)
    }
}

/// A place for each worker that captures from an interface; `None` where the scheduler chooses. `workers`: as many as
/// `cores` names, else one for each physical core of the interface's NUMA node but one, at least one and, as nobody insists,
/// not more than `most`. `cores`: these, in this order; where none is named, workers are pinned to a core each if there are
/// several of them, beginning with another core for each interface, and a single one to the interface's NUMA node.
pub fn plan(
    interface: &str,
    workers: Option<usize>,
    cores: &[usize],
    most: usize,
) -> Result<Vec<Option<Place>>, CaptureError> {
    Machine::of(interface).plan(workers, cores, most)
}

/// Pins the calling thread to a place.
pub fn pin(place: &Place) -> Result<(), CaptureError> {
    place.bind().map_err(|source| CaptureError::Pin {
        cores: list(&place.0),
        source,
    })
}

/// Runs `work` at a place: the memory that the kernel hands out meanwhile is of the place's NUMA node.
pub fn run_at<R: Send>(place: Option<&Place>, work: impl FnOnce() -> R + Send) -> io::Result<R> {
    let Some(place) = place else { return Ok(work()) };
    thread::scope(|scope| {
        let pinned = scope.spawn(|| place.bind().map(|()| work()));
        match pinned.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes with two cores of two threads each: 0/4, 1/5 and 2/6, 3/7.
    fn machine(numa_node: &str, allowed: &[usize]) -> Machine {
        machine_with(7, numa_node, allowed)
    }

    /// The interface has index 7; sysfs says that `eth0` has `shown`.
    fn machine_with(shown: u32, numa_node: &str, allowed: &[usize]) -> Machine {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("inside the root")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("class/net/eth0/ifindex", &format!("{shown}\n"));
        write("class/net/eth0/device/numa_node", numa_node);
        write("devices/system/node/node0/cpulist", "0-1,4-5\n");
        write("devices/system/node/node1/cpulist", "2-3,6-7\n");
        for core in 0..8 {
            let path = format!("devices/system/cpu/cpu{core}/topology/thread_siblings_list");
            write(&path, &format!("{},{}\n", core % 4, core % 4 + 4));
        }
        Machine::read(root.path(), "eth0", Some(7), allowed.to_vec())
    }

    #[test]
    fn workers_get_the_physical_cores_of_the_card_s_node_but_one() {
        let all = [0, 1, 2, 3, 4, 5, 6, 7];
        let sorted = |mut cores: Vec<usize>| {
            cores.sort_unstable();
            cores
        };
        assert_eq!(sorted(machine("1\n", &all).near), [2, 3]);
        assert_eq!(sorted(machine("-1\n", &all).near), [0, 1, 2, 3]);
        assert_eq!(
            sorted(machine_with(8, "1\n", &all).near),
            [0, 1, 2, 3],
            "an interface of another network namespace says nothing"
        );
        assert_eq!(
            machine("1\n", &[0, 5, 6]).near,
            [6],
            "a sibling that may be used stands for the core"
        );
        assert_eq!(
            sorted(machine("1\n", &[0, 1]).near),
            [0, 1],
            "better a far core than none"
        );
        let core = |core| Some(Place::core(core));
        let plan = |node: &str, workers, cores: &[usize]| {
            machine(node, &all).plan(workers, cores, 256).expect("a plan")
        };
        // `eth0` begins with the core of its own number.
        let first = (number_of("eth0") % 4) as usize;
        let in_turn = [0, 1, 2].map(|step| core((first + step) % 4));
        assert_eq!(plan("-1\n", None, &[]), in_turn);
        let first = 2 + (number_of("eth0") % 2) as usize;
        let near = [core(first), core(5 - first), core(0)];
        assert_eq!(plan("1\n", Some(3), &[]), near, "far cores come last");
        assert_eq!(plan("1\n", Some(9), &[]), vec![None; 9]);
        assert_eq!(plan("1\n", None, &[7, 0]), [core(7), core(0)]);
        assert_eq!(plan("1\n", Some(1), &[7, 0]), [core(7)]);
    }

    #[test]
    fn a_single_worker_stays_on_the_card_s_node_wherever_the_scheduler_puts_it() {
        let all = [0, 1, 2, 3, 4, 5, 6, 7];
        let plan = |node: &str, workers, allowed: &[usize]| {
            let machine = machine(node, allowed);
            machine.plan(workers, &[], 256).expect("a plan")
        };
        let node = |cores: &[usize]| [Some(Place(cores.to_vec()))];
        for workers in [None, Some(1)] {
            assert_eq!(plan("1\n", workers, &all), node(&[2, 3, 6, 7]), "siblings too");
        }
        assert_eq!(plan("1\n", None, &[0, 1, 6]), node(&[6]));
        // Nothing to keep it off.
        assert_eq!(plan("-1\n", Some(1), &all), [None]);
        assert_eq!(plan("1\n", Some(1), &[2, 7]), [None]);
        assert_eq!(
            plan("1\n", Some(1), &[0, 1]),
            [None],
            "better a far core than none"
        );
    }

    #[test]
    fn a_machine_with_more_cores_than_a_probe_has_workers_starts_with_as_many_as_there_may_be() {
        let machine = Machine {
            allowed: (0..600).collect(),
            near: (0..600).collect(),
            node: None,
        };
        let workers = |workers, cores: &[usize]| machine.plan(workers, cores, 256).expect("a plan").len();
        assert_eq!(workers(None, &[]), 256);
        // Whoever insists is told by the pipeline that there may not be so many.
        assert_eq!(workers(Some(300), &[]), 300);
        assert_eq!(workers(None, &machine.allowed[..300]), 300);
    }

    #[test]
    fn probes_of_several_interfaces_begin_with_different_cores() {
        let names: Vec<String> = (0..16).map(|port| format!("enp{port}s0f0")).collect();
        let mut firsts: Vec<u64> = names.iter().map(|name| number_of(name) % 8).collect();
        assert_eq!(number_of("eth0"), number_of("eth0"));
        firsts.sort_unstable();
        firsts.dedup();
        assert!(firsts.len() >= 5, "{firsts:?}");
    }

    #[test]
    fn places_are_told_as_cores_are_given() {
        assert_eq!(list_of(&[1, 0].map(Place::core).map(Some)), "1,0");
        assert_eq!(list_of(&[Some(Place(vec![2, 3, 6, 7]))]), "2,3,6,7");
        assert_eq!(list_of(&[None, None]), "any");
    }

    #[test]
    fn says_which_core_cannot_be_had() {
        let machine = machine("0\n", &[0, 1]);
        let error = machine
            .plan(None, &[1, 9], 256)
            .expect_err("no core 9")
            .to_string();
        assert_eq!(
            error,
            "core 9 is not one that this process may use; these are: 0,1 (CAPTURE_CORES)"
        );
        let error = machine
            .plan(Some(3), &[0, 1], 256)
            .expect_err("too few")
            .to_string();
        assert!(error.starts_with("3 workers need a core each"), "{error}");
    }

    #[test]
    fn lists_are_read_as_sysfs_writes_them() {
        assert_eq!(parse_list("0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_list("\n"), Some(vec![]));
        assert_eq!(parse_list("3-1"), None);
        assert_eq!(parse_list("0-99999999"), None);
        assert_eq!(parse_list("x"), None);
    }

    #[test]
    fn work_runs_at_its_place() {
        let all = allowed();
        for cores in [&all[..1], &all] {
            let place = Place(cores.to_vec());
            assert_eq!(run_at(Some(&place), allowed).expect("bound"), cores);
        }
        let nowhere = Place::core(CpuSet::count() + 1);
        assert!(run_at(Some(&nowhere), || ()).is_err());
        let error = pin(&Place(vec![CpuSet::count() + 1, 1])).expect_err("no such core");
        assert!(
            error.to_string().starts_with("pinning a thread to core(s) "),
            "{error}"
        );
    }
}
