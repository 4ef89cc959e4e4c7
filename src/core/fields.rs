//! Tables of fields: how a value becomes bytes and comes back, written down once.
//!
//! A [`Codec`] is the encoding of one field. The macro `fields!` takes a table of the variants of
//! an enum, with the codec of each field, and derives encoding, decoding and size from it. The
//! commands of the log (`command`) and the messages between members (`codec::peer::wire`) are such
//! tables. Decoding never trusts its input, see `varint`.
//!
//! Start reading at the example of `fields!`.
use super::varint::{Malformed, Unpack, number_bytes};
use super::varint::{put_number, put_optional, put_str};

/// The encoding of a field of type `T`.
pub trait Codec<T> {
    /// Appends the field to `out`.
    fn put(value: &T, out: &mut Vec<u8>);

    /// How many bytes `put` appends.
    fn size(value: &T) -> usize;

    /// Reads the field from the front of `from`.
    ///
    /// # Errors
    ///
    /// If the bytes are not what `put` appends for some value.
    fn take(from: &mut Unpack) -> Result<T, Malformed>;
}

/// An enum whose variants have a table of fields; implemented by `fields!`.
pub trait Fields: Sized {
    /// The tag of the variant.
    fn tag(&self) -> u8;

    /// Appends the fields without the tag, in the order of the table.
    fn put_fields(&self, out: &mut Vec<u8>);

    /// How many bytes `put_fields` appends.
    fn fields_size(&self) -> usize;

    /// Reads the fields of the variant that `tag` stands for.
    ///
    /// # Errors
    ///
    /// If no variant has this tag, or its fields are malformed.
    fn take_fields(tag: u8, from: &mut Unpack) -> Result<Self, Malformed>;
}

/// Implements [`Fields`] for an enum from a table of its variants, and defines a constant for each
/// tag.
///
/// A row is `TAG = number: variant => fields`; a variant without fields has no arrow. Left of it is
/// the variant, written so that it is a pattern and an expression at once; it may contain a variant
/// of another enum. Right of it are the encoded fields, in the order of their bytes, each as
/// `name: Codec`. Several names in parentheses share one codec.
///
/// ```ignore
/// enum Shape {
///     Point,
///     Circle { radius: u64, filled: bool },
///     Label(Option<Box<str>>),
/// }
///
/// fields! {
///     Shape {
///         POINT = 1: Point {};
///         CIRCLE = 2: Circle { radius, filled } => filled: Flag, radius: Number;
///         NO_LABEL = 3: Label(None);
///         LABEL = 4: Label(Some(text)) => text: Text;
///     }
/// }
///
/// // Circle { radius: 300, filled: true } is 02 01 ac 02: the tag, a flag, a varint.
/// ```
///
/// The compiler checks that each variant has a row and that no field is missing.
macro_rules! fields {
    ($type:ident { $(
        $tag:ident = $number:literal: $variant:ident $shape:tt
            $(=> $($field:tt: $codec:ty),+)?;
    )* }) => {
        $(const $tag: u8 = $number;)*

        impl $crate::core::fields::Fields for $type {
            #[allow(unused_variables, reason = "a tag needs no field")]
            fn tag(&self) -> u8 {
                match self { $($type::$variant $shape => $tag,)* }
            }

            fn put_fields(&self, out: &mut Vec<u8>) {
                match self { $($type::$variant $shape => {
                    $($(<$codec as $crate::core::fields::Codec<_>>::put(
                        $crate::core::fields::borrow!($field), out,
                    );)+)?
                })* }
            }

            fn fields_size(&self) -> usize {
                match self { $($type::$variant $shape => {
                    0 $($(+ <$codec as $crate::core::fields::Codec<_>>::size(
                        $crate::core::fields::borrow!($field),
                    ))+)?
                })* }
            }

            fn take_fields(
                tag: u8,
                from: &mut $crate::core::varint::Unpack,
            ) -> Result<$type, $crate::core::varint::Malformed> {
                match tag {
                    $($tag => {
                        $($(
                            let $field = <$codec as $crate::core::fields::Codec<_>>::take(from)?;
                        )+)?
                        Ok($type::$variant $shape)
                    })*
                    _ => Err($crate::core::varint::Malformed),
                }
            }
        }
    };
}

/// The argument of [`Codec::put`] for one name of a table, or for several that share a codec.
macro_rules! borrow {
    (($($field:ident),*)) => { &($(*$field),*) };
    ($field:ident) => { $field };
}

pub(crate) use {borrow, fields};

/// A number as a varint of 1 to 10 bytes.
pub struct Number;

impl Codec<u64> for Number {
    fn put(value: &u64, out: &mut Vec<u8>) {
        put_number(*value, out);
    }

    fn size(value: &u64) -> usize {
        number_bytes(*value)
    }

    fn take(from: &mut Unpack) -> Result<u64, Malformed> {
        from.number()
    }
}

impl Codec<u32> for Number {
    fn put(value: &u32, out: &mut Vec<u8>) {
        put_number(u64::from(*value), out);
    }

    fn size(value: &u32) -> usize {
        number_bytes(u64::from(*value))
    }

    fn take(from: &mut Unpack) -> Result<u32, Malformed> {
        u32::try_from(from.number()?).map_err(|_| Malformed)
    }
}

/// A number from 1 on that may be absent: a varint, 0 for none.
pub struct OptionalNumber;

impl Codec<Option<u64>> for OptionalNumber {
    fn put(value: &Option<u64>, out: &mut Vec<u8>) {
        put_number(value.unwrap_or(0), out);
    }

    fn size(value: &Option<u64>) -> usize {
        number_bytes(value.unwrap_or(0))
    }

    fn take(from: &mut Unpack) -> Result<Option<u64>, Malformed> {
        let number = from.number()?;
        Ok((number != 0).then_some(number))
    }
}

/// A byte that is 0 or 1.
pub struct Flag;

impl Codec<bool> for Flag {
    fn put(value: &bool, out: &mut Vec<u8>) {
        out.push(u8::from(*value));
    }

    fn size(_: &bool) -> usize {
        1
    }

    fn take(from: &mut Unpack) -> Result<bool, Malformed> {
        from.flag()
    }
}

/// A string: its length as a varint, then its UTF-8.
pub struct Text;

impl Codec<Box<str>> for Text {
    fn put(value: &Box<str>, out: &mut Vec<u8>) {
        put_str(value, out);
    }

    fn size(value: &Box<str>) -> usize {
        number_bytes(value.len() as u64) + value.len()
    }

    fn take(from: &mut Unpack) -> Result<Box<str>, Malformed> {
        from.str().map(Box::from)
    }
}

/// A string that may be absent: 0, or its length plus one as a varint and then its UTF-8. The field
/// may be a `Box<str>` or an `Arc<str>`.
pub struct OptionalText;

impl<T: AsRef<str> + for<'a> From<&'a str>> Codec<Option<T>> for OptionalText {
    fn put(value: &Option<T>, out: &mut Vec<u8>) {
        put_optional(value.as_ref().map(T::as_ref), out);
    }

    fn size(value: &Option<T>) -> usize {
        match value {
            None => 1,
            Some(text) => {
                let length = text.as_ref().len();
                number_bytes(length as u64 + 1) + length
            }
        }
    }

    fn take(from: &mut Unpack) -> Result<Option<T>, Malformed> {
        Ok(from.optional()?.map(T::from))
    }
}

/// Bytes: their number as a varint, then themselves. The field may be a `Box<[u8]>` or an
/// `Arc<[u8]>`.
pub struct Bytes;

impl<T: AsRef<[u8]> + for<'a> From<&'a [u8]>> Codec<T> for Bytes {
    fn put(value: &T, out: &mut Vec<u8>) {
        let bytes = value.as_ref();
        put_number(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }

    fn size(value: &T) -> usize {
        let length = value.as_ref().len();
        number_bytes(length as u64) + length
    }

    fn take(from: &mut Unpack) -> Result<T, Malformed> {
        let length = usize::try_from(from.number()?).map_err(|_| Malformed)?;
        from.bytes(length).map(T::from)
    }
}

/// A value that has a table of its own: its tag, then its fields.
pub struct Tagged;

impl<T: Fields> Codec<T> for Tagged {
    fn put(value: &T, out: &mut Vec<u8>) {
        out.push(value.tag());
        value.put_fields(out);
    }

    fn size(value: &T) -> usize {
        1 + value.fields_size()
    }

    fn take(from: &mut Unpack) -> Result<T, Malformed> {
        let tag = from.byte()?;
        T::take_fields(tag, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Shape {
        Point,
        Circle { radius: u64, filled: bool },
        Label(Option<Box<str>>),
        Grid { rows: bool, columns: bool },
    }

    /// Two flags in one byte.
    struct TwoFlags;

    impl Codec<(bool, bool)> for TwoFlags {
        fn put(value: &(bool, bool), out: &mut Vec<u8>) {
            out.push(u8::from(value.0) | u8::from(value.1) << 1);
        }

        fn size(_: &(bool, bool)) -> usize {
            1
        }

        fn take(from: &mut Unpack) -> Result<(bool, bool), Malformed> {
            let byte = from.byte()?;
            Ok((byte & 1 != 0, byte & 2 != 0))
        }
    }

    fields! {
        Shape {
            POINT = 1: Point {};
            CIRCLE = 2: Circle { radius, filled } => filled: Flag, radius: Number;
            NO_LABEL = 3: Label(None);
            LABEL = 4: Label(Some(text)) => text: Text;
            GRID = 5: Grid { rows, columns } => (rows, columns): TwoFlags;
        }
    }

    #[test]
    fn a_table_gives_encoding_size_and_decoding() {
        let circle = Shape::Circle {
            radius: 300,
            filled: true,
        };
        let grid = Shape::Grid {
            rows: false,
            columns: true,
        };
        let table: [(Shape, &[u8]); 5] = [
            (Shape::Point, &[1]),
            (circle, &[2, 1, 0xac, 2]),
            (Shape::Label(None), &[3]),
            (Shape::Label(Some("ab".into())), &[4, 2, b'a', b'b']),
            (grid, &[5, 2]),
        ];
        for (shape, expected) in table {
            let mut bytes = Vec::new();
            Tagged::put(&shape, &mut bytes);
            assert_eq!(bytes, expected);
            assert_eq!(Tagged::size(&shape), expected.len());
            assert_eq!(Tagged::take(&mut Unpack::new(&bytes)), Ok(shape));
        }
        let unknown: Result<Shape, Malformed> = Tagged::take(&mut Unpack::new(&[6]));
        assert_eq!(unknown, Err(Malformed));
    }

    #[test]
    fn sizes_are_those_of_the_bytes() {
        fn check<C: Codec<T>, T>(value: T) {
            let mut bytes = Vec::new();
            C::put(&value, &mut bytes);
            assert_eq!(C::size(&value), bytes.len());
        }
        for length in [0, 1, 126, 127, 128, 20_000] {
            let text: Box<str> = "x".repeat(length).into();
            check::<Bytes, _>(text.clone().into_boxed_bytes());
            check::<OptionalText, _>(Some(text.clone()));
            check::<Text, _>(text);
        }
        check::<OptionalText, Option<Box<str>>>(None);
        check::<OptionalNumber, _>(None);
        check::<OptionalNumber, _>(Some(300));
        check::<Number, _>(u32::MAX);
        check::<Number, _>(u64::MAX);
    }
}
