//! Capturing from an interface, by whichever mode was asked for.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wire::decode::LinkType;

use super::af_packet::Timestamps;
use super::cores::{self, Place};
use super::lasting::{LastingSource, LiveSource, Open, Presence};
use super::libpcap::PcapSource;
use super::{CaptureError, RingOptions, RingSource, af_packet, af_xdp, libpcap, sysfs};

/// How frames are taken from an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `AF_PACKET`, or libpcap for what is no network interface.
    #[default]
    Auto,
    /// `AF_PACKET` rings.
    AfPacket,
    /// `AF_XDP` sockets: takes every frame of the interface away from the host.
    AfXdp,
    /// libpcap.
    Pcap,
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        match name {
            "auto" => Ok(Self::Auto),
            "af_packet" => Ok(Self::AfPacket),
            "af_xdp" => Ok(Self::AfXdp),
            "pcap" => Ok(Self::Pcap),
            _ => Err(UnknownMode(name.to_owned())),
        }
    }
}

/// There is no such capture mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: there is no such capture mode; there are: auto, af_packet, af_xdp, pcap")]
pub struct UnknownMode(String);

/// An interface, and how to capture from it.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// By what.
    pub mode: Mode,
    /// Whether the host may lose every frame of the interface to `AF_XDP`.
    pub dedicated: bool,
    /// Names and paths of libpcap, of which the first that can be loaded is used.
    pub libpcap: Vec<PathBuf>,
    /// Ring, filter, stop flag.
    pub options: RingOptions,
    /// The place of each worker; `None` where the scheduler chooses.
    pub places: Vec<Option<Place>>,
    /// Whether there must be as many workers as `cores` says: else there are fewer where the memory is too little for so
    /// many rings, and one where frames cannot be shared out.
    pub exact: bool,
    /// How long the interface may be away before its absence ends the capture.
    pub patience: Duration,
}

/// An interface that is captured from.
pub struct Live {
    /// The source of each worker.
    pub sources: Vec<LastingSource>,
    /// The place of each worker.
    pub places: Vec<Option<Place>>,
    /// How it is captured from, for people.
    pub description: String,
}

impl Live {
    /// Tells whether every worker has a source.
    pub fn presence(&self) -> Option<Presence> {
        self.sources.first().map(LastingSource::presence)
    }
}

/// Which mode it is, where that was left open: `AF_PACKET`, but for a device that is no network interface libpcap, if it
/// knows the device.
fn resolve(interface: &str, mode: Mode, libraries: &[PathBuf]) -> Result<(Mode, LinkType), CaptureError> {
    let by_packet_socket = |mode| af_packet::link_type(interface).map(|link_type| (mode, link_type));
    match mode {
        Mode::AfPacket | Mode::AfXdp => by_packet_socket(mode),
        Mode::Pcap => match libpcap::link_type(interface, libraries) {
            // It will be waited for. Which link type libpcap has for what is neither Ethernet nor 802.11 only it knows.
            Err(down @ CaptureError::InterfaceDown { .. }) => {
                let known = by_packet_socket(mode)?;
                if known.1 == LinkType::RAW {
                    Err(down)
                } else {
                    Ok(known)
                }
            }
            other => other.map(|link_type| (mode, link_type)),
        },
        Mode::Auto => match by_packet_socket(Mode::AfPacket) {
            Err(error) if error.is_of_packet_sockets() => match libpcap::link_type(interface, libraries) {
                Ok(link_type) => Ok((Mode::Pcap, link_type)),
                Err(other) => {
                    tracing::debug!(error = %other, "libpcap cannot open it either");
                    Err(error)
                }
            },
            other => other,
        },
    }
}

/// The link type with which an interface's frames come: what a filter must be compiled for.
pub fn link_type(interface: &str, mode: Mode, libraries: &[PathBuf]) -> Result<LinkType, CaptureError> {
    resolve(&sysfs::own_name(interface), mode, libraries).map(|(_, link_type)| link_type)
}

/// Starts to capture, and goes on whenever the interface has been away. Its name is its own, not an alternative one.
pub fn open(mut interface: Interface) -> Result<Live, CaptureError> {
    let (mode, link_type) = resolve(&interface.name, interface.mode, &interface.libpcap)?;
    interface.options.filter_link_type = Some(link_type);
    if (interface.mode, mode) == (Mode::Auto, Mode::Pcap) {
        tracing::info!(
            interface = interface.name,
            "no network interface that AF_PACKET can open: libpcap captures"
        );
    }
    if interface.options.timestamps == Timestamps::Hardware && matches!(mode, Mode::Pcap | Mode::AfXdp) {
        tracing::warn!(
            interface = interface.name,
            "hardware timestamps are taken by AF_PACKET only: the kernel stamps frames"
        );
    }
    match mode {
        Mode::Pcap => open_pcap(interface),
        Mode::AfXdp => open_xdp(interface),
        Mode::Auto | Mode::AfPacket => open_rings(interface),
    }
}

fn open_pcap(interface: Interface) -> Result<Live, CaptureError> {
    let Interface {
        name,
        libpcap,
        options,
        places,
        exact,
        patience,
        ..
    } = interface;
    if exact && places.len() > 1 {
        return Err(CaptureError::TooManyWorkers {
            interface: name,
            mode: "libpcap",
            workers: places.len(),
            most: 1,
        });
    }
    let place = if exact {
        places.into_iter().next().flatten()
    } else {
        Place::near(&name)
    };
    let (filter, stop) = (options.filter.clone(), options.stop.clone());
    let bytes = options.bytes;
    let open: Open = {
        let (name, place) = (name.clone(), place.clone());
        Box::new(move |filter| {
            let options = RingOptions {
                filter: filter.cloned(),
                ..options.clone()
            };
            let source = cores::run_at(place.as_ref(), || PcapSource::open(&name, &options, &libpcap));
            let source = source.map_err(|source| CaptureError::Ring {
                interface: name.clone(),
                action: "running where the worker will",
                source,
            })??;
            Ok(vec![Box::new(source) as LiveSource])
        })
    };
    Ok(Live {
        sources: LastingSource::all(&name, 1, filter.as_ref(), &stop, patience, open)?,
        places: vec![place],
        description: format!("libpcap, with a buffer of {bytes} bytes"),
    })
}

/// One worker has all receive queues, unless somebody insists: only then both directions of a flow are sure to meet.
fn open_xdp(interface: Interface) -> Result<Live, CaptureError> {
    let Interface {
        name,
        options,
        dedicated,
        places,
        exact,
        patience,
        ..
    } = interface;
    let places = if exact { places } else { vec![Place::near(&name)] };
    let (filter, stop) = (options.filter.clone(), options.stop.clone());
    let told = Arc::new(Mutex::new(String::new()));
    let open: Open = {
        let (name, places, told) = (name.clone(), places.clone(), Arc::clone(&told));
        Box::new(move |filter| {
            let options = RingOptions {
                filter: filter.cloned(),
                ..options.clone()
            };
            let opened = af_xdp::open(&name, &options, &places, dedicated)?;
            if places.len() > 1 {
                tracing::warn!(
                    interface = name,
                    "the card's RSS shares frames out to the workers: both directions of a flow meet in one only if its \
                     hash is symmetric, and fragments only if it is without ports (dpi-probe doctor {name} looks)"
                );
            }
            *told.lock().unwrap_or_else(PoisonError::into_inner) = opened.description;
            Ok(opened
                .sources
                .into_iter()
                .map(|source| Box::new(source) as LiveSource)
                .collect())
        })
    };
    let sources = LastingSource::all(&name, places.len(), filter.as_ref(), &stop, patience, open)?;
    let description = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Live {
        sources,
        places,
        description,
    })
}

/// Opens a ring for each core; if nobody insists, as many as there is memory for, and one where frames cannot be shared
/// out.
fn open_rings(interface: Interface) -> Result<Live, CaptureError> {
    let Interface {
        name,
        options,
        places,
        exact,
        patience,
        ..
    } = interface;
    let most = af_packet::most_rings(options.bytes);
    let (sources, places) = open_rings_with(places, Place::near(&name), exact, most, |places| {
        let (name, options, places) = (name.clone(), options.clone(), places.to_vec());
        let (interface, first_filter, stop) = (name.clone(), options.filter.clone(), options.stop.clone());
        let workers = places.len();
        let open: Open = Box::new(move |filter| {
            let options = RingOptions {
                filter: filter.cloned(),
                ..options.clone()
            };
            let rings = af_packet::open_rings(&name, &options, &places)?;
            Ok(rings.into_iter().map(boxed).collect())
        });
        LastingSource::all(&interface, workers, first_filter.as_ref(), &stop, patience, open)
    })?;
    let each = af_packet::ring_bytes(options.bytes, sources.len());
    Ok(Live {
        description: format!("AF_PACKET, with a ring of {each} bytes for each worker"),
        sources,
        places,
    })
}

fn boxed(ring: RingSource) -> LiveSource {
    Box::new(ring)
}

fn open_rings_with<T>(
    mut places: Vec<Option<Place>>,
    alone: Option<Place>,
    exact: bool,
    most: usize,
    open: impl Fn(&[Option<Place>]) -> Result<T, CaptureError>,
) -> Result<(T, Vec<Option<Place>>), CaptureError> {
    if exact {
        return Ok((open(&places)?, places));
    }
    // Not one of the cores, so that several probes do not choose the same.
    let alone = vec![alone];
    if most < places.len() {
        tracing::warn!(
            workers = most.max(1),
            cores = places.len(),
            "fewer workers than cores: the memory is too little for more rings (MAX_BUFFER_SIZE_MB)"
        );
        places.truncate(most);
        if places.len() <= 1 {
            places.clone_from(&alone);
        }
    }
    match open(&places) {
        Ok(opened) => Ok((opened, places)),
        Err(error) if error.is_of_steering() && places.len() > 1 => {
            tracing::warn!(%error, "one worker captures alone");
            Ok((open(&alone)?, alone))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn there_are_fewer_workers_where_so_many_cannot_be_and_nobody_insists() {
        let places: Vec<_> = (0..3).map(|core| Some(Place::core(core))).collect();
        let alone = Some(Place::core(9));
        let opened = |exact, most, failure: Option<fn() -> CaptureError>| {
            let opened = open_rings_with(
                places.clone(),
                alone.clone(),
                exact,
                most,
                |places| match failure {
                    Some(error) if places.len() > 1 => Err(error()),
                    _ => Ok(places.to_vec()),
                },
            );
            opened.ok().map(|(opened, left)| {
                assert_eq!(opened, left);
                left
            })
        };
        assert_eq!(opened(false, 64, None), Some(places.clone()));
        assert_eq!(opened(false, 2, None), Some(places[..2].to_vec()));
        // Too little for any: the error is that of a single ring.
        assert_eq!(opened(false, 0, None), Some(vec![alone.clone()]));
        assert_eq!(opened(true, 2, None), Some(places.clone()));
        let steering: fn() -> CaptureError = || CaptureError::Steering {
            interface: "eth0".to_owned(),
            action: "joining the fanout group",
            source: io::ErrorKind::InvalidInput.into(),
        };
        assert_eq!(opened(false, 64, Some(steering)), Some(vec![alone.clone()]));
        assert_eq!(opened(true, 64, Some(steering)), None);
        let gone: fn() -> CaptureError = || CaptureError::InterfaceGone {
            interface: "eth0".to_owned(),
        };
        assert_eq!(opened(false, 64, Some(gone)), None);
        // One worker for good would be the wrong answer to an interface that comes up later.
        let down: fn() -> CaptureError = || CaptureError::InterfaceDown {
            interface: "eth0".to_owned(),
            why: "this is a test",
        };
        assert_eq!(opened(false, 64, Some(down)), None);
    }
}
