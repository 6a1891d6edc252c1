"""Ansible's own AWS modules, unmodified. Full runs only: the collection comes in a package of 54 MB."""

import json
import subprocess
import sys
import zipfile

import pytest
from cloud import CLEAN, TARGET, run

pytestmark = [pytest.mark.ansible, pytest.mark.timeout(900)]

ANSIBLE = "12.3.0"
CORE = "ansible-core==2.19.5"
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  vars: {aws: &aws {endpoint_url: "{{ endpoint }}", region: "{{ region }}"}}
  module_defaults: {group/amazon.aws.aws: {endpoint_url: "{{ endpoint }}", region: "{{ region }}"}}
  tasks:
    - amazon.aws.s3_bucket: {name: ansible, state: present, tags: {team: a}, versioning: true}
      register: made
    - amazon.aws.s3_bucket: {name: ansible, state: present, tags: {team: a}, versioning: true}
      register: again
    - amazon.aws.s3_object: {bucket: ansible, object: dir/k.txt, src: "{{ source }}", mode: put, encrypt: false}
    - amazon.aws.s3_object_info: {bucket_name: ansible, object_name: dir/k.txt}
      register: info
    - amazon.aws.s3_object: {bucket: ansible, object: dir/k.txt, dest: "{{ target }}", mode: get}
    - amazon.aws.s3_object: {bucket: ansible, mode: list}
      register: listed
    - amazon.aws.s3_object: {bucket: ansible, object: dir/k.txt, mode: delobj}
    - amazon.aws.s3_bucket: {name: ansible, state: absent, force: true}
    - amazon.aws.ec2_key: {name: ansible, state: present}
    - amazon.aws.ec2_instance:
        {name: ansible, image_id: "{{ image }}", instance_type: t3.nano, key_name: ansible, state: running, wait: true}
      register: launched
    - amazon.aws.ec2_instance_info: {filters: {"tag:Name": ansible, instance-state-name: [running]}}
      register: running
    - amazon.aws.ec2_instance: {instance_ids: "{{ launched.instance_ids }}", state: absent, wait: true}
    - copy:
        dest: "{{ out }}"
        content: "{{ {'made': made.changed, 'again': again.changed, 'listed': listed.s3_keys,
                   'running': running.instances | length, 'info': info.object_info | length} | to_json }}"
"""


@pytest.fixture(scope="module")
def ansible():
    """`ansible-playbook` in an environment of its own, with the one collection that is needed."""
    home = TARGET / "ansible"
    playbook = home / "venv/bin/ansible-playbook"
    if not playbook.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True)
        pip = [str(home / "venv/bin/pip"), "--quiet", "--disable-pip-version-check"]
        run([*pip, "install", CORE, "boto3==1.43.11", "botocore==1.43.11"], timeout=600)
        run([*pip, "download", f"ansible=={ANSIBLE}", "--no-deps", "-d", str(home)], timeout=600)
        [wheel] = home.glob("ansible-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if name.startswith("ansible_collections/amazon/aws/")]
            archive.extractall(home, wanted)
        wheel.unlink()
    return playbook, home


def test_buckets_objects_and_instances(ansible, shared_cloud, image, tmp_path):
    playbook, home = ansible
    environment = shared_cloud.environment()
    source, target, out = tmp_path / "source", tmp_path / "target", tmp_path / "out.json"
    source.write_text("from ansible")
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    variables = {
        "endpoint": shared_cloud.endpoint,
        "region": environment["AWS_DEFAULT_REGION"],
        "image": image,
        "source": str(source),
        "target": str(target),
        "out": str(out),
    }
    run(
        [str(playbook), "-i", "localhost,", "-c", "local", "-e", json.dumps(variables), str(tmp_path / "play.yml")],
        env=CLEAN
        | environment
        | {
            "ANSIBLE_COLLECTIONS_PATH": str(home),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_PYTHON_INTERPRETER": str(home / "venv/bin/python"),
            "HOME": str(tmp_path),
        },
        timeout=600,
    )
    said = json.loads(out.read_text())
    assert said == {"made": True, "again": False, "listed": ["dir/k.txt"], "running": 1, "info": 1}
    assert target.read_text() == "from ansible"
