"""The wire codecs, judged by botocore.

For every generated action: whatever botocore serializes we decode to the same value, and whatever we encode botocore
parses back. Values are made up from botocore's own model, seeded by action and number, so that a failure names what
reproduces it. TERROIR_FULL=1 makes ten times as many.
"""

import base64
import datetime
import json
import os
import random
import re
import subprocess
import urllib.parse
from pathlib import Path

import botocore.parsers
import botocore.serialize
import botocore.session
import pytest

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 50 if os.environ.get("TERROIR_FULL") == "1" else 5
SERVICES = sorted(path.stem for path in (ROOT / "crates/aws-model/actions").glob("*.txt"))
SESSION = botocore.session.get_session()
MODELS = {name: SESSION.get_service_model(name) for name in SERVICES}

# Characters with a meaning in forms or XML, ends of line, other alphabets, beyond the basic plane.
TEXT = "abcXYZ019 \t\n\r<&>\"'%+=;./?#[]{}|~äßπ中\u00a0\u2028\U0001f600"
# XML 1.0 has no form for these; a form body has.
CONTROL = "\x00\x01\x08\x0b\x1f\x7f\ufffe"


def listed_actions(service):
    lines = (ROOT / f"crates/aws-model/actions/{service}.txt").read_text().splitlines()
    return [name for line in lines if (name := line.split("#")[0].strip())]


ACTIONS = [(service, action) for service in SERVICES for action in listed_actions(service)]


# Where JSON is spoken the request's id is a header.
HEADERS = {"x-amzn-requestid": "req-1"}


def signing_name(service):
    return MODELS[service].signing_name


def is_json(service):
    return MODELS[service].metadata["protocol"] == "json"


class Codecs:
    """The Rust side: asks one question a line, gets one answer a line."""

    def __init__(self, program):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([program], stdin=pipe, stdout=pipe, encoding="utf-8")

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "error" not in answer, (answer["error"], question)
        return answer


@pytest.fixture(scope="module")
def codecs():
    command = ["cargo", "build", "--quiet", "-p", "terroir-aws-model", "--features", "differential"]
    command += ["--example", "differential", "--message-format", "json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    [program] = [message["executable"] for message in messages if message.get("executable")]
    codecs = Codecs(program)
    yield codecs
    codecs.process.stdin.close()
    assert codecs.process.wait(timeout=10) == 0


class Maker:
    """Makes up values of a shape. Number 0 has every member, number 1 none that may be left out."""

    def __init__(self, number, action, service, is_request):
        self.random = random.Random(f"{service} {action} {number} {is_request}")
        self.everything = number == 0
        self.share = {0: 1.0, 1: 0.0}.get(number, 0.4)
        self.is_request = is_request
        # IAM and STS answer with whole seconds, and botocore asks in JSON with such.
        self.milliseconds = is_request != is_json(service) or service == "ec2"

    def value(self, shape):
        return getattr(self, shape.type_name)(shape)

    def structure(self, shape, always=(), top=False):
        members = shape.members
        chosen = [name for name in members if name in always or self.random.random() < self.share]
        made = {name: self.value(members[name]) for name in chosen}
        must_have = [name for name in always if made[name] == []]
        if self.is_request and not top and all(value == [] for value in made.values()):
            # A form cannot say that a structure is there but has no members, nor (EC2) that a list is but is empty.
            must_have = [self.random.choice(list(members))]
        for name in must_have:
            member = members[name]
            made[name] = [self.value(member.member)] if member.type_name == "list" else self.value(member)
        return made

    def list(self, shape):
        length = 2 if self.everything else self.random.choice([0, 1, 2, 3, 12])
        return [self.value(shape.member) for _ in range(length)]

    def map(self, shape):
        length = 2 if self.everything else self.random.choice([0, 1, 3])
        return {self.value(shape.key): self.value(shape.value) for _ in range(length)}

    def string(self, shape):
        if shape.enum and self.random.random() < 0.5:
            return self.random.choice(shape.enum)
        alphabet = TEXT + CONTROL if self.is_request else TEXT
        return "".join(self.random.choices(alphabet, k=self.random.choice([0, 1, 5, 20])))

    def boolean(self, _shape):
        return self.random.random() < 0.5

    def integer(self, _shape):
        return self.random.choice([0, 1, -1, 2**31 - 1, -(2**31), self.random.randrange(10**6)])

    def long(self, _shape):
        return self.random.choice([0, -1, 2**63 - 1, -(2**63), self.random.randrange(10**15)])

    def double(self, _shape):
        # Fractions of few digits, which serde_json reads exactly.
        return self.random.choice([0.0, 1.5, -2.25, 1e300, 5e-324, self.random.randrange(10**6) / 1024])

    float = double

    def blob(self, _shape):
        return self.random.randbytes(self.random.choice([0, 1, 2, 3, 50]))

    def timestamp(self, _shape):
        seconds = self.random.randrange(-(2**31), 2**33)
        milliseconds = self.random.choice([0, 1, 120, 999]) if self.milliseconds else 0
        made = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        return made + datetime.timedelta(seconds=seconds, milliseconds=milliseconds)


def plain(value):
    """The JSON form of a value, without empty lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item != []}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def form(body, rng):
    """A form body in random order; sometimes with list indices that start elsewhere and leave gaps."""
    if rng.random() < 0.5:
        step, start = rng.choice([1, 3, 1000]), rng.choice([0, 1, 10**6])

        def moved(match):
            return f".{(int(match[1]) - 1) * step + start}"

        body = {re.sub(r"\.(\d+)(?=\.|$)", moved, name): value for name, value in body.items()}
    parameters = list(body.items())
    rng.shuffle(parameters)
    return urllib.parse.urlencode(parameters)


@pytest.mark.parametrize(("service", "action"), ACTIONS)
def test_requests(codecs, service, action):
    model = MODELS[service]
    operation = model.operation_model(action)
    shape = operation.input_shape
    # Some actions take no parameters at all.
    members = shape.members if shape else {}
    serializer = botocore.serialize.create_serializer(model.metadata["protocol"], include_validation=False)
    for number in range(ROUNDS):
        maker = Maker(number, action, service, is_request=True)
        given = maker.structure(shape, always=shape.required_members, top=True) if shape else {}
        body = serializer.serialize_to_request(given, operation)["body"]
        body = body.decode() if is_json(service) else form(body, maker.random)
        answer = codecs.ask(service=signing_name(service), action=action, body=body)
        assert plain(answer["request"]) == plain(given), (number, body)
        tokens = [name for name, member in members.items() if member.metadata.get("idempotencyToken")]
        assert answer["client_token"] == given.get(*tokens or ["ClientToken"])
        assert answer["dry_run"] == given.get("DryRun", False)
        pages = [("MaxResults", "NextToken"), ("MaxItems", "Marker"), ("Limit", "Marker")]
        paged = next((names for names in pages if all(name in members for name in names)), ())
        assert answer["page"] == ([given.get(name) for name in paged] or [None, None])


@pytest.mark.parametrize(("service", "action"), ACTIONS)
def test_responses(codecs, service, action):
    model = MODELS[service]
    shape = model.operation_model(action).output_shape
    parser = botocore.parsers.create_parser(model.metadata["protocol"])
    for number in range(ROUNDS):
        maker = Maker(number, action, service, is_request=False)
        given = maker.structure(shape, top=True) if shape else {}
        body = codecs.ask(service=signing_name(service), action=action, response=plain(given))["body"]
        parsed = parser.parse({"status_code": 200, "headers": HEADERS, "body": body.encode()}, shape)
        assert parsed.pop("ResponseMetadata")["RequestId"] == "req-1"
        assert plain(parsed) == plain(given), (number, body)
        if shape and shape.name not in ("InstanceAttribute", "ImageAttribute"):
            lists = {name for name, member in shape.members.items() if member.type_name == "list"}
            lists -= set() if is_json(service) else {"Tags"}
            assert lists <= parsed.keys(), "clients expect an empty list, not nothing"


@pytest.mark.parametrize("service", SERVICES)
def test_errors(codecs, service):
    parser = botocore.parsers.create_parser(MODELS[service].metadata["protocol"])
    for code, kind in [("InvalidParameterValue", "Sender"), ("InternalFailure", "Receiver")]:
        body = codecs.ask(service=signing_name(service), code=code, message=TEXT)["body"]
        parsed = parser.parse({"status_code": 400, "headers": HEADERS, "body": body.encode()}, None)
        protocol = MODELS[service].metadata["protocol"]
        expected = {"Code": code, "Message": TEXT} | ({"Type": kind} if protocol == "query" else {})
        assert parsed["Error"] == expected
        assert parsed["ResponseMetadata"]["RequestId"] == "req-1"
