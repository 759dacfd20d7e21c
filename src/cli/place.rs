//! Where a repository is: what was typed, read as a directory or an address.

use super::failure::Failure;
use std::fmt;
use std::path::{Path, PathBuf};

/// A directory here, or somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Local(PathBuf),
    /// `ssh://[user@]host[:port]/path`; a path that begins with `/~/` is relative to the far home directory.
    Ssh {
        /// As ssh takes it.
        host: String,
        port: Option<u16>,
        path: String,
    },
    /// `s3://bucket/prefix`.
    S3 {
        bucket: String,
        prefix: String,
    },
}

impl Place {
    /// Reads a path or URL.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |detail: &str| {
            Failure::usage(format!("{text}: {detail}"))
                .hint("a repository is a directory, ssh://user@host/path or s3://bucket/prefix")
        };
        if text.is_empty() {
            return Err(
                Failure::usage("the repository's path is empty").hint("is the variable that holds it set?")
            );
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            let path = std::path::absolute(text).map_err(|error| Failure::usage(error.to_string()))?;
            return Ok(Self::Local(path));
        };
        let (head, tail) = rest.split_once('/').unwrap_or((rest, ""));
        match scheme {
            "file" if head.is_empty() => Ok(Self::Local(PathBuf::from(format!("/{tail}")))),
            "ssh" => {
                let (host, port) = match head.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
                    Some((host, port)) => {
                        (host, Some(port.parse().map_err(|_| wrong("the port is no number"))?))
                    }
                    None => (head, None),
                };
                // A host that begins with a dash would be an option of ssh's.
                if host.is_empty() || host.starts_with('-') || host.contains(char::is_whitespace) {
                    return Err(wrong("it has no host that ssh could take"));
                }
                if tail.is_empty() {
                    return Err(wrong("it has no path"));
                }
                let path = tail.strip_prefix("~/").map_or_else(|| format!("/{tail}"), str::to_owned);
                Ok(Self::Ssh { host: host.to_owned(), port, path })
            }
            "s3" if head.is_empty() => Err(wrong("it has no bucket")),
            "s3" => Ok(Self::S3 { bucket: head.to_owned(), prefix: tail.trim_matches('/').to_owned() }),
            _ => Err(wrong("there are no repositories of that kind")),
        }
    }

    /// The directory, if it is here.
    pub fn local(&self) -> Option<&Path> {
        if let Self::Local(path) = self { Some(path) } else { None }
    }

    /// Where a file of the repository lies.
    pub fn join(&self, key: &str) -> String {
        format!("{self}/{key}")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(formatter, "{}", path.display()),
            Self::Ssh { host, port, path } => {
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                let path = if path.starts_with('/') { path.clone() } else { format!("/~/{path}") };
                write!(formatter, "ssh://{host}{port}{path}")
            }
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(formatter, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(formatter, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [
            "ssh://host/srv/backups",
            "ssh://user@host:2222/srv/backups",
            "ssh://user@[fe80::1]/srv/x",
            "ssh://host/~/backups",
            "s3://bucket/a/b",
            "s3://bucket",
            "/srv/x",
        ] {
            assert_eq!(Place::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Place::parse("file:///srv/x").unwrap().to_string(), "/srv/x");
    }

    #[test]
    fn what_is_none_is_told() {
        for text in [
            "",
            "ssh://host",
            "ssh:///x",
            "ssh://-oProxyCommand=x/y",
            "s3:///x",
            "ftp://host/x",
            "ssh://h:p/x",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
