//! A repository on another host: the system's `ssh`, and `icecore serve` at its far end.

use super::interface::{Backend, BackendError, ErrorKind, Lock, LockGuard, LockKind, Piece};
use super::limit::Limit;
use super::wire::{Answer, Frame, HELLO, Request, decode_listing, read_frame, write_frame};
use crate::id::Id;
use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many lines of what ssh says are kept for errors.
const SAID_LINES: usize = 5;
/// What is written at a time where the rate is limited.
const PIECE_BYTES: usize = 64 << 10;
/// For an answer is waited this long at most, after a signal only for so long; and it is looked so often.
const PATIENCE: Duration = Duration::from_secs(600);
const GRACE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(500);
/// A connection stands within this time, or is given up.
const GREETING: Duration = Duration::from_secs(60);
/// A far side that says nothing for so long, also not that it is alive, is gone.
const ALIVE: [&str; 4] = ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"];

/// Where to, and by what.
#[derive(Debug, Clone)]
pub struct SshOptions {
    pub host: String,
    pub port: Option<u16>,
    pub path: String,
    /// A line for the shell: `ssh` and options.
    pub command: String,
    /// The far program.
    pub program: String,
    pub limit: Arc<Limit>,
    /// Not zero once the user wants an end.
    pub stop: Arc<AtomicUsize>,
}

type Reply = (Answer, Vec<u8>);

/// A connection. Requests of several threads are on their way at once.
pub struct SshBackend {
    location: String,
    link: Arc<Link>,
    child: Arc<Mutex<Child>>,
    limit: Arc<Limit>,
}

struct Link {
    out: Mutex<Option<ChildStdin>>,
    /// Who waits for which answer; `None` once there will be no more.
    waiting: Mutex<Option<HashMap<u64, Sender<Reply>>>>,
    next: AtomicU64,
    said: Mutex<VecDeque<String>>,
    /// Not zero once the user wants an end.
    stop: Arc<AtomicUsize>,
    begun: Instant,
    /// When something was sent or received last, in milliseconds since `begun`.
    active: AtomicU64,
    /// When the writing began that is going on, in the same; 0: none is.
    writing: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SshBackend {
    /// Connects, and waits until the far side answers.
    pub fn connect(options: &SshOptions) -> Result<Self, BackendError> {
        let port = options.port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = if options.path.starts_with('/') { "" } else { "/~/" };
        let location = format!("ssh://{}{port}{path}{}", options.host, options.path);
        let fail = |error: io::Error| BackendError::new("connect to", location.clone(), error);
        let mut arguments: Vec<String> = ALIVE.iter().map(|word| (*word).to_owned()).collect();
        if !io::stdin().is_terminal() {
            // Nobody could answer a question.
            arguments.extend(["-o".into(), "BatchMode=yes".into()]);
        }
        if let Some(port) = options.port {
            arguments.extend(["-p".into(), port.to_string()]);
        }
        let far = format!("{} serve --stdio -- {}", options.program, quoted(&options.path));
        arguments.extend([options.host.clone(), far]);
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("exec {} \"$@\"", options.command), "ssh"])
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(fail)?;
        let (out, from, said) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let link = Arc::new(Link {
            out: Mutex::new(out),
            waiting: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(0),
            said: Mutex::default(),
            stop: Arc::clone(&options.stop),
            begun: Instant::now(),
            active: AtomicU64::new(0),
            writing: AtomicU64::new(0),
        });
        if let Some(said) = said {
            listen(Arc::clone(&link), said);
        }
        let (sender, greeted) = channel();
        {
            let link = Arc::clone(&link);
            std::thread::spawn(move || match greet(&link, from) {
                Ok(from) => {
                    drop(sender.send(Ok(())));
                    deliver(&link, from);
                }
                Err(error) => drop(sender.send(Err(error))),
            });
        }
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "nobody answers there");
        match greeted.recv_timeout(GREETING).unwrap_or_else(|_| Err(silent())) {
            Ok(()) => {
                let limit = Arc::clone(&options.limit);
                let child = Arc::new(Mutex::new(child));
                watch(&link, &child);
                Ok(Self { location, link, child, limit })
            }
            Err(error) => {
                drop(lock(&link.out).take());
                end(&mut child);
                Err(BackendError::of(ErrorKind::Unreachable, "connect to", location, link.explained(error)))
            }
        }
    }

    fn ask(
        &self,
        action: &'static str,
        key: &str,
        request: &Request,
        payload: &[u8],
    ) -> Result<Reply, BackendError> {
        let path = || format!("{}/{key}", self.location);
        match self.link.exchange(request, payload, &self.limit) {
            Ok((Answer::Failed { kind, action: far, path, message }, _)) => {
                let source = io::Error::other(format!("{message} (told by the far side: {far} {path})"));
                Err(BackendError::of(kind, action, format!("{}/{key}", self.location), source))
            }
            Ok(reply) => Ok(reply),
            Err(error) => {
                let kind = match error.kind() {
                    io::ErrorKind::InvalidInput => ErrorKind::Other,
                    _ => ErrorKind::Unreachable,
                };
                Err(BackendError::of(kind, action, path(), self.link.explained(error)))
            }
        }
    }

    fn odd<T>(&self, action: &'static str, key: &str) -> Result<T, BackendError> {
        let source =
            io::Error::new(io::ErrorKind::InvalidData, "the far side answered something else than asked");
        Err(BackendError::new(action, format!("{}/{key}", self.location), source))
    }
}

impl Link {
    fn exchange(&self, request: &Request, payload: &[u8], limit: &Limit) -> io::Result<Reply> {
        let lost = || io::Error::new(io::ErrorKind::BrokenPipe, "the connection is lost");
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = channel();
        lock(&self.waiting).as_mut().ok_or_else(lost)?.insert(number, sender);
        let written = {
            let mut out = lock(&self.out);
            let out = out.as_mut().ok_or_else(lost)?;
            self.writing.store(self.now().max(1), Ordering::Relaxed);
            let written = write_frame(&mut Slowly { out, limit, link: self }, number, request, payload);
            self.writing.store(0, Ordering::Relaxed);
            written
        };
        if let Err(error) = written {
            self.wait_no_more(number);
            return Err(if error.kind() == io::ErrorKind::InvalidInput { error } else { lost() });
        }
        let begun = Instant::now();
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(reply) => return Ok(reply),
                Err(RecvTimeoutError::Disconnected) => return Err(lost()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let (waited, is_asked) = (begun.elapsed(), self.stop.load(Ordering::Relaxed) > 0);
            if waited.min(self.idle()) > PATIENCE || (is_asked && waited > GRACE) {
                self.wait_no_more(number);
                let said = format!("the far side has not answered for {} s", waited.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, said));
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// For so long nothing was sent or received.
    fn idle(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.active.load(Ordering::Relaxed)))
    }

    fn wait_no_more(&self, number: u64) {
        if let Some(waiting) = lock(&self.waiting).as_mut() {
            waiting.remove(&number);
        }
    }

    /// An error with what ssh has said.
    fn explained(&self, error: io::Error) -> io::Error {
        // ssh may be about to say why.
        std::thread::sleep(Duration::from_millis(50));
        let said = lock(&self.said);
        if said.is_empty() {
            return error;
        }
        let lines: Vec<&str> = said.iter().map(String::as_str).collect();
        io::Error::new(error.kind(), format!("{error}: {}", lines.join(" | ")))
    }
}

struct Slowly<'w> {
    out: &'w mut ChildStdin,
    limit: &'w Limit,
    link: &'w Link,
}

/// Notes that something arrives.
struct Heard<'l> {
    from: BufReader<ChildStdout>,
    link: &'l Link,
}

impl Read for Heard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.link.active.store(self.link.now(), Ordering::Relaxed);
        Ok(count)
    }
}

/// Ends a connection whose writing hangs: a far side that is stopped takes nothing, and ssh doesn't notice.
fn watch(link: &Arc<Link>, child: &Arc<Mutex<Child>>) {
    let (link, child) = (Arc::downgrade(link), Arc::clone(child));
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LOOK);
            let Some(link) = link.upgrade() else { return };
            let since = link.writing.load(Ordering::Relaxed);
            let lasts = Duration::from_millis(link.now().saturating_sub(since));
            let is_asked = link.stop.load(Ordering::Relaxed) > 0;
            if since > 0 && (lasts.min(link.idle()) > PATIENCE || (is_asked && lasts > GRACE)) {
                drop(lock(&child).kill());
                return;
            }
        }
    });
}

impl Write for Slowly<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.get(..PIECE_BYTES).unwrap_or(bytes);
        self.limit.wait(part.len() as u64);
        let count = self.out.write(part)?;
        self.link.active.store(self.link.now(), Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn greet(link: &Link, from: Option<ChildStdout>) -> io::Result<BufReader<ChildStdout>> {
    let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the far side has ended");
    lock(&link.out).as_mut().ok_or_else(gone)?.write_all(HELLO).map_err(|_| gone())?;
    let mut from = BufReader::with_capacity(256 << 10, from.ok_or_else(gone)?);
    let mut hello = [0; HELLO.len()];
    from.read_exact(&mut hello).map_err(|_| gone())?;
    if hello == *HELLO {
        return Ok(from);
    }
    let text: String =
        String::from_utf8_lossy(&hello).chars().filter(|letter| !letter.is_control()).collect();
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "no icecore of this version answers there, but {text:?} (a shell that prints something at login?)"
        ),
    ))
}

/// Gives each answer to whoever waits for it, until there are no more.
fn deliver(link: &Link, from: BufReader<ChildStdout>) {
    let mut from = Heard { from, link };
    while let Ok(Some(Frame { number, says, payload })) = read_frame::<Answer>(&mut from) {
        let sender = lock(&link.waiting).as_mut().and_then(|waiting| waiting.remove(&number));
        if let Some(sender) = sender {
            drop(sender.send((says, payload)));
        }
    }
    drop(lock(&link.waiting).take());
}

fn listen(link: Arc<Link>, said: ChildStderr) {
    std::thread::spawn(move || {
        for line in BufReader::new(said).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            let mut said = lock(&link.said);
            if !line.is_empty() {
                said.push_back(line);
            }
            if said.len() > SAID_LINES {
                said.pop_front();
            }
        }
    });
}

/// Who has heard that there is no more ends by himself; who doesn't, is ended.
fn end(child: &mut Child) {
    for _ in 0..50 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(child.kill());
    drop(child.wait());
}

/// A word for the far shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

impl Drop for SshBackend {
    fn drop(&mut self) {
        // The far side ends when it hears no more.
        drop(lock(&self.link.out).take());
        end(&mut lock(&self.child));
    }
}

impl Backend for SshBackend {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, BackendError> {
        match self.ask("read", key, &Request::Get { key: key.into() }, &[])? {
            (Answer::Bytes, bytes) => Ok(bytes),
            _ => self.odd("read", key),
        }
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, BackendError> {
        match self.ask("read", key, &Request::GetRange { key: key.into(), offset, len }, &[])? {
            (Answer::Bytes, bytes) if bytes.len() as u64 == len => Ok(bytes),
            _ => self.odd("read", key),
        }
    }

    fn size(&self, key: &str) -> Result<u64, BackendError> {
        match self.ask("stat", key, &Request::Size { key: key.into() }, &[])? {
            (Answer::Size(size), _) => Ok(size),
            _ => self.odd("stat", key),
        }
    }

    fn arrived(&self, key: &str) -> Result<Option<i64>, BackendError> {
        match self.ask("stat", key, &Request::Arrived { key: key.into() }, &[])? {
            (Answer::Time(time), _) => Ok(time),
            _ => self.odd("stat", key),
        }
    }

    fn hash_there(&self, key: &str) -> Result<Option<Id>, BackendError> {
        match self.ask("read", key, &Request::Hash { key: key.into() }, &[])? {
            (Answer::Hash(hex), _) => Ok(Id::from_hex(&hex)),
            _ => self.odd("read", key),
        }
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        match self.ask("write", key, &Request::Put { key: key.into() }, bytes)? {
            (Answer::Done, _) => Ok(()),
            _ => self.odd("write", key),
        }
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        match self.ask("create", key, &Request::PutNew { key: key.into() }, bytes)? {
            (Answer::Done, _) => Ok(()),
            _ => self.odd("create", key),
        }
    }

    fn compose(&self, key: &str, pieces: &[Piece], sent: &[u8]) -> Result<bool, BackendError> {
        let request = Request::Compose { key: key.into(), pieces: pieces.to_vec() };
        match self.ask("put together", key, &request, sent)? {
            (Answer::Composed(done), _) => Ok(done),
            _ => self.odd("put together", key),
        }
    }

    fn can_compose(&self) -> bool {
        true
    }

    fn list(&self, directory: &str) -> Result<Vec<(String, u64)>, BackendError> {
        match self.ask("list", directory, &Request::List { directory: directory.into() }, &[])? {
            (Answer::Listed, bytes) => decode_listing(&bytes).or_else(|_| self.odd("list", directory)),
            _ => self.odd("list", directory),
        }
    }

    fn delete(&self, key: &str) -> Result<(), BackendError> {
        match self.ask("delete", key, &Request::Delete { key: key.into() }, &[])? {
            (Answer::Done, _) => Ok(()),
            _ => self.odd("delete", key),
        }
    }

    fn remove_stale_temporaries(&self) {
        drop(self.ask("sweep", "tmp", &Request::Sweep, &[]));
    }

    fn try_lock(&self, name: &str, kind: LockKind) -> Result<Lock, BackendError> {
        let is_shared = kind == LockKind::Shared;
        match self.ask("lock", name, &Request::Lock { name: name.into(), is_shared }, &[])? {
            (Answer::Held(lock), _) => Ok(Lock::Held(Box::new(Held { lock, link: Arc::clone(&self.link) }))),
            (Answer::Busy(holder), _) => Ok(Lock::Busy { holder }),
            (Answer::Unsupported, _) => Ok(Lock::Unsupported),
            _ => self.odd("lock", name),
        }
    }
}

/// A lock that the far side holds for us as long as the connection is there.
struct Held {
    lock: u64,
    link: Arc<Link>,
}

impl LockGuard for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.link.exchange(&Request::Unlock { lock: self.lock }, &[], &Limit::none()));
    }
}
