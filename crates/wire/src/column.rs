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

/// Receives the values of a record in schema order.
pub trait Sink {
    /// No value.
    fn null(&mut self);
    /// A boolean.
    fn bool(&mut self, value: bool);
    /// An unsigned integer of any width.
    fn unsigned(&mut self, value: u64);
    /// A signed integer of any width, or a time.
    fn signed(&mut self, value: i64);
    /// A double.
    fn double(&mut self, value: f64);
    /// Text.
    fn text(&mut self, value: &str);
    /// An address or MAC address.
    fn bytes(&mut self, value: &[u8]);
    /// A list of `length` values follows, then [`Sink::end_list`].
    fn begin_list(&mut self, length: usize);
    /// The list is complete.
    fn end_list(&mut self);
    /// A struct follows: each member's value in order, then [`Sink::end_struct`].
    fn begin_struct(&mut self);
    /// The struct is complete.
    fn end_struct(&mut self);
}

/// A value with a column type.
pub trait Value {
    /// The column type.
    const TYPE: Type;
    /// Whether null is among the values.
    const NULLABLE: bool = false;
    /// Hands the value to the sink.
    fn emit<S: Sink>(&self, sink: &mut S);
    /// Bytes that it keeps on the heap, as allocated.
    fn heap_bytes(&self) -> usize {
        0
    }
}

macro_rules! values {
    ($($rust:ty, $kind:ident, $method:ident, $as:ty;)+) => {$(
        impl Value for $rust {
            const TYPE: Type = Type::$kind;
            #[inline]
            fn emit<S: Sink>(&self, sink: &mut S) { sink.$method(<$as>::from(*self)); }
        }
    )+};
}
values! {
    bool, Bool, bool, bool;
    u8, U8, unsigned, u64;
    u16, U16, unsigned, u64;
    u32, U32, unsigned, u64;
    u64, U64, unsigned, u64;
    i8, I8, signed, i64;
    i64, I64, signed, i64;
    f64, F64, double, f64;
}

impl Value for String {
    const TYPE: Type = Type::Text;
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(self);
    }
    fn heap_bytes(&self) -> usize {
        self.capacity()
    }
}

impl Value for &'static str {
    const TYPE: Type = Type::Text;
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(self);
    }
}

/// Registered names are borrowed from their table; values without a name are written out.
impl Value for Cow<'static, str> {
    const TYPE: Type = Type::Text;
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
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.signed(self.0);
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
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.bytes(&self.0);
    }
}

/// An IEEE 802 MAC address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Value for Mac {
    const TYPE: Type = Type::Mac;
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.bytes(&self.0);
    }
}

impl<T: Value> Value for Option<T> {
    const TYPE: Type = T::TYPE;
    const NULLABLE: bool = true;
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
        sink.begin_list(self.len());
        for value in self {
            value.emit(sink);
        }
        sink.end_list();
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
                sink.begin_struct();
                $($crate::column::Value::emit(&self.$field, sink);)+
                sink.end_struct();
            }
            fn heap_bytes(&self) -> usize {
                0_usize $(.saturating_add($crate::column::Value::heap_bytes(&self.$field)))+
            }
        }
    };
}
