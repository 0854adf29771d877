// SPDX-License-Identifier: MIT OR Apache-2.0

//! Installs QEMU where that needs no questions: on Debian and its relatives, as
//! root or with a sudo that asks for no password. Everywhere else it ends with
//! the one line to type.
//!
//! A Debian release older than QEMU 9 has a newer one in its backports. They are
//! read through a source list of our own with a state directory of its own, so
//! that neither the system's sources nor its package lists change. The mirror is
//! the one that the system's sources name. When that fails, the release's own
//! package does.

use super::program::{Version, WANTED, in_path};
use crate::process;
use anyhow::{Context, Result, bail};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

const PACKAGE: &str = "qemu-system-arm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The computer that QEMU is installed on, so that tests can be one.
pub trait Host {
    /// Text of `/etc/os-release`, or nothing where there is none.
    fn os_release(&self) -> String;
    /// Tells whether this is macOS.
    fn is_macos(&self) -> bool;
    /// Tells whether a file or a program in the PATH exists.
    fn has(&self, name: &str) -> bool;
    /// Runs a command and returns its standard output.
    fn run(&mut self, command: &[&str]) -> Result<String>;
}

/// The real computer.
#[derive(Debug)]
pub struct System;

impl Host for System {
    fn os_release(&self) -> String {
        fs::read_to_string("/etc/os-release").unwrap_or_default()
    }

    fn is_macos(&self) -> bool {
        cfg!(target_os = "macos")
    }

    fn has(&self, name: &str) -> bool {
        // An absolute name replaces each directory of the PATH when joined to it.
        in_path(name).is_some()
    }

    fn run(&mut self, command: &[&str]) -> Result<String> {
        process::output(command[0], &command[1..])
    }
}

/// What `/etc/os-release` says, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Release {
    /// The distribution and those that it is like.
    names: Vec<String>,
    codename: String,
}

impl Release {
    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(|value| value.trim_matches(['"', '\'']).to_owned())
                .unwrap_or_default()
        };
        Self {
            names: format!("{} {}", value("ID"), value("ID_LIKE"))
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            codename: value("VERSION_CODENAME"),
        }
    }

    fn is_like(&self, names: &[&str]) -> bool {
        self.names.iter().any(|name| names.contains(&name.as_str()))
    }
}

/// May packages be installed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    Root,
    Sudo,
    None,
}

fn rights(host: &mut impl Host) -> Rights {
    if host.run(&["id", "-u"]).is_ok_and(|user| user.trim() == "0") {
        Rights::Root
    } else if host.has("sudo") && host.run(&["sudo", "-n", "true"]).is_ok() {
        Rights::Sudo
    } else {
        Rights::None
    }
}

/// Installs QEMU.
///
/// # Errors
///
/// When that is not possible here; the error has the line to type.
pub fn install(host: &mut impl Host) -> Result<()> {
    let release = Release::parse(&host.os_release());
    let rights = rights(host);
    let debian_like = release.is_like(&["debian", "ubuntu"]) && host.has("apt-get");
    if !debian_like || rights == Rights::None {
        bail!(
            "qemu-system-aarch64 is missing. Type: {}",
            line_to_type(host, &release, rights)
        );
    }
    eprintln!(
        "qemu-system-aarch64 is missing; installing the package {PACKAGE} (some 40 MB to fetch):"
    );
    let mut apt = Apt { host, rights };
    apt.install(&release).with_context(|| {
        format!(
            "QEMU could not be installed; try: {}",
            line_to_type(host, &release, rights)
        )
    })
}

/// Distributions, and those like them, with the line that installs QEMU there.
const LINES: [(&[&str], &str); 5] = [
    (
        &["debian", "ubuntu"],
        "apt-get install --no-install-recommends qemu-system-arm",
    ),
    (
        &["fedora", "rhel", "centos"],
        "dnf install qemu-system-aarch64",
    ),
    (&["arch"], "pacman -S qemu-system-aarch64"),
    (&["suse", "opensuse"], "zypper install qemu-arm"),
    (&["alpine"], "apk add qemu-system-aarch64"),
];

fn line_to_type(host: &impl Host, release: &Release, rights: Rights) -> String {
    if host.is_macos() {
        return "brew install qemu".to_owned();
    }
    let Some((_, line)) = LINES.iter().find(|(names, _)| release.is_like(names)) else {
        return "export LAZYMMU_QEMU=/path/to/qemu-system-aarch64 (QEMU 7.2 or later)".to_owned();
    };
    match rights {
        Rights::Root => (*line).to_owned(),
        Rights::Sudo | Rights::None if host.has("sudo") => format!("sudo {line}"),
        Rights::Sudo | Rights::None => format!("su -c '{line}'"),
    }
}

/// The package manager of Debian and its relatives.
struct Apt<'a, H> {
    host: &'a mut H,
    rights: Rights,
}

impl<H: Host> Apt<'_, H> {
    fn install(&mut self, release: &Release) -> Result<()> {
        let mut candidate = self.candidate();
        if candidate.is_none() {
            // A fresh container or cloud image has no package lists yet.
            self.apt_get(&["update"])?;
            candidate = self.candidate();
        }
        let is_debian = release.names.first().is_some_and(|name| name == "debian");
        if is_debian && candidate.is_some_and(|version| version < WANTED) {
            match self.install_from_backports(&release.codename) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    eprintln!("  backports failed ({error:#}); taking the release's own package")
                }
            }
        }
        let install = ["install", "-y", "--no-install-recommends", PACKAGE];
        self.apt_get(&install).or_else(|_| {
            // Lists that are too old name packages that the mirror no longer has.
            self.apt_get(&["update"])?;
            self.apt_get(&install)
        })
    }

    /// The version that apt would install.
    fn candidate(&mut self) -> Option<Version> {
        let policy = self.host.run(&["apt-cache", "policy", PACKAGE]).ok()?;
        let line = policy
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate:"))?;
        Version::find_in(line)
    }

    fn install_from_backports(&mut self, codename: &str) -> Result<()> {
        let directory = private_directory()?;
        let uri = self.mirror(codename)?;
        let signed = if self.host.has(KEYRING) {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let list = directory.path().join("sources.list");
        // The release itself is needed for what the package depends on.
        let text = format!(
            "deb {signed}{uri} {codename}-backports main\ndeb {signed}{uri} {codename} main\n"
        );
        fs::write(&list, text)?;

        let list = format!("Dir::Etc::sourcelist={}", list.display());
        let state = format!(
            "Dir::State::lists={}",
            directory.path().join("lists").display()
        );
        let options = [
            "-o",
            &list,
            "-o",
            "Dir::Etc::sourceparts=/dev/null",
            "-o",
            &state,
        ];
        self.apt_get(&[&options[..], &["update"]].concat())?;
        let suite = format!("{codename}-backports");
        let install = [
            "install",
            "-y",
            "--no-install-recommends",
            "-t",
            &suite,
            PACKAGE,
        ];
        self.apt_get(&[&options[..], &install].concat())
    }

    /// The mirror from which the system takes the release.
    fn mirror(&mut self, codename: &str) -> Result<String> {
        let targets = self.host.run(&[
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI)|$(CODENAME)",
            "Created-By: Packages",
        ])?;
        targets
            .lines()
            .filter_map(|line| line.split_once('|'))
            .find(|(_, name)| *name == codename)
            .map(|(uri, _)| uri.to_owned())
            .with_context(|| format!("no package source of this system is for {codename}"))
    }

    /// Runs apt-get as root, without questions, and says so.
    fn apt_get(&mut self, arguments: &[&str]) -> Result<()> {
        let mut command = match self.rights {
            Rights::Sudo => vec!["sudo", "-n"],
            Rights::Root | Rights::None => Vec::new(),
        };
        command.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]);
        command.extend(arguments);
        eprintln!("  {}", command.join(" "));
        self.host.run(&command).map(drop)
    }
}

/// A directory that apt's own unprivileged user can read.
fn private_directory() -> Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("lazymmu-apt-").tempdir()?;
    let readable = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755));
    readable(directory.path())?;
    fs::create_dir_all(directory.path().join("lists/partial"))?;
    readable(&directory.path().join("lists"))?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str = "PRETTY_NAME=\"Debian 12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
    const UBUNTU: &str = "VERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n";
    const FEDORA: &str = "ID=fedora\nVERSION_CODENAME=\"\"\n";
    const TARGETS: &str = "http://mirror.test/debian-security/|bookworm-security\n\
                           http://mirror.test/debian/|bookworm\n";

    struct Fake {
        os_release: &'static str,
        macos: bool,
        user: &'static str,
        sudo: bool,
        /// Whether sudo asks for one.
        password: bool,
        candidate: &'static str,
        /// A command that contains this fails.
        fails: &'static str,
        ran: Vec<String>,
    }

    impl Fake {
        fn new(os_release: &'static str) -> Self {
            Self {
                os_release,
                macos: false,
                user: "0",
                sudo: false,
                password: false,
                candidate: "1:10.0.2+ds-2",
                fails: "no such command",
                ran: Vec::new(),
            }
        }

        /// Installs, and returns the apt-get calls with the private directory shortened.
        fn install(mut self) -> (Result<()>, Vec<String>) {
            let result = install(&mut self);
            let shorten = |word: &str| match (word.split_once('='), word.rsplit_once('/')) {
                (Some((key, value)), Some((_, name))) if value.contains("lazymmu-apt-") => {
                    format!("{key}=…/{name}")
                }
                _ => word.to_owned(),
            };
            let ran = self
                .ran
                .iter()
                .filter(|command| command.contains("apt-get -q"))
                .map(|command| {
                    command
                        .split(' ')
                        .map(shorten)
                        .collect::<Vec<_>>()
                        .join(" ")
                })
                .collect();
            (result, ran)
        }
    }

    impl Host for Fake {
        fn os_release(&self) -> String {
            self.os_release.to_owned()
        }

        fn is_macos(&self) -> bool {
            self.macos
        }

        fn has(&self, name: &str) -> bool {
            match name {
                "sudo" => self.sudo,
                "apt-get" => self.os_release.contains("debian"),
                _ => true,
            }
        }

        fn run(&mut self, command: &[&str]) -> Result<String> {
            let line = command.join(" ");
            self.ran.push(line.clone());
            if line.contains(self.fails) {
                bail!("failed");
            }
            match command {
                ["id", "-u"] => Ok(self.user.to_owned()),
                ["sudo", "-n", "true"] if self.password => bail!("a password is required"),
                ["apt-cache", ..] if self.candidate.is_empty() => {
                    // The lists come with the update.
                    self.candidate = "1:8.2.2+ds-0ubuntu1.4";
                    Ok(String::new())
                }
                ["apt-cache", ..] => Ok(format!(
                    "{PACKAGE}:\n  Installed: (none)\n  Candidate: {}\n",
                    self.candidate
                )),
                ["apt-get", "indextargets", ..] => Ok(TARGETS.to_owned()),
                _ => Ok(String::new()),
            }
        }
    }

    const PLAIN: &str = "env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends qemu-system-arm";

    #[test]
    fn recent_candidate_is_installed_as_it_is() {
        let (result, ran) = Fake::new(BOOKWORM).install();
        assert!(result.is_ok());
        assert_eq!(ran, [PLAIN]);
    }

    #[test]
    fn old_debian_takes_backports_through_a_private_list() {
        let fake = Fake {
            candidate: "1:7.2+dfsg-7+deb12u15",
            ..Fake::new(BOOKWORM)
        };
        let (result, ran) = fake.install();
        assert!(result.is_ok());
        let private = "env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dir::Etc::sourcelist=…/sources.list \
                       -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=…/lists";
        assert_eq!(
            ran,
            [
                format!("{private} update"),
                format!(
                    "{private} install -y --no-install-recommends -t bookworm-backports qemu-system-arm"
                ),
            ]
        );
    }

    #[test]
    fn failing_backports_fall_back_to_the_release() {
        let fake = Fake {
            candidate: "1:7.2+dfsg-7+deb12u15",
            fails: "-t bookworm-backports",
            ..Fake::new(BOOKWORM)
        };
        let (result, ran) = fake.install();
        assert!(result.is_ok());
        assert_eq!(ran.last().map(String::as_str), Some(PLAIN));
    }

    #[test]
    fn empty_package_lists_are_fetched_first_and_ubuntu_has_no_backports_of_debian() {
        let fake = Fake {
            candidate: "",
            user: "1000",
            sudo: true,
            ..Fake::new(UBUNTU)
        };
        let (result, ran) = fake.install();
        assert!(result.is_ok());
        assert_eq!(
            ran,
            [
                "sudo -n env DEBIAN_FRONTEND=noninteractive apt-get -q update".to_owned(),
                format!("sudo -n {PLAIN}"),
            ]
        );
    }

    #[test]
    fn without_rights_or_apt_there_is_one_line_to_type() {
        let line = |fake: Fake| {
            let (result, ran) = fake.install();
            assert!(ran.is_empty(), "{ran:?}");
            let error = result.expect_err("nothing can be installed").to_string();
            error
                .split_once("Type: ")
                .map(|(_, line)| line.to_owned())
                .unwrap_or_default()
        };
        let without_sudo = |os_release| Fake {
            user: "1000",
            ..Fake::new(os_release)
        };
        let user = |os_release| Fake {
            password: true,
            sudo: true,
            ..without_sudo(os_release)
        };
        assert_eq!(
            line(user(BOOKWORM)),
            "sudo apt-get install --no-install-recommends qemu-system-arm"
        );
        assert_eq!(line(user(FEDORA)), "sudo dnf install qemu-system-aarch64");
        assert_eq!(line(Fake::new(FEDORA)), "dnf install qemu-system-aarch64");
        assert_eq!(
            line(user("ID=arch\n")),
            "sudo pacman -S qemu-system-aarch64"
        );
        assert_eq!(
            line(without_sudo(BOOKWORM)),
            "su -c 'apt-get install --no-install-recommends qemu-system-arm'"
        );
        assert!(line(user("")).starts_with("export LAZYMMU_QEMU="));
        let mac = Fake {
            macos: true,
            ..user("")
        };
        assert_eq!(line(mac), "brew install qemu");
    }

    #[test]
    fn failing_installation_names_the_line_to_try() {
        let fake = Fake {
            fails: "install -y",
            ..Fake::new(UBUNTU)
        };
        let (result, _) = fake.install();
        let error = format!("{:#}", result.expect_err("apt-get fails"));
        assert!(error.contains("try: apt-get install"), "{error}");
    }
}
