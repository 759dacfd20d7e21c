//! The user's `icecore.toml`: which sources, which repository, which rules.

use crate::format::{SourceKind, is_source_name};
use crate::hooks::{HookCommand, Hooks};
use crate::retention::Policy;
use crate::source::{HoldMode, SourceSpec, SqliteInTree, detect_kind};
use indexmap::IndexMap;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a config can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}: {detail}")]
    Invalid { path: PathBuf, detail: String },
}

/// A config with everything expanded and checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub profile: String,
    pub repository: Option<String>,
    pub sources: Vec<ConfiguredSource>,
    pub full_every: Duration,
    pub hooks: Hooks,
    pub chown: Option<(u32, u32)>,
    /// Which snapshots `prune` keeps.
    pub retention: Policy,
    /// How long condemned files stay.
    pub grace: Duration,
    /// `prune` counts snapshots by when they came to the repository.
    pub by_arrival: bool,
    pub encryption: EncryptionConfig,
    pub ssh: SshConfig,
    pub replicas: Vec<Replica>,
}

/// `[ssh]`: how other hosts are reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshConfig {
    /// A line for the shell: `ssh` and options.
    pub command: Option<String>,
    /// The far program.
    pub remote_path: Option<String>,
}

/// `[[replica]]`: a copy elsewhere.
#[derive(Debug, Clone)]
pub struct Replica {
    pub name: String,
    pub url: String,
    /// That it can't be reached is a warning: a laptop asleep.
    pub optional: bool,
    pub ssh: Option<String>,
    pub remote_path: Option<String>,
    /// Bytes a second.
    pub limit: Option<u64>,
}

/// `[encryption]`: how the repository is opened, and which one it must be.
#[derive(Debug, Clone, Default)]
pub struct EncryptionConfig {
    pub identity: Option<PathBuf>,
    pub passphrase_file: Option<PathBuf>,
    /// A shell command that prints the passphrase.
    pub passphrase_command: Option<String>,
    /// The fingerprint of the repository's key: what isn't encrypted with that key is not used.
    pub key: Option<String>,
}

/// A source and when it belongs to a backup.
#[derive(Debug, Clone)]
pub struct ConfiguredSource {
    pub spec: SourceSpec,
    /// Only with `--with`, `--only` or, for Chroma stores, `--chroma`.
    pub on_demand: bool,
    /// Nothing tells its kind: the config doesn't, and what is read is not there until a hook mounts it.
    pub kind_is_guessed: bool,
    /// Says whether the source is good where it was restored.
    pub verify: Option<HookCommand>,
}

/// Condemned files stay this long unless the config says otherwise.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// A source is proven in full this often unless the config says otherwise.
pub const FULL_EVERY: Duration = Duration::from_secs(24 * 3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    profile: Option<String>,
    repository: Option<String>,
    #[serde(default)]
    source: IndexMap<String, FileSource>,
    #[serde(default)]
    hooks: FileHooks,
    #[serde(default)]
    validation: FileValidation,
    #[serde(default)]
    restore: FileRestore,
    #[serde(default)]
    retention: FileRetention,
    #[serde(default)]
    encryption: FileEncryption,
    #[serde(default)]
    ssh: SshConfig,
    #[serde(default)]
    replica: Vec<FileReplica>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileReplica {
    name: Option<String>,
    url: String,
    #[serde(default)]
    optional: bool,
    ssh: Option<String>,
    remote_path: Option<String>,
    limit: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FileEncryption {
    identity: Option<String>,
    passphrase_file: Option<String>,
    passphrase_command: Option<String>,
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSource {
    path: String,
    kind: Option<String>,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    on_demand: bool,
    #[serde(default)]
    exclude: Vec<String>,
    sqlite: Option<String>,
    source_path: Option<String>,
    hold: Option<String>,
    max_hold: Option<String>,
    verify: Option<FileCommand>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FileHooks {
    before: Option<FileCommand>,
    after: Option<FileCommand>,
    failed: Option<FileCommand>,
    before_restore: Option<FileCommand>,
    after_restore: Option<FileCommand>,
    timeout: Option<String>,
    lock_file: Option<String>,
    lock_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FileCommand {
    Shell(String),
    Program(Vec<String>),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FileValidation {
    full_every: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FileRestore {
    chown: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FileRetention {
    keep_last: Option<u32>,
    keep_hourly: Option<u32>,
    keep_daily: Option<u32>,
    keep_weekly: Option<u32>,
    keep_monthly: Option<u32>,
    keep_yearly: Option<u32>,
    keep_within: Option<String>,
    keep_safety: Option<String>,
    grace: Option<String>,
    #[serde(default)]
    by_arrival: bool,
}

impl FileRetention {
    /// Any count replaces the usual ones as a whole.
    fn checked(&self) -> Result<Policy, String> {
        let duration = |text: &Option<String>| text.as_deref().map(parse_duration).transpose();
        let safety = duration(&self.keep_safety)?.unwrap_or(Policy::SAFETY);
        let within = duration(&self.keep_within)?;
        let counts = [
            self.keep_last,
            self.keep_hourly,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
            self.keep_yearly,
        ];
        let usual = || Policy { safety, ..Policy::usual() };
        let policy = Policy::chosen(counts, within, safety).unwrap_or_else(usual);
        if policy.is_empty() {
            return Err(
                "[retention] keeps nothing but the newest snapshot of each source; say so with keep_last = 1"
                    .into(),
            );
        }
        Ok(policy)
    }
}

impl FileCommand {
    fn checked(self) -> Result<HookCommand, String> {
        match self {
            Self::Program(words) if words.first().is_none_or(String::is_empty) => {
                Err("a command without a program".into())
            }
            Self::Program(words) => Ok(HookCommand::Program(words)),
            Self::Shell(line) => Ok(HookCommand::Shell(line)),
        }
    }
}

impl Config {
    /// Reads a config. Relative paths in it are relative to its own directory; `${NAME}` and `${NAME:-default}` are
    /// taken from the environment.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let base = std::path::absolute(path).map_err(unreadable)?;
        let base = base.parent().unwrap_or(Path::new("/"));
        Self::parse(&text, base).map_err(|detail| ConfigError::Invalid { path: path.to_owned(), detail })
    }

    fn parse(text: &str, base: &Path) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| in_one_line(&error, text))?;
        let profile = file.profile.unwrap_or_else(|| "default".into());
        check_profile(&profile)?;
        let repository = file.repository.as_deref().map(|text| location(text, base));
        let sources = file.source.into_iter().map(|(name, source)| one_source(name, source, base));
        Ok(Self {
            profile,
            repository: repository.transpose()?,
            sources: sources.collect::<Result<_, _>>()?,
            hooks: hooks(file.hooks, base)?,
            full_every: file.validation.full_every.as_deref().map_or(Ok(FULL_EVERY), parse_duration)?,
            chown: file.restore.chown.as_deref().map(parse_owner).transpose()?,
            retention: file.retention.checked()?,
            grace: file.retention.grace.as_deref().map_or(Ok(GRACE), parse_duration)?,
            by_arrival: file.retention.by_arrival,
            encryption: encryption(file.encryption, base)?,
            ssh: file.ssh,
            replicas: replicas(file.replica, base)?,
        })
    }
}

fn one_source(name: String, source: FileSource, base: &Path) -> Result<ConfiguredSource, String> {
    check_name(&name)?;
    let place = |detail: String| format!("[source.{name}]: {detail}");
    let path = base.join(expand(&source.path).map_err(place)?);
    let source_path = source
        .source_path
        .as_deref()
        .map(|path| Ok::<_, String>(base.join(expand(path).map_err(place)?)))
        .transpose()?;
    let kind = match source.kind.as_deref() {
        None => detect_kind(source_path.as_ref().filter(|path| path.exists()).unwrap_or(&path)),
        Some(kind) => SourceKind::parse(kind).ok_or_else(|| {
            place(format!("unknown kind {kind:?}; there are chroma, sqlite, json and tree"))
        })?,
    };
    let sqlite = match source.sqlite.as_deref() {
        None | Some("hold") => SqliteInTree::Hold,
        Some("raw") => SqliteInTree::Raw,
        Some(other) => return Err(place(format!("sqlite = {other:?}; there are \"hold\" and \"raw\""))),
    };
    let hold = source.hold.as_deref().map_or(Ok(HoldMode::Auto), |name| {
        let unknown = || place(format!("hold = {name:?}; there are {}", HoldMode::names()));
        HoldMode::parse(name).ok_or_else(unknown)
    })?;
    let max_hold = parse_max_hold(source.max_hold.as_deref().unwrap_or("auto")).map_err(place)?;
    let no_kind = source.kind.is_none();
    let verify = source.verify.map(FileCommand::checked).transpose().map_err(place)?;
    let (optional, exclude, on_demand) = (source.optional, source.exclude, source.on_demand);
    let spec = SourceSpec { name, kind, path, source_path, hold, max_hold, optional, exclude, sqlite };
    let kind_is_guessed =
        no_kind && spec.source_path.is_some() && !spec.read_path().exists() && !spec.path.exists();
    Ok(ConfiguredSource { spec, on_demand, kind_is_guessed, verify })
}

fn location(text: &str, base: &Path) -> Result<String, String> {
    let text = expand(text)?;
    Ok(if text.contains("://") { text } else { base.join(text).display().to_string() })
}

fn replicas(file: Vec<FileReplica>, base: &Path) -> Result<Vec<Replica>, String> {
    let mut replicas: Vec<Replica> = Vec::new();
    for FileReplica { name, url, optional, ssh, remote_path, limit } in file {
        let url = location(&url, base)?;
        let name = name.unwrap_or_else(|| url.clone());
        if replicas.iter().any(|other| other.name == name) {
            return Err(format!("two [[replica]] are called {name:?}"));
        }
        let limit = limit.as_deref().map(parse_rate).transpose()?;
        replicas.push(Replica { name, url, optional, ssh, remote_path, limit });
    }
    Ok(replicas)
}

/// `500k`, `2M`, `1G` or a number: bytes a second, by thousands.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..).unwrap_or_default() {
        "" => Some(1),
        "k" | "K" => Some(1_000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        _ => None,
    };
    let rate =
        digits.parse().ok().zip(factor).and_then(|(count, factor): (u64, u64)| count.checked_mul(factor));
    rate.filter(|rate| *rate > 0)
        .ok_or_else(|| format!("rate {text:?}: write it as 500k or 2M (bytes a second)"))
}

fn encryption(file: FileEncryption, base: &Path) -> Result<EncryptionConfig, String> {
    let path = |text: Option<String>| text.map(|text| Ok::<_, String>(base.join(expand(&text)?))).transpose();
    let is_fingerprint = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if file.key.as_deref().is_some_and(|key| !is_fingerprint(key)) {
        return Err(
            "[encryption]: key is the fingerprint that `icecore init` printed, 32 hexadecimal digits".into(),
        );
    }
    Ok(EncryptionConfig {
        identity: path(file.identity)?,
        passphrase_file: path(file.passphrase_file)?,
        passphrase_command: file.passphrase_command,
        key: file.key,
    })
}

fn hooks(file: FileHooks, base: &Path) -> Result<Hooks, String> {
    let command = |command: Option<FileCommand>| {
        command.map(FileCommand::checked).transpose().map_err(|detail| format!("[hooks]: {detail}"))
    };
    let usual = Hooks::default();
    let duration = |text: Option<String>, usual| text.as_deref().map_or(Ok(usual), parse_duration);
    Ok(Hooks {
        before: command(file.before)?,
        after: command(file.after)?,
        failed: command(file.failed)?,
        before_restore: command(file.before_restore)?,
        after_restore: command(file.after_restore)?,
        timeout: duration(file.timeout, usual.timeout)?,
        lock_file: file.lock_file.map(|path| Ok::<_, String>(base.join(expand(&path)?))).transpose()?,
        lock_timeout: duration(file.lock_timeout, usual.lock_timeout)?,
    })
}

/// The longest that writers may wait: `auto` (by the rehearsal), or a duration.
pub fn parse_max_hold(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "auto" => Ok(None),
        _ => match parse_duration(text)? {
            Duration::ZERO => Err("max_hold must be longer than nothing".into()),
            longest => Ok(Some(longest)),
        },
    }
}

/// A source's name: `[a-z][a-z0-9_]*`, because it becomes part of JSON keys and error codes.
pub fn check_name(name: &str) -> Result<(), String> {
    let valid = is_source_name(name);
    if valid {
        Ok(())
    } else {
        Err(format!("source name {name:?}: only a-z, 0-9 and _, beginning with a letter"))
    }
}

/// A profile's name: letters, digits, `.`, `_`, `-`, at most 64.
pub fn check_profile(profile: &str) -> Result<(), String> {
    let letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    let valid = (1..=64).contains(&profile.len()) && profile.chars().all(letter) && !profile.starts_with('.');
    if valid {
        Ok(())
    } else {
        Err(format!("profile {profile:?}: only letters, digits, '.', '_' and '-', at most 64"))
    }
}

/// `90s`, `15m`, `24h`, `7d`, or seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let factor = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        _ => return Err(format!("duration {text:?}: units are ms, s, m, h, d, w")),
    };
    let count: Option<u64> = digits.parse().ok();
    let milliseconds = count.and_then(|count| count.checked_mul(factor));
    milliseconds
        .map(Duration::from_millis)
        .ok_or_else(|| format!("duration {text:?}: write it as 90s, 15m, 24h or 7d"))
}

/// `1000:1000`, by number: names mean different users in different containers.
pub fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    parsed.ok_or_else(|| format!("owner {text:?}: write it as UID:GID, two numbers"))
}

fn expand(text: &str) -> Result<String, String> {
    let look_up = |name: &str| match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(format!(
            "environment variable {name} is not set (write ${{{name}:-default}} to give a default)"
        )),
    };
    // The crate asks without knowing of a default, and takes None for "use it".
    let with_default = |name: &str| {
        let has_default = text.contains(&format!("${{{name}:-"));
        if has_default {
            Ok(std::env::var(name).ok().filter(|value| !value.is_empty()))
        } else {
            look_up(name)
        }
    };
    shellexpand::env_with_context(text, with_default)
        .map(std::borrow::Cow::into_owned)
        .map_err(|error| error.cause)
}

/// Where it is, and what: messages have no lines, so that a caret would point nowhere.
fn in_one_line(error: &toml::de::Error, text: &str) -> String {
    let what = error.message().replace('\n', "; ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return what };
    let number = before.matches('\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim();
    format!("line {}, `{line}`: {what}", number + 1)
}

#[cfg(test)]
mod tests {
    use super::{Config, parse_duration};
    use std::path::Path;

    #[test]
    fn paths_are_expanded_and_relative_to_the_config() {
        let text = "repository = \"repo\"\n[source.db]\nkind = \"sqlite\"\npath = \"${ICECORE_TEST_UNSET:-/srv/x}/a.db\"\n[source.notes]\npath = \"notes\"\n";
        let config = Config::parse(text, Path::new("/etc/icecore")).unwrap();
        assert_eq!(config.repository.as_deref(), Some("/etc/icecore/repo"));
        assert_eq!(config.sources[0].spec.path, Path::new("/srv/x/a.db"));
        assert_eq!(config.sources[1].spec.path, Path::new("/etc/icecore/notes"));
    }

    #[test]
    fn mistakes_are_named() {
        let said = |text: &str| Config::parse(text, Path::new("/")).unwrap_err();
        assert!(said("[source.DB]\npath = \"/x\"").contains("source name"));
        assert!(said("[source.db]\npath = \"/x\"\nknid = \"json\"").contains("knid"));
        assert!(said("[source.db]\npath = \"/x\"\nkind = \"mysql\"").contains("mysql"));
        assert!(said("[source.db]\npath = \"${ICECORE_TEST_UNSET}/x\"").contains("ICECORE_TEST_UNSET"));
        assert!(said("profile = \"a/b\"").contains("profile"));
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("26h").unwrap().as_secs(), 26 * 3600);
        assert_eq!(parse_duration("30").unwrap().as_secs(), 30);
        assert!(parse_duration("1y").is_err());
        assert!(parse_duration("h").is_err());
    }
}
