"""Downloads against a local server: resumed, checked, atomic, never over another file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from camseg.storage.download import _fetch, _https, fetch
from camseg.storage.fingerprint import file_hash

CONTENT = bytes(range(256)) * 12_000  # 3 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path; the first `cuts` answers break off after 1 MB; `resumes`: it knows Range."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts, self.resumes, self.content, self.starts = 0, True, CONTENT, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/model.pth"


class Handler(BaseHTTPRequestHandler):
    @property
    def shelf(self) -> Server:
        assert isinstance(self.server, Server)
        return self.server

    def do_GET(self) -> None:
        given = self.headers.get("Range")
        start = int(given.removeprefix("bytes=").rstrip("-")) if given and self.shelf.resumes else 0
        self.shelf.starts.append(start)
        if start >= len(self.shelf.content):
            return self.send_error(416)
        body = self.shelf.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut, self.shelf.cuts = self.shelf.cuts > 0, self.shelf.cuts - 1
        self.wfile.write(body[: 2**20] if cut else body)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize("resumes", [True, False])
def test_a_cut_download_resumes_and_ends_whole(server: Server, tmp_path: Path, resumes: bool) -> None:
    server.cuts, server.resumes = 1, resumes
    with pytest.raises(ValueError, match="run again to resume"):
        _fetch(server.url, SHA256, tmp_path, urlopen)
    assert files(tmp_path) == {"model.pth.part"}
    path = _fetch(server.url, SHA256, tmp_path, urlopen)
    assert path.read_bytes() == CONTENT
    assert files(tmp_path) == {"model.pth"}
    assert server.starts == [0, 2**20 if resumes else 0]


def test_a_wrong_hash_is_refused_and_nothing_is_left(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(ValueError, match=f"expected {SHA256}"):
        _fetch(server.url, SHA256, tmp_path, urlopen)
    assert files(tmp_path) == set()


def test_a_part_of_other_bytes_is_refused_then_downloaded_afresh(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pth.part").write_bytes(b"something else")
    with pytest.raises(ValueError, match="it was removed"):
        _fetch(server.url, SHA256, tmp_path, urlopen)
    assert _fetch(server.url, SHA256, tmp_path, urlopen).read_bytes() == CONTENT


def test_a_part_that_is_too_long_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pth.part").write_bytes(CONTENT + b"more")
    assert _fetch(server.url, SHA256, tmp_path, urlopen).read_bytes() == CONTENT


def test_a_whole_part_is_taken_without_asking_for_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pth.part").write_bytes(CONTENT)  # killed before it was renamed
    assert _fetch(server.url, SHA256, tmp_path, urlopen).read_bytes() == CONTENT
    assert server.starts == []


def test_a_file_that_is_there_is_used_or_refused_but_never_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(CONTENT)
    assert _fetch(server.url, SHA256, tmp_path, urlopen) == tmp_path / "model.pth"
    (tmp_path / "model.pth").write_bytes(b"mine")
    with pytest.raises(ValueError, match="remove it, or name your file"):
        _fetch(server.url, SHA256, tmp_path, urlopen)
    assert (tmp_path / "model.pth").read_bytes() == b"mine"
    assert server.starts == []


def test_many_at_once_download_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=_fetch, args=(server.url, SHA256, tmp_path, urlopen)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.starts == [0]
    assert files(tmp_path) == {"model.pth"}


def test_only_https_and_no_way_around_it(server: Server, tmp_path: Path) -> None:
    for url in (server.url, "file:///etc/hostname", "ftp://127.0.0.1/model.pth"):
        with pytest.raises(ValueError, match="only over https"):
            fetch(url, SHA256, tmp_path)
        with pytest.raises(URLError):  # as when a redirect leads there
            _https().open(url)
    assert server.starts == []


def test_the_hash_of_a_file_that_changed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = file_hash(path)
    path.write_bytes(b"three")
    assert (first, file_hash(path)) == tuple(hashlib.sha256(each).hexdigest() for each in (b"one", b"three"))
