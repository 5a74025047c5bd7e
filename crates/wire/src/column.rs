//! How a record declares its columns.
//!
//! `record!` turns one declaration into the struct, its schema with documentation, and the code that emits
//! its values in schema order. Arrow builders, the CBOR leaf order, the ClickHouse DDL and the reference pages
//! all come from that declaration.

use std::borrow::Cow;
use std::net::IpAddr;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// True or false.
    Bool,
    /// 8-bit unsigned integer.
    U8,
    /// 16-bit unsigned integer.
    U16,
    /// 32-bit unsigned integer.
    U32,
    /// 64-bit unsigned integer.
    U64,
    /// 8-bit signed integer.
    I8,
    /// 64-bit signed integer.
    I64,
    /// IEEE 754 double.
    F64,
    /// UTF-8 text.
    Text,
    /// UTC nanoseconds since 1970-01-01.
    Time,
    /// IP address: 16 bytes, IPv4 as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2).
    Address,
    /// IEEE 802 MAC address: 6 bytes.
    Mac,
    /// Values of one type, in order.
    List(&'static Type),
    /// Named members, in order.
    Struct(&'static [Column]),
}

/// One column of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name that users type.
    pub name: &'static str,
    /// The type of its values.
    pub kind: Type,
    /// Whether a value may be null.
    pub nullable: bool,
    /// Definition, with unit and source (RFC section).
    pub doc: &'static str,
    /// The kind of work that it needs, where that can be left out.
    pub work: Option<&'static str>,
}

/// Where one value goes: exactly one of these methods is called.
pub trait Sink {
    /// Where the members of a struct go.
    type Members<'a>: Members
    where
        Self: 'a;
    /// Where the items of a list go.
    type Items<'a>: Items
    where
        Self: 'a;
    /// No value.
    fn null(&mut self);
    /// A boolean.
    fn bool(&mut self, value: bool);
    /// An unsigned integer of 8 bits.
    fn u8(&mut self, value: u8);
    /// An unsigned integer of 16 bits.
    fn u16(&mut self, value: u16);
    /// An unsigned integer of 32 bits.
    fn u32(&mut self, value: u32);
    /// An unsigned integer of 64 bits.
    fn u64(&mut self, value: u64);
    /// A signed integer of 8 bits.
    fn i8(&mut self, value: i8);
    /// A signed integer of 64 bits.
    fn i64(&mut self, value: i64);
    /// A double.
    fn f64(&mut self, value: f64);
    /// A time in UTC nanoseconds since 1970-01-01.
    fn time(&mut self, value: i64);
    /// Text.
    fn text(&mut self, value: &str);
    /// An IP address.
    fn address(&mut self, value: [u8; 16]);
    /// A MAC address.
    fn mac(&mut self, value: [u8; 6]);
    /// A list of `length` items.
    fn items(&mut self, length: usize) -> Self::Items<'_>;
    /// A struct.
    fn members(&mut self) -> Self::Members<'_>;
}

/// The members of a struct, in the order of its columns.
pub trait Members {
    /// Where one member goes.
    type Member<'a>: Sink
    where
        Self: 'a;
    /// The next member.
    fn next(&mut self) -> Self::Member<'_>;
    /// There are no more.
    fn end(self);
}

/// Declares the methods for many items at once.
macro_rules! many {
    ($($many:ident $rust:ident;)+) => {$(
        /// As many items with these values.
        fn $many(&mut self, values: &[$rust]) {
            for value in values {
                self.next().$rust(*value);
            }
        }
    )+};
}

/// The items of a list, one after the other.
pub trait Items {
    /// Where one item goes.
    type Item<'a>: Sink
    where
        Self: 'a;
    /// The next item.
    fn next(&mut self) -> Self::Item<'_>;
    many! {
        u8s u8;
        u16s u16;
        u32s u32;
        u64s u64;
        i8s i8;
        i64s i64;
        f64s f64;
    }
    /// There are no more.
    fn end(self);
}

/// A value with a column type.
pub trait Value {
    /// The column type.
    const TYPE: Type;
    /// Whether null is among the values.
    const NULLABLE: bool = false;
    /// Hands the value to the sink.
    fn emit<S: Sink>(&self, sink: &mut S);
    /// Hands the values to a list.
    fn emit_all<I: Items>(values: &[Self], items: &mut I)
    where
        Self: Sized,
    {
        for value in values {
            value.emit(&mut items.next());
        }
    }
    /// Bytes that it keeps on the heap, as allocated.
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl Value for bool {
    const TYPE: Type = Type::Bool;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.bool(*self);
    }
}

macro_rules! values {
    ($($rust:ident, $kind:ident, $many:ident;)+) => {$(
        impl Value for $rust {
            const TYPE: Type = Type::$kind;
            #[inline]
            fn emit<S: Sink>(&self, sink: &mut S) { sink.$rust(*self); }
            #[inline]
            fn emit_all<I: Items>(values: &[Self], items: &mut I) { items.$many(values); }
        }
    )+};
}
values! {
    u8, U8, u8s;
    u16, U16, u16s;
    u32, U32, u32s;
    u64, U64, u64s;
    i8, I8, i8s;
    i64, I64, i64s;
    f64, F64, f64s;
}

impl Value for String {
    const TYPE: Type = Type::Text;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(self);
    }
    fn heap_bytes(&self) -> usize {
        self.capacity()
    }
}

impl Value for &'static str {
    const TYPE: Type = Type::Text;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(self);
    }
}

/// Registered names are borrowed from their table; values without a name are written out.
impl Value for Cow<'static, str> {
    const TYPE: Type = Type::Text;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(self);
    }
    fn heap_bytes(&self) -> usize {
        match self {
            Cow::Borrowed(_) => 0,
            Cow::Owned(text) => text.capacity(),
        }
    }
}

/// UTC nanoseconds since 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub i64);

impl Value for Time {
    const TYPE: Type = Type::Time;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.time(self.0);
    }
}

/// An IP address as 16 bytes; IPv4 is IPv4-mapped (RFC 4291 §2.5.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// An IPv4 address.
    pub fn v4([a, b, c, d]: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl Value for Address {
    const TYPE: Type = Type::Address;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.address(self.0);
    }
}

/// An IEEE 802 MAC address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Value for Mac {
    const TYPE: Type = Type::Mac;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.mac(self.0);
    }
}

impl<T: Value> Value for Option<T> {
    const TYPE: Type = T::TYPE;
    const NULLABLE: bool = true;
    #[inline]
    fn emit<S: Sink>(&self, sink: &mut S) {
        match self {
            Some(value) => value.emit(sink),
            None => sink.null(),
        }
    }
    fn heap_bytes(&self) -> usize {
        self.as_ref().map_or(0, Value::heap_bytes)
    }
}

impl<T: Value + 'static> Value for Vec<T> {
    const TYPE: Type = Type::List(&T::TYPE);
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut items = sink.items(self.len());
        T::emit_all(self, &mut items);
        items.end();
    }
    fn heap_bytes(&self) -> usize {
        self.iter()
            .fold(self.capacity().saturating_mul(size_of::<T>()), |sum, value| {
                sum.saturating_add(value.heap_bytes())
            })
    }
}

/// The name of a column from that of its field: a field that is called like a Rust keyword is written `r#type`.
pub const fn name(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', plain @ ..] => match std::str::from_utf8(plain) {
            Ok(plain) => plain,
            Err(_) => field,
        },
        _ => field,
    }
}

/// The kind of work that a declaration names, if it does.
pub const fn work(named: &[&'static str]) -> Option<&'static str> {
    match named {
        [name, ..] => Some(name),
        [] => None,
    }
}

/// Declares a record: the struct, its columns in order, and how its values are emitted. `=> work` after a column's type
/// names the kind of work that it needs, where that can be left out.
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[doc = $doc:literal])+ $field:ident: $kind:ty $(=> $work:ident)?,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name { $($(#[doc = $doc])+ pub $field: $kind,)+ }

        impl $name {
            /// The columns, in the order in which values are emitted.
            pub const COLUMNS: &'static [$crate::column::Column] = &[$(
                $crate::column::Column {
                    name: $crate::column::name(stringify!($field)),
                    kind: <$kind as $crate::column::Value>::TYPE,
                    nullable: <$kind as $crate::column::Value>::NULLABLE,
                    doc: concat!($($doc,)+),
                    work: $crate::column::work(&[$(stringify!($work))?]),
                },
            )+];
        }

        impl $crate::column::Value for $name {
            const TYPE: $crate::column::Type = $crate::column::Type::Struct($name::COLUMNS);
            fn emit<S: $crate::column::Sink>(&self, sink: &mut S) {
                use $crate::column::Members as _;
                let mut members = sink.members();
                $($crate::column::Value::emit(&self.$field, &mut members.next());)+
                members.end();
            }
            fn heap_bytes(&self) -> usize {
                0_usize $(.saturating_add($crate::column::Value::heap_bytes(&self.$field)))+
            }
        }
    };
}
