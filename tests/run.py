#!/usr/bin/env python3
"""The test driver behind `make test` and `make test-full`: runs all suites and says how long each took.

Rust's tests are run binary by binary and Python's through pytest, both with their times, so that the ten slowest of all
can be named. The last line is `N passed, N failed, N skipped`; the exit status is 0 only if nothing failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PYTHON = str(ROOT / ".venv/bin/python")
# A binary or a pytest run that takes longer hangs.
STAGE_TIMEOUT_SECONDS = 30 * 60


@dataclass
class Outcome:
    suite: str
    name: str
    status: str  # passed, failed or skipped
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Stage:
    name: str
    seconds: float = 0.0
    outcomes: list = field(default_factory=list)

    def count(self, status):
        return sum(outcome.status == status for outcome in self.outcomes)


def say(text):
    print(text, flush=True)


def run_limited(command, seconds=STAGE_TIMEOUT_SECONDS, **options):
    """Runs a command in a process group of its own and ends the whole group when it takes too long."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        output, errors = process.communicate(timeout=seconds)
        return process.returncode, output, errors
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        return -signal.SIGKILL, output, f"{errors or ''}\nended after {seconds} s"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def build(stage):
    """Builds the binary and all test binaries; returns [(crate, path, folder)] of the latter."""
    for command in (
        ["cargo", "build", "--locked", "-p", "terroir"],
        ["cargo", "build", "--locked", "-p", "terroir-aws-model", "--features", "differential", "--example", "differential"],
    ):
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            stage.outcomes.append(Outcome("build", " ".join(command), "failed", detail="see above"))
            return []
    command = ["cargo", "test", "--locked", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        stage.outcomes.append(Outcome("build", "test binaries", "failed", detail="see above"))
        return []
    binaries = []
    for line in built.stdout.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") == "compiler-artifact" and message.get("executable") and message["profile"]["test"]:
            folder = Path(message["manifest_path"]).parent
            kind = message["target"]["kind"][0]
            name = folder.name if kind in ("lib", "bin") else f"{folder.name}/{message['target']['name']}"
            binaries.append((name, message["executable"], folder))
    return sorted(binaries)


def run_rust(stage, binaries, environment):
    # The test harness prints JSON and times only where unstable options are allowed; building is not affected.
    environment = environment | {"RUSTC_BOOTSTRAP": "1", "RUST_BACKTRACE": environment.get("RUST_BACKTRACE", "0")}
    options = ["--format", "json", "-Z", "unstable-options", "--report-time"]
    for name, binary, folder in binaries:
        started = time.monotonic()
        status, output, errors = run_limited(
            [binary, *options],
            cwd=folder,
            env=environment | {"CARGO_MANIFEST_DIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        outcomes = list(rust_outcomes(name, output))
        for line in (errors or "").splitlines():
            if line.startswith("SKIPPED"):
                say(f"  {name}: {line}")
        if status != 0 and not any(outcome.status == "failed" for outcome in outcomes):
            detail = f"ended with status {status}\n{output[-2000:]}{(errors or '')[-2000:]}"
            outcomes.append(Outcome(name, "(whole binary)", "failed", time.monotonic() - started, detail))
        stage.outcomes += outcomes


def rust_outcomes(suite, output):
    for line in output.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if not isinstance(event, dict) or event.get("type") != "test":
            continue
        # `timeout` says that a test has run for a minute and goes on; how it ended comes later.
        status = {"ok": "passed", "failed": "failed", "ignored": "skipped"}.get(event["event"])
        if status:
            detail = event.get("stdout", "")
            yield Outcome(suite, event["name"], status, event.get("exec_time", 0.0), detail)


def run_pytest(stage, arguments, environment):
    reports = TARGET / "test-reports"
    reports.mkdir(parents=True, exist_ok=True)
    report = reports / f"{stage.name.replace(' ', '-')}.xml"
    report.unlink(missing_ok=True)
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", "--tb=short", *arguments]
    status, _, _ = run_limited(command, cwd=ROOT / "tests", env=environment)
    if report.exists():
        stage.outcomes += pytest_outcomes(report)
    # 5: nothing was selected.
    if status not in (0, 1, 5) or (status == 1 and not stage.count("failed")):
        stage.outcomes.append(Outcome(stage.name, "(pytest)", "failed", detail=f"ended with status {status}"))


def pytest_outcomes(report):
    for case in ElementTree.parse(report).iter("testcase"):
        status, detail = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                status, detail = "failed", child.text or child.get("message", "")
            elif child.tag == "skipped":
                status, detail = "skipped", child.get("message", "")
        suite = case.get("classname", "").rsplit(".", 1)[-1]
        yield Outcome(suite, case.get("name", ""), status, float(case.get("time", 0)), detail)


FUZZ_SECONDS = 600


def run_fuzz(stage, targets, environment):
    """libFuzzer on some parsers at once; the short form, mutations of the corpus, is among Rust's tests."""
    setup = subprocess.run(["scripts/setup.sh", "fuzz"], cwd=ROOT)
    command = ["scripts/fuzz.sh", str(FUZZ_SECONDS), *targets]
    started = time.monotonic()
    status = setup.returncode or run_limited(command, cwd=ROOT, env=environment)[0]
    seconds = time.monotonic() - started
    detail = "" if status == 0 else f"scripts/fuzz.sh ended with status {status}, see above"
    stage.outcomes += [Outcome("fuzz", name, "failed" if status else "passed", seconds, detail) for name in targets]


# What each group of `--group` runs; all of them, in this order, without one. `make test` runs the same, but for what only
# `FULL_ONLY` has.
GROUPS = {
    "rust": lambda name: not name.startswith(("store", "image-builder")),
    "store": lambda name: name.startswith("store"),
    "images": lambda name: name.startswith("image-builder"),
    "differential": ["differential"],
    "simulated": ["acceptance", "-m", "not vm and not power and not debian and not ceph"],
    "ceph": ["acceptance", "-m", "ceph"],
    "vm": ["acceptance", "-m", "vm and not power and not debian"],
    "power": ["acceptance", "-m", "power"],
    "debian": ["acceptance", "-m", "debian"],
    "fuzz-requests": ("query", "json", "sigv4", "form-policy"),
    "fuzz-documents": ("xml", "policy", "sovereignty-policy", "web-token"),
    "fuzz-bytes": ("ciphertext", "note", "image", "packets"),
}
FULL_ONLY = ("fuzz-requests", "fuzz-documents", "fuzz-bytes")


def summary(stages):
    outcomes = [outcome for stage in stages for outcome in stage.outcomes]
    for outcome in outcomes:
        if outcome.status == "failed":
            say(f"\nFAILED {outcome.suite}::{outcome.name}\n{outcome.detail.rstrip()[-6000:]}")
    skipped = [outcome for outcome in outcomes if outcome.status == "skipped"]
    if skipped:
        say("\nskipped:")
        for outcome in skipped:
            say(f"  {outcome.suite}::{outcome.name}  {outcome.detail.splitlines()[0] if outcome.detail else ''}")
    say("\nminutes per stage:")
    for stage in stages:
        counts = f"{stage.count('passed')} passed, {stage.count('failed')} failed, {stage.count('skipped')} skipped"
        say(f"  {stage.seconds / 60:6.2f}  {stage.name:<14} {counts if stage.outcomes else ''}")
    say("\nten slowest tests:")
    for outcome in sorted(outcomes, key=lambda outcome: -outcome.seconds)[:10]:
        say(f"  {outcome.seconds:7.2f} s  {outcome.suite}::{outcome.name}")
    count = {status: sum(stage.count(status) for stage in stages) for status in ("passed", "failed", "skipped")}
    say(f"\n{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] or not count["passed"] else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="full counts and slow variants")
    parser.add_argument("--group", choices=GROUPS, action="append", help="only this part (may be repeated)")
    parser.add_argument("--list", action="store_true", help="name the groups")
    parser.add_argument("-k", dest="expression", help="only these Python tests (pytest's -k)")
    arguments = parser.parse_args()
    if arguments.list:
        say("\n".join(GROUPS))
        return 0
    groups = arguments.group or [name for name in GROUPS if arguments.full or name not in FULL_ONLY]
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
    environment.pop("TERROIR_FULL", None)
    if arguments.full:
        environment["TERROIR_FULL"] = "1"
    environment["TERROIR"] = str(TARGET / "debug/terroir")
    stages = []

    def stage(name, work):
        say(f"== {name}")
        current = Stage(name)
        stages.append(current)
        started = time.monotonic()
        result = work(current)
        current.seconds = time.monotonic() - started
        return result

    binaries = stage("build", build)
    if not stages[0].count("failed"):
        for name in groups:
            what = GROUPS[name]
            if callable(what):
                chosen = [binary for binary in binaries if what(binary[0])]
                stage(name, lambda current, chosen=chosen: run_rust(current, chosen, environment))
            elif isinstance(what, tuple):
                stage(name, lambda current, what=what: run_fuzz(current, what, environment))
            else:
                extra = ["-k", arguments.expression] if arguments.expression else []
                stage(name, lambda current, what=what, extra=extra: run_pytest(current, what + extra, environment))
    return summary(stages)


if __name__ == "__main__":
    sys.exit(main())
