//! Hosts that tests reach: a real sshd on loopback with keys of its own.

use crate::support::{Scratch, document, is_root, missing, put, run};
use serde_json::Value;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SSHD: &str = "/usr/sbin/sshd";

/// A server, ended with this.
pub struct Sshd {
    child: Child,
    pub port: u16,
    /// What goes into `ICECORE_SSH`.
    pub ssh: String,
    directory: PathBuf,
}

/// A port that nobody has just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Sshd {
    /// Starts one below the scratch directory; `None` (said, and a failure in CI) where that can't be.
    pub fn start(scratch: &Scratch) -> Option<Self> {
        Self::start_in(scratch, None)
    }

    /// As `start`, in a network namespace, at an address there.
    pub fn start_in(scratch: &Scratch, namespace: Option<(&str, &str)>) -> Option<Self> {
        if !is_root() {
            return None;
        }
        if !Path::new(SSHD).exists() {
            missing("openssh-server is not installed");
            return None;
        }
        std::fs::create_dir_all("/run/sshd").unwrap();
        let directory = scratch.mkdir("sshd");
        let key = |name: &str| {
            let path = directory.join(name);
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path));
            path
        };
        let (host, user) = (key("host"), key("user"));
        std::fs::copy(user.with_extension("pub"), directory.join("authorized")).unwrap();
        let port = free_port();
        let address = namespace.map_or("127.0.0.1", |(_, address)| address);
        let config = format!(
            "ListenAddress {address}\nPort {port}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nPasswordAuthentication no\n\
             UsePAM no\nStrictModes no\nMaxStartups 100\n",
            host.display(),
            directory.join("authorized").display()
        );
        put(&directory.join("config"), config);
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let mut command = match namespace {
            Some((name, _)) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, SSHD]);
                command
            }
            None => Command::new(SSHD),
        };
        let child = command
            .args(["-D", "-e", "-f"])
            .arg(directory.join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let begin = Instant::now();
        if namespace.is_some() {
            std::thread::sleep(Duration::from_secs(1));
        }
        while namespace.is_none() && TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(10), "sshd does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let ssh = format!(
            "ssh -F /dev/null -i {} -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR \
             -o UserKnownHostsFile={}",
            user.display(),
            directory.join("known").display()
        );
        Some(Self { child, port, ssh, directory })
    }

    /// Whoever comes with the key gets this command, whatever he asks for.
    pub fn force(&self, command: &str) {
        let key = std::fs::read_to_string(self.directory.join("user.pub")).unwrap();
        put(&self.directory.join("authorized"), format!("restrict,command=\"{command}\" {key}"));
    }

    /// The address of a directory.
    pub fn url(&self, path: &Path) -> String {
        format!("ssh://127.0.0.1:{}{}", self.port, path.display())
    }

    /// The program, which finds this server.
    pub fn icecore(&self, scratch: &Scratch) -> Command {
        let mut command = scratch.icecore();
        command.env("ICECORE_SSH", &self.ssh).env("ICECORE_REMOTE_PATH", env!("CARGO_BIN_EXE_icecore"));
        command
    }
}

impl Sshd {
    /// Runs the program, which finds this server, with `--json`.
    pub fn json(&self, scratch: &Scratch, arguments: &[&str]) -> (i32, Value) {
        document(self.icecore(scratch).arg("--json").args(arguments))
    }

    /// As `json`, but must end with 0.
    pub fn ok(&self, scratch: &Scratch, arguments: &[&str]) -> Value {
        let (code, answer) = self.json(scratch, arguments);
        assert_eq!(code, 0, "{arguments:?}: {answer:#}");
        answer
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An S3 server with a bucket called `bucket`: a light one in a process of its own, or, by `ICECORE_TEST_S3` (endpoint, access key and
/// secret key with blanks between them), a real one that is there.
pub struct S3 {
    child: Option<Child>,
    pub endpoint: String,
    pub access_key: String,
    /// What must never turn up where others could read it.
    pub secret_key: String,
    /// What is made during one test lies below this.
    prefix: String,
}

impl S3 {
    /// `None` (said, and a failure in CI) where there is none and none can be started.
    pub fn start() -> Option<Self> {
        let unique = format!("{}-{}", std::process::id(), noise_number());
        if let Ok(given) = std::env::var("ICECORE_TEST_S3") {
            let mut words = given.split_whitespace().map(str::to_owned);
            let mut next = || words.next().unwrap();
            return Some(Self {
                child: None,
                endpoint: next(),
                access_key: next(),
                secret_key: next(),
                prefix: unique,
            });
        }
        let python = crate::support::python()?;
        let server = python.parent().unwrap().parent().unwrap().parent().unwrap().join("s3/bin/moto_server");
        if !server.exists() {
            missing(&format!("{} is not there", server.display()));
            return None;
        }
        let port = free_port();
        let child = Command::new(server)
            .args(["-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        while !makes_bucket(port) {
            assert!(begin.elapsed() < Duration::from_secs(60), "the S3 server does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(Self {
            child: Some(child),
            endpoint: format!("http://127.0.0.1:{port}"),
            access_key: "an-access-key".into(),
            secret_key: "a-secret-key-that-nobody-may-see".into(),
            prefix: unique,
        })
    }

    /// Below the bucket, what only this test uses.
    pub fn prefix(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// The address of that.
    pub fn url(&self, name: &str) -> String {
        format!("s3://bucket/{}", self.prefix(name))
    }

    /// The program, which finds this server by the environment.
    pub fn icecore(&self, scratch: &Scratch) -> Command {
        let mut command = scratch.icecore();
        command
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", &self.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret_key);
        command
    }
}

/// Asks the light server, which wants no signature, for the bucket.
fn makes_bucket(port: u16) -> bool {
    use std::io::{Read, Write};
    let request = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"PUT /bucket HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    request().is_ok_and(|answer| answer.get(..20).unwrap_or_default().contains(" 200"))
}

fn noise_number() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos()
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
