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
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nPasswordAuthentication no\n\
             UsePAM no\nStrictModes no\nMaxStartups 100\n",
            host.display(),
            directory.join("authorized").display()
        );
        put(&directory.join("config"), config);
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let child = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(directory.join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
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
