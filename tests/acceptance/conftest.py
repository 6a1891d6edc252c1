"""Fixtures: clouds that belong to one test, or to one module of tests that share its virtual machines."""

import os
import shutil

import pytest
from cloud import TERROIR, Cloud
from guest import Tenant

FULL = os.environ.get("TERROIR_FULL") == "1"


def pytest_collection_modifyitems(items):
    """Without root, or without QEMU, the tests with virtual machines are skipped; each says so."""
    missing = None
    if os.geteuid() != 0:
        missing = "SKIPPED: virtual machines need root"
    elif not shutil.which("qemu-system-x86_64"):
        missing = "SKIPPED: qemu-system-x86_64 is not installed"
    for item in items:
        if missing and (item.get_closest_marker("vm") or item.get_closest_marker("power")):
            item.add_marker(pytest.mark.skip(reason=missing))
        if item.get_closest_marker("ansible") and not FULL:
            item.add_marker(pytest.mark.skip(reason="fetches 60 MB: make test-full GROUP=simulated"))
        if item.get_closest_marker("ceph") and not (FULL and shutil.which("radosgw")):
            item.add_marker(pytest.mark.skip(reason="needs Ceph's packages: make test-full GROUP=ceph"))
        if item.get_closest_marker("debian"):
            item.add_marker(pytest.mark.timeout(1500))
            if not FULL:
                item.add_marker(pytest.mark.skip(reason="takes minutes: make test-full GROUP=debian"))


@pytest.fixture(scope="session", autouse=True)
def built():
    assert os.access(TERROIR, os.X_OK), f"{TERROIR} is not there: cargo build -p terroir"


@pytest.fixture
def cloud():
    """A simulated cloud of one test's own."""
    cloud = Cloud("simulated")
    try:
        yield cloud.start()
    finally:
        cloud.destroy()


@pytest.fixture(scope="module")
def shared_cloud():
    """A simulated cloud for a module whose tests do not get into each other's way."""
    cloud = Cloud("simulated")
    try:
        yield cloud.start()
    finally:
        cloud.destroy()


@pytest.fixture(scope="module")
def image(shared_cloud, tmp_path_factory):
    """Id of an image in the shared cloud: an empty disk, since nothing boots there."""
    disk = tmp_path_factory.mktemp("image") / "empty.raw"
    disk.write_bytes(b"")
    os.truncate(disk, 1 << 20)
    shared_cloud.terroir("image", "import", str(disk), "--name", "empty")
    [image] = shared_cloud.client("ec2").describe_images(Filters=[{"Name": "name", "Values": ["empty"]}])["Images"]
    return image["ImageId"]


@pytest.fixture(scope="module")
def vm_cloud():
    """A cloud with real virtual machines and the image `tiny`, for one module."""
    cloud = Cloud("qemu")
    try:
        cloud.start()
        cloud.terroir("image", "build", "tiny", timeout=300)
        yield cloud
    finally:
        cloud.destroy()


@pytest.fixture(scope="module")
def tenant(vm_cloud, tmp_path_factory):
    return Tenant(vm_cloud, tmp_path_factory.mktemp("tenant"))
