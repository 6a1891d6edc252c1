//! Running the machine's own tools, with errors that say what to install or what went wrong.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::ImageError;

/// Folders that ordinary users often do not have in `PATH` but where `mke2fs` and `sfdisk` are.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One call of a tool. Standard output is captured; standard error goes into the error.
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
    command: Command,
    input: Option<Vec<u8>>,
}

impl Tool {
    /// `package` is what brings `program` on Debian.
    pub(crate) fn new(program: &'static str, package: &'static str) -> Self {
        let mut command = Command::new(program);
        let path = match std::env::var("PATH") {
            Ok(path) => format!("{path}:{SYSTEM_PATH}"),
            Err(_) => SYSTEM_PATH.to_owned(),
        };
        // Tools' messages and sort orders must not depend on the user's language.
        command.env("PATH", path).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        Self { program, package, command, input: None }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn current_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Runs to the end and returns standard output.
    pub(crate) fn run(self) -> Result<Vec<u8>, ImageError> {
        self.run_with_stderr().map(|(stdout, _)| stdout)
    }

    /// Like [`Tool::run`], for tools that report errors on standard error and exit with 0.
    pub(crate) fn run_with_stderr(mut self) -> Result<(Vec<u8>, String), ImageError> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let line = self.line();
        let failed = |reason: String| ImageError::Command { command: line.clone(), reason };
        let mut child = self.command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                ImageError::MissingProgram { program: self.program.to_owned(), package: self.package.to_owned() }
            }
            _ => failed(error.to_string()),
        })?;
        let writer = match (self.input, child.stdin.take()) {
            // A thread, because the tool may fill its output pipe before it has read all input.
            (Some(bytes), Some(mut stdin)) => Some(std::thread::spawn(move || stdin.write_all(&bytes))),
            _ => None,
        };
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if let Some(writer) = writer {
            // A tool that stops reading early reports the reason by its exit status.
            let _ = writer.join();
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            let said = if stderr.trim().is_empty() {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            } else {
                stderr.trim().to_owned()
            };
            let tail = said.lines().rev().take(5).collect::<Vec<_>>();
            let tail = tail.into_iter().rev().collect::<Vec<_>>().join("; ");
            return Err(failed(format!("{}: {tail}", output.status)));
        }
        Ok((output.stdout, stderr))
    }

    fn line(&self) -> String {
        let mut line = self.program.to_owned();
        for arg in self.command.get_args().take(6) {
            line.push(' ');
            line.push_str(&arg.to_string_lossy());
        }
        line
    }
}
