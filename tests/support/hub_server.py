"""A hub on this machine that answers what huggingface_hub asks of the real one. Has no Xet."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 1 << 14
LFS = (".safetensors", ".bin")


@dataclass
class Repository:
    """Directories by commit, and commits by branch or tag.

    token: what must be sent to see it.   is_gated: its files need more than that.
    """

    commits: dict[str, Path]
    refs: dict[str, str]
    token: str | None = None
    is_gated: bool = False


@dataclass
class Hub:
    """Repositories by name; `asked` has every request, with the range that it asks for.

    cut_after: the next answer with more bytes of a file ends after this many.   status: if set,
    the answer to everything.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    cut_after: int | None = None
    status: int | None = None

    def put(self, name: str, directory: Path, *, branch: str = "main") -> str:
        """A commit on a branch; its name."""
        commit = hashlib.sha1(f"{name} {directory}".encode()).hexdigest()
        found = self.repositories.setdefault(name, Repository({}, {}))
        found.commits[commit] = directory
        found.refs[branch] = commit
        return commit

    def fetched(self) -> list[str]:
        """Names of the files that were sent to their ends, with their folders, as asked for."""
        return [
            path.split("/", 5)[5]
            for method, path, part in self.asked
            if method == "GET" and "/resolve/" in path and not is_piece(part)
        ]


def is_piece(part: str | None) -> bool:
    """Whether a range ends before its file does, as that of a header."""
    return part is not None and not part.endswith("-")


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        asked = urlsplit(self.path)
        path = unquote(asked.path)
        self.served.asked.append((self.command, path, self.headers["Range"]))
        if self.served.status is not None:
            self._refuse(self.served.status, "")
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, revision = "/".join(parts[2:4]), "/".join(parts[5:]) or "main"
            self._list(name, revision, has_sizes="blobs" in parse_qs(asked.query))
            return
        if parts[2:3] != ["resolve"]:
            self._refuse(404, "")
            return
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        self._send(name, revision, file)

    def _repository(self, name: str) -> Repository | None:
        found = self.served.repositories.get(name)
        sent = self.headers["Authorization"]
        if found is None or (found.token is not None and sent != f"Bearer {found.token}"):
            self._refuse(404 if sent else 401, "RepoNotFound")
            return None
        return found

    def _list(self, name: str, revision: str, *, has_sizes: bool) -> None:
        found = self._repository(name)
        if found is None:
            return
        commit = found.refs.get(revision, revision)
        if commit not in found.commits:
            self._refuse(404, "RevisionNotFound")
            return
        root = found.commits[commit]
        files = sorted(path for path in root.rglob("*") if path.is_file())
        siblings = [_facts(root, path) if has_sizes else {"rfilename": path.name} for path in files]
        body = json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, name: str, revision: str, file: str) -> None:
        found = self._repository(name)
        if found is None:
            return
        if found.is_gated:
            self._refuse(403, "GatedRepo")
            return
        commit = found.refs.get(revision, revision)
        if commit not in found.commits:
            self._refuse(404, "RevisionNotFound")
            return
        path = found.commits[commit] / file
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        content = path.read_bytes()
        whole, asked = len(content), self.headers["Range"]
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        start, content = int(first), content[: int(last) + 1 if last else whole]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{_etag(path)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{whole}")
        self.end_headers()
        if self.command == "GET":
            self._write(content[start:], None if is_piece(asked) else self.served.cut_after)

    def _write(self, content: bytes, cut: int | None) -> None:
        if cut is not None and len(content) > cut:
            self.served.cut_after = None
            self.wfile.write(content[:cut])
            self.close_connection = True
            return
        for at in range(0, len(content), PIECE):
            self.wfile.write(content[at : at + PIECE])

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest() if path.name.endswith(LFS) else _git_id(content)


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _facts(root: Path, path: Path) -> dict[str, object]:
    size = path.stat().st_size
    facts = {"rfilename": str(path.relative_to(root)), "size": size, "blobId": _etag(path)}
    if path.name.endswith(LFS):
        lfs = {"size": size, "sha256": _etag(path), "pointerSize": 134}
        return {**facts, "blobId": _git_id(b"pointer"), "lfs": lfs}
    return facts
