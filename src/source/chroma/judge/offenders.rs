//! Counts what offends and names the first few.

const NAMED: usize = 5;

/// Offending things of one sort.
#[derive(Debug, Clone, Default)]
pub struct Offenders {
    pub count: u64,
    named: Vec<String>,
}

impl Offenders {
    /// Counts one; `name` is called for the first few.
    pub fn add(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(name());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// `<count> <what>: a, b, c …`
    pub fn tell(&self, what: &str) -> String {
        let more = if self.count > self.named.len() as u64 { ", …" } else { "" };
        format!("{} {what}: {}{more}", self.count, self.named.join(", "))
    }
}

/// An id or a name from outside, short enough for a message.
pub fn shown(bytes: &[u8]) -> String {
    const SHOWN_BYTES: usize = 80;
    match bytes.get(..SHOWN_BYTES) {
        Some(start) if bytes.len() > SHOWN_BYTES => format!("{:?}…", String::from_utf8_lossy(start)),
        _ => format!("{:?}", String::from_utf8_lossy(bytes)),
    }
}
