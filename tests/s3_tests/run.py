#!/usr/bin/env python3
"""The driver behind `make s3-tests S3_TESTS=DIR`: runs ceph/s3-tests, as it is in DIR, against a cloud of its own.

None of that suite is part of this repository; whoever runs it fetches it. What is kept here: which commit was used, which of
its tests are chosen, and which of these pass (`expected.txt`). The exit status is 0 if all of these still do.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
EXPECTED = Path(__file__).parent / "expected.txt"
COMMIT = "8f0ae7b404a3a2fcf7038bf1e6bf29544fe9b6a3"
# All that AWS itself passes, without what is Ceph's own and without Signature Version 2; docs/s3-tests.md says why each.
LEFT_OUT = ("fails_on_aws", "webidentity_test", "sns", "s3select", "auth_aws2")
EXPRESSION = " and ".join(f"not {mark}" for mark in LEFT_OUT)
TEST_TIMEOUT_SECONDS = 60

sys.path.insert(0, str(ROOT / "tests/acceptance"))
from botocore.exceptions import ClientError  # noqa: E402
from cloud import CLEAN, Cloud  # noqa: E402


def user_named_after_its_account(cloud, account, owner):
    """A key of a user with the name that is also its account's canonical id, and with all of S3.

    In Ceph these are one: the suite grants to the id in lists, and puts policies on the user of the same name.
    """
    iam = cloud.client("iam", account["access_key_id"], account["secret_access_key"])
    iam.create_user(UserName=owner["ID"])
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=owner["ID"], PolicyName="s3", PolicyDocument=policy)
    key = iam.create_access_key(UserName=owner["ID"])["AccessKey"]
    return {"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]}


def keys_of_kms(cloud, account):
    """Lines with two keys for the suite's tests of SSE-KMS; none where the cloud has no key service."""
    kms = cloud.client("kms", account["access_key_id"], account["secret_access_key"])
    try:
        keys = [kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
    except ClientError as error:
        print(f"s3-tests: no keys of KMS: {error}")
        return []
    return [f"kms_keyid = {keys[0]}", f"kms_keyid2 = {keys[1]}"]


def configuration(cloud, region):
    """The file that the suite reads, and the number of the account of `s3 alt`, whose root is `iam`."""
    accounts = {name: cloud.account(name) for name in ("main", "alt", "tenant", "users", "other-users")}
    owners = {}
    for name, account in accounts.items():
        client = cloud.client("s3", account["access_key_id"], account["secret_access_key"])
        owners[name] = client.list_buckets()["Owner"]
    alt_user = user_named_after_its_account(cloud, accounts["alt"], owners["alt"])
    sections = {
        "s3 main": ("main", accounts["main"]),
        "s3 alt": ("alt", alt_user),
        "s3 tenant": ("tenant", accounts["tenant"]),
        "iam": ("alt", accounts["alt"]),
        "iam root": ("users", accounts["users"]),
        "iam alt root": ("other-users", accounts["other-users"]),
    }
    lines = ["[DEFAULT]", "host = 127.0.0.1", f"port = {cloud.port}", "is_secure = False", "ssl_verify = False"]
    lines += ["[fixtures]", "bucket prefix = s3t-{random}-", "iam name prefix = s3t-", "iam path prefix = /s3t/"]
    for section, (name, key) in sections.items():
        owner = owners[name]
        # Where the suite asks who an account's root is, it means the account's number.
        identity = accounts[name]["account_id"] if section == "iam root" else owner["ID"]
        lines += [f"[{section}]", f"display_name = {owner['DisplayName']}", f"user_id = {identity}"]
        lines += [f"email = {name}@example.org", f"api_name = {region}", "tenant = s3t"]
        lines += [f"access_key = {key['access_key_id']}", f"secret_key = {key['secret_access_key']}"]
        if section == "s3 main":
            lines += keys_of_kms(cloud, key)
    return "\n".join(lines) + "\n", accounts["alt"]["account_id"]


def environment_of_the_suite(folder):
    """A virtual environment with what the suite needs, kept beside the build."""
    home = TARGET / "s3-tests-venv"
    python, stamp = home / "bin/python", home / "requirements.sha256"
    own = ROOT / "tests/requirements.txt"
    # tox would make environments of its own.
    wanted = [line for line in (folder / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    wanted = [line for line in wanted if line != "tox"]
    digest = hashlib.sha256("\n".join(wanted).encode() + own.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"s3-tests: making the suite's Python environment in {home}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted, "-r", str(own)], check=True)
        stamp.write_text(digest)
    return python


def outcomes(report):
    """By name of each test: passed, failed or skipped, and why."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}"
        bad = [child.get("message", "") for child in case if child.tag in ("failure", "error")]
        if bad:
            found[name] = ("failed", bad[0])
        elif any(child.tag == "skipped" for child in case):
            found.setdefault(name, ("skipped", ""))
        else:
            # A test whose clean-up fails has two entries.
            found.setdefault(name, ("passed", ""))
    return found


def run_suite(folder, python, only):
    """Results of the suite's chosen tests against a cloud of their own."""
    report, log = TARGET / "s3-tests.xml", TARGET / "s3-tests.log"
    report.unlink(missing_ok=True)
    cloud = Cloud("simulated")
    try:
        # AWS answers otherwise in its first region, and the suite was written there.
        (cloud.data_dir / "terroir.toml").write_text('region = "us-east-1"\n')
        cloud.start()
        region = cloud.environment()["AWS_DEFAULT_REGION"]
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "s3tests.conf"
            text, alt_account = configuration(cloud, region)
            path.write_text(text)
            environment = CLEAN | {
                "S3TEST_CONF": str(path),
                "AWS_DEFAULT_REGION": region,
                "S3TEST_ALT_ACCOUNT": alt_account,
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": str(Path(__file__).parent),
            }
            # By signal: the other method would end the whole run with the first test that hangs.
            command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "adapt", "--tb=short"]
            command += [f"--timeout={TEST_TIMEOUT_SECONDS}", "--timeout-method=signal", f"--junit-xml={report}"]
            command += ["-m", EXPRESSION, "s3tests/functional"] + (["-k", only] if only else [])
            print(f"s3-tests: running; what pytest says is in {log}", flush=True)
            with log.open("w") as output:
                subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    finally:
        cloud.destroy()
    if not report.exists():
        raise SystemExit(f"s3-tests: pytest has left no report, see {log}")
    return outcomes(report)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a checkout of ceph/s3-tests")
    parser.add_argument("-k", dest="only", help="only these tests (pytest's -k)")
    parser.add_argument("--update", action="store_true", help="write what passes to the list")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if not (folder / "s3tests/functional").is_dir():
        raise SystemExit(f"s3-tests: {folder} is no checkout of ceph/s3-tests")
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    if found != COMMIT:
        raise SystemExit(f"s3-tests: {folder} is at {found or 'no commit'}; the list was made with {COMMIT}")
    results = run_suite(folder, environment_of_the_suite(folder), arguments.only)
    passed = {name for name, (status, _) in results.items() if status == "passed"}
    for name, (status, why) in sorted(results.items()):
        if status != "passed":
            print(f"{status:8}{name}  {why.splitlines()[0][:200] if why else ''}")
    print(f"s3-tests: {len(passed)} of {len(results)} chosen tests passed (-m {EXPRESSION!r})")
    if arguments.update and not arguments.only:
        EXPECTED.write_text("".join(f"{name}\n" for name in sorted(passed)))
        return 0
    expected = set(EXPECTED.read_text().split())
    # With -k, what was not chosen says nothing.
    lost = sorted(name for name in expected - passed if name in results or not arguments.only)
    for name in lost:
        print(f"s3-tests: passed before, not now: {name}")
    for name in sorted(passed - expected):
        print(f"s3-tests: passes, but is not in the list: {name}")
    return 1 if lost or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
