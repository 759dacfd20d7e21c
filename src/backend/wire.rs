//! What two icecores say to each other over a pipe: frames of a CBOR header and bytes, requests one way, answers the other.

use super::interface::ErrorKind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// What each side sends first. The number is raised when the other side could misunderstand.
pub const HELLO: &[u8; 16] = b"icecore serve 2\n";
/// Neither side believes in longer ones.
const MOST_HEADER: u32 = 1 << 20;
const MOST_PAYLOAD: u32 = 128 << 20;

/// What a client wants of a place. Keys are those of `Backend`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    Get {
        key: String,
    },
    GetRange {
        key: String,
        offset: u64,
        len: u64,
    },
    Size {
        key: String,
    },
    Arrived {
        key: String,
    },
    /// The BLAKE3 of its bytes, as they are read there.
    Hash {
        key: String,
    },
    /// The payload goes there, in place of what was there.
    Put {
        key: String,
    },
    /// As `Put`, but nothing may be there.
    PutNew {
        key: String,
    },
    /// Puts a file together from pieces of others and from the payload; its name must prove it.
    Compose {
        key: String,
        pieces: Vec<Piece>,
    },
    List {
        directory: String,
    },
    Delete {
        key: String,
    },
    Lock {
        name: String,
        is_shared: bool,
    },
    Unlock {
        lock: u64,
    },
    Sweep,
}

/// Where a part of a file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// So many bytes of a file that is there.
    Copy { key: String, offset: u64, len: u64 },
    /// The next so many bytes of what is sent.
    Sent { len: u64 },
}

/// What a place answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    Done,
    /// The payload is what was asked for.
    Bytes,
    /// The payload is a CBOR array of pairs: key, size.
    Listed,
    Size(u64),
    Time(Option<i64>),
    /// 64 hexadecimal digits.
    Hash(String),
    /// Whether the file could be put together.
    Composed(bool),
    Held(u64),
    Busy(String),
    Unsupported,
    Failed {
        kind: ErrorKind,
        action: String,
        path: String,
        message: String,
    },
}

/// Keys and sizes as the payload of `Listed`.
pub fn encode_listing(listed: &[(String, u64)]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(listed, &mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// Reads what `encode_listing` wrote.
pub fn decode_listing(bytes: &[u8]) -> io::Result<Vec<(String, u64)>> {
    ciborium::from_reader(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// One frame: its number, which an answer repeats, what it says, and bytes.
pub struct Frame<T> {
    pub number: u64,
    pub says: T,
    pub payload: Vec<u8>,
}

/// Writes a frame.
pub fn write_frame<T: Serialize>(
    out: &mut dyn Write,
    number: u64,
    says: &T,
    payload: &[u8],
) -> io::Result<()> {
    let mut header = Vec::new();
    ciborium::into_writer(says, &mut header).map_err(|error| io::Error::other(error.to_string()))?;
    let len = |bytes: &[u8], most: u32| {
        let len = u32::try_from(bytes.len()).ok().filter(|len| *len <= most);
        len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too much for one message"))
    };
    let mut head = number.to_le_bytes().to_vec();
    head.extend_from_slice(&len(&header, MOST_HEADER)?.to_le_bytes());
    head.extend_from_slice(&len(payload, MOST_PAYLOAD)?.to_le_bytes());
    head.extend_from_slice(&header);
    out.write_all(&head)?;
    out.write_all(payload)?;
    out.flush()
}

/// Reads a frame; `None` where the other side has ended between two.
pub fn read_frame<T: DeserializeOwned>(from: &mut dyn Read) -> io::Result<Option<Frame<T>>> {
    let mut head = [0; 16];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let [a, b, c, d, e, f, g, h, header @ .., p0, p1, p2, p3] = head;
    let number = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let (header, payload) = (u32::from_le_bytes(header), u32::from_le_bytes([p0, p1, p2, p3]));
    if header > MOST_HEADER || payload > MOST_PAYLOAD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"));
    }
    let mut read = |len: u32| {
        let mut bytes = Vec::new();
        let got = from.take(u64::from(len)).read_to_end(&mut bytes)?;
        if got == len as usize { Ok(bytes) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
    };
    let (header, payload) = (read(header)?, read(payload)?);
    let says = ciborium::from_reader(header.as_slice())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    Ok(Some(Frame { number, says, payload }))
}

#[cfg(test)]
mod tests {
    use super::{Request, read_frame, write_frame};
    use proptest::prelude::{any, prop, proptest};

    proptest! {
        #[test]
        fn what_is_written_is_read(number in any::<u64>(), key in ".{0,40}", payload in prop::collection::vec(any::<u8>(), 0..500)) {
            let mut bytes = Vec::new();
            write_frame(&mut bytes, number, &Request::Put { key: key.clone() }, &payload).unwrap();
            let frame = read_frame::<Request>(&mut bytes.as_slice()).unwrap().unwrap();
            assert_eq!((frame.number, &frame.payload), (number, &payload));
            assert!(matches!(frame.says, Request::Put { key: found } if found == key));
            for end in 1..bytes.len() {
                assert!(read_frame::<Request>(&mut &bytes[..end]).is_err());
            }
        }

        #[test]
        fn nothing_that_arrives_makes_it_panic_or_take_much_memory(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(read_frame::<Request>(&mut bytes.as_slice()));
        }
    }

    #[test]
    fn the_end_between_messages_is_no_error() {
        assert!(read_frame::<Request>(&mut [].as_slice()).unwrap().is_none());
    }
}
