//! Finds the key of an encrypted repository: by an identity file or a passphrase, never asking where nobody could answer.

use super::context::Context;
use super::failure::Failure;
use crate::crypto::RepositoryKey;
use crate::key::{Unlocking, unwrap};
use crate::repository::KeyFiles;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::PoisonError;
use zeroize::Zeroizing;

impl Context {
    /// What a repository is opened with.
    pub fn unlock(&self) -> impl FnMut(&str, &KeyFiles) -> Result<RepositoryKey, String> + '_ {
        |fingerprint, files| {
            let mut known = self.key.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((key, _)) = known.as_ref().filter(|(key, _)| key.fingerprint() == fingerprint) {
                return Ok(key.clone());
            }
            let ask = |what: &str| self.passphrase(what);
            let unlocking = Unlocking { identity: self.identity(), passphrase: Some(&ask) };
            let (key, name) = unwrap(files, fingerprint, &unlocking)?;
            *known = Some((key.clone(), name.clone()));
            Ok(key)
        }
    }

    /// The file with the identity that unlocks repositories: flag or environment, then the config.
    pub fn identity(&self) -> Option<PathBuf> {
        let of_config = || self.config.as_ref()?.encryption.identity.clone();
        self.global.identity.clone().or_else(of_config)
    }

    /// Something is given to open an encrypted repository with.
    pub fn has_key_source(&self) -> bool {
        let of_config = self.config.as_ref().map(|config| &config.encryption);
        let is_in_config = of_config
            .is_some_and(|config| config.passphrase_file.is_some() || config.passphrase_command.is_some());
        self.identity().is_some() || self.global.passphrase_file.is_some() || is_in_config
    }

    /// A passphrase from the file or command that was named, else from the terminal, if there is one.
    pub fn passphrase(&self, asked: &str) -> Result<Option<Zeroizing<String>>, String> {
        let config = self.config.as_ref().map(|config| &config.encryption);
        let file = self.global.passphrase_file.clone();
        if let Some(path) = file.or_else(|| config.and_then(|config| config.passphrase_file.clone())) {
            return read_passphrase(&path).map(Some);
        }
        if let Some(command) = config.and_then(|config| config.passphrase_command.clone()) {
            let output = Command::new("/bin/sh").args(["-c", &command]).stdin(Stdio::null()).output();
            let output = output.map_err(|error| format!("passphrase_command: {error}"))?;
            let text = Zeroizing::new(String::from_utf8(output.stdout).unwrap_or_default());
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return match first_line(&text).filter(|_| output.status.success()) {
                Some(line) => Ok(Some(line)),
                None => Err(format!("passphrase_command gave none ({}): {said}", output.status)),
            };
        }
        Ok(self.typed(asked))
    }

    /// A passphrase that somebody types; `None` where nobody could.
    fn typed(&self, asked: &str) -> Option<Zeroizing<String>> {
        let is_asked = !self.global.json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        is_asked.then(|| rpassword::prompt_password(format!("{asked}: ")).ok().map(Zeroizing::new)).flatten()
    }

    /// A passphrase to be: from this file, else typed twice at a terminal.
    pub fn new_passphrase(&self, file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
        let none = || {
            Failure::usage("which passphrase? There is no terminal to ask at")
                .hint("name a file whose first line it is: --passphrase-file for `init`, --new-passphrase-file for `key add`")
        };
        let secret = match file {
            Some(path) => read_passphrase(path).map_err(Failure::usage)?,
            None => {
                let first = self.typed("New passphrase").ok_or_else(none)?;
                if self.typed("The same again").as_ref() != Some(&first) {
                    return Err(Failure::usage("the two passphrases differ").hint("nothing was changed"));
                }
                first
            }
        };
        if secret.is_empty() {
            return Err(Failure::usage("the passphrase is empty").hint("nothing was changed"));
        }
        Ok(secret)
    }
}

fn read_passphrase(path: &Path) -> Result<Zeroizing<String>, String> {
    let read = std::fs::read_to_string(path).map(Zeroizing::new);
    let text =
        read.map_err(|error| format!("cannot read the passphrase from {}: {error}", path.display()))?;
    first_line(&text).ok_or_else(|| format!("{} holds no passphrase", path.display()))
}

fn first_line(text: &str) -> Option<Zeroizing<String>> {
    text.lines().next().map(|line| Zeroizing::new(line.to_owned()))
}
