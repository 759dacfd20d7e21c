//! Finds the key of an encrypted repository: by an identity file or a passphrase, never asking where nobody could answer.

use super::context::Context;
use super::failure::Failure;
use crate::crypto::RepositoryKey;
use crate::key::{Unlocking, unwrap};
use crate::repository::KeyFiles;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::PoisonError;
use zeroize::Zeroizing;

impl Context {
    /// What a repository is opened with.
    pub fn unlock(&self) -> impl FnMut(&str, &KeyFiles) -> Result<RepositoryKey, String> + '_ {
        |fingerprint, files| {
            let mut known = self.key.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(key) = known.as_ref().filter(|key| key.fingerprint() == fingerprint) {
                return Ok(key.clone());
            }
            let ask = |what: &str| self.passphrase(what);
            let unlocking = Unlocking { identity: self.identity(), passphrase: Some(&ask) };
            let (key, _) = unwrap(files, fingerprint, &unlocking)?;
            *known = Some(key.clone());
            Ok(key)
        }
    }

    /// The file with the identity that unlocks repositories: flag or environment, then the config.
    pub fn identity(&self) -> Option<PathBuf> {
        let of_config = || self.config.as_ref()?.encryption.identity.clone();
        self.global.identity.clone().or_else(of_config)
    }

    /// A passphrase from the file or command that was named, else from the terminal, if there is one.
    pub fn passphrase(&self, asked: &str) -> Option<Zeroizing<String>> {
        let config = self.config.as_ref().map(|config| &config.encryption);
        let file = self.global.passphrase_file.clone();
        if let Some(path) = file.or_else(|| config.and_then(|config| config.passphrase_file.clone())) {
            let text = Zeroizing::new(std::fs::read_to_string(path).ok()?);
            return first_line(&text);
        }
        if let Some(command) = config.and_then(|config| config.passphrase_command.clone()) {
            let output = Command::new("/bin/sh").args(["-c", &command]).stdin(Stdio::null()).output().ok()?;
            let text = Zeroizing::new(String::from_utf8(output.stdout).ok()?);
            return output.status.success().then(|| first_line(&text)).flatten();
        }
        let is_asked = !self.global.json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        is_asked.then(|| rpassword::prompt_password(format!("{asked}: ")).ok().map(Zeroizing::new)).flatten()
    }

    /// A passphrase to be: typed twice at a terminal.
    pub fn new_passphrase(&self) -> Result<Zeroizing<String>, Failure> {
        let none = || {
            Failure::usage("which passphrase? There is no terminal to ask at")
                .hint("name a file that holds it with --passphrase-file or ICECORE_PASSPHRASE_FILE")
        };
        let first = self.passphrase("New passphrase").filter(|text| !text.is_empty()).ok_or_else(none)?;
        let again = self.passphrase("The same again").ok_or_else(none)?;
        if first == again { Ok(first) } else { Err(Failure::usage("the two passphrases differ")) }
    }
}

fn first_line(text: &str) -> Option<Zeroizing<String>> {
    text.lines().next().map(|line| Zeroizing::new(line.to_owned()))
}
