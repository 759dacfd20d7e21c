//! A cursor over packed bytes that never reads past their end, and bounded CBOR.

use super::error::FormatError;
use crate::id::Id;

/// Reads little-endian fields from the front of a slice; every read is checked.
pub struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let (head, tail) =
            self.bytes.split_at_checked(count).ok_or(FormatError::Truncated { what: self.what })?;
        self.bytes = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let what = self.what;
        self.take(N)?.try_into().map_err(|_| FormatError::Truncated { what })
    }

    pub fn u8(&mut self) -> Result<u8, FormatError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Three bytes, little-endian.
    pub fn u24(&mut self) -> Result<u32, FormatError> {
        self.array().map(|[low, middle, high]| u32::from_le_bytes([low, middle, high, 0]))
    }

    pub fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn id(&mut self) -> Result<Id, FormatError> {
        let bytes = self.take(Id::LEN)?;
        Id::from_slice(bytes).ok_or(FormatError::Truncated { what: self.what })
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Everything has been read, nothing is left over.
    pub fn finish(self) -> Result<(), FormatError> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(FormatError::invalid(self.what, format!("{} bytes too many", self.bytes.len())))
        }
    }
}

/// Encodes a structure as CBOR (RFC 8949). Writing to memory cannot fail; a structure of ours always has an encoding.
pub fn to_cbor<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = ciborium::into_writer(value, &mut bytes);
    debug_assert!(written.is_ok());
    bytes
}

/// Decodes one CBOR item that fills `bytes` exactly. Nesting is bounded; nothing is allocated ahead of the bytes that
/// are there.
pub fn from_cbor<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, FormatError> {
    let mut rest = bytes;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, 64)
        .map_err(|error| FormatError::invalid(what, error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(FormatError::invalid(what, "bytes after its end")) }
}

/// The `format` of a structure, which every version of it has; one newer than this build knows is refused before its
/// other fields are read.
pub fn check_format(bytes: &[u8], what: &'static str) -> Result<(), FormatError> {
    #[derive(serde::Deserialize)]
    struct Head {
        format: u32,
    }
    let Head { format } = from_cbor(bytes, what)?;
    if format > super::FORMAT_VERSION {
        return Err(FormatError::TooNew { found: format, supported: super::FORMAT_VERSION });
    }
    Ok(())
}
