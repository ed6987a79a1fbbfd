//! JSON that every parser reads alike.
//!
//! Of two members with the same name some parsers keep the first, some the last; a body that repeats a member could
//! show Segue a query and the instance a mutation. So a repeated member, at any depth, is a parse error here.
//! `serde_json` bounds the depth and refuses trailing data, comments and lone surrogates.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A JSON value; numbers and booleans have no meaning here and are not kept.
#[derive(Debug)]
pub enum Json<'a> {
    Null,
    Scalar,
    Text(Cow<'a, str>),
    List(Vec<Self>),
    Object(BTreeMap<Cow<'a, str>, Self>),
}

impl<'a> Json<'a> {
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// The requests of a body: one object, or a batch of them. An empty batch is nothing to decide on.
    pub fn requests(&self) -> Option<&[Self]> {
        match self {
            Self::List(batch) if batch.is_empty() => None,
            Self::List(batch) => Some(batch),
            Self::Object(_) => Some(std::slice::from_ref(self)),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&BTreeMap<Cow<'a, str>, Self>> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strict;

        impl<'de> Visitor<'de> for Strict {
            type Value = Json<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Json::Scalar)
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Json::Scalar)
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Json::Scalar)
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Json::Scalar)
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Json::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Json::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut object = BTreeMap::new();
                while let Some(name) = members.next_key::<Json<'de>>()? {
                    let Json::Text(name) = name else {
                        return Err(A::Error::custom("a member without a name"));
                    };
                    if object.insert(name, members.next_value()?).is_some() {
                        return Err(A::Error::custom("a repeated member"));
                    }
                }
                Ok(Json::Object(object))
            }
        }

        deserializer.deserialize_any(Strict)
    }
}

#[cfg(test)]
mod tests {
    use super::Json;

    #[test]
    fn repeated_members_are_refused_at_any_depth_and_however_escaped() {
        for body in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"[{"a":{"b":1,"b":1}}]"#,
            r#"{"a":[{"":1,"":1}]}"#,
        ] {
            assert!(Json::parse(body.as_bytes()).is_none(), "{body}");
        }
        assert!(Json::parse(br#"{"a":{"a":1},"A":[1,-1,1.5,true,null,"x"]}"#).is_some());
    }

    #[test]
    fn what_parsers_disagree_about_is_refused() {
        for body in [
            "",
            "{} {}",
            "{}x",
            "{'a':1}",
            "{a:1}",
            "{\"a\":1,}",
            "[1]//",
            "\u{feff}{}",
            r#"{"\ud800":1}"#,
            "NaN",
        ] {
            assert!(Json::parse(body.as_bytes()).is_none(), "{body}");
        }
        assert!(Json::parse(b"{\"a\xff\":1}").is_none());
        assert!(Json::parse("[".repeat(100_000).as_bytes()).is_none(), "depth is bounded");
    }
}
