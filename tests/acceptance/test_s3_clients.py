"""Tools that people already have, unmodified, each with a job and its verification."""

import filecmp
import os
import random
import shutil
import subprocess

import pytest
from cloud import CLEAN, run
from waiting import until

MIB = 1 << 20
# Names that clients, signatures and XML treat differently.
NAMES = ["plain.txt", "dir/inner.txt", "dir/with space.txt", "dir/plus+and&amp.txt", "ünïcode/ä.txt", "empty", "a=b;c.txt"]


def needs(program):
    if not shutil.which(program):
        pytest.skip(f"SKIPPED: {program} is not installed")


def make_tree(folder, seed=7):
    """Files of all sizes that matter: none, one byte, less and more than a part."""
    source = random.Random(seed)
    for number, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty" else source.randbytes(1 + 997 * number))
    (folder / "large.bin").write_bytes(source.randbytes(21 * MIB + 1))
    return folder


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def same_trees(one, other):
    assert files(one) == files(other)
    different = [name for name in files(one) if not filecmp.cmp(one / name, other / name, shallow=False)]
    assert not different


@pytest.fixture
def credentials(shared_cloud):
    keys = shared_cloud.environment()
    return CLEAN | {name: value for name, value in keys.items() if name.startswith("AWS_")}


def test_rclone(shared_cloud, credentials, tmp_path):
    """sync up, check, change, sync again, sync down, compare, purge."""
    needs("rclone")
    environment = credentials | {
        "RCLONE_CONFIG": str(tmp_path / "none.conf"),
        "RCLONE_CONFIG_T_TYPE": "s3",
        "RCLONE_CONFIG_T_PROVIDER": "Other",
        "RCLONE_CONFIG_T_ENV_AUTH": "true",
        "RCLONE_CONFIG_T_ENDPOINT": shared_cloud.endpoint,
        "RCLONE_CONFIG_T_REGION": credentials["AWS_DEFAULT_REGION"],
        "RCLONE_CONFIG_T_FORCE_PATH_STYLE": "true",
        "RCLONE_S3_CHUNK_SIZE": "5Mi",
        "RCLONE_S3_UPLOAD_CUTOFF": "8Mi",
    }

    def rclone(*arguments, check=True):
        return run(["rclone", *map(str, arguments)], env=environment, check=check)

    tree = make_tree(tmp_path / "tree")
    rclone("mkdir", "t:rclone")
    rclone("sync", tree, "t:rclone/tree")
    rclone("check", tree, "t:rclone/tree", "--download")
    (tree / "plain.txt").write_text("changed")
    (tree / "empty").unlink()
    assert rclone("check", tree, "t:rclone/tree", check=False).returncode != 0, "a difference is seen"
    rclone("sync", tree, "t:rclone/tree", "--checksum")
    rclone("check", tree, "t:rclone/tree")
    rclone("moveto", "t:rclone/tree/large.bin", "t:rclone/moved/large.bin")
    rclone("moveto", "t:rclone/moved/large.bin", "t:rclone/tree/large.bin")
    back = tmp_path / "back"
    rclone("sync", "t:rclone/tree", back)
    same_trees(tree, back)
    rclone("purge", "t:rclone")
    assert "rclone" not in rclone("lsd", "t:").stdout


def test_restic(shared_cloud, credentials, tmp_path):
    """init, backup, backup of a change, check with all data read, forget and prune, restore, compare."""
    needs("restic")
    environment = credentials | {
        "RESTIC_REPOSITORY": f"s3:{shared_cloud.endpoint}/restic",
        "RESTIC_PASSWORD": "of the test",
        "RESTIC_CACHE_DIR": str(tmp_path / "cache"),
    }

    def restic(*arguments):
        return run(["restic", *map(str, arguments)], env=environment)

    tree = make_tree(tmp_path / "tree")
    restic("init")
    restic("backup", tree)
    (tree / "plain.txt").write_text("changed")
    restic("backup", tree)
    assert "no errors were found" in restic("check", "--read-data").stdout
    restic("forget", "--keep-last", "1", "--prune")
    assert "no errors were found" in restic("check", "--read-data").stdout
    target = tmp_path / "target"
    restic("restore", "latest", "--target", target)
    same_trees(tree, target / tree.relative_to("/"))


def test_s3cmd(shared_cloud, credentials, tmp_path):
    """mb, put, multipart put, get, sync both ways, ls, info, cp, del, rb."""
    needs("s3cmd")
    host = shared_cloud.endpoint.removeprefix("http://")
    configuration = tmp_path / "s3cfg"
    configuration.write_text(
        "[default]\n"
        f"access_key = {credentials['AWS_ACCESS_KEY_ID']}\n"
        f"secret_key = {credentials['AWS_SECRET_ACCESS_KEY']}\n"
        f"bucket_location = {credentials['AWS_DEFAULT_REGION']}\n"
        f"host_base = {host}\nhost_bucket = {host}\nuse_https = False\nmultipart_chunk_size_mb = 5\n"
    )

    def s3cmd(*arguments):
        return run(["s3cmd", "-c", str(configuration), "--no-progress", *map(str, arguments)], env=CLEAN | {"LANG": "C.UTF-8"})

    tree = make_tree(tmp_path / "tree")
    s3cmd("mb", "s3://s3cmd")
    s3cmd("put", tree / "plain.txt", "s3://s3cmd/one.txt")
    s3cmd("put", tree / "large.bin", "s3://s3cmd/large.bin")
    etag = shared_cloud.client("s3").head_object(Bucket="s3cmd", Key="large.bin")["ETag"]
    assert etag.endswith('-5"'), "it went up in parts"
    s3cmd("get", "s3://s3cmd/large.bin", tmp_path / "large.bin")
    assert filecmp.cmp(tree / "large.bin", tmp_path / "large.bin", shallow=False)
    s3cmd("sync", f"{tree}/", "s3://s3cmd/tree/")
    listed = s3cmd("ls", "--recursive", "s3://s3cmd/").stdout
    for name in files(tree):
        assert f"s3://s3cmd/tree/{name}" in listed
    assert "FULL_CONTROL" in s3cmd("info", "s3://s3cmd/one.txt").stdout
    s3cmd("cp", "s3://s3cmd/one.txt", "s3://s3cmd/two.txt")
    back = tmp_path / "back"
    back.mkdir()
    s3cmd("sync", "s3://s3cmd/tree/", f"{back}/")
    same_trees(tree, back)
    s3cmd("rb", "--recursive", "--force", "s3://s3cmd")
    assert "s3://s3cmd" not in s3cmd("ls").stdout


STATE = """
terraform {
  backend "s3" {
    bucket       = "terraform-state"
    key          = "env/state.tfstate"
    region       = "%(region)s"
    use_lockfile = true
    endpoints    = { s3 = "%(endpoint)s", sts = "%(endpoint)s", iam = "%(endpoint)s" }
    use_path_style         = true
    skip_region_validation = true
  }
}
variable "text" {}
variable "wait" { default = "" }
resource "terraform_data" "thing" {
  input = var.text
  provisioner "local-exec" {
    command = var.wait == "" ? "true" : "touch ${var.wait}.begun; while [ ! -e ${var.wait} ]; do sleep 0.1; done"
  }
  triggers_replace = var.text
}
output "text" { value = terraform_data.thing.output }
"""


def test_terraform_state_with_a_lock_file(shared_cloud, credentials, tmp_path):
    """State lives in the bucket; of two runs at once the second is told of the lock; the lock is gone afterwards."""
    needs("terraform")
    s3 = shared_cloud.client("s3")
    s3.create_bucket(Bucket="terraform-state")
    names = {"region": credentials["AWS_DEFAULT_REGION"], "endpoint": shared_cloud.endpoint}
    environment = credentials | {
        "TF_IN_AUTOMATION": "1",
        "CHECKPOINT_DISABLE": "1",
        "TF_CLI_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    def terraform(folder, *arguments, check=True):
        return run(["terraform", *arguments], env=environment, cwd=folder, check=check)

    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        (folder / "main.tf").write_text(STATE % names)
        terraform(folder, "init", "-input=false")
    one, two = folders
    terraform(one, "apply", "-auto-approve", "-input=false", "-var", "text=first")
    assert terraform(two, "output", "-raw", "text").stdout == "first", "the other sees the state"

    gate = tmp_path / "gate"
    arguments = ["apply", "-auto-approve", "-input=false", "-var", "text=second", "-var", f"wait={gate}"]
    holder = subprocess.Popen(
        ["terraform", *arguments], env=environment, cwd=one, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        def begun():
            assert holder.poll() is None, holder.communicate()[0]
            return (tmp_path / "gate.begun").exists()

        until("the first holds the lock", begun, 60)
        s3.head_object(Bucket="terraform-state", Key="env/state.tfstate.tflock")
        refused = terraform(two, "apply", "-auto-approve", "-input=false", "-var", "text=third", check=False)
        assert refused.returncode != 0 and "Error acquiring the state lock" in refused.stderr, refused.stderr
    finally:
        gate.touch()
        said, _ = holder.communicate(timeout=60)
    assert holder.returncode == 0, said
    assert terraform(two, "output", "-raw", "text").stdout == "second"
    left = [entry["Key"] for entry in s3.list_objects_v2(Bucket="terraform-state")["Contents"]]
    assert left == ["env/state.tfstate"], "the lock is gone"
    terraform(two, "destroy", "-auto-approve", "-input=false", "-var", "text=")
