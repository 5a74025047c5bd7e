//! Filters, which are compiled for each link type.

use super::*;

#[test]
fn filters_apply_by_link_type() {
    // Frames whose first byte is 2: ldb [0]; jeq #2; ret #262144; ret #0.
    let code = [
        (0x30, 0, 0, 0),
        (0x15, 0, 1, 2),
        (0x06, 0, 0, 262_144),
        (0x06, 0, 0, 0),
    ];
    let program = Program::new(
        code.iter()
            .map(|&(code, jump_true, jump_false, operand)| Instruction {
                code,
                jump_true,
                jump_false,
                operand,
            })
            .collect(),
    )
    .expect("valid");
    let mut filters = Filters::default();
    filters.insert(LinkType::ETHERNET, Ok(program));
    filters.insert(LinkType::PPP, Err("not on this link".to_owned()));
    let files = Files::new();
    let mut ppp = pcap_header(Order::Little, MICROSECONDS, 9);
    ppp.extend(record(Order::Little, 1, 1, 5, &[], b"frame"));
    let paths = vec![
        files.add("a", &pcap(3)),
        files.add("b", &ppp),
        files.add("c", &pcap(2)),
    ];
    let mut source = FileSource::new(paths).with_filters(filters.clone());
    let (frames, errors) = drain(&mut source);
    assert_eq!(
        frames
            .iter()
            .map(|f| (f.number, f.bytes.len()))
            .collect::<Vec<_>>(),
        [(1, 2), (2, 2)]
    );
    assert!(
        errors.len() == 1
            && errors[0].contains("does not fit link type LINKTYPE_PPP (9)")
            && errors[0].ends_with(": not on this link"),
        "{errors:?}"
    );
    assert_eq!(source.accounts().frames_filtered, Some(3));
    filters_by_link_type_in_one_file(&files, &filters);
}

/// What no filter fits ends nothing where other frames may follow.
fn filters_by_link_type_in_one_file(files: &Files, filters: &Filters) {
    let link_types = [1, 9, 220];
    let mixed = |interfaces: &[u32]| {
        let mut bytes = section(Order::Little);
        for link_type in link_types {
            bytes.extend(interface(Order::Little, link_type, 0, &[]));
        }
        for &interface in interfaces {
            bytes.extend(enhanced(Order::Little, interface, 1, 5, &[2; 5]));
        }
        // A broken packet, to be told of too.
        bytes.extend(enhanced(Order::Little, 7, 1, 5, &[2; 5]));
        bytes
    };
    let read = |interfaces: &[u32]| {
        let path = files.add("mixed", &mixed(interfaces));
        let mut source = FileSource::new(vec![path]).with_filters(filters.clone());
        let (frames, errors) = drain(&mut source);
        let told: Vec<bool> = ["broken record", "LINKTYPE_PPP (9)", "(220)"]
            .iter()
            .map(|part| errors.iter().filter(|error| error.contains(part)).count() == 1)
            .collect();
        assert_eq!(
            errors.len(),
            told.iter().filter(|told| **told).count(),
            "{errors:?}"
        );
        let accounts = source.accounts();
        let of = |link_type| accounts.link_types.get(&LinkType(link_type)).copied();
        (
            frames.len(),
            accounts.frames_filtered,
            told,
            link_types.map(u32::from).map(of),
        )
    };
    assert_eq!(
        read(&[0, 1, 0, 2, 1, 0]),
        (3, Some(3), vec![true; 3], [Some(3), Some(2), Some(1)])
    );
    // One that it does not fit is all that there is.
    assert_eq!(
        read(&[1, 1]),
        (0, Some(2), vec![true, true, false], [None, Some(2), None])
    );
    assert_eq!(
        read(&[2]),
        (0, Some(1), vec![true, false, true], [None, None, Some(1)])
    );
}
