//! How ids and stamps are written inside CBOR: ids as 32 raw bytes, stamps as their text.

pub mod id {
    use crate::id::Id;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(id: &Id, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(id.as_bytes())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        Id::from_slice(&bytes).ok_or_else(|| D::Error::custom("an id has 32 bytes"))
    }
}

pub mod stamp {
    use crate::stamp::Stamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(stamp: &Stamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&stamp.to_string())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Stamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        Stamp::parse(&text).ok_or_else(|| D::Error::custom("not a stamp"))
    }
}

pub mod optional_stamp {
    use crate::stamp::Stamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(stamp: &Option<Stamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match stamp {
            Some(stamp) => serializer.serialize_str(&stamp.to_string()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Stamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| Stamp::parse(&text).ok_or_else(|| D::Error::custom("not a stamp"))).transpose()
    }
}
