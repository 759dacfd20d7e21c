//! From where a repository is to a connection to it, with what flags, environment and config say about it.

use super::context::Context;
use super::failure::Failure;
use super::place::Place;
use crate::backend::{
    Backend, Limit, LocalBackend, NearBackend, S3Backend, S3Options, SshBackend, SshOptions,
};
use std::env;
use std::path::PathBuf;
use std::sync::Arc;

/// How a place is reached; what is `None` is as usual.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// A line for the shell: `ssh` and options.
    pub ssh: Option<String>,
    /// The far program.
    pub remote_path: Option<String>,
    /// Bytes a second.
    pub limit: Option<u64>,
}

impl Context {
    /// Connects to a repository's place, and keeps near what is read there.
    pub fn backend_of(&self, place: &Place) -> Result<Arc<dyn Backend>, Failure> {
        let far = self.far_backend(place, &Way::default())?;
        if let Place::Local(_) = place {
            return Ok(far);
        }
        let near = NearBackend::new(far, self.cache_directory().as_deref());
        if self.reads_anew {
            near.read_anew();
        }
        Ok(Arc::new(near))
    }

    /// Connects to a place, in a certain way.
    pub fn far_backend(&self, place: &Place, way: &Way) -> Result<Arc<dyn Backend>, Failure> {
        let of_config = self.config.as_ref().map(|config| &config.ssh);
        let limit = Arc::new(Limit::new(way.limit));
        match place {
            Place::Local(path) => Ok(Arc::new(LocalBackend::new(path))),
            Place::Ssh { host, port, path } => {
                let command = way.ssh.clone().or_else(|| set("ICECORE_SSH"));
                let command = command.or_else(|| of_config?.command.clone());
                let program = way.remote_path.clone().or_else(|| set("ICECORE_REMOTE_PATH"));
                let program = program.or_else(|| of_config?.remote_path.clone());
                let options = SshOptions {
                    host: host.clone(),
                    port: *port,
                    path: path.clone(),
                    command: command.unwrap_or_else(|| "ssh".into()),
                    program: program.unwrap_or_else(|| "icecore".into()),
                    limit,
                    stop: Arc::clone(&self.stop),
                };
                let connected = SshBackend::connect(&options).map_err(|error| {
                    let message = format!("{error}; nothing was changed there");
                    let hint = "`ssh HOST icecore --version` must work by itself: ICECORE_SSH (or [ssh] command) gives ssh and its \
                                options, ICECORE_REMOTE_PATH (or [ssh] remote_path) the far program";
                    Failure { message, hint: Some(hint.into()), ..Failure::from(error) }
                })?;
                Ok(Arc::new(connected))
            }
            Place::S3 { bucket, prefix } => {
                let options = S3Options {
                    bucket: bucket.clone(),
                    prefix: prefix.clone(),
                    limit: Some(limit),
                    ..s3_from_profile()
                };
                Ok(Arc::new(S3Backend::new(options)?))
            }
        }
    }
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Credentials, region and endpoint as AWS's own tools find them: environment first, then the files of a profile.
fn s3_from_profile() -> S3Options {
    let home = |name: &str| set("HOME").map(|home| PathBuf::from(home).join(".aws").join(name));
    let file = |variable: &str, name: &str| {
        let path = set(variable).map(PathBuf::from).or_else(|| home(name))?;
        ini::Ini::load_from_file(path).ok()
    };
    let (credentials, config) =
        (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), file("AWS_CONFIG_FILE", "config"));
    let profile = set("AWS_PROFILE").unwrap_or_else(|| "default".into());
    let value = |key: &str| {
        let of_credentials = || credentials.as_ref()?.section(Some(profile.as_str()))?.get(key);
        let of_config = || {
            let config = config.as_ref()?;
            let section = config.section(Some(format!("profile {profile}")));
            section.or_else(|| config.section(Some(profile.as_str())))?.get(key)
        };
        of_credentials().or_else(of_config).map(str::to_owned)
    };
    let in_environment = set("AWS_ACCESS_KEY_ID").is_some() || set("AWS_WEB_IDENTITY_TOKEN_FILE").is_some();
    let secret = |key: &str| if in_environment { None } else { value(key) };
    S3Options {
        access_key: secret("aws_access_key_id"),
        secret_key: secret("aws_secret_access_key"),
        token: secret("aws_session_token"),
        region: set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")).or_else(|| value("region")),
        endpoint: set("AWS_ENDPOINT_URL_S3")
            .or_else(|| set("AWS_ENDPOINT_URL"))
            .or_else(|| value("endpoint_url")),
        ..S3Options::default()
    }
}
