//! Lets another icecore use a repository here, over a pipe; if wanted, only to add to it.

use crate::backend::wire::{Answer, Frame, HELLO, Request, encode_listing, read_frame, write_frame};
use crate::backend::{Backend, BackendError, ErrorKind, Lock, LockGuard, LockKind, Piece, hash_anew};
use crate::format::Key;
use crate::id::Id;
use std::collections::HashMap;
use std::io::{self, Read, Write};

/// What may be listed.
const DIRECTORIES: [&str; 9] =
    ["keys", "packs", "index", "manifests", "snapshots", "proofs", "pins", "doomed", "quarantine"];
/// A file that is put together has at most this many bytes.
const MOST_BYTES: u64 = 128 << 20;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    Everything,
    /// Add files, and read. What is there stays as it is.
    Adding,
}

struct Server<'b> {
    backend: &'b dyn Backend,
    allowed: Allowed,
    locks: HashMap<u64, Box<dyn LockGuard>>,
    next_lock: u64,
}

/// Answers requests until the client ends. Its locks end with it.
pub fn serve(
    backend: &dyn Backend,
    allowed: Allowed,
    from: &mut dyn Read,
    to: &mut dyn Write,
) -> io::Result<()> {
    to.write_all(HELLO)?;
    to.flush()?;
    let mut hello = [0; HELLO.len()];
    from.read_exact(&mut hello)?;
    if hello != *HELLO {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no icecore of this version is at the other end",
        ));
    }
    let mut server = Server { backend, allowed, locks: HashMap::new(), next_lock: 0 };
    while let Some(Frame { number, says, payload }) = read_frame::<Request>(from)? {
        let (answer, bytes) = match server.answer(&says, payload) {
            Ok(reply) => reply,
            Err(error) => (failed(&error), Vec::new()),
        };
        write_frame(to, number, &answer, &bytes)?;
    }
    Ok(())
}

fn failed(error: &BackendError) -> Answer {
    Answer::Failed {
        kind: error.kind,
        action: error.action.to_owned(),
        path: error.path.clone(),
        message: error.source.to_string(),
    }
}

fn refused(action: &'static str, key: &str, why: &str) -> BackendError {
    let source = io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned());
    BackendError::new(action, key, source)
}

/// A file that a client may name.
#[derive(PartialEq, Eq)]
enum Named {
    Part(Key),
    /// What a repair has put aside, under the name that it had.
    Quarantined,
}

/// Exactly what a repository has: nothing else on this host can be reached, and nothing can be put where a directory belongs.
fn named(action: &'static str, key: &str) -> Result<Named, BackendError> {
    if let Some(part) = Key::parse(key) {
        return Ok(Named::Part(part));
    }
    let letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    let is_plain = |part: &&str| !part.is_empty() && !part.starts_with('.') && part.chars().all(letter);
    match key.split('/').collect::<Vec<_>>().as_slice() {
        ["quarantine", rest @ ..]
            if (1..5).contains(&rest.len()) && rest.iter().all(is_plain) && key.len() < 300 =>
        {
            Ok(Named::Quarantined)
        }
        _ => Err(refused(action, key, "that is no file of a repository")),
    }
}

/// What may be listed: what files may be in.
fn listed(directory: &str) -> Result<(), BackendError> {
    let is_fan = directory
        .strip_prefix("packs/")
        .is_some_and(|fan| fan.len() == 2 && fan.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if DIRECTORIES.contains(&directory) || is_fan {
        Ok(())
    } else {
        Err(refused("list", directory, "that is no directory of a repository"))
    }
}

/// Files whose names tell what they hold must hold that.
fn proves(named: &Named, bytes: &[u8]) -> bool {
    match named {
        Named::Part(key) => key.proves(bytes),
        Named::Quarantined => true,
    }
}

impl Server<'_> {
    fn answer(&mut self, request: &Request, payload: Vec<u8>) -> Result<(Answer, Vec<u8>), BackendError> {
        let done = |()| (Answer::Done, Vec::new());
        match request {
            Request::Get { key } => {
                named("read", key)?;
                Ok((Answer::Bytes, self.backend.get(key)?))
            }
            Request::GetRange { key, offset, len } => {
                named("read", key)?;
                if *len > MOST_BYTES {
                    return Err(refused("read", key, "that is too much at once"));
                }
                Ok((Answer::Bytes, self.backend.get_range(key, *offset, *len)?))
            }
            Request::Size { key } => {
                named("stat", key)?;
                Ok((Answer::Size(self.backend.size(key)?), Vec::new()))
            }
            Request::Arrived { key } => {
                named("stat", key)?;
                Ok((Answer::Time(self.backend.arrived(key)?), Vec::new()))
            }
            Request::Hash { key } => {
                named("read", key)?;
                let hash = hash_anew(self.backend, key, self.backend.size(key)?)?;
                Ok((Answer::Hash(hash.hex()), Vec::new()))
            }
            Request::Put { key } => self.put(key, &payload, false).map(done),
            Request::PutNew { key } => self.put(key, &payload, true).map(done),
            Request::Compose { key, pieces } => {
                let composed = self.compose(key, pieces, &payload)?;
                Ok((Answer::Composed(composed), Vec::new()))
            }
            Request::List { directory } => {
                listed(directory)?;
                let bytes = encode_listing(&self.backend.list(directory)?)
                    .map_err(|error| BackendError::new("list", directory, error))?;
                Ok((Answer::Listed, bytes))
            }
            Request::Delete { key } => {
                named("delete", key)?;
                self.refuse_destruction("delete", key)?;
                self.backend.delete(key).map(done)
            }
            Request::Lock { name, is_shared } => self.lock(name, *is_shared),
            Request::Unlock { lock } => {
                self.locks.remove(lock);
                Ok(done(()))
            }
            Request::Sweep => {
                self.backend.remove_stale_temporaries();
                Ok(done(()))
            }
        }
    }

    fn refuse_destruction(&self, action: &'static str, key: &str) -> Result<(), BackendError> {
        match self.allowed {
            Allowed::Everything => Ok(()),
            Allowed::Adding => {
                Err(refused(action, key, "this replica only lets files be added (--append-only)"))
            }
        }
    }

    fn put(&self, key: &str, bytes: &[u8], is_new: bool) -> Result<(), BackendError> {
        let action = if is_new { "create" } else { "write" };
        let named = named(action, key)?;
        if !proves(&named, bytes) {
            let wrong = io::Error::new(io::ErrorKind::InvalidData, "what arrived does not match its name");
            return Err(BackendError::new(action, key, wrong));
        }
        if let Named::Part(Key::Snapshot(_)) = named {
            self.prove_arrival(action, key, bytes)?;
        }
        // A key in a repository that isn't encrypted would be taken for the sign that somebody has changed that.
        let is_key = matches!(named, Named::Part(Key::WrappedKey(_)));
        if is_key && self.allowed == Allowed::Adding && !self.is_encrypted_or_new()? {
            return Err(refused(action, key, "the repository is not encrypted"));
        }
        if self.allowed == Allowed::Everything && !is_new {
            return self.backend.put(key, bytes);
        }
        // Whoever may only add can't condemn, nor put aside.
        if matches!(named, Named::Part(Key::Doomed(_)) | Named::Quarantined) {
            self.refuse_destruction(action, key)?;
        }
        match self.backend.put_new(key, bytes) {
            // The same again is no change.
            Err(error) if error.kind == ErrorKind::Exists && !is_new => {
                if self.backend.get(key)? == bytes {
                    Ok(())
                } else {
                    self.refuse_destruction(action, key)
                }
            }
            other => other,
        }
    }

    fn is_encrypted_or_new(&self) -> Result<bool, BackendError> {
        match self.backend.get("config") {
            Ok(config) => Ok(config.windows(9).any(|window| window == b"\"cipher\":")),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// A snapshot's name comes last: what it names must be here.
    fn prove_arrival(&self, action: &'static str, key: &str, line: &[u8]) -> Result<(), BackendError> {
        let manifest = std::str::from_utf8(line).ok().and_then(|line| Id::from_hex(line.strip_suffix('\n')?));
        let is_there = match manifest {
            Some(id) => self.backend.has(&format!("manifests/{id}"))?,
            None => false,
        };
        if is_there && self.allowed == Allowed::Adding {
            self.prove_only_name(action, key, line)?;
        }
        let missing =
            || io::Error::new(io::ErrorKind::InvalidData, "a snapshot's name, and its manifest is not here");
        if is_there { Ok(()) } else { Err(BackendError::new(action, key, missing())) }
    }

    /// A second name for a manifest would be damage, which keeps prunes from deciding.
    fn prove_only_name(&self, action: &'static str, key: &str, line: &[u8]) -> Result<(), BackendError> {
        for (other, len) in self.backend.list("snapshots")? {
            if other == key || len != line.len() as u64 {
                continue;
            }
            match self.backend.get(&other) {
                Ok(found) if found == line => {
                    return Err(refused(action, key, "another snapshot has that manifest"));
                }
                Err(error) if !matches!(error.kind, ErrorKind::NotFound | ErrorKind::Lost) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// False where the pieces don't make what the name says, or aren't there.
    fn compose(&self, key: &str, pieces: &[Piece], mut sent: &[u8]) -> Result<bool, BackendError> {
        let composed = named("put together", key)?;
        let total = pieces.iter().try_fold(0u64, |sum, piece| match piece {
            Piece::Copy { len, .. } | Piece::Sent { len } => sum.checked_add(*len),
        });
        if !matches!(composed, Named::Part(Key::Pack(_))) || total.is_none_or(|total| total > MOST_BYTES) {
            return Err(refused("put together", key, "only packs are put together from others"));
        }
        let mut bytes = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Copy { key, offset, len } => {
                    named("read", key)?;
                    match self.backend.get_range(key, *offset, *len) {
                        Ok(part) => bytes.extend_from_slice(&part),
                        Err(error)
                            if matches!(
                                error.kind,
                                ErrorKind::NotFound | ErrorKind::Short | ErrorKind::Lost
                            ) =>
                        {
                            return Ok(false);
                        }
                        Err(error) => return Err(error),
                    }
                }
                Piece::Sent { len } => {
                    let split = usize::try_from(*len).ok().and_then(|len| sent.split_at_checked(len));
                    let Some((part, rest)) = split else { return Ok(false) };
                    bytes.extend_from_slice(part);
                    sent = rest;
                }
            }
        }
        if !proves(&composed, &bytes) {
            return Ok(false);
        }
        self.put(key, &bytes, false).map(|()| true)
    }

    fn lock(&mut self, name: &str, is_shared: bool) -> Result<(Answer, Vec<u8>), BackendError> {
        let letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(letter) {
            return Err(refused("lock", name, "that is no name of a lock"));
        }
        // Whoever may only add could keep others away for ever.
        if self.allowed == Allowed::Adding {
            return Ok((Answer::Unsupported, Vec::new()));
        }
        let kind = if is_shared { LockKind::Shared } else { LockKind::Exclusive };
        let answer = match self.backend.try_lock(name, kind)? {
            Lock::Held(guard) => {
                self.next_lock += 1;
                self.locks.insert(self.next_lock, guard);
                Answer::Held(self.next_lock)
            }
            Lock::Busy { holder } => Answer::Busy(holder),
            Lock::Unsupported => Answer::Unsupported,
        };
        Ok((answer, Vec::new()))
    }
}
