//! A repository in an object store that speaks S3. The one file where anything is asynchronous.

use super::interface::{Backend, BackendError, ErrorKind, Lock, LockKind};
use super::limit::Limit;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig, WriteMultipart,
};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// A longer object is sent in parts of this length, several at once.
const PART_BYTES: usize = 8 << 20;
/// So many parts are on their way at once: each is in memory.
const PARTS_AT_ONCE: usize = 3;
/// So many try to make the same object, to see whether exactly one can.
const RACERS: usize = 8;
/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Failed requests are repeated for so long.
const RETRY_FOR: Duration = Duration::from_secs(30);
const RETRIES: usize = 8;

/// Where to, and by what right. What is `None` comes from the standard environment variables, or from the machine's own role.
#[derive(Clone, Default)]
pub struct S3Options {
    pub bucket: String,
    pub prefix: String,
    pub access_key: Option<String>,
    pub secret_key: Option<String>,
    pub token: Option<String>,
    pub region: Option<String>,
    pub endpoint: Option<String>,
    pub limit: Option<Arc<Limit>>,
}

/// Keys as objects below a prefix.
pub struct S3Backend {
    location: String,
    prefix: String,
    store: Arc<AmazonS3>,
    runtime: Runtime,
    limit: Option<Arc<Limit>>,
}

impl S3Backend {
    /// Nothing is asked of the store yet.
    pub fn new(options: S3Options) -> Result<Self, BackendError> {
        let S3Options { bucket, prefix, access_key, secret_key, token, region, endpoint, limit } = options;
        let slash = if prefix.is_empty() { "" } else { "/" };
        let location = format!("s3://{bucket}{slash}{prefix}");
        let fail = |error: io::Error| BackendError::new("connect to", location.clone(), error);
        if Path::parse(&prefix)
            .map_or(true, |path| path.as_ref() != prefix || Path::from(prefix.as_str()) != path)
        {
            let detail =
                "such a prefix would be written in another way: take letters, digits, - _ . and single /";
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, detail)));
        }
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(&bucket);
        if let (Some(access), Some(secret)) = (access_key, secret_key) {
            builder = builder.with_access_key_id(access).with_secret_access_key(secret);
        }
        if let Some(token) = token {
            builder = builder.with_token(token);
        }
        if let Some(region) = region {
            builder = builder.with_region(region);
        }
        let mut client =
            ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
        if let Some(endpoint) = endpoint {
            client = client.with_allow_http(endpoint.starts_with("http://"));
            builder = builder.with_endpoint(endpoint);
        }
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() };
        let store = builder
            .with_client_options(client)
            .with_retry(retry)
            .with_checksum_algorithm(Checksum::SHA256)
            // One by one each says why it can't be deleted.
            .with_disable_bulk_delete(true)
            .build()
            .map_err(|error| fail(io::Error::other(error.to_string())))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(fail)?;
        Ok(Self { location, prefix, store: Arc::new(store), runtime, limit })
    }

    fn path(&self, key: &str) -> Path {
        if self.prefix.is_empty() { Path::from(key) } else { Path::from(format!("{}/{key}", self.prefix)) }
    }

    fn key(&self, path: &Path) -> Option<String> {
        let text = path.as_ref();
        if self.prefix.is_empty() {
            return Some(text.to_owned());
        }
        text.strip_prefix(self.prefix.as_str())?.strip_prefix('/').map(str::to_owned)
    }

    fn fail(&self, action: &'static str, key: &str, error: object_store::Error) -> BackendError {
        use object_store::Error;
        let kind = match &error {
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::AlreadyExists { .. } | Error::Precondition { .. } => ErrorKind::Exists,
            Error::PermissionDenied { .. } if action == "delete" => ErrorKind::Held,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ErrorKind::Denied,
            _ => ErrorKind::Unreachable,
        };
        let source = io::Error::other(error.to_string());
        BackendError::of(kind, action, format!("{}/{key}", self.location), source)
    }

    fn short(&self, key: &str) -> BackendError {
        BackendError::new("read", format!("{}/{key}", self.location), io::ErrorKind::UnexpectedEof.into())
    }

    fn send(&self, action: &'static str, key: &str, bytes: &[u8], mode: PutMode) -> Result<(), BackendError> {
        let path = self.path(key);
        if bytes.len() > PART_BYTES && matches!(mode, PutMode::Overwrite) {
            return self.send_in_parts(action, key, bytes);
        }
        if let Some(limit) = &self.limit {
            limit.wait(bytes.len() as u64);
        }
        let options = PutOptions { mode, ..PutOptions::default() };
        let payload = PutPayload::from(bytes.to_vec());
        let sent = self.runtime.block_on(self.store.put_opts(&path, payload, options));
        sent.map(drop).map_err(|error| self.fail(action, key, error))
    }

    /// Nothing is there before all parts are.
    fn send_in_parts(&self, action: &'static str, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        let path = self.path(key);
        let sent = self.runtime.block_on(async {
            let upload = self.store.put_multipart(&path).await?;
            let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
            for part in bytes.chunks(PART_BYTES) {
                writer.wait_for_capacity(PARTS_AT_ONCE).await?;
                if let Some(limit) = &self.limit {
                    limit.wait(part.len() as u64);
                }
                writer.write(part);
            }
            writer.finish().await
        });
        sent.map(drop).map_err(|error| self.fail(action, key, error))
    }
}

impl Backend for S3Backend {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, BackendError> {
        let read = self.runtime.block_on(async { self.store.get(&self.path(key)).await?.bytes().await });
        read.map(|bytes| bytes.to_vec()).map_err(|error| self.fail("read", key, error))
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, BackendError> {
        let end = offset.checked_add(len).ok_or_else(|| self.short(key))?;
        if len == 0 {
            return if self.size(key)? >= offset { Ok(Vec::new()) } else { Err(self.short(key)) };
        }
        let read = self.runtime.block_on(self.store.get_range(&self.path(key), offset..end));
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                let failed = self.fail("read", key, error);
                // Behind the end stores answer in several ways.
                let is_short =
                    failed.kind == ErrorKind::Unreachable && self.size(key).is_ok_and(|size| size < end);
                return Err(if is_short { self.short(key) } else { failed });
            }
        };
        if bytes.len() as u64 == len { Ok(bytes.to_vec()) } else { Err(self.short(key)) }
    }

    fn size(&self, key: &str) -> Result<u64, BackendError> {
        let head = self.runtime.block_on(self.store.head(&self.path(key)));
        head.map(|meta| meta.size).map_err(|error| self.fail("stat", key, error))
    }

    fn arrived(&self, key: &str) -> Result<Option<i64>, BackendError> {
        let head = self.runtime.block_on(self.store.head(&self.path(key)));
        head.map(|meta| meta.last_modified.timestamp_nanos_opt())
            .map_err(|error| self.fail("stat", key, error))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        self.send("write", key, bytes, PutMode::Overwrite)
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), BackendError> {
        self.send("create", key, bytes, PutMode::Create)
    }

    fn prove_exclusive(&self) -> Result<bool, BackendError> {
        let mut unique = [0; 8];
        aws_lc_rs::rand::fill(&mut unique).map_err(|_| {
            BackendError::new("probe", self.location.clone(), io::Error::other("no random bytes"))
        })?;
        let key = format!("tmp/probe-{:016x}", u64::from_le_bytes(unique));
        let path = self.path(&key);
        let racers = (0..RACERS).map(|number| {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            self.store.put_opts(&path, PutPayload::from(vec![number as u8]), options)
        });
        let (mut winners, mut failure) = (0, None);
        for result in self.runtime.block_on(join_all(racers)) {
            match result.map_err(|error| self.fail("create", &key, error)) {
                Ok(_) => winners += 1,
                Err(error) if error.kind == ErrorKind::Exists => {}
                Err(error) => failure = Some(error),
            }
        }
        drop(self.delete(&key));
        match failure {
            Some(failure) if winners == 0 => Err(failure),
            _ => Ok(winners == 1),
        }
    }

    fn list(&self, directory: &str) -> Result<Vec<(String, u64)>, BackendError> {
        let path = self.path(directory.trim_end_matches('/'));
        let listed = self.runtime.block_on(self.store.list(Some(&path)).try_collect::<Vec<_>>());
        let listed = listed.map_err(|error| self.fail("list", directory, error))?;
        let pair = |meta: object_store::ObjectMeta| Some((self.key(&meta.location)?, meta.size));
        Ok(listed.into_iter().filter_map(pair).collect())
    }

    fn delete(&self, key: &str) -> Result<(), BackendError> {
        let deleted = self.runtime.block_on(self.store.delete(&self.path(key)));
        match deleted.map_err(|error| self.fail("delete", key, error)) {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn try_lock(&self, _name: &str, _kind: LockKind) -> Result<Lock, BackendError> {
        Ok(Lock::Unsupported)
    }
}
