//! Wraps the repository's key for people and machines, with age (<https://age-encryption.org/v1>), and unwraps it again.

use crate::crypto::RepositoryKey;
use crate::format::KeyName;
use age::secrecy::{ExposeSecret, SecretString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What a wrapped key begins with, once opened; 64 hexadecimal digits and a newline follow.
const HEAD: &str = "icecore repository key\n";
/// No wrapped key is longer than this.
const MOST_BYTES: usize = 64 << 10;

/// For whom a key is wrapped.
pub enum Recipient {
    /// An age or ssh public key.
    Public(Box<dyn age::Recipient + Send>),
    /// Whoever knows this.
    Passphrase(SecretString),
}

/// Asks for a passphrase: what for, and perhaps an answer; an error if what should hold it doesn't.
pub type Ask<'p> = &'p dyn Fn(&str) -> Result<Option<Zeroizing<String>>, String>;

/// scrypt's work for a passphrase: 2¹⁷ blocks of 1 KiB, which is what OWASP asks for (128 MiB, half a second). A fixed number: age's own
/// measures how busy the machine is just now.
const WORK: u8 = 17;
/// More than this (1 GiB) isn't done for anybody.
const MOST_WORK: u8 = 20;

/// What a repository is unlocked by.
#[derive(Default)]
pub struct Unlocking<'p> {
    /// A file with age identities, or an ssh private key.
    pub identity: Option<PathBuf>,
    /// Asked for a passphrase, at most once for each thing it says; `None`: there is none.
    pub passphrase: Option<Ask<'p>>,
}

/// Why a key could not be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{text:?} is no recipient: {detail}")]
    NotARecipient { text: String, detail: String },
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path} holds no age identity and no ssh private key: {detail}")]
    NotAnIdentity { path: PathBuf, detail: String },
    #[error("age can't wrap the key: {0}")]
    Wrap(String),
}

impl Recipient {
    /// Reads `age1…`, an ssh public key as a line, or the path of a file that holds one such line.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let line = text.trim();
        if let Some(found) = Self::of_line(line) {
            return found;
        }
        let path = Path::new(text);
        if !path.is_file() {
            let detail =
                "it is neither age1…, nor ssh-ed25519 … or ssh-rsa …, nor a file that holds one".into();
            return Err(KeyError::NotARecipient { text: text.into(), detail });
        }
        let read = fs::read_to_string(path);
        let content = read.map_err(|source| KeyError::Unreadable { path: path.into(), source })?;
        let mut lines =
            content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (first, more) = (lines.next().unwrap_or_default(), lines.next().is_some());
        match Self::of_line(first) {
            Some(found) if !more => found,
            _ => Err(KeyError::NotARecipient {
                text: text.into(),
                detail: "the file must hold exactly one public key (an identity's own file is not one)"
                    .into(),
            }),
        }
    }

    fn of_line(line: &str) -> Option<Result<Self, KeyError>> {
        let fail = |detail: String| KeyError::NotARecipient { text: line.into(), detail };
        if line.starts_with("age1") {
            let parsed = line.parse::<age::x25519::Recipient>();
            return Some(parsed.map(|key| Self::Public(Box::new(key))).map_err(|detail| fail(detail.into())));
        }
        line.starts_with("ssh-").then(|| {
            let parsed = line.parse::<age::ssh::Recipient>();
            parsed.map(|key| Self::Public(Box::new(key))).map_err(|detail| {
                fail(format!("age can't use this kind of ssh key ({detail:?}): take ssh-ed25519 or ssh-rsa"))
            })
        })
    }
}

/// A key file for one recipient.
pub fn wrap(key: &RepositoryKey, recipient: &Recipient) -> Result<Vec<u8>, KeyError> {
    let mut text = Zeroizing::new(HEAD.to_owned());
    key.as_bytes().iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
    text.push('\n');
    let fail = |error: age::EncryptError| KeyError::Wrap(error.to_string());
    match recipient {
        Recipient::Public(public) => {
            let encryptor =
                age::Encryptor::with_recipients(std::iter::once(&**public as &dyn age::Recipient));
            write_out(encryptor.map_err(fail)?, text.as_bytes())
        }
        Recipient::Passphrase(secret) => {
            let mut recipient = age::scrypt::Recipient::new(secret.expose_secret().to_owned().into());
            recipient.set_work_factor(WORK);
            let encryptor =
                age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient));
            write_out(encryptor.map_err(fail)?, text.as_bytes())
        }
    }
}

fn write_out(encryptor: age::Encryptor, plain: &[u8]) -> Result<Vec<u8>, KeyError> {
    let mut wrapped = Vec::new();
    let write = || {
        let mut writer = encryptor.wrap_output(&mut wrapped)?;
        io::Write::write_all(&mut writer, plain)?;
        writer.finish().map(drop)
    };
    write().map_err(|error: io::Error| KeyError::Wrap(error.to_string()))?;
    Ok(wrapped)
}

/// The repository's key, from the first of these files that something given opens, and the name of that file. The error says what
/// was tried.
pub fn unwrap<'f>(
    files: &'f [(KeyName, Vec<u8>)],
    fingerprint: &str,
    unlocking: &Unlocking<'_>,
) -> Result<(RepositoryKey, &'f KeyName), String> {
    if files.is_empty() {
        return Err("keys/ holds no wrapped key that proves itself".into());
    }
    // What goes wrong with one means of opening it isn't told if another one does.
    let mut troubles = Vec::new();
    let identities = match &unlocking.identity {
        Some(path) => read_identities(path, unlocking).unwrap_or_else(|error| {
            troubles.push(error.to_string());
            Identities::new()
        }),
        None => Vec::new(),
    };
    let mut foreign = false;
    let opened = |text: Option<Zeroizing<String>>, foreign: &mut bool| {
        let key = text.and_then(|text| key_of(&text))?;
        *foreign |= key.fingerprint() != fingerprint;
        Some(key).filter(|key| key.fingerprint() == fingerprint)
    };
    let all: Vec<&dyn age::Identity> = identities.iter().map(|one| &**one as &dyn age::Identity).collect();
    let (by_passphrase, by_identity): (Vec<_>, Vec<_>) = files
        .iter()
        .filter_map(|(name, bytes)| Some((name, decryptor_of(bytes)?)))
        .partition(|(_, decryptor)| decryptor.is_scrypt());
    for (name, decryptor) in by_identity {
        if let Some(key) = opened(read_out(decryptor, &all).ok(), &mut foreign) {
            return Ok((key, name));
        }
    }
    if let (Some(path), true) = (&unlocking.identity, troubles.is_empty()) {
        troubles.push(format!("{} opens none of its keys", path.display()));
    }
    let mut secret = None;
    for (name, decryptor) in by_passphrase {
        if secret.is_none() {
            let asked = format!("Passphrase of the repository's key {:?}", name.holder());
            let answer = unlocking.passphrase.map_or(Ok(None), |ask| ask(&asked));
            secret = Some(answer.unwrap_or_else(|trouble| {
                troubles.push(trouble);
                None
            }));
        }
        let Some(Some(secret)) = &secret else { break };
        let mut identity = age::scrypt::Identity::new(secret.as_str().to_owned().into());
        identity.set_max_work_factor(MOST_WORK);
        match read_out(decryptor, &[&identity]) {
            Ok(text) => {
                if let Some(key) = opened(Some(text), &mut foreign) {
                    return Ok((key, name));
                }
            }
            Err(age::DecryptError::ExcessiveWork { .. }) => {
                troubles.push(format!("{name} wants more work of its passphrase than is done here"));
            }
            Err(_) => troubles.push(format!("the passphrase is wrong for {name}")),
        }
    }
    let holders: Vec<String> = files.iter().map(|(name, _)| name.to_string()).collect();
    if foreign {
        troubles.insert(0, "a key in keys/ that was opened belongs to another repository".into());
    }
    if troubles.is_empty() {
        troubles.push("neither an identity nor a passphrase was given".into());
    }
    Err(format!("{} (its keys are {})", troubles.join("; "), holders.join(", ")))
}

fn decryptor_of(bytes: &[u8]) -> Option<age::Decryptor<&[u8]>> {
    if bytes.len() > MOST_BYTES { None } else { age::Decryptor::new(bytes).ok() }
}

fn read_out(
    decryptor: age::Decryptor<&[u8]>,
    identities: &[&dyn age::Identity],
) -> Result<Zeroizing<String>, age::DecryptError> {
    let mut reader = decryptor.decrypt(identities.iter().copied())?;
    let mut text = Zeroizing::new(String::new());
    io::Read::read_to_string(&mut reader, &mut text)?;
    Ok(text)
}

fn key_of(text: &str) -> Option<RepositoryKey> {
    let digits = text.strip_prefix(HEAD)?.strip_suffix('\n')?;
    let pairs = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'))?;
        u8::from_str_radix(pair, 16).ok()
    });
    let bytes = Zeroizing::new(pairs.collect::<Option<Vec<u8>>>()?);
    RepositoryKey::from_slice(&bytes)
}

type Identities = Vec<Box<dyn age::Identity>>;

/// The identities in a file: age's own, or one ssh private key.
fn read_identities(path: &Path, unlocking: &Unlocking<'_>) -> Result<Identities, KeyError> {
    let read = fs::read(path).map(Zeroizing::new);
    let bytes = read.map_err(|source| KeyError::Unreadable { path: path.into(), source })?;
    let fail = |detail: String| KeyError::NotAnIdentity { path: path.into(), detail };
    if bytes.starts_with(b"-----BEGIN ") {
        let name = path.display().to_string();
        let identity = age::ssh::Identity::from_buffer(bytes.as_slice(), Some(name.clone()));
        let identity = identity.map_err(|error| fail(error.to_string()))?;
        if let age::ssh::Identity::Unsupported(_) = identity {
            return Err(fail("age can't use this kind of ssh key: take ssh-ed25519 or ssh-rsa".into()));
        }
        let secret = match identity {
            age::ssh::Identity::Encrypted(_) => {
                let ask = unlocking.passphrase.map_or(Ok(None), |ask| ask(&format!("Passphrase of {name}")));
                Some(
                    ask.map_err(fail)?
                        .ok_or_else(|| fail("it has a passphrase, and none was given".into()))?,
                )
            }
            _ => None,
        };
        return Ok(vec![Box::new(identity.with_callbacks(Answer(secret)))]);
    }
    let file = age::IdentityFile::from_buffer(bytes.as_slice()).map_err(|error| fail(error.to_string()))?;
    let found = file.into_identities().map_err(|error| fail(error.to_string()))?;
    Ok(found.into_iter().map(|one| one as Box<dyn age::Identity>).collect())
}

/// Answers age's question for the passphrase of an ssh key.
#[derive(Clone)]
struct Answer(Option<Zeroizing<String>>);

impl age::Callbacks for Answer {
    fn display_message(&self, _: &str) {}

    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }

    fn request_public_string(&self, _: &str) -> Option<String> {
        None
    }

    fn request_passphrase(&self, _: &str) -> Option<SecretString> {
        self.0.as_ref().map(|secret| secret.as_str().to_owned().into())
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyName, Recipient, RepositoryKey, Unlocking, unwrap, wrap};
    use age::secrecy::ExposeSecret;

    #[test]
    fn a_key_is_unwrapped_by_its_recipient_alone() {
        let directory = tempfile::tempdir().unwrap();
        let identity = |name: &str| {
            let identity = age::x25519::Identity::generate();
            let path = directory.path().join(name);
            let mut file = std::fs::File::create(&path).unwrap();
            std::io::Write::write_all(&mut file, identity.to_string().expose_secret().as_bytes()).unwrap();
            (path, identity.to_public().to_string())
        };
        let ((mine, public), (other, _)) = (identity("mine"), identity("other"));
        let key = RepositoryKey::random().unwrap();
        let wrapped = wrap(&key, &Recipient::parse(&public).unwrap()).unwrap();
        let files = vec![(KeyName::of("me", &wrapped).unwrap(), wrapped)];
        let by = |path: &std::path::Path, fingerprint: &str| {
            let unlocking = Unlocking { identity: Some(path.into()), passphrase: None };
            unwrap(&files, fingerprint, &unlocking).map(|(key, _)| key)
        };
        assert!(by(&mine, &key.fingerprint()).is_ok_and(|found| found == key));
        let says = |answer: Result<RepositoryKey, String>| answer.err().unwrap_or_default();
        assert!(says(by(&other, &key.fingerprint())).contains("opens none of its keys"));
        assert!(says(by(&mine, "another")).contains("belongs to another repository"));
        assert!(says(by(&directory.path().join("none"), "x")).contains("cannot read"));
        let nothing = unwrap(&files, &key.fingerprint(), &Unlocking::default()).map(|(key, _)| key);
        assert!(says(nothing).contains("neither an identity nor a passphrase"));
    }

    #[test]
    fn what_is_no_recipient_is_told() {
        for wrong in ["age1nonsense", "ssh-dss AAAA", "/no/such/file", "AGE-SECRET-KEY-1", ""] {
            assert!(Recipient::parse(wrong).is_err(), "{wrong}");
        }
    }
}
