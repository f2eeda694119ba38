"""Downloads from a server of our own: mirrors, checksums, interruptions, several processes."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dataset_files import digits, idx, tar, write_cifar10

from allgrad.errors import DatasetError
from allgrad.vision.datasets import CIFAR10, MNIST
from allgrad.vision.datasets.files import atomic_file


class Handler(http.server.SimpleHTTPRequestHandler):
    requests: list[str]

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    found.folder, found.requests = folder, []
    found.url = f"http://127.0.0.1:{found.server_port}/"
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def offer_mnist(server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = []
    for name, _ in MNIST.resources:
        images, labels = digits(6)
        contents = gzip.compress(idx(images if "images" in name else labels), mtime=0)
        (server.folder / name).write_bytes(contents)
        resources.append((name, hashlib.md5(contents).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", tuple(resources))
    monkeypatch.setattr(MNIST, "mirrors", (server.url,))


def test_mnist_is_fetched_once(server, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    offer_mnist(server, monkeypatch)
    dataset = MNIST(tmp_path / "root", download=True, verify=True)
    assert (dataset.data == digits(6)[0]).all()
    MNIST(tmp_path / "root", download=True)
    assert len(server.requests) == 4
    names = sorted(p.name for p in dataset.raw_folder.iterdir() if p.suffix != ".gz")
    assert names == [".lock", *sorted(n.removesuffix(".gz") for n, _ in MNIST.resources)]


def test_a_mirror_with_a_wrong_file_is_passed_over(server, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    offer_mnist(server, monkeypatch)
    (server.folder / "bad").mkdir()
    for name, _ in MNIST.resources:
        (server.folder / "bad" / name).write_bytes(b"an error page")
    mirrors = (server.url + "absent/", server.url + "bad", server.url)
    monkeypatch.setattr(MNIST, "mirrors", mirrors)
    assert len(MNIST(tmp_path / "root", download=True)) == 6
    monkeypatch.setattr(MNIST, "mirrors", mirrors[:2])
    with pytest.raises(DatasetError) as caught:
        MNIST(tmp_path / "other", download=True)
    text = str(caught.value)
    assert "the download failed" in text
    assert "HTTP Error 404" in text
    assert f"expected MD5 {MNIST.resources[0][1]}, found" in text
    assert list((tmp_path / "other/MNIST/raw").iterdir()) == [tmp_path / "other/MNIST/raw/.lock"]


def test_offline_gives_one_clear_message(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(MNIST, "mirrors", ("http://127.0.0.1:9/",))
    with pytest.raises(DatasetError) as caught:
        MNIST(tmp_path, download=True)
    text = str(caught.value)
    assert f"Put these files into {tmp_path / 'MNIST' / 'raw'}" in text
    assert "train-images-idx3-ubyte.gz  (MD5 f68b3c2dcbeaaa9fbdd348bbdeb94873)" in text
    assert "Connection refused" in text
    assert caught.value.__cause__ is None


def test_cifar_archive_is_fetched_and_unpacked(server, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    archive = server.folder / "cifar-10-python.tar.gz"
    tar(write_cifar10(tmp_path / "elsewhere"), archive)
    checksum = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "archive", (archive.name, checksum))
    monkeypatch.setattr(CIFAR10, "mirrors", (server.url,))
    dataset = CIFAR10(tmp_path / "root", download=True)
    assert len(dataset) == 15
    unpacked = tmp_path / "root" / "cifar-10-batches-py"
    assert oct(unpacked.stat().st_mode & 0o777) == "0o755"
    (tmp_path / "root" / ".cifar-10-batches-py.killed").mkdir()
    (unpacked / "data_batch_1").unlink()  # an unpacking by hand that was interrupted
    assert len(CIFAR10(tmp_path / "root", download=True)) == 15
    assert len(server.requests) == 1
    assert not (tmp_path / "root" / ".cifar-10-batches-py.killed").exists()


def test_a_file_is_complete_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def interrupted() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with atomic_file(path) as file:
        file.write(b"whole")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"whole"]


def test_several_processes_fetch_one_copy(server, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    offer_mnist(server, monkeypatch)
    code = (
        "from allgrad.vision.datasets import MNIST\n"
        f"MNIST.resources, MNIST.mirrors = {MNIST.resources!r}, {MNIST.mirrors!r}\n"
        f"print(int(MNIST({str(tmp_path / 'root')!r}, download=True).data.sum()))\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {p.communicate(timeout=60)[0].strip() for p in processes}
    assert outputs == {str(int(digits(6)[0].astype(np.int64).sum()))}
    assert len(server.requests) == 4
