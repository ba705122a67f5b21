"""Sources: every kind of them comes to one archive and one digest, and what is unsafe is refused."""

import base64
import functools
import hashlib
import http.server
import io
import itertools
import os
import re
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _source as core

FILE, LINK, HARD, DIRECTORY, DEVICE = (
    tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE,
)  # fmt: skip
#: Of a tree that holds nothing but app.py with one line, as this test writes it.
DIGEST = "f0e1657e4cc02533ffb698b26d8f905c1bd4aa792e1c234cd0d450606bcb1e74"
TOKEN = "t0ken-of-nobody"
KEY = "-----BEGIN KEY-----\nkey-of-nobody\n-----END KEY-----"


def resolve(tmp_path: Path, source: object, version: str = "", **more: Any) -> core.Source:
    secrets = {name: more.pop(name) for name in ("token", "key") if name in more}
    return core.resolve(core.Request(str(source), version, **more), tmp_path / "cache", **secrets)


def contents(source: core.Source) -> dict[str, str]:
    """Return the files of a source's archive with their text, links with their target after an arrow."""
    assert source.archive is not None
    found = {}
    with tarfile.open(source.archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream or member.issym():
                found[member.name] = stream.read().decode() if stream else f"-> {member.linkname}"
    return found


def make_tar(path: Path, *members: tuple[str, bytes, str], mode: int = 0o644) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") if path.name.endswith("gz") else tarfile.open(path, "w") as tar:
        for name, type_, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = type_, mode
            if type_ == FILE:
                info.size = len(text)
            else:
                info.linkname = text
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def make_zip(path: Path, *members: tuple[str, int, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode, text in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, text)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/app.py").write_text("app = 1\n")
    return tmp_path / "tree"


def git(repository: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.com", *arguments]
    return subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four commits: tag v1 and branch side on the first, branch main on the last."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=main")
    for number in (1, 2, 3, 4):
        (path / "app.py").write_text(f"app = {number}\n")
        git(path, "add", ".")
        git(path, "commit", "--quiet", "--message", str(number))
        if number == 1:
            git(path, "tag", "--annotate", "--message", "one", "v1")
    git(path, "branch", "side", "v1")
    return path


@pytest.mark.parametrize(
    ("version", "text"), [("", "4"), ("main", "4"), ("side", "1"), ("v1", "1"), ("FULL", "2"), ("SHORT", "2")]
)
@pytest.mark.parametrize("warm", [False, True], ids=["first", "with a mirror"])
def test_git_by_branch_tag_and_commit(tmp_path: Path, repository: Path, version: str, text: str, warm: bool) -> None:
    second = git(repository, "rev-parse", "main~2")
    version = {"FULL": second, "SHORT": second[:10]}.get(version, version)
    if warm:
        resolve(tmp_path, repository.as_uri(), "main")
    source = resolve(tmp_path, repository.as_uri(), version)
    assert source.kind == "git"
    assert source.version == git(repository, "rev-parse", f"{version or 'main'}^{{commit}}")
    assert contents(source) == {"app.py": f"app = {text}\n"}


def test_git_follows_a_branch_that_moves_and_forgets_one_that_is_gone(tmp_path: Path, repository: Path) -> None:
    second = git(repository, "rev-parse", "main~2")
    resolve(tmp_path, repository.as_uri(), second[:10])
    git(repository, "branch", "--force", "side", second)
    assert resolve(tmp_path, repository.as_uri(), "side").version == second
    git(repository, "branch", "-D", "side")
    with pytest.raises(core.SourceError, match=r"^app_version: 'side' is no branch, tag or commit of file:.*ls-remote"):
        resolve(tmp_path, repository.as_uri(), "side")


def told(source: str, since: str, until: str, cache: Path) -> list[str]:
    """Return the subjects of commits, without names and persons."""
    lines = core.commits(core.Request(source), since, until, cache)
    return [re.sub(r"[0-9a-f]{7,} .*?: ", "", line) for line in lines]


def test_what_is_new_since_a_commit_is_told(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, fourth = (git(repository, "rev-parse", name) for name in ("main~3", "main~2", "main"))
    url, cache = repository.as_uri(), tmp_path / "log"
    assert told(url, second, fourth, cache) == ["4", "3"]
    assert told(url, fourth, second, cache) == ["- 4", "- 3"]
    assert told(url, fourth, fourth, cache) == []
    # Neither of these is the other's past.
    git(repository, "checkout", "--quiet", "side")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "aside")
    side = git(repository, "rev-parse", "side")
    assert told(url, second, side, cache) == ["aside", "- 2"]
    monkeypatch.setattr(core, "MOST_COMMITS", 2)
    assert told(url, first, fourth, cache) == ["4", "3", "and more before these"]


@pytest.mark.parametrize(
    ("source", "since"),
    [("URL", "a" * 40), ("URL", "v1"), ("URL", ""), ("pypi:a==1", "a" * 40), ("file:///x", "a" * 40)],
)
def test_what_git_does_not_know_is_not_told(tmp_path: Path, repository: Path, source: str, since: str) -> None:
    fourth = git(repository, "rev-parse", "main")
    assert told(source.replace("URL", repository.as_uri()), since, fourth, tmp_path / "log") == []


@pytest.mark.parametrize("version", ["nowhere", "v9", "a" * 40])
def test_a_version_that_is_missing_is_named(tmp_path: Path, repository: Path, version: str) -> None:
    with pytest.raises(core.SourceError, match=f"^app_version: '{version}' is no branch, tag or commit"):
        resolve(tmp_path, repository.as_uri(), version)


def test_a_repository_that_cannot_be_read_is_named(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(
        core.SourceError, match=r"(?s)^app_source: 'file:///nowhere' cannot be read with git: .*app_source_key"
    ):
        resolve(tmp_path, "file:///nowhere", "main")
    (repository / ".gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = file:///nowhere\n')
    git(repository, "update-index", "--add", "--cacheinfo", "160000", "a" * 40, "x")
    git(repository, "add", ".gitmodules")
    git(repository, "commit", "--quiet", "--message", "submodule")
    with pytest.raises(core.SourceError, match=r"^app_source: a submodule of 'file:"):
        resolve(tmp_path, repository.as_uri(), "main")


def test_a_local_repository_is_taken_at_its_version_or_as_it_lies_there(tmp_path: Path, repository: Path) -> None:
    (repository / ".gitignore").write_text("*.log\n/build/\n")
    (repository / "build").mkdir()
    for name in ("debug.log", "build/x", "new.py"):
        (repository / name).write_text("")
    assert contents(resolve(tmp_path, repository, "v1")) == {"app.py": "app = 1\n"}
    lying = resolve(tmp_path, repository)
    assert (lying.kind, sorted(contents(lying))) == ("directory", [".gitignore", "app.py", "new.py"])


def test_no_option_of_git_can_stand_in_a_url(tmp_path: Path, repository: Path) -> None:
    for source in (
        f"git+--upload-pack=touch {tmp_path}/ran;",
        f"git+ext::touch {tmp_path}/ran",
        "ssh://-oProxyCommand=x/y",
    ):
        with pytest.raises(core.SourceError, match=r"^app_source: .*is not the URL of a git repository: write it as"):
            resolve(tmp_path, source)
    assert not (tmp_path / "ran").exists()


def test_the_same_tree_has_the_same_digest_from_wherever_it_comes(tmp_path: Path, repository: Path, tree: Path) -> None:
    tar = make_tar(tmp_path / "app.tar.gz", ("app-1", DIRECTORY, ""), ("app-1/app.py", FILE, "app = 1\n"))
    zipped = make_zip(tmp_path / "app.zip", ("app.py", 0, "app = 1\n"))
    sources = [resolve(tmp_path, origin) for origin in (tree, tar, zipped)]
    sources.append(resolve(tmp_path, repository.as_uri(), "v1"))
    assert [source.kind for source in sources] == ["directory", "archive", "archive", "git"]
    assert {source.digest for source in sources} == {DIGEST}
    os.utime(tree / "app.py", (0, 0))
    assert resolve(tmp_path, tree).digest == DIGEST


@pytest.mark.parametrize("change", ["content", "name", "mode", "added"])
def test_another_tree_has_another_digest(tmp_path: Path, tree: Path, change: str) -> None:
    app = tree / "app.py"
    changes: dict[str, Callable[[], object]] = {
        "content": lambda: app.write_text("app = 2\n"),
        "name": lambda: app.rename(tree / "App.py"),
        "mode": lambda: app.chmod(0o755),
        "added": (tree / "empty").mkdir,
    }
    changes[change]()
    assert resolve(tmp_path, tree).digest != DIGEST


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ((), ["app.py", "docs/a.md", "tests/data/x.csv"]),
        (("docs",), ["app.py", "tests/data/x.csv"]),
        (("*.md", "tests/data"), ["app.py"]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_excluded_is_left_out(
    tmp_path: Path, tree: Path, exclude: tuple[str, ...], left: list[str], packed: bool
) -> None:
    for name in (".git/HEAD", ".venv/x.py", "a/__pycache__/x.pyc", "node_modules/x", "docs/a.md", "tests/data/x.csv"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("")
    origin = Path(shutil.make_archive(str(tmp_path / "app"), "gztar", tree)) if packed else tree
    assert sorted(contents(resolve(tmp_path, origin, exclude=exclude))) == left


def test_a_relative_path_starts_at_the_base_and_links_inside_stay(tmp_path: Path, tree: Path) -> None:
    (tree / "lib").mkdir()
    (tree / "lib/app.py").symlink_to("../app.py")
    source = resolve(tmp_path, "./tree", base=str(tmp_path))
    assert contents(source) == {"app.py": "app = 1\n", "lib/app.py": "-> ../app.py"}


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../..", "lib/../../x"])
def test_a_link_out_of_a_directory_is_refused(tmp_path: Path, tree: Path, target: str) -> None:
    (tree / "link").symlink_to(target)
    with pytest.raises(core.SourceError, match=f"^app_source: 'link' is a link to '{target}', outside the source"):
        resolve(tmp_path, tree)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("../app.py", FILE, "")], r"'\.\./app\.py' lies outside the root"),
        ([("a/../../app.py", FILE, "")], "lies outside the root"),
        ([("/etc/app.py", FILE, "")], "'/etc/app.py' lies outside the root"),
        ([("a.py", FILE, ""), ("l", LINK, "/etc")], "'l' is a link to '/etc', outside"),
        ([("a.py", FILE, ""), ("l", LINK, "../x")], r"'l' is a link to '\.\./x', outside"),
        ([("top/a.py", FILE, ""), ("top/l", LINK, "..")], r"'l' is a link to '\.\.', outside"),
        ([("a.py", FILE, ""), ("a/up", LINK, ".."), ("x", LINK, "a/up/..")], "write it without '..'"),
        (
            [("a.py", FILE, ""), ("a/b/x", FILE, ""), ("l", LINK, "a"), ("l/b/y", FILE, "")],
            "'l/b/y' lies behind a link",
        ),
        ([("a.py", FILE, ""), ("null", DEVICE, "")], "'null' is neither a file, a directory nor a link"),
        ([("a.py", FILE, ""), ("b.py", HARD, "/etc/shadow")], "'b.py' is neither a file"),
        ([("a", DIRECTORY, "")], "holds no file"),
    ],
)
def test_an_unsafe_tar_archive_is_refused(tmp_path: Path, members: list[tuple[str, bytes, str]], reason: str) -> None:
    with pytest.raises(core.SourceError, match=f"^app_source: .*{reason}"):
        resolve(tmp_path, make_tar(tmp_path / "app.tar", *members))
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("name", "mode", "text", "reason"),
    [
        ("../app.py", 0, "", "lies outside the root"),
        ("/app.py", 0, "", "lies outside the root"),
        ("link", 0o120777, "/etc/passwd", "'link' is a link to '/etc/passwd', outside"),
        ("null", 0o020666, "", "'null' is neither"),
        ("tool", 0o104755, "", "'tool' has a set-uid"),
    ],
)
def test_an_unsafe_zip_archive_is_refused(tmp_path: Path, name: str, mode: int, text: str, reason: str) -> None:
    with pytest.raises(core.SourceError, match=f"^app_source: .*{reason}"):
        resolve(tmp_path, make_zip(tmp_path / "app.zip", (name, mode, text)))


# A plain tar file has no checksum over its contents.
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *itertools.product(["app.tar", "app.tar.gz", "app.tar.bz2", "app.tar.xz", "app.zip"], ["cut short", "not one"]),
        *itertools.product(["app.tar.gz", "app.tar.bz2", "app.tar.xz", "app.zip"], ["changed in its middle"]),
    ],
)
def test_a_damaged_archive_is_refused(tmp_path: Path, tree: Path, name: str, damage: str) -> None:
    noise = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(250))
    (tree / "noise").write_bytes(noise)
    kind = {"tar": "tar", "gz": "gztar", "bz2": "bztar", "xz": "xztar", "zip": "zip"}[name.rpartition(".")[2]]
    path = Path(shutil.make_archive(str(tmp_path / "app"), kind, tree))
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "cut short": data[:middle],
            "changed in its middle": data[:middle] + b"?" * 64 + data[middle + 64 :],
            "not one": b"<html>404</html>",
        }[damage]
    )
    with pytest.raises(core.SourceError, match=r"(?s)^app_source: '.*app\..*' cannot be read as an archive: "):
        resolve(tmp_path, path)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a directory; /private/ with a password or a token only, /moved/ from another address."""

    def do_GET(self) -> None:
        seen = self.headers.get("Authorization", "")
        self.server.seen.append((self.path, seen))  # type: ignore[attr-defined]
        basic = "Basic " + base64.b64encode(f"oauth2:{TOKEN}".encode()).decode()
        if self.path.startswith("/private/") and seen not in (basic, f"Bearer {TOKEN}"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="private"')
        elif self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/{self.path[7:]}")  # type: ignore[attr-defined]
        else:
            super().do_GET()
            return
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    make_tar(tmp_path / "www/app.tar.gz", ("app.py", FILE, "app = 1\n"))
    shutil.copytree(tmp_path / "www", tmp_path / "www/private")
    handler = functools.partial(Handler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as instance:
        instance.seen = []  # type: ignore[attr-defined]
        instance.url = f"http://127.0.0.1:{instance.server_port}"  # type: ignore[attr-defined]
        instance.sha = hashlib.sha256((tmp_path / "www/app.tar.gz").read_bytes()).hexdigest()  # type: ignore[attr-defined]
        threading.Thread(target=instance.serve_forever, args=(0.01,), daemon=True).start()
        yield instance
        instance.shutdown()


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_an_archive_behind_a_url_is_fetched_once(tmp_path: Path, server: Any, prefix: str) -> None:
    for _time in range(2):
        source = resolve(tmp_path, f"{server.url}/app.tar.gz", checksum=prefix + server.sha)
        assert (source.kind, source.digest, source.version) == ("archive", DIGEST, server.sha[:12])
    assert server.seen == [("/app.tar.gz", "")]


@pytest.mark.parametrize(
    ("path", "checksum", "message"),
    [
        ("app.tar.gz", "0" * 64, "^app_source_checksum: '0{64}' is not the SHA-256 of 'http.*', which is '{sha}'"),
        ("app.tar.gz", "", "^app_source: '.*' is an archive behind a URL and app_source_checksum is not set"),
        ("app.tar.gz", "abc", "^app_source_checksum: 'abc' is not a SHA-256 digest"),
        ("app.tar.gz", "A" * 64, "^app_source_checksum: 'A{64}' is not a SHA-256 digest"),
        ("app.tar.gz", "md5:" + "0" * 32, "^app_source_checksum: 'md5:0+' is not a SHA-256 digest"),
        ("gone.tar.gz", "0" * 64, "^app_source: '.*/gone.tar.gz' cannot be fetched: .*404.*app_source_token"),
        ("private/app.tar.gz", "0" * 64, "^app_source: '.*' cannot be fetched: .*401.*app_source_token"),
    ],
)
def test_a_url_that_does_not_give_what_was_named(
    tmp_path: Path, server: Any, path: str, checksum: str, message: str
) -> None:
    for _time in range(2):
        with pytest.raises(core.SourceError, match=message.replace("{sha}", server.sha)):
            resolve(tmp_path, f"{server.url}/{path}", checksum=checksum)


def test_the_checksum_of_a_local_archive_counts_too(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "app.tar.gz", ("app.py", FILE, "app = 1\n"))
    assert resolve(tmp_path, path, checksum=hashlib.sha256(path.read_bytes()).hexdigest()).digest == DIGEST
    with pytest.raises(core.SourceError, match=r"^app_source_checksum: '0+' is not the SHA-256"):
        resolve(tmp_path, path, checksum="0" * 64)


@pytest.mark.parametrize(
    ("source", "version", "requirement"),
    [
        ("pypi:httpbin==0.10.2", "", "httpbin==0.10.2"),
        ("pypi:httpbin", "0.10.2", "httpbin==0.10.2"),
        ("pypi:httpbin==0.10.2", "0.10.2", "httpbin==0.10.2"),
        ("pypi:zope.x[a,b]==1!2.0rc1+local", "", "zope.x[a,b]==1!2.0rc1+local"),
    ],
)
def test_a_package_is_pinned(tmp_path: Path, source: str, version: str, requirement: str) -> None:
    found = resolve(tmp_path, source, version)
    assert (found.kind, found.requirement, found.archive) == ("package", requirement, None)
    assert found.digest == resolve(tmp_path, f"pypi:{requirement}").digest
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("source", "version", "message"),
    [
        ("pypi:httpbin", "", "^app_source: 'pypi:httpbin' names no version"),
        ("pypi:httpbin==0.10.2", "0.9", "^app_version: '0.9' contradicts app_source: 'pypi:httpbin==0.10.2'"),
        ("pypi:httpbin>=0.9", "", "^app_source: 'pypi:httpbin>=0.9' does not name a package"),
        ("pypi:", "1", "does not name a package: write 'pypi:name==version'"),
        ("pypi:--index-url=http://x", "1", "does not name a package"),
        ("pypi:a==1 b==2", "", "does not name a package"),
        ("", "", "^app_source: '' is empty"),
        (" app", "", "^app_source: ' app' is empty or holds spaces"),
        ("app\nx", "", r"^app_source: 'app\\nx' is empty or holds .* control characters"),
        ("nowhere", "", "^app_source: 'nowhere' is neither a directory nor a file on the controller"),
        ("tree/app.py", "", "^app_source: 'tree/app.py' is a file but no archive: its name must end in one of .tar,"),
        ("ftp://example.com/app", "", "^app_source: 'ftp://.*' has a scheme that is not known: use https, ssh"),
        ("https://[app", "", r"^app_source: 'https://\[app' is not a URL"),
        ("file:///app", "-x", "^app_version: '-x' is not the name of a branch, a tag, a commit"),
        ("file:///app", "a..b", r"^app_version: 'a\.\.b' is not the name"),
        ("file:///app", "a\n", r"^app_version: 'a\\n' is not the name"),
    ],
)
def test_what_cannot_be_a_source_is_said_with_variable_and_value(
    tmp_path: Path, tree: Path, source: str, version: str, message: str
) -> None:
    with pytest.raises(core.SourceError, match=message):
        resolve(tmp_path, source, version, base=str(tmp_path))


@pytest.mark.parametrize("url", ["https://{}@h/r.git", "https://me:{}@h/r", "git+https://{}@h/r", "ssh://git:{}@h/r"])
def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(core.SourceError, match="put the token into app_source_token") as failure:
        resolve(tmp_path, url.format(TOKEN))
    assert TOKEN not in str(failure.value)


@pytest.fixture
def spies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git and an ssh that note their arguments; that ssh runs the command on this host."""
    log = tmp_path / "arguments"
    texts = {
        "git": f'exec {shutil.which("git")} "$@"',
        "ssh": f'for last; do [ "$before" = -i ] && stat -c %a "$last" >> {log} && cp "$last" {tmp_path}/seen-key; '
        'before="$last"; done; exec sh -c "$last"',
    }
    for name, text in texts.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >> {log}\n{text}\n')
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return log


def leaks(root: Path, secret: str) -> list[str]:
    return [str(path) for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_a_token_opens_a_repository_and_is_kept_nowhere(
    tmp_path: Path, repository: Path, server: Any, spies: Path
) -> None:
    git(repository, "clone", "--quiet", "--bare", ".", str(tmp_path / "www/private/shop.git"))
    git(tmp_path / "www/private/shop.git", "update-server-info")
    url = f"{server.url}/private/shop.git"
    assert contents(resolve(tmp_path, url, "v1", token=TOKEN)) == {"app.py": "app = 1\n"}
    assert leaks(tmp_path / "cache", TOKEN) == []
    assert "fetch" in spies.read_text()
    assert TOKEN not in spies.read_text()
    with pytest.raises(core.SourceError, match=r"(?s)^app_source: .*app_source_token") as failure:
        resolve(tmp_path, url + "x", token="wrong-" + TOKEN)
    assert TOKEN not in str(failure.value)


def test_a_key_opens_a_repository_and_is_kept_nowhere(tmp_path: Path, repository: Path, spies: Path) -> None:
    source = resolve(tmp_path, f"ssh://git@git.example.com{repository}", "v1", key=KEY)
    assert contents(source) == {"app.py": "app = 1\n"}
    assert (tmp_path / "seen-key").read_text() == KEY + "\n"
    assert "600" in spies.read_text().splitlines()
    assert "key-of-nobody" not in spies.read_text()
    assert leaks(tmp_path / "cache", "key-of-nobody") == []


def test_what_git_says_is_shown_without_the_secrets(tmp_path: Path) -> None:
    with pytest.raises(core.SourceError) as failure:
        core.Git(TOKEN, "", tmp_path)("no-such-" + TOKEN)
    assert str(failure.value).startswith("git: 'no-such-********' is not a git command")


def test_a_token_goes_to_the_named_host_only(tmp_path: Path, server: Any) -> None:
    for path in ("private/app.tar.gz", "moved/app.tar.gz"):
        resolve(tmp_path / path[:3], f"{server.url}/{path}", checksum=server.sha, token=TOKEN)
    bearer = f"Bearer {TOKEN}"
    assert server.seen == [("/private/app.tar.gz", bearer), ("/moved/app.tar.gz", bearer), ("/app.tar.gz", "")]
    assert leaks(tmp_path / "pri", TOKEN) == leaks(tmp_path / "mov", TOKEN) == []


# Sources that are pinned.


@pytest.fixture
def signed(tmp_path: Path, repository: Path) -> dict[str, str]:
    """Keys of alice and mallory; alice has signed tag v2 and the commit that main ends with, mallory tag v3."""
    keys = {}
    for name in ("alice", "mallory"):
        path = tmp_path / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        keys[name] = f"{name}@example.com {' '.join(path.with_suffix('.pub').read_text().split()[:2])}"
    for name, tag in (("alice", "v2"), ("mallory", "v3")):
        git(repository, "config", "gpg.format", "ssh")
        git(repository, "config", "user.signingkey", str(tmp_path / name))
        git(repository, "tag", "--sign", "--message", tag, tag)
    git(repository, "config", "user.signingkey", str(tmp_path / "alice"))
    (repository / "app.py").write_text("app = 5\n")
    git(repository, "commit", "--quiet", "--all", "--gpg-sign", "--message", "5")
    return keys


@pytest.mark.parametrize("version", ["v2", "main", ""])
def test_what_a_signer_has_signed_is_taken(
    tmp_path: Path, repository: Path, signed: dict[str, str], version: str
) -> None:
    source = resolve(tmp_path, repository.as_uri(), version, verify="signature", signers=signed["alice"])
    assert contents(source) == {"app.py": f"app = {4 if version == 'v2' else 5}\n"}


@pytest.mark.parametrize("version", ["v1", "v3", "side"])
def test_what_no_signer_has_signed_is_refused(
    tmp_path: Path, repository: Path, signed: dict[str, str], version: str
) -> None:
    """One is not signed, one by a stranger; neither leaves an archive."""
    said = rf"(?s)^app_version: '{version}' of .* has no signature of anybody in app_source_signers: .*Sign it"
    with pytest.raises(core.SourceError, match=said):
        resolve(tmp_path, repository.as_uri(), version, verify="signature", signers=signed["alice"])
    assert list((tmp_path / "cache").glob("source-*")) == []


def test_settings_of_git_do_not_make_a_signature_good(tmp_path: Path, repository: Path, signed: dict[str, str]) -> None:
    (tmp_path / ".gitconfig").write_text('[gpg "ssh"]\n  program = /bin/true\n')
    with pytest.raises(core.SourceError, match="has no signature"):
        resolve(tmp_path, repository.as_uri(), "v3", verify="signature", signers=signed["alice"])


def test_a_commit_can_be_asked_for(tmp_path: Path, repository: Path) -> None:
    commit = git(repository, "rev-parse", "v1^{commit}")
    assert resolve(tmp_path, repository.as_uri(), commit, verify="commit").version == commit
    for version in ("v1", "main", "", commit[:12]):
        with pytest.raises(core.SourceError, match=r"^app_version: .* is not a whole commit"):
            resolve(tmp_path, repository.as_uri(), version, verify="commit")


@pytest.mark.parametrize("verify", ["commit", "signature"])
def test_nothing_but_a_repository_can_be_pinned_like_that(tmp_path: Path, tree: Path, verify: str) -> None:
    for source in (tree, "pypi:httpbin==0.10.2"):
        with pytest.raises(core.SourceError, match=rf"^app_source_verify: '{verify}' is for git repositories"):
            resolve(tmp_path, source, verify=verify)


def test_signers_are_named(tmp_path: Path, repository: Path) -> None:
    for signers in ("", "# nobody", "alice", "alice@example.com AAAA"):
        with pytest.raises(core.SourceError, match=r"^app_source_signers: names nobody"):
            resolve(tmp_path, repository.as_uri(), "v1", verify="signature", signers=signers)


def test_an_archive_is_known_by_its_digest(tmp_path: Path, tree: Path) -> None:
    source = resolve(tmp_path, tree)
    assert source.archive is not None
    assert source.checksum == hashlib.sha256(Path(source.archive).read_bytes()).hexdigest()
