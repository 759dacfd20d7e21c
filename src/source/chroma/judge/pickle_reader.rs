//! Reads the two shapes of `index_metadata.pickle` as a stream of dictionary entries, and executes nothing.
//!
//! 1.x writes one dictionary of dictionaries (serde-pickle, protocol 3), the Python versions a `PersistentData` object
//! with such a dictionary as its state (protocols 4 and 5). Opcodes are those of Python's `pickletools`; all that Chroma
//! doesn't need are refused.

use super::pickle_input::Input;
use super::pickle_memo::{Memo, Remembered};
use super::pickle_stack::{Stack, Value, Visit};
use super::trouble::{Outcome, Trouble};
use super::window::Window;
use crate::source::interface::ReadAt;
use std::io;
use std::path::Path;

/// Longer ids are refused.
const MAX_TEXT_BYTES: u64 = 1 << 20;
const MODULE: &[u8] = b"chromadb.segment.impl.vector.local_persistent_hnsw";
const CLASS: &[u8] = b"PersistentData";

/// Reads a whole pickle. Memory is bounded whatever it holds; a memo that grows beyond goes to a file in `scratch`.
pub fn read_pickle(file: &dyn ReadAt, scratch: &Path, visit: &mut Visit<'_>) -> Outcome<()> {
    let mut machine = Machine {
        input: Input::new(file),
        recalled: Window::new(),
        memo: Memo::new(scratch),
        stack: Stack::new(visit),
    };
    machine.run().map_err(|error| match error {
        Trouble::Malformed(detail) => {
            Trouble::Malformed(format!("{detail} (before byte {})", machine.input.position()))
        }
        other => other,
    })
}

/// How many entries a pickle's dictionaries have; `None` for one that Chroma doesn't write. For fuzzing: the judge reads
/// the entries themselves.
pub fn count_pickle_entries(file: &dyn ReadAt, scratch: &Path) -> io::Result<Option<u64>> {
    let mut entries = 0;
    let read = read_pickle(file, scratch, &mut |_| {
        entries += 1;
        Ok(())
    });
    match read {
        Ok(()) => Ok(Some(entries)),
        Err(Trouble::Io(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

struct Machine<'m> {
    input: Input<'m>,
    /// For strings that are used again.
    recalled: Window,
    memo: Memo,
    stack: Stack<'m>,
}

impl Machine<'_> {
    fn run(&mut self) -> Outcome<()> {
        if self.input.byte()? != 0x80 || !(2..=5).contains(&self.input.byte()?) {
            return Err(Trouble::malformed("it is no pickle of protocol 2 to 5"));
        }
        loop {
            let opcode = self.input.byte()?;
            if opcode == b'.' {
                return self.stop();
            }
            self.step(opcode)?;
        }
    }

    fn stop(&mut self) -> Outcome<()> {
        match self.input.left() {
            0 if self.stack.is_one_object() => Ok(()),
            0 => Err(Trouble::malformed("it does not end as one object")),
            left => Err(Trouble::malformed(format!("{left} bytes follow its end"))),
        }
    }

    fn step(&mut self, opcode: u8) -> Outcome<()> {
        match opcode {
            0x95 => {
                let announced = self.input.number::<8>()?;
                if announced > self.input.left() {
                    return Err(Trouble::malformed("a frame is longer than the file"));
                }
                Ok(())
            }
            b'}' => self.stack.push(Value::Dictionary),
            b'(' => self.stack.mark(),
            b')' => self.stack.push(Value::Tuple),
            b't' => self.stack.tuple_above_mark(),
            0x85..=0x87 => self.stack.tuple(usize::from(opcode - 0x84)),
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool(opcode == 0x88)),
            b'J' => {
                let value = self.input.number::<4>()? as u32 as i32;
                self.stack.push(Value::Int(i64::from(value)))
            }
            b'K' => self.int::<1>(),
            b'M' => self.int::<2>(),
            0x8a => self.long(),
            b'X' => self.text::<4>(),
            0x8c => self.text::<1>(),
            0x8d => self.text::<8>(),
            b'C' => self.short_bytes(),
            0x94 => self.remember(self.memo.len()),
            b'q' => {
                let number = self.input.number::<1>()?;
                self.remember(number)
            }
            b'r' => {
                let number = self.input.number::<4>()?;
                self.remember(number)
            }
            b'h' => {
                let number = self.input.number::<1>()?;
                self.recall(number)
            }
            b'j' => {
                let number = self.input.number::<4>()?;
                self.recall(number)
            }
            b's' => self.stack.set_item(),
            b'u' => self.stack.set_items(),
            b'c' => self.global(),
            0x93 => self.stack_global(),
            b'R' | 0x81 => self.stack.construct(),
            b'b' => self.stack.build(),
            other => Err(Trouble::malformed(format!("opcode 0x{other:02x} is none that Chroma writes"))),
        }
    }

    fn int<const LEN: usize>(&mut self) -> Outcome<()> {
        let value = self.input.number::<LEN>()?;
        self.stack.push(Value::Int(value as i64))
    }

    fn long(&mut self) -> Outcome<()> {
        let len = self.input.byte()?;
        if len > 8 {
            return Err(Trouble::malformed(format!("a number of {len} bytes")));
        }
        let mut bytes = [0u8; 8];
        let mut last = 0;
        for byte in bytes.iter_mut().take(usize::from(len)) {
            *byte = self.input.byte()?;
            last = *byte;
        }
        if last & 0x80 != 0 {
            bytes.iter_mut().skip(usize::from(len)).for_each(|byte| *byte = 0xff);
        }
        self.stack.push(Value::Int(i64::from_le_bytes(bytes)))
    }

    fn text<const LEN: usize>(&mut self) -> Outcome<()> {
        let len = self.input.number::<LEN>()?;
        if len > MAX_TEXT_BYTES {
            return Err(Trouble::malformed(format!("a string of {len} bytes")));
        }
        let offset = self.input.position();
        let mut bytes = self.stack.buffer();
        self.input.bytes(len, &mut bytes)?;
        self.stack.push(Value::Text { offset, bytes })
    }

    fn short_bytes(&mut self) -> Outcome<()> {
        let len = self.input.number::<1>()?;
        let mut bytes = self.stack.buffer();
        self.input.bytes(len, &mut bytes)?;
        self.stack.push(Value::Bytes)
    }

    fn remember(&mut self, number: u64) -> Outcome<()> {
        if number != self.memo.len() {
            return Err(Trouble::malformed("its memo is out of order"));
        }
        let value = match self.stack.last() {
            Some(Value::Text { offset, bytes }) => {
                Remembered::Text { offset: *offset, len: bytes.len() as u32 }
            }
            Some(Value::Int(value)) => Remembered::Int(*value),
            Some(Value::None) => Remembered::None,
            Some(Value::Class) => Remembered::Class,
            Some(_) => Remembered::Other,
            None => return Err(Trouble::malformed("an opcode finds nothing to work on")),
        };
        self.memo.push(value)
    }

    fn recall(&mut self, number: u64) -> Outcome<()> {
        let value = match self.memo.get(number)? {
            Remembered::Text { offset, len } => {
                let mut bytes = self.stack.buffer();
                bytes.clear();
                self.recalled.append(self.input.file(), offset, u64::from(len), &mut bytes)?;
                Value::Text { offset, bytes }
            }
            Remembered::Int(value) => Value::Int(value),
            Remembered::None => Value::None,
            Remembered::Class => Value::Class,
            Remembered::Other => return Err(Trouble::malformed("something is used twice that must not be")),
        };
        self.stack.push(value)
    }

    fn global(&mut self) -> Outcome<()> {
        let (mut module, mut class) = (Vec::new(), Vec::new());
        self.input.line(MODULE.len(), &mut module)?;
        self.input.line(MODULE.len(), &mut class)?;
        self.class(&module, &class)
    }

    fn stack_global(&mut self) -> Outcome<()> {
        match (self.stack.pop()?, self.stack.pop()?) {
            (Value::Text { bytes: class, .. }, Value::Text { bytes: module, .. }) => {
                self.class(&module, &class)
            }
            _ => Err(Trouble::malformed("a class without a name")),
        }
    }

    fn class(&mut self, module: &[u8], class: &[u8]) -> Outcome<()> {
        if module != MODULE || class != CLASS {
            let name = [module, b".", class].concat();
            let name =
                String::from_utf8_lossy(name.get(..name.len().min(200)).unwrap_or_default()).into_owned();
            return Err(Trouble::malformed(format!("it wants to load {name:?}")));
        }
        self.stack.push(Value::Class)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pickle_stack::Scalar;
    use super::*;
    use proptest::prelude::*;

    /// All entries as text, or the reason for refusing.
    fn read(bytes: &[u8]) -> Result<Vec<String>, String> {
        let mut entries = Vec::new();
        let told = |scalar: Scalar<'_>| match scalar {
            Scalar::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Scalar::Int(value) => value.to_string(),
            other => format!("{other:?}"),
        };
        let read = read_pickle(&bytes, &std::env::temp_dir(), &mut |item| {
            let name =
                item.dictionary.map_or_else(String::new, |name| String::from_utf8_lossy(name).into_owned());
            entries.push(format!("{name}/{}={}", told(item.key), told(item.value)));
            Ok(())
        });
        match read {
            Ok(()) => Ok(entries),
            Err(Trouble::Malformed(detail)) => Err(detail),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// `pickle.dumps({"a": None, "n": -2, "ids": {"x": 1}, "labels": {300: "x", 2**31: "x"}}, protocol)`
    #[test]
    fn each_protocol_of_python_is_read() {
        let expected = [
            "/a=None",
            "/n=-2",
            "ids/x=1",
            "/ids=Other",
            "labels/300=x",
            "labels/2147483648=x",
            "/labels=Other",
        ];
        let two = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01NX\x01\x00\x00\x00nq\x02J\xfe\xff\xff\xffX\x03\x00\x00\x00idsq\x03}q\x04X\x01\x00\x00\x00xq\x05K\x01sX\x06\x00\x00\x00labelsq\x06}q\x07(M,\x01h\x05\x8a\x05\x00\x00\x00\x80\x00h\x05uu.";
        let four = b"\x80\x04\x95\x2f\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94N\x8c\x01n\x94J\xfe\xff\xff\xff\x8c\x03ids\x94}\x94\x8c\x01x\x94K\x01s\x8c\x06labels\x94}\x94(M,\x01h\x05\x8a\x05\x00\x00\x00\x80\x00h\x05uu.";
        for bytes in [two.as_slice(), four.as_slice()] {
            let mut found = read(bytes).unwrap();
            found.sort();
            let mut expected = expected.map(str::to_owned);
            expected.sort();
            assert_eq!(found, expected);
            for end in 0..bytes.len() {
                read(&bytes[..end]).unwrap_err();
            }
            read(&[bytes, b"."].concat()).unwrap_err();
        }
    }

    const OBJECT: &[u8] = b"\x80\x05\x8c\x32chromadb.segment.impl.vector.local_persistent_hnsw\x94\x8c\x0ePersistentData\x94\x93\x94)\x81\x94}\x94(\x8c\x01a\x94K\x01\x8c\x03ids\x94}\x94(\x8c\x01x\x94K\x01\x8c\x01y\x94K\x02uub.";

    #[test]
    fn an_object_is_its_state() {
        assert_eq!(read(OBJECT).unwrap(), ["ids/x=1", "ids/y=2", "/a=1", "/ids=Other"]);
        let reduced: Vec<u8> = OBJECT.iter().map(|byte| if *byte == 0x81 { b'R' } else { *byte }).collect();
        assert_eq!(read(&reduced).unwrap().len(), 4);
    }

    #[test]
    fn what_could_run_is_refused() {
        let cases: [(&[u8], &str); 8] = [
            (b"\x80\x03cos\nsystem\nX\x02\x00\x00\x00id\x85R.", "\"os.system\""),
            (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.", "\"os.system\""),
            (b"\x80\x03cchromadb.segment.impl.vector.local_persistent_hnsw\nos\n.", "load"),
            (b"\x80\x04K\x01)R.", "call"),
            (b"\x80\x04(ios\nsystem\n.", "0x69"),
            (b"\x80\x02\x82\x01.", "0x82"),
            (b"I1\n.", "protocol"),
            (b"\x80\x04(l.", "0x6c"),
        ];
        for (bytes, expected) in cases {
            let refused = read(bytes).unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let deep = [b"\x80\x03".to_vec(), b"}(K\x01".repeat(1000)].concat();
        let wide = [b"\x80\x03".to_vec(), b"K\x01".repeat(1000)].concat();
        let text = [b"\x80\x03}(X".as_slice(), &u32::MAX.to_le_bytes(), b"a"].concat();
        let long = [b"\x80\x04\x8d".as_slice(), &u64::MAX.to_le_bytes(), b"a"].concat();
        let frame = [b"\x80\x04\x95".as_slice(), &u64::MAX.to_le_bytes(), b"}."].concat();
        let name = [b"\x80\x03c".to_vec(), vec![b'a'; 1000]].concat();
        let left = [b"\x80\x03}(X".as_slice(), &9u32.to_le_bytes(), b"a"].concat();
        let number = b"\x80\x03\x8a\x09123456789.".to_vec();
        for bytes in [deep, wide, text, long, frame, name, left, number] {
            read(&bytes).unwrap_err();
        }
        for bytes in [
            b"\x80\x03}h\x00.".as_slice(),
            b"\x80\x03}q\x05.",
            b"\x80\x03}q\x00(K\x01h\x00u.",
            b"\x80\x03}(K\x01u.",
            b"\x80\x03(}K\x01K\x02su.",
            b"\x80\x03}(K\x01}(K\x02}(K\x03K\x04uuu.",
            b"\x80\x03}(.",
            b"\x80\x03}}.",
            b"\x80\x03s.",
            b"\x80\x03b.",
            b"\x80\x03)b.",
            b"\x80\x03u.",
            b"\x80\x03t.",
            b"\x80\x03\x94.",
        ] {
            read(bytes).unwrap_err();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&[b"\x80\x03", bytes.as_slice()].concat());
        }

        /// Opcodes alone get further than any bytes.
        #[test]
        fn no_opcodes_make_it_panic(opcodes in prop::collection::vec(
            prop::sample::select(vec![
                b"}".to_vec(), b"(".to_vec(), b"u".to_vec(), b"s".to_vec(), b"N".to_vec(), b"K\x01".to_vec(), b"\x94".to_vec(),
                b"h\x00".to_vec(), b"\x8c\x01a".to_vec(), b")".to_vec(), b"t".to_vec(), b"\x86".to_vec(), b"R".to_vec(),
                b"b".to_vec(), b"C\x01a".to_vec(), b"cchromadb.segment.impl.vector.local_persistent_hnsw\nPersistentData\n".to_vec(),
            ]), 0..60)) {
            let _ = read(&[b"\x80\x04".to_vec(), opcodes.concat(), b".".to_vec()].concat());
        }

        #[test]
        fn maps_come_back_whole(pairs in prop::collection::btree_map("[a-zé]{0,40}", 0u32..1_000_000, 0..200)) {
            let text = |text: &str| [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat();
            let mut bytes = [b"\x80\x03}(".to_vec(), text("ids"), b"}(".to_vec()].concat();
            for (id, label) in &pairs {
                bytes.extend([text(id), b"J".to_vec(), label.to_le_bytes().to_vec()].concat());
            }
            bytes.extend(b"uu.");
            let expected: Vec<String> = pairs.iter().map(|(id, label)| format!("ids/{id}={label}")).chain(["/ids=Other".to_owned()]).collect();
            prop_assert_eq!(read(&bytes).unwrap(), expected);
        }
    }
}
