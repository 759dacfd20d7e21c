//! Replication over a link that is slow, loses packets, is cut and comes back: two network namespaces with an sshd in one.

use crate::far::Sshd;
use crate::support::{Scratch, document, has, noise};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

/// Two namespaces, joined by a pair of devices; gone with this.
struct Link {
    near: String,
    far: String,
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
}

impl Link {
    fn new() -> Option<Self> {
        if !has("ip") || !crate::support::is_root() {
            return None;
        }
        let unique = std::process::id();
        let link = Self { near: format!("icn{unique}"), far: format!("icf{unique}") };
        let made = ip(&["netns", "add", &link.near]) && ip(&["netns", "add", &link.far]);
        if !made {
            crate::support::missing("network namespaces can't be made here");
            return None;
        }
        assert!(ip(&[
            "-n", &link.near, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns",
            &link.far
        ]));
        for (name, address) in [(&link.near, "10.77.0.2/24"), (&link.far, "10.77.0.1/24")] {
            assert!(ip(&["-n", name, "address", "add", address, "dev", "wire"]));
            assert!(ip(&["-n", name, "link", "set", "wire", "up"]));
            assert!(ip(&["-n", name, "link", "set", "lo", "up"]));
        }
        Some(link)
    }

    fn in_namespace(&self, name: &str, arguments: &[&str]) -> bool {
        ip(&[&["netns", "exec", name], arguments].concat())
    }

    fn set_rate(&self, rate: &str) {
        let slow = [
            "tc", "qdisc", "replace", "dev", "wire", "root", "tbf", "rate", rate, "burst", "64kb", "latency",
            "50ms",
        ];
        assert!(self.in_namespace(&self.near, &slow));
    }

    fn set_loss(&self, probability: &str) {
        let lose = [
            "iptables",
            "-A",
            "INPUT",
            "-m",
            "statistic",
            "--mode",
            "random",
            "--probability",
            probability,
            "-j",
            "DROP",
        ];
        assert!(self.in_namespace(&self.far, &lose));
    }

    fn set_up(&self, is_up: bool) {
        assert!(ip(&["-n", &self.far, "link", "set", "wire", if is_up { "up" } else { "down" }]));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.near]);
        ip(&["netns", "delete", &self.far]);
    }
}

fn replicate(sshd: &Sshd, scratch: &Scratch, link: &Link, url: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &link.near, env!("CARGO_BIN_EXE_icecore")]);
    let own = sshd.icecore(scratch);
    command.current_dir(scratch.directory.path()).env_clear();
    for (name, value) in own.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    // A dead link is noticed soon.
    command.env(
        "ICECORE_SSH",
        format!("{} -o ServerAliveInterval=1 -o ServerAliveCountMax=2 -o ConnectTimeout=2", sshd.ssh),
    );
    command.args(["--json", "replicate", url]);
    command
}

fn sent(answer: &Value) -> u64 {
    answer["replicas"][0]["sent_bytes"].as_u64().unwrap()
}

#[test]
fn slow_lossy_and_cut() {
    let Some(link) = Link::new() else { return };
    let scratch = Scratch::new();
    let Some(sshd) = Sshd::start_in(&scratch, Some((&link.far, "10.77.0.1"))) else { return };
    scratch.init_encrypted();
    let url = format!("ssh://10.77.0.1:{}{}", sshd.port, scratch.path("far").display());
    let far = |arguments: &[&str]| {
        let (code, answer) = document(scratch.icecore().args(["--json", "-r", "far"]).args(arguments));
        assert_eq!(code, 0, "{answer:#}");
        answer
    };
    link.set_rate("80mbit");
    link.set_loss("0.02");
    scratch.file("tree/first", noise(8_000_000, 1));
    scratch.backup(&["tree"]);
    let (code, answer) = document(&mut replicate(&sshd, &scratch, &link, &url));
    assert_eq!(code, 0, "{answer:#}");
    far(&["check", "--read-data"]);
    // Cut while packs are on their way, for longer than the connection lives; then it comes back.
    link.set_rate("200mbit");
    scratch.file("tree/second", noise(90_000_000, 2));
    scratch.backup(&["tree"]);
    let child = std::thread::scope(|scope| {
        let running = scope.spawn(|| document(&mut replicate(&sshd, &scratch, &link, &url)));
        std::thread::sleep(Duration::from_millis(2500));
        link.set_up(false);
        std::thread::sleep(Duration::from_secs(6));
        link.set_up(true);
        running.join().unwrap()
    });
    let (code, answer) = child;
    assert_eq!(code, 0, "{answer:#}");
    // What was counted as sent had arrived; no more than one pack was sent in vain.
    assert!(sent(&answer) < 92_000_000 + (34 << 20), "{answer:#}");
    far(&["check", "--read-data"]);
    assert_eq!(far(&["list"])["backups"].as_array().unwrap().len(), 2);
    // A link that stays away is told, and harms nothing.
    scratch.file("tree/third", noise(1_000_000, 3));
    scratch.backup(&["tree"]);
    link.set_up(false);
    let mut command = replicate(&sshd, &scratch, &link, &url);
    let (code, answer) = document(&mut command);
    assert_eq!(code, 15, "{answer:#}");
    far(&["check"]);
    link.set_up(true);
    std::thread::sleep(Duration::from_secs(1));
    let (code, answer) = document(&mut command);
    assert_eq!(code, 0, "{answer:#}");
    far(&["validate", "--all"]);
}
