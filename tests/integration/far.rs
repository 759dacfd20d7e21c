//! Hosts that tests reach: a real sshd on loopback with keys of its own.

use crate::support::{Scratch, is_root, missing, put, run};
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

impl Drop for Sshd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An S3 server in a process of its own, without any guarantee of durability.
pub struct S3 {
    child: Child,
    pub port: u16,
}

/// What must never turn up where others could read it.
pub const SECRET: &str = "a-secret-key-that-nobody-may-see";

impl S3 {
    /// Starts one with a bucket called `bucket`; `None` (said, and a failure in CI) where that can't be.
    pub fn start() -> Option<Self> {
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
        let server = Self { child, port };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(60), "the S3 server does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        server.request("PUT", "/bucket", &[]);
        Some(server)
    }

    /// An unsigned request; returns what is answered.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer[..answer.len().min(15)]).into_owned();
        assert!(text.contains(" 20"), "{method} {path}: {text}");
        let body = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        answer.split_off(body)
    }

    /// The program, which finds this server by the environment.
    pub fn icecore(&self, scratch: &Scratch) -> Command {
        let mut command = scratch.icecore();
        command
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "an-access-key")
            .env("AWS_SECRET_ACCESS_KEY", SECRET);
        command
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
