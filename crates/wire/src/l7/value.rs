//! Values of records that need no allocation of their own while they are small.
//!
//! A record is written once, read once and freed, mostly long after its memory has left every cache. What a field costs is
//! then the allocation and its release, not the bytes: so what is usually short stands inside the record.

use crate::column::{Items as _, Sink, Type, Value};
use crate::text;
use std::fmt;
use std::ops::Deref;

/// Values in order: up to `N` of them (at most 255) in place, more of them on the heap.
#[derive(Clone, PartialEq)]
pub struct Few<T, const N: usize>(Place<T, N>);

#[derive(Clone, PartialEq)]
enum Place<T, const N: usize> {
    /// Those behind `length` have their default value.
    Here {
        length: u8,
        values: [T; N],
    },
    Heap(Box<[T]>),
}

impl<T: Copy + Default, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Self(Place::Here {
            length: 0,
            values: [T::default(); N],
        })
    }
}

impl<T: Copy + Default, const N: usize> From<&[T]> for Few<T, N> {
    fn from(from: &[T]) -> Self {
        let mut values = [T::default(); N];
        match (values.get_mut(..from.len()), u8::try_from(from.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(from);
                Self(Place::Here { length, values })
            }
            _ => Self(Place::Heap(from.into())),
        }
    }
}

impl<T: Copy + Default, const N: usize> FromIterator<T> for Few<T, N> {
    fn from_iter<I: IntoIterator<Item = T>>(from: I) -> Self {
        let mut gathered = Gathered::<T, N>::default();
        from.into_iter().for_each(|value| gathered.push(value));
        Self::from(&*gathered)
    }
}

impl<T, const N: usize> Deref for Few<T, N> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match &self.0 {
            Place::Here { length, values } => values.get(..usize::from(*length)).unwrap_or_default(),
            Place::Heap(values) => values,
        }
    }
}

impl<T: fmt::Debug, const N: usize> fmt::Debug for Few<T, N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(&**self).finish()
    }
}

impl<T, const N: usize> Few<T, N> {
    /// Bytes on the heap.
    fn allocated(&self) -> usize {
        match &self.0 {
            Place::Here { .. } => 0,
            Place::Heap(values) => size_of_val(&**values),
        }
    }
}

impl<T: Value + 'static, const N: usize> Value for Few<T, N> {
    const TYPE: Type = Type::List(&T::TYPE);
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut items = sink.items(self.len());
        T::emit_all(self, &mut items);
        items.end();
    }
    fn heap_bytes(&self) -> usize {
        self.iter().fold(self.allocated(), |sum, value| {
            sum.saturating_add(value.heap_bytes())
        })
    }
}

/// Values while they are gathered: the first `N` without an allocation.
#[derive(Clone, Debug)]
pub(super) struct Gathered<T, const N: usize> {
    here: [T; N],
    length: usize,
    /// All of them, once they are more than `N`.
    heap: Vec<T>,
}

impl<T: Copy + Default, const N: usize> Default for Gathered<T, N> {
    fn default() -> Self {
        Self {
            here: [T::default(); N],
            length: 0,
            heap: Vec::new(),
        }
    }
}

impl<T: Copy, const N: usize> Gathered<T, N> {
    pub(super) fn push(&mut self, value: T) {
        if let Some(place) = self.here.get_mut(self.length) {
            *place = value;
        } else {
            if self.heap.is_empty() {
                self.heap.extend_from_slice(&self.here);
            }
            self.heap.push(value);
        }
        self.length = self.length.saturating_add(1);
    }
}

impl<T, const N: usize> Deref for Gathered<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.here.get(..self.length).unwrap_or(&self.heap)
    }
}

impl<T, const N: usize> std::ops::DerefMut for Gathered<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.here.get_mut(..self.length).unwrap_or(&mut self.heap)
    }
}

impl<T: Copy + Default, const N: usize> FromIterator<T> for Gathered<T, N> {
    fn from_iter<I: IntoIterator<Item = T>>(from: I) -> Self {
        let mut gathered = Self::default();
        from.into_iter().for_each(|value| gathered.push(value));
        gathered
    }
}

/// Text: up to `N` bytes in place, longer text on the heap.
#[derive(Clone, Default, PartialEq)]
pub struct Text<const N: usize>(Few<u8, N>);

impl<const N: usize> Text<N> {
    /// Its length in bytes, without looking at them.
    pub(super) fn byte_length(&self) -> usize {
        self.0.len()
    }

    /// Text of bytes that were written as ASCII.
    pub(super) fn from_ascii(bytes: &[u8]) -> Self {
        debug_assert!(bytes.is_ascii(), "these are not text: {bytes:?}");
        Self(bytes.into())
    }

    /// As [`text::from_wire`].
    pub(super) fn from_wire(bytes: &[u8], limit: usize) -> Self {
        let bytes = bytes.get(..limit).unwrap_or(bytes);
        match text::plain(bytes) {
            Some(plain) => plain.into(),
            None => text::from_wire(bytes, limit).as_str().into(),
        }
    }
}

impl<const N: usize> From<&str> for Text<N> {
    fn from(text: &str) -> Self {
        Self(Few::from(text.as_bytes()))
    }
}

impl<const N: usize> Deref for Text<N> {
    type Target = str;

    fn deref(&self) -> &str {
        // It was made of text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, formatter)
    }
}

impl<const N: usize> Value for Text<N> {
    const TYPE: Type = Type::Text;
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(self);
    }
    fn heap_bytes(&self) -> usize {
        self.0.allocated()
    }
}

/// A digest, shown in lower-case hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest<const N: usize>(pub [u8; N]);

impl<const N: usize> Default for Digest<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Value for Digest<N> {
    const TYPE: Type = Type::Text;
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut text = [[0; 2]; N];
        for (place, byte) in text.iter_mut().zip(self.0) {
            *place = super::hex_of(byte);
        }
        sink.text(std::str::from_utf8(text.as_flattened()).unwrap_or_default());
    }
}

/// Bytes, shown in lower-case hexadecimal: up to `N` of them in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HexText<const N: usize>(Few<u8, N>);

impl<const N: usize> From<&[u8]> for HexText<N> {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl<const N: usize> Value for HexText<N> {
    const TYPE: Type = Type::Text;
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.text(&super::hex(&self.0));
    }
    fn heap_bytes(&self) -> usize {
        self.0.allocated()
    }
}

/// Names as they stand on the wire, each behind its length in one byte; all together up to `N` bytes in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names<const N: usize>(Few<u8, N>);

impl<const N: usize> Names<N> {
    /// Takes over whole names; what follows the last whole one, and names beyond `limit`, are left out.
    pub(super) fn from_wire(list: &[u8], limit: usize) -> Self {
        let length = Packed(list).take(limit).fold(0_usize, |sum, name| {
            sum.saturating_add(1).saturating_add(name.len())
        });
        Self(Few::from(list.get(..length).unwrap_or_default()))
    }
}

impl<const N: usize> Value for Names<N> {
    const TYPE: Type = Type::List(&Type::Text);
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut items = sink.items(Packed(&self.0).count());
        for name in Packed(&self.0) {
            match text::plain(name) {
                Some(plain) => items.next().text(plain),
                None => items.next().text(&text::from_wire(name, name.len())),
            }
        }
        items.end();
    }
    fn heap_bytes(&self) -> usize {
        self.0.allocated()
    }
}

/// The names of a list in which each stands behind its length in one byte, up to the first that is not whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Packed<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        let (name, rest) = rest.split_at_checked(length.into())?;
        self.0 = rest;
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::{Items, Members};
    use proptest::prelude::*;

    /// What a value hands over.
    #[derive(Default)]
    struct Seen(Vec<String>);

    macro_rules! numbers {
        ($($rust:ident)+) => {$(
            fn $rust(&mut self, value: $rust) {
                self.0.push(value.to_string());
            }
        )+};
    }

    impl Sink for &mut Seen {
        type Members<'a>
            = &'a mut Seen
        where
            Self: 'a;
        type Items<'a>
            = &'a mut Seen
        where
            Self: 'a;
        numbers! { bool u8 u16 u32 u64 i8 i64 f64 }
        fn null(&mut self) {
            self.0.push("null".into());
        }
        fn time(&mut self, value: i64) {
            self.i64(value);
        }
        fn text(&mut self, value: &str) {
            self.0.push(value.into());
        }
        fn address(&mut self, value: [u8; 16]) {
            self.0.push(super::super::hex(&value));
        }
        fn mac(&mut self, value: [u8; 6]) {
            self.0.push(super::super::hex(&value));
        }
        fn items(&mut self, length: usize) -> &mut Seen {
            self.0.push(format!("[{length}"));
            self
        }
        fn members(&mut self) -> &mut Seen {
            self
        }
    }

    impl Members for &mut Seen {
        type Member<'a>
            = &'a mut Seen
        where
            Self: 'a;
        fn next(&mut self) -> &mut Seen {
            self
        }
        fn end(self) {}
    }

    impl Items for &mut Seen {
        type Item<'a>
            = &'a mut Seen
        where
            Self: 'a;
        fn next(&mut self) -> &mut Seen {
            self
        }
        fn end(self) {
            self.0.push("]".into());
        }
    }

    fn seen(value: &impl Value) -> Vec<String> {
        let mut seen = Seen::default();
        value.emit(&mut &mut seen);
        seen.0
    }

    #[test]
    fn they_are_as_large_as_their_fields_assume() {
        assert_eq!(size_of::<Option<Text<22>>>(), 24);
        assert_eq!(size_of::<Option<Text<38>>>(), 40);
        assert_eq!(size_of::<Few<u16, 11>>(), 24);
        assert_eq!(size_of::<Few<u16, 31>>(), 64);
    }

    #[test]
    fn digests_are_shown_in_hexadecimal() {
        assert_eq!(seen(&Digest([0x00, 0x9f, 0xab])), ["009fab"]);
        assert_eq!(
            seen(&HexText::<2>::from([0x00, 0x9f, 0xab].as_slice())),
            ["009fab"]
        );
    }

    proptest! {
        #[test]
        fn they_show_what_vectors_and_strings_show(
            numbers in proptest::collection::vec(any::<u16>(), 0..20),
            words in proptest::collection::vec(any::<String>(), 0..6),
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            limit in 0_usize..70,
        ) {
            let few = Few::<u16, 8>::from(numbers.as_slice());
            prop_assert_eq!(seen(&few), seen(&numbers));
            prop_assert_eq!(&few, &numbers.iter().copied().collect::<Few<u16, 8>>());
            let allocated = if numbers.len() > 8 { size_of_val(numbers.as_slice()) } else { 0 };
            prop_assert_eq!(few.heap_bytes(), allocated);
            let mut gathered: Gathered<u16, 8> = numbers.iter().copied().collect();
            gathered.sort_unstable();
            let mut sorted = numbers.clone();
            sorted.sort_unstable();
            prop_assert_eq!(&*gathered, sorted.as_slice());

            for word in &words {
                prop_assert_eq!(seen(&Text::<9>::from(word.as_str())), seen(word));
            }
            let text = text::from_wire(&bytes, limit);
            prop_assert_eq!(seen(&Text::<9>::from_wire(&bytes, limit)), seen(&text));

            let mut list = Vec::new();
            for word in &words {
                let name = word.as_bytes().get(..255).unwrap_or(word.as_bytes());
                list.push(name.len() as u8);
                list.extend_from_slice(name);
            }
            let expected: Vec<String> = Packed(&list).take(limit).map(|name| text::from_wire(name, 255)).collect();
            prop_assert_eq!(seen(&Names::<30>::from_wire(&list, limit)), seen(&expected));
            list.extend_from_slice(&[9, b'x']);
            prop_assert_eq!(seen(&Names::<30>::from_wire(&list, limit)), seen(&expected), "a name that is cut short");
        }
    }
}
