use super::node::MINIMUM_ROOM;
use super::*;
use crate::record::schema::Addresses;
use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Int8Type, UInt16Type};
use wire::column::{Address, Items as _, Mac, Members as _, Time, Value};

wire::record! {
    /// A member.
    pub struct Inner {
        /// Text.
        name: String,
        /// Number.
        count: Option<u16>,
    }
}

wire::record! {
    /// A record with every shape.
    pub struct Outer {
        /// Time.
        time: Time,
        /// Address.
        address: Address,
        /// MAC address.
        mac: Option<Mac>,
        /// Structs in a list.
        inners: Vec<Inner>,
        /// A list that may be missing.
        signs: Option<Vec<i8>>,
        /// A list in a list.
        nested: Vec<Vec<u16>>,
        /// A struct that may be missing.
        inner: Option<Inner>,
        /// Last.
        last: bool,
    }
}

fn tree(addresses: Addresses) -> Tree {
    Tree::new("outer", Outer::COLUMNS, &Layout::output(addresses, Vec::new()))
}

fn outer() -> Outer {
    Outer {
        time: Time(-5),
        address: Address::v4([192, 0, 2, 1]),
        mac: Some(Mac([2, 0, 0x5e, 0, 0x53, 1])),
        inners: vec![
            Inner {
                name: "a".into(),
                count: Some(7),
            },
            Inner {
                name: String::new(),
                count: None,
            },
        ],
        signs: Some(vec![1, -1]),
        nested: vec![vec![1, 2], vec![], vec![3]],
        inner: Some(Inner {
            name: "x".into(),
            count: None,
        }),
        last: true,
    }
}

#[test]
fn values_come_out_where_they_were_declared() {
    let mut tree = tree(Addresses::Text);
    for (row, value) in [Outer::default(), outer()].into_iter().enumerate() {
        value.emit(&mut tree.row(row, 0));
        tree.end_row().unwrap();
    }
    tree.fill(3);
    assert_eq!(tree.len(), 3);
    let rows = tree.take().unwrap();
    assert!(rows.is_null(2) && rows.is_valid(1));
    assert_eq!(
        rows.column_by_name("address")
            .unwrap()
            .as_string::<i32>()
            .value(1),
        "192.0.2.1"
    );
    assert_eq!(
        rows.column_by_name("address")
            .unwrap()
            .as_string::<i32>()
            .value(0),
        "::"
    );
    let mac = rows.column_by_name("mac").unwrap().as_string::<i32>();
    assert!(mac.is_null(0));
    assert_eq!(mac.value(1), "02:00:5e:00:53:01");
    let signs = rows.column_by_name("signs").unwrap().as_list::<i32>();
    assert!(signs.is_null(0));
    assert_eq!(signs.value(1).as_primitive::<Int8Type>().values(), &[1, -1]);
    let inners = rows.column_by_name("inners").unwrap().as_list::<i32>();
    assert_eq!((inners.value_length(0), inners.value_length(1)), (0, 2));
    let inners = inners.value(1);
    assert_eq!(inners.as_struct().column(0).as_string::<i32>().value(0), "a");
    assert!(inners.as_struct().column(1).is_null(1));
    let nested = rows.column_by_name("nested").unwrap().as_list::<i32>().value(1);
    let nested = nested.as_list::<i32>();
    assert_eq!(nested.len(), 3);
    assert_eq!(nested.value(0).as_primitive::<UInt16Type>().values(), &[1, 2]);
    assert_eq!(nested.value(2).as_primitive::<UInt16Type>().values(), &[3]);
    let inner = rows.column_by_name("inner").unwrap();
    assert!(inner.is_null(0) && inner.is_valid(1));
    assert!(rows.column_by_name("last").unwrap().as_boolean().value(1));
    assert_eq!(
        (tree.len(), tree.bytes()),
        (0, 0),
        "the tree is ready for the next batch"
    );
}

#[test]
fn an_ipv4_mapped_address_of_an_ipv6_flow_stays_ipv6() {
    let mut tree = tree(Addresses::Text);
    for (row, version) in [4, 6].into_iter().enumerate() {
        outer().emit(&mut tree.row(row, version));
        tree.end_row().unwrap();
    }
    let rows = tree.take().unwrap();
    let text = rows.column_by_name("address").unwrap().as_string::<i32>();
    assert_eq!((text.value(0), text.value(1)), ("192.0.2.1", "::ffff:192.0.2.1"));
}

#[test]
fn binary_addresses_are_exact() {
    let mut tree = tree(Addresses::Binary);
    outer().emit(&mut tree.row(0, 4));
    tree.end_row().unwrap();
    let rows = tree.take().unwrap();
    let address = rows.column_by_name("address").unwrap().as_fixed_size_binary();
    assert_eq!(address.value(0), Address::v4([192, 0, 2, 1]).0);
    assert_eq!(
        rows.column_by_name("mac")
            .unwrap()
            .as_fixed_size_binary()
            .value(0),
        [2, 0, 0x5e, 0, 0x53, 1]
    );
}

const PAIR: &[Column] = &[
    Column {
        name: "name",
        kind: Type::U8,
        nullable: false,
        doc: "A number.",
        work: None,
    },
    Column {
        name: "also",
        kind: Type::Bool,
        nullable: false,
        doc: "A bit.",
        work: None,
    },
];

#[test]
fn values_that_do_not_follow_the_declaration_are_told() {
    type Emit = fn(&mut Row<'_>);
    // Another type, one value too few, one too many, null where none may be, no struct.
    let cases: [(Emit, &str); 5] = [
        (
            |row| {
                let mut members = row.members();
                members.next().text("x");
                members.end();
            },
            "name",
        ),
        (
            |row| {
                let mut members = row.members();
                members.next().u8(1);
                members.end();
            },
            "also",
        ),
        (
            |row| {
                let mut members = row.members();
                members.next().u8(1);
                members.next().bool(true);
                members.next().bool(true);
                members.end();
            },
            "pair",
        ),
        (
            |row| {
                row.members().next().null();
            },
            "name",
        ),
        (|row| row.u8(1), "pair"),
    ];
    for (number, (emit, column)) in cases.into_iter().enumerate() {
        let mut tree = Tree::new("pair", PAIR, &Layout::evidence());
        emit(&mut tree.row(0, 0));
        match tree.end_row() {
            Err(RecordError::Mismatch { column: named }) => assert_eq!(named, column, "case {number}"),
            other => panic!("case {number}: {other:?}"),
        }
    }
}

#[test]
fn items_beyond_the_length_of_their_list_are_told() {
    const LIST: &[Column] = &[Column {
        name: "numbers",
        kind: Type::List(&Type::U16),
        nullable: false,
        doc: "Numbers.",
        work: None,
    }];
    let mut tree = Tree::new("list", LIST, &Layout::evidence());
    for (row, count) in [(0, MINIMUM_ROOM), (1, 1), (2, MINIMUM_ROOM)] {
        let mut row = tree.row(row, 0);
        let mut members = row.members();
        let mut place = members.next();
        let mut items = place.items(count);
        items.u16s(&vec![7; count]);
        items.end();
        members.end();
        tree.end_row().unwrap();
    }
    let numbers = tree.take().unwrap();
    let numbers = numbers.column(0).as_list::<i32>();
    assert_eq!(numbers.value_length(0), MINIMUM_ROOM as i32);
    assert_eq!(numbers.value(1).as_primitive::<UInt16Type>().values(), &[7]);
    let mut row = tree.row(0, 0);
    let mut members = row.members();
    members.next().items(0).next().u16(1);
    members.end();
    assert!(tree.end_row().is_err());
}

/// A row of each shape, absent or present in any order: what comes out is what went in, and null elsewhere.
#[test]
fn rows_without_a_value_stay_null_around_those_with_one() {
    for layout in [Layout::evidence(), Layout::output(Addresses::Text, Vec::new())] {
        let mut tree = Tree::new("outer", Outer::COLUMNS, &layout);
        for batch in 0..2 {
            for row in (0..300).filter(|row| row % 7 == 3) {
                outer().emit(&mut tree.row(row, 4));
                tree.end_row().unwrap();
            }
            tree.fill(300);
            let rows = tree.take().unwrap();
            assert_eq!((rows.len(), rows.null_count()), (300, 257), "batch {batch}");
            let inners = rows.column_by_name("inners").unwrap().as_list::<i32>();
            let last = rows.column_by_name("last").unwrap().as_boolean();
            for row in 0..300 {
                assert_eq!(rows.is_valid(row), row % 7 == 3);
                assert_eq!(inners.value_length(row), if row % 7 == 3 { 2 } else { 0 });
                assert_eq!(last.value(row), row % 7 == 3);
            }
            let names = inners.values().as_struct().column(0).as_string::<i32>();
            assert_eq!((names.len(), names.value(84), names.value(85)), (86, "a", ""));
        }
    }
}

#[test]
fn a_small_batch_after_a_large_one_holds_little_memory() {
    let mut tree = tree(Addresses::Binary);
    let mut sizes = Vec::new();
    for rows in [5000, 10] {
        for row in 0..rows {
            outer().emit(&mut tree.row(row, 4));
            tree.end_row().unwrap();
        }
        sizes.push(tree.take().unwrap().get_array_memory_size());
    }
    assert!(sizes[1] < sizes[0] / 50, "{sizes:?}");
}
