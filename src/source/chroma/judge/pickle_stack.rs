//! A pickle's stack: bounded, and giving away the entries of dictionaries as soon as they are final.

use super::trouble::{Outcome, Trouble};

const MAX_STACK: usize = 64;
const MAX_MARKS: usize = 8;
/// Items above a mark that wait for an opcode that may take them: the dictionary, key and value of a `SETITEM`, evened
/// up. Pairs below them are final.
const WAITING_ITEMS: usize = 6;

/// A key or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// A string's bytes (UTF-8, as far as Python guarantees it).
    Text(&'a [u8]),
    /// A dictionary, whose entries were delivered before, a tuple, bytes or an object.
    Other,
}

/// One entry of a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// The key under which the outer dictionary holds this one; `None` for the outer one itself.
    pub dictionary: Option<&'a [u8]>,
    pub key: Scalar<'a>,
    pub value: Scalar<'a>,
}

/// Takes entries in the order of the file.
pub type Visit<'v> = dyn FnMut(Item<'_>) -> Outcome<()> + 'v;

#[derive(Debug)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Text { offset: u64, bytes: Vec<u8> },
    Dictionary,
    Tuple,
    Bytes,
    Class,
    Object,
}

impl Value {
    pub fn scalar(&self) -> Scalar<'_> {
        match self {
            Self::None => Scalar::None,
            Self::Bool(value) => Scalar::Bool(*value),
            Self::Int(value) => Scalar::Int(*value),
            Self::Text { bytes, .. } => Scalar::Text(bytes),
            _ => Scalar::Other,
        }
    }
}

struct Mark {
    /// Items from here on lie above it.
    at: usize,
    /// Some of them were delivered already.
    delivered: bool,
}

/// Values, and the places that `MARK` left.
pub struct Stack<'v> {
    values: Vec<Value>,
    marks: Vec<Mark>,
    /// Buffers of strings that were given away.
    spare: Vec<Vec<u8>>,
    visit: &'v mut Visit<'v>,
}

impl<'v> Stack<'v> {
    pub fn new(visit: &'v mut Visit<'v>) -> Self {
        Self { values: Vec::new(), marks: Vec::new(), spare: Vec::new(), visit }
    }

    /// A buffer to fill.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// The value on top.
    pub fn last(&self) -> Option<&Value> {
        self.values.last()
    }

    /// What a pickle must leave behind: a dictionary or an object, and nothing else.
    pub fn is_one_object(&self) -> bool {
        matches!(self.values.as_slice(), [Value::Dictionary | Value::Object]) && self.marks.is_empty()
    }

    pub fn push(&mut self, value: Value) -> Outcome<()> {
        if self.values.len() >= MAX_STACK {
            return Err(Trouble::malformed("it nests too deeply"));
        }
        self.values.push(value);
        let Some(mark) = self.marks.last() else { return Ok(()) };
        let at = mark.at;
        let base = at.checked_sub(1).and_then(|below| self.values.get(below));
        if self.values.len() - at >= WAITING_ITEMS && matches!(base, Some(Value::Dictionary)) {
            self.deliver(at)?;
            if let Some(mark) = self.marks.last_mut() {
                mark.delivered = true;
            }
        }
        Ok(())
    }

    pub fn pop(&mut self) -> Outcome<Value> {
        // What lies below the newest mark is out of reach.
        let floor = self.marks.last().map_or(0, |mark| mark.at);
        let reachable = if self.values.len() > floor { self.values.pop() } else { None };
        reachable.ok_or_else(|| Trouble::malformed("an opcode finds nothing to work on"))
    }

    /// Gives the key and the value at `at` to the visitor, as an entry of the dictionary below them.
    fn deliver(&mut self, at: usize) -> Outcome<()> {
        let dictionary =
            at.checked_sub(1).filter(|at| matches!(self.values.get(*at), Some(Value::Dictionary)));
        let dictionary = dictionary.ok_or_else(|| Trouble::malformed("an entry without a dictionary"))?;
        // The outer dictionary lies at the bottom, or on the object whose state it is.
        let outer = usize::from(matches!(self.values.first(), Some(Value::Object)));
        let is_inner = self.marks.iter().all(|mark| mark.at == outer + 1 || mark.at == at);
        let name = match dictionary.checked_sub(1).and_then(|below| self.values.get(below)) {
            _ if dictionary == outer => None,
            Some(Value::Text { bytes, .. }) if is_inner => Some(bytes.as_slice()),
            _ => return Err(Trouble::malformed("a dictionary where Chroma has none")),
        };
        let (Some(key), Some(value)) = (self.values.get(at), self.values.get(at + 1)) else {
            return Err(Trouble::malformed("a key without a value"));
        };
        (self.visit)(Item { dictionary: name, key: key.scalar(), value: value.scalar() })?;
        for value in self.values.drain(at..at + 2) {
            if let Value::Text { bytes, .. } = value
                && self.spare.len() < WAITING_ITEMS
            {
                self.spare.push(bytes);
            }
        }
        Ok(())
    }

    pub fn mark(&mut self) -> Outcome<()> {
        if self.marks.len() >= MAX_MARKS {
            return Err(Trouble::malformed("it nests too deeply"));
        }
        self.marks.push(Mark { at: self.values.len(), delivered: false });
        Ok(())
    }

    pub fn set_items(&mut self) -> Outcome<()> {
        let mark = self.marks.pop().ok_or_else(|| Trouble::malformed("an opcode without its mark"))?;
        while self.values.len() > mark.at {
            self.deliver(mark.at)?;
        }
        match mark.at.checked_sub(1).and_then(|below| self.values.get(below)) {
            Some(Value::Dictionary) => Ok(()),
            _ => Err(Trouble::malformed("entries without a dictionary")),
        }
    }

    pub fn set_item(&mut self) -> Outcome<()> {
        let floor = self.marks.last().map_or(0, |mark| mark.at);
        match self.values.len().checked_sub(2).filter(|at| *at > floor) {
            Some(at) => self.deliver(at),
            None => Err(Trouble::malformed("an entry without a dictionary")),
        }
    }

    pub fn tuple_above_mark(&mut self) -> Outcome<()> {
        let mark = self.marks.pop().ok_or_else(|| Trouble::malformed("an opcode without its mark"))?;
        if mark.delivered {
            return Err(Trouble::malformed("a tuple of a dictionary's entries"));
        }
        self.values.truncate(mark.at);
        self.push(Value::Tuple)
    }

    pub fn tuple(&mut self, len: usize) -> Outcome<()> {
        for _ in 0..len {
            self.pop()?;
        }
        self.push(Value::Tuple)
    }

    pub fn construct(&mut self) -> Outcome<()> {
        match (self.pop()?, self.pop()?) {
            (Value::Tuple, Value::Class) => self.push(Value::Object),
            _ => Err(Trouble::malformed("it wants to call something")),
        }
    }

    pub fn build(&mut self) -> Outcome<()> {
        match (self.pop()?, self.values.as_slice()) {
            (Value::Dictionary, [Value::Object]) => Ok(()),
            _ => Err(Trouble::malformed("an object's state is no dictionary")),
        }
    }
}
