//! The user's `icecore.toml`: which sources, which repository, which rules.

use crate::format::{SourceKind, is_source_name};
use crate::source::{SourceSpec, SqliteInTree, detect_kind};
use serde::Deserialize;
use std::collections::BTreeMap;
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
    pub chown: Option<(u32, u32)>,
}

/// A source and when it belongs to a backup.
#[derive(Debug, Clone)]
pub struct ConfiguredSource {
    pub spec: SourceSpec,
    /// Only with `--with`, `--only` or, for Chroma stores, `--chroma`.
    pub on_demand: bool,
}

/// A source is proven in full this often unless the config says otherwise.
pub const FULL_EVERY: Duration = Duration::from_secs(24 * 3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    profile: Option<String>,
    repository: Option<String>,
    #[serde(default)]
    source: BTreeMap<String, FileSource>,
    #[serde(default)]
    validation: FileValidation,
    #[serde(default)]
    restore: FileRestore,
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
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let profile = file.profile.unwrap_or_else(|| "default".into());
        check_profile(&profile)?;
        let repository = file.repository.as_deref().map(|text| {
            let text = expand(text)?;
            Ok::<_, String>(if text.contains("://") { text } else { base.join(text).display().to_string() })
        });
        let sources = file.source.into_iter().map(|(name, source)| one_source(name, source, base));
        Ok(Self {
            profile,
            repository: repository.transpose()?,
            sources: sources.collect::<Result<_, _>>()?,
            full_every: file.validation.full_every.as_deref().map_or(Ok(FULL_EVERY), parse_duration)?,
            chown: file.restore.chown.as_deref().map(parse_owner).transpose()?,
        })
    }
}

fn one_source(name: String, source: FileSource, base: &Path) -> Result<ConfiguredSource, String> {
    check_name(&name)?;
    let place = |detail: String| format!("[source.{name}]: {detail}");
    let path = base.join(expand(&source.path).map_err(place)?);
    let kind = match source.kind.as_deref() {
        None => detect_kind(&path),
        Some(kind) => SourceKind::parse(kind).ok_or_else(|| {
            place(format!("unknown kind {kind:?}; there are chroma, sqlite, json and tree"))
        })?,
    };
    let sqlite = match source.sqlite.as_deref() {
        None | Some("hold") => SqliteInTree::Hold,
        Some("raw") => SqliteInTree::Raw,
        Some(other) => return Err(place(format!("sqlite = {other:?}; there are \"hold\" and \"raw\""))),
    };
    let spec = SourceSpec { name, kind, path, optional: source.optional, exclude: source.exclude, sqlite };
    Ok(ConfiguredSource { spec, on_demand: source.on_demand })
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
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(format!("duration {text:?}: units are s, m, h, d, w")),
    };
    let count: Option<u64> = digits.parse().ok();
    let seconds = count.and_then(|count| count.checked_mul(factor));
    seconds
        .map(Duration::from_secs)
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
