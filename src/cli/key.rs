//! `key`: who can open an encrypted repository.

use super::args;
use super::context::Context;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::report::Report;
use crate::backend::{Backend, LocalBackend};
use crate::crypto::RepositoryKey;
use crate::format::{Key, KeyName};
use crate::key::{KeyError, Recipient, wrap};
use crate::repository::{KeyFiles, Repository, read_keys};
use serde_json::{Value, json};
use std::sync::PoisonError;

/// Every key of the JSON document.
pub fn skeleton() -> Value {
    json!({ "keys": [], "fingerprint": null, "added": null, "removed": null })
}

/// Runs one of the verb's three forms.
pub fn run(context: &Context, arguments: &args::KeyArguments) -> Result<Report, Failure> {
    match &arguments.action {
        args::KeyAction::List => list(context),
        args::KeyAction::Add(add) => add_key(context, add),
        args::KeyAction::Remove { name } => remove(context, name),
    }
}

/// The key files of a new repository: one for each recipient, and one for a passphrase.
pub fn new_files(
    context: &Context,
    key: &RepositoryKey,
    recipients: &[String],
    passphrase: bool,
) -> Result<KeyFiles, Failure> {
    let mut files = KeyFiles::new();
    let many = recipients.len() > 1;
    for (number, text) in recipients.iter().enumerate() {
        let holder = if many { format!("recipient{}", number + 1) } else { "recipient".into() };
        files.push(wrapped(key, &Recipient::parse(text)?, &holder)?);
    }
    if passphrase {
        let secret = Recipient::Passphrase(
            context.new_passphrase(context.global.passphrase_file.as_deref())?.as_str().to_owned().into(),
        );
        files.push(wrapped(key, &secret, "passphrase")?);
    }
    Ok(files)
}

fn wrapped(key: &RepositoryKey, recipient: &Recipient, holder: &str) -> Result<(KeyName, Vec<u8>), Failure> {
    let bytes = wrap(key, recipient)?;
    let name = KeyName::of(holder, &bytes).ok_or_else(|| {
        Failure::usage(format!("{holder:?} can't name a key: only letters, digits, '_' and '-', at most 64"))
    })?;
    Ok((name, bytes))
}

fn keys_of(files: &KeyFiles) -> Value {
    let keys = files.iter().map(|(name, _)| json!({ "name": name.to_string(), "holder": name.holder() }));
    keys.collect()
}

/// Needs no key: names are no secret.
fn list(context: &Context) -> Result<Report, Failure> {
    let backend = context.backend()?;
    let files = read_keys(&*backend)?;
    let is_encrypted = || Repository::identify(&*backend).map(|(_, encryption)| encryption.is_some());
    let lines = if files.is_empty() && is_encrypted()? {
        let message = "the repository is encrypted, and keys/ holds no wrapped key that proves itself";
        return Err(Failure::new(ExitCode::WrongKey, "wrong_key", message)
            .hint("copy keys/ from any copy of the repository"));
    } else if files.is_empty() {
        vec!["no keys: the repository is not encrypted".into()]
    } else {
        files.iter().map(|(name, _)| name.to_string()).collect()
    };
    Ok(Report::done(json!({ "keys": keys_of(&files) }), lines))
}

fn encrypted(repository: &Repository) -> Result<&RepositoryKey, Failure> {
    repository.key().ok_or_else(|| {
        Failure::usage("the repository is not encrypted").hint(
            "encryption is chosen at `init --recipient …`: what is stored already can't be encrypted afterwards",
        )
    })
}

fn add_key(context: &Context, arguments: &args::KeyAdd) -> Result<Report, Failure> {
    let repository = context.open()?;
    let key = encrypted(&repository)?;
    let (recipient, usual) = match &arguments.recipient {
        Some(text) => (Recipient::parse(text)?, "recipient"),
        None => {
            // The present passphrase is no new one.
            let secret = context.new_passphrase(arguments.new_passphrase_file.as_deref())?;
            (Recipient::Passphrase(secret.as_str().to_owned().into()), "passphrase")
        }
    };
    let (name, bytes) = wrapped(key, &recipient, arguments.name.as_deref().unwrap_or(usual))?;
    repository.backend().put(&Key::WrappedKey(name.clone()).path(), &bytes)?;
    let files = read_keys(repository.backend())?;
    let keys =
        json!({ "keys": keys_of(&files), "fingerprint": key.fingerprint(), "added": name.to_string() });
    Ok(Report::done(keys, vec![format!("key {name} added; {} in all", files.len())]))
}

fn remove(context: &Context, wanted: &str) -> Result<Report, Failure> {
    let repository = context.open()?;
    let key = encrypted(&repository)?;
    let _alone = repository.lock("keys", context.patience()?)?;
    let files = read_keys(repository.backend())?;
    let matches = |name: &KeyName| name.to_string() == wanted || name.holder() == wanted;
    let found: Vec<&KeyName> = files.iter().map(|(name, _)| name).filter(|name| matches(name)).collect();
    let name = match found.as_slice() {
        [name] => *name,
        [] => {
            return Err(Failure::usage(format!("there is no key {wanted:?}"))
                .hint("`icecore key list` shows them; nothing was changed"));
        }
        _ => {
            return Err(Failure::usage(format!("there are several keys {wanted:?}"))
                .hint("give the whole name, with its digits; nothing was changed"));
        }
    };
    // That others open it, nobody knows.
    let opened_by = context.key.lock().unwrap_or_else(PoisonError::into_inner);
    let is_own = opened_by.as_ref().is_some_and(|(_, own)| own == name);
    drop(opened_by);
    if is_own && files.len() > 1 {
        return Err(Failure::new(
            ExitCode::Refused,
            "own_key",
            "it is the key that opened the repository just now: whether another one does isn't known",
        )
        .hint("open it with another identity or passphrase, and remove this one then; nothing was changed"));
    }
    if files.len() == 1 {
        return Err(Failure::new(
            ExitCode::Refused,
            "last_key",
            "it is the only key: nobody could open the repository",
        )
        .hint("`icecore key add` another one first; nothing was changed"));
    }
    repository.backend().delete(&Key::WrappedKey(name.clone()).path())?;
    let mut warnings = Vec::new();
    // What restores keep of the state before has keys of its own: those who stay must be able to open it.
    for open in context.journals().0.into_iter().filter(|open| open.journal.has_undo) {
        let undo = LocalBackend::new(open.place.undo(&open.id));
        let others = files.iter().filter(|(other, _)| other != name);
        let mut put = others.map(|(other, bytes)| undo.put(&Key::WrappedKey(other.clone()).path(), bytes));
        let moved =
            put.try_for_each(|put| put).and_then(|()| undo.delete(&Key::WrappedKey(name.clone()).path()));
        if let Err(error) = moved {
            warnings.push(format!("it still opens what a restore has kept: {error}"));
        }
    }
    let left = read_keys(repository.backend())?;
    let keys =
        json!({ "keys": keys_of(&left), "fingerprint": key.fingerprint(), "removed": name.to_string() });
    let mut report = Report::done(keys, vec![format!("key {name} removed; {} left", left.len())]);
    report.warnings = warnings;
    report.warnings.push(
        "whoever had it may have kept a copy of the key file, or of the repository's key itself, which stays the same: \
         what such a person may not read belongs into a new repository; replicas keep the file until it is removed there"
            .into(),
    );
    Ok(report)
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::usage(error.to_string()).hint("nothing was changed")
    }
}
