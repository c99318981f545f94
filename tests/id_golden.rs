//! The permanent formats of ids, held against values that were computed apart from the crate.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic wherever it likes")]

use howdah::{Id, IdParts, Layout, ShardId};
use serde::ser::Impossible;
use serde::{Deserialize as _, Serialize as _};

#[test]
fn ids_are_what_they_always_were() {
    for line in include_str!("golden/ids.txt").lines().filter(|line| !line.starts_with('#')) {
        let [layout, decimal, code, sortable, parts] = fields(line, " | ");
        let [epoch_ms, shard_bits, sequence_bits] = fields(layout, " ");
        let [shard, sequence, unix_ms] = fields(parts, " ");
        let layout = Layout::new(
            epoch_ms.parse().unwrap(),
            shard_bits.parse().unwrap(),
            sequence_bits.parse().unwrap(),
        )
        .unwrap();
        let parts = IdParts {
            shard: ShardId::new(shard.parse().unwrap()).unwrap(),
            sequence: sequence.parse().unwrap(),
            unix_ms: unix_ms.parse().unwrap(),
        };

        let id: Id = decimal.parse().unwrap();
        assert_eq!(id.to_string(), decimal);
        assert_eq!((id.to_code().as_str(), Id::from_code(code).unwrap()), (code, id), "{line}");
        assert_eq!(id.to_sortable(), sortable, "{line}");
        assert_eq!(Id::from_sortable(sortable).unwrap(), id, "{line}");
        assert_eq!(layout.decode(id), parts, "{line}");
        assert_eq!(layout.encode(parts).unwrap(), id, "{line}");
        assert_eq!(layout.shard_of(id), parts.shard, "{line}");
    }
}

/// The example of the post in which the layout was published: user 31341 of 2000 shards, sequence 5001.
#[test]
fn the_published_example_holds() {
    let id = Id::new(1_387_263_000 << 23 | 1341 << 10 | 905).unwrap();
    assert_eq!(id.to_string(), "11637205501278089");
    let parts = Layout::default().decode(id);
    assert_eq!((parts.shard.get(), parts.sequence), (31341 % 2000, 5001 % 1024));
}

#[test]
fn json_is_a_string_and_nothing_else() {
    let id: Id = "11637205501278089".parse().unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), r#""11637205501278089""#);
    assert_eq!(serde_json::from_str::<Id>(r#""11637205501278089""#).unwrap(), id);
    for refused in ["11637205501278089", r#""-1""#, r#""""#, r#""9223372036854775808""#, "null"] {
        assert!(serde_json::from_str::<Id>(refused).is_err(), "{refused}");
    }
}

/// A format for programs, of which only integers are known.
struct Binary(Option<i64>);

macro_rules! nothing_but_integers {
    ($($name:ident: $type:ty),*) => {
        $(fn $name(self, _: $type) -> Result<i64, Self::Error> {
            Err(serde::ser::Error::custom(stringify!($name)))
        })*
    };
}

impl serde::Serializer for Binary {
    type Ok = i64;
    type Error = serde::de::value::Error;
    type SerializeSeq = Impossible<i64, Self::Error>;
    type SerializeTuple = Impossible<i64, Self::Error>;
    type SerializeTupleStruct = Impossible<i64, Self::Error>;
    type SerializeTupleVariant = Impossible<i64, Self::Error>;
    type SerializeMap = Impossible<i64, Self::Error>;
    type SerializeStruct = Impossible<i64, Self::Error>;
    type SerializeStructVariant = Impossible<i64, Self::Error>;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_i64(self, number: i64) -> Result<i64, Self::Error> {
        Ok(number)
    }

    nothing_but_integers! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_f32: f32, serialize_f64: f64, serialize_char: char, serialize_str: &str,
        serialize_bytes: &[u8], serialize_unit_struct: &'static str
    }

    fn serialize_none(self) -> Result<i64, Self::Error> {
        Err(serde::ser::Error::custom("none"))
    }

    fn serialize_some<T: ?Sized>(self, _: &T) -> Result<i64, Self::Error> {
        Err(serde::ser::Error::custom("some"))
    }

    fn serialize_unit(self) -> Result<i64, Self::Error> {
        Err(serde::ser::Error::custom("unit"))
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<i64, Self::Error> {
        Err(serde::ser::Error::custom("variant"))
    }

    fn serialize_newtype_struct<T: ?Sized>(
        self,
        _: &'static str,
        _: &T,
    ) -> Result<i64, Self::Error> {
        Err(serde::ser::Error::custom("newtype"))
    }

    fn serialize_newtype_variant<T: ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<i64, Self::Error> {
        Err(serde::ser::Error::custom("variant"))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Self::Error> {
        Err(serde::ser::Error::custom("sequence"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Self::Error> {
        Err(serde::ser::Error::custom("tuple"))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Self::Error> {
        Err(serde::ser::Error::custom("tuple"))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Self::Error> {
        Err(serde::ser::Error::custom("variant"))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Self::Error> {
        Err(serde::ser::Error::custom("map"))
    }

    fn serialize_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStruct, Self::Error> {
        Err(serde::ser::Error::custom("struct"))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Self::Error> {
        Err(serde::ser::Error::custom("variant"))
    }
}

impl<'de> serde::Deserializer<'de> for Binary {
    type Error = serde::de::value::Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: serde::de::Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            Some(number) => visitor.visit_i64(number),
            None => visitor.visit_str("11637205501278089"),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[test]
fn a_format_for_programs_has_an_integer_and_nothing_else() {
    let id: Id = "11637205501278089".parse().unwrap();
    assert_eq!(id.serialize(Binary(None)).unwrap(), 11_637_205_501_278_089);
    assert_eq!(Id::deserialize(Binary(Some(11_637_205_501_278_089))).unwrap(), id);
    assert_eq!(Id::deserialize(Binary(Some(i64::MAX))).unwrap(), Id::MAX);
    for refused in [Some(-1), Some(i64::MIN), None] {
        assert!(Id::deserialize(Binary(refused)).is_err(), "{refused:?}");
    }
}

#[test]
fn a_layout_is_written_as_it_always_was() {
    let text = "epoch=2011-08-24T21:07:01.721Z,shard=13,sequence=10";
    assert_eq!(Layout::default().to_string(), text);
    assert_eq!(text.parse::<Layout>().unwrap(), Layout::default());
    assert_eq!(Layout::default().ends_at().to_rfc3339(), "2046-06-27T17:00:49.496+00:00");
}

fn fields<'a, const N: usize>(line: &'a str, separator: &str) -> [&'a str; N] {
    line.split(separator).collect::<Vec<_>>().try_into().unwrap()
}
