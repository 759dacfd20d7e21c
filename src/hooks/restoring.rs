//! The commands around a restore, and those that say whether its result is good.

use super::command::{HookCommand, HookError};
use super::spec::Hooks;
use std::path::Path;

/// Stands for the restored path in a command.
const PATH: &str = "{path}";

impl Hooks {
    /// Runs before anything is looked at: it may stop the service.
    pub fn before_restore(&self, profile: &str, stop: &dyn Fn() -> bool) -> Result<(), HookError> {
        let environment = [("ICECORE_PROFILE", profile)];
        self.before_restore
            .as_ref()
            .map_or(Ok(()), |hook| hook.run("before_restore", self.timeout, &environment, &mut |_| {}, stop))
    }

    /// Runs when the sources are whole: restored, or untouched. It may start the service.
    pub fn after_restore(&self, profile: &str, is_restored: bool) -> Result<(), HookError> {
        let restored = if is_restored { "true" } else { "false" };
        let environment = [("ICECORE_PROFILE", profile), ("ICECORE_RESTORED", restored)];
        self.after_restore.as_ref().map_or(Ok(()), |hook| {
            hook.run("after_restore", self.timeout, &environment, &mut |_| {}, &|| false)
        })
    }

    /// Runs a command that looks at a restored source; `{path}` in it stands for where that is.
    pub fn verify(
        &self,
        command: &HookCommand,
        source: &str,
        path: &Path,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), HookError> {
        let text = path.display().to_string();
        let environment = [("ICECORE_SOURCE", source), ("ICECORE_PATH", text.as_str())];
        command.at(&text).run("verify", self.timeout, &environment, &mut |_| {}, stop)
    }
}

impl HookCommand {
    /// The same command about a path. In a line for the shell it is quoted.
    fn at(&self, path: &str) -> Self {
        match self {
            Self::Shell(line) => Self::Shell(line.replace(PATH, &quoted(path))),
            Self::Program(words) => {
                Self::Program(words.iter().map(|word| word.replace(PATH, path)).collect())
            }
        }
    }
}

/// One word for `/bin/sh`, whatever it consists of.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::HookCommand;

    #[test]
    fn paths_are_one_word() {
        let line = HookCommand::Shell("test -f {path}".into());
        let HookCommand::Shell(line) = line.at("/srv/it's here/$(x)") else { unreachable!() };
        assert_eq!(line, "test -f '/srv/it'\\''s here/$(x)'");
        let words = HookCommand::Program(vec!["check".into(), "--at={path}".into()]);
        assert_eq!(words.at("/a b"), HookCommand::Program(vec!["check".into(), "--at=/a b".into()]));
    }
}
