"""Who may ask and for what: tokens that are kept as hashes, places inside roots, names of this service."""

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from obstore.exceptions import BaseError
from obstore.store import S3Store

from cluster.access import Roots, Tokens, host_allowed
from ingest.errors import RefusedError, UsageError
from ingest.storage import Place

PREFIX = "team/data"
local_parts = st.lists(st.sampled_from(["root", "rooted", "a", "b", "out", "in", "loop", "..", ".", ""]), max_size=7)
remote_parts = st.lists(
    st.sampled_from(
        ["team", "data", "data2", "a", "..", ".", "%2e%2e", ".%2E", "%2e", "a%2f..%2f..", "%252e", "?", "#"]
    ),
    max_size=6,
)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "home" / "tokens.json")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/ with folders and links, rooted/ beside it."""
    tree = tmp_path_factory.mktemp("tree").resolve()
    for folder in ("root/a/b", "rooted/a"):
        (tree / folder).mkdir(parents=True)
    for link, target in (("out", tree / "rooted"), ("in", tree / "root" / "a"), ("loop", "loop")):
        (tree / "root" / link).symlink_to(target)
    return tree


def is_admitted(roots: Roots, uri: str) -> bool:
    try:
        roots.refuse_outside(uri, "dataset")
    except RefusedError:
        return False
    return True


def test_only_a_hash_of_a_token_is_kept_and_only_for_its_owner(tokens: Tokens) -> None:
    before = os.umask(0)
    try:
        token = tokens.add("ada", "submit")
        tokens.add("bob", "read")
    finally:
        os.umask(before)
    assert tokens.path.stat().st_mode & 0o777 == 0o600
    kept = tokens.path.read_text()
    assert token not in kept
    assert token.removeprefix("tench_") not in kept
    assert hashlib.sha256(token.encode()).hexdigest() in kept
    assert {f.name for f in tokens.path.parent.iterdir()} == {"tokens.json", ".tokens.json.lock"}


def test_a_token_is_long_and_its_own(tokens: Tokens) -> None:
    made = {tokens.add(f"token-{n}", "read") for n in range(20)}
    assert len(made) == 20
    assert all(len(token) >= 43 for token in made)


def test_a_token_works_until_it_is_revoked_and_no_longer(tokens: Tokens) -> None:
    served = Tokens(tokens.path)
    token, other = tokens.add("ada", "submit"), tokens.add("bob", "read")
    assert served.check(token) == ("ada", "submit")
    assert served.check(other) == ("bob", "read")
    tokens.revoke("ada")
    assert served.check(token) is None
    assert served.check(other) == ("bob", "read")
    assert tokens.listed() == [("bob", "read")]
    for wrong in ("", "tench_", other[:-1], other.upper(), hashlib.sha256(other.encode()).hexdigest()):
        assert served.check(wrong) is None


def test_a_token_is_refused_with_what_to_do(tokens: Tokens) -> None:
    tokens.add("ada", "read")
    with pytest.raises(UsageError, match="ada: there is one by this name"):
        tokens.add("ada", "submit")
    with pytest.raises(UsageError, match="--right write: expected read or submit"):
        tokens.add("bob", "write")
    with pytest.raises(UsageError, match="`tench token list`"):
        tokens.revoke("carol")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_broken_token_file_lets_nobody_in(tokens: Tokens, content: str) -> None:
    tokens.path.parent.mkdir()
    tokens.path.write_text(content)
    with pytest.raises(RefusedError, match=r"tokens\.json: not a token file"):
        tokens.check("tench_x")


@given(local_parts)
@example(["root", "..", "rooted", "a"])
@example(["root", "out", "a"])
@example(["root", "loop"])
@example(["rooted"])
def test_a_path_is_admitted_if_it_ends_up_inside_a_root(tree: Path, parts: list[str]) -> None:
    path = "/".join([str(tree), *parts])
    real = os.path.realpath(path)
    inside = os.path.commonpath([real, f"{tree}/root"]) == f"{tree}/root"
    assert is_admitted(Roots([f"{tree}/root"]), path) == inside


def test_a_root_that_is_a_link_admits_what_lies_behind_it(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tree / "root")
    roots = Roots([str(tmp_path / "alias")])
    assert is_admitted(roots, str(tree / "root" / "new" / "dataset"))
    assert is_admitted(roots, f"file://{tree}/root/a")
    assert not is_admitted(roots, str(tmp_path))
    assert not is_admitted(roots, str(tree / "rooted"))


@given(remote_parts)
@example(["team", "data", "%2e%2e", "secret"])
@example(["team", "data", "a%2f..%2f..", "secret"])
def test_what_is_admitted_in_a_bucket_lies_under_the_prefix_as_the_store_itself_reads_it(parts: list[str]) -> None:
    uri = "/".join(["s3://bucket", *parts])
    if is_admitted(Roots([f"s3://bucket/{PREFIX}"]), uri):
        try:
            prefix = S3Store.from_url(uri, region="us-east-1").prefix
        except BaseError:
            return  # No such address can be opened.
        assert f"{prefix}/".startswith(f"{PREFIX}/"), prefix


@pytest.mark.parametrize(
    ("uri", "admitted"),
    [
        ("s3://bucket/team/data", True),
        ("s3://bucket/team/data/", True),
        ("s3://bucket/team/data/imagenet", True),
        ("s3://bucket/team/database", False),
        ("s3://bucket/team", False),
        ("s3://bucket/team/data/../secret", False),
        ("s3://bucket/team/data/%2E%2e/secret", False),
        ("s3://bucket2/team/data", False),
        ("gs://bucket/team/data", False),
        ("s3://bucket@elsewhere/team/data", False),
        ("/bucket/team/data", False),
        ("http://elsewhere/data", False),
        ("https://elsewhere/data", False),
        ("HTTP://elsewhere/data", False),
        ("ftp://elsewhere/data", False),
    ],
)
def test_buckets_are_compared_by_scheme_name_and_whole_segments(uri: str, admitted: bool) -> None:
    assert is_admitted(Roots(["s3://bucket/team/data", "/srv/data"]), uri) == admitted


def test_a_refusal_names_the_field_the_place_and_the_roots() -> None:
    with pytest.raises(RefusedError, match=r"^source: /etc: lies outside .*\(/srv/data, s3://bucket/data\)"):
        Roots(["/srv/data", "s3://bucket/data"]).refuse_outside("/etc", "source")
    with pytest.raises(RefusedError, match=r"^source: https://elsewhere/data: web sources are not allowed"):
        Roots(["/srv/data"]).refuse_outside("https://elsewhere/data", "source")


@pytest.mark.parametrize(
    ("uri", "admitted"),
    [
        ("https://data.example/archives", True),
        ("http://data.example/archives/a.tar", True),
        ("https://DATA.example/archives", True),
        ("http://10.0.0.7:8080/x", True),
        ("http://10.0.0.7/x", False),
        ("https://data.example:444/x", False),
        ("https://data.example.evil.example/x", False),
        ("https://evil.example/data.example", False),
        ("https://data.example@evil.example/x", False),
        ("https://user:secret@data.example/x", False),
        ("https://evil.example#@data.example/x", False),
        ("https://evil.example\\@data.example/x", False),
        ("https://data.example\\.evil.example/x", False),
        ("https://data.example/x@evil.example", False),
        ("https://", False),
        ("ftp://data.example/x", False),
    ],
)
def test_a_source_on_the_web_is_admitted_by_its_servers_name_and_port(uri: str, admitted: bool) -> None:
    allowed = Roots(["/srv/data"], ["data.example", "10.0.0.7:8080"])
    try:
        allowed.refuse_outside(uri, "source")
    except RefusedError:
        assert not admitted
    else:
        assert admitted
    assert not is_admitted(allowed, uri)  # as a dataset: never


def test_a_web_place_that_stays_on_its_host_follows_no_redirect_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(str(self.headers["Host"]).split(":")[0])
            elsewhere = f"http://localhost:{server.server_port}/secret"
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", elsewhere)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"here")

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setattr("ingest.storage.RETRY_S", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert Place(url).get("moved") == b"here"
        assert asked == ["127.0.0.1", "localhost"]
        monkeypatch.setenv("TENCH_STAY_ON_HOST", "1")
        assert Place(url).get("there") == b"here"
        with pytest.raises(BaseError):
            Place(url).get("moved")
        assert set(asked[2:]) == {"127.0.0.1"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_local_root_says_nothing_about_buckets_and_no_root_admits_nothing() -> None:
    assert not is_admitted(Roots(["/"]), "s3://bucket/data")
    assert is_admitted(Roots(["/"]), "/srv/data")
    assert not is_admitted(Roots([]), "/srv/data")
    assert not is_admitted(Roots(["/srv/data"]), "/srv/database/x")


@pytest.mark.parametrize(
    ("header", "served", "has_tokens", "allowed"),
    [
        ("127.0.0.1:8400", "127.0.0.1", False, True),
        ("127.0.0.1", "127.0.0.1", False, True),
        ("127.8.9.1:1", "127.0.0.1", False, True),
        ("localhost:8400", "127.0.0.1", False, True),
        ("localhost", "127.0.0.1", True, True),
        ("[::1]:8400", "127.0.0.1", False, True),
        ("[::1]", "::1", False, True),
        ("evil.example:8400", "127.0.0.1", False, False),
        ("evil.example", "127.0.0.1", True, False),
        ("localhost.evil.example:8400", "127.0.0.1", False, False),
        ("127.0.0.1.evil.example", "127.0.0.1", False, False),
        ("evil.example:127.0.0.1", "127.0.0.1", False, False),
        ("0.0.0.0:8400", "127.0.0.1", False, False),
        ("192.168.1.7:8400", "127.0.0.1", False, False),
        ("[2001:db8::1]:8400", "127.0.0.1", False, False),
        ("", "127.0.0.1", False, False),
        ("192.168.1.7:8400", "192.168.1.7", True, True),
        ("[2001:db8::1]:8400", "2001:db8::1", True, True),
        ("gpu-box.example:8400", "0.0.0.0", True, True),
        ("gpu-box.example:8400", "0.0.0.0", False, False),
    ],
)
def test_a_host_header_has_to_name_this_service(header: str, served: str, has_tokens: bool, allowed: bool) -> None:
    assert host_allowed(header, served, has_tokens) == allowed
