"""The built book, and the browser that opens it, which all tests of its pages share."""

import contextlib
import functools
import http.server
import shutil
import subprocess
import sysconfig
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SOFTWARE_WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The real book, its notebooks not executed."""
    copy = tmp_path_factory.mktemp("book")
    leave_out = shutil.ignore_patterns("_build", "__pycache__", ".ipynb_checkpoints")
    for name in ("book", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=leave_out)
    config = (ROOT / "_config.yml").read_text()
    assert "execute_notebooks: cache" in config
    (copy / "_config.yml").write_text(
        config.replace("execute_notebooks: cache", "execute_notebooks: 'off'")
    )
    shutil.copy(ROOT / "_toc.yml", copy)
    build = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    done = subprocess.run(
        [build, "build", "book/", "-W", "--keep-going"], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return copy / "book" / "_build" / "html"


@pytest.fixture(scope="session")
def start():
    """Start browsers, with the given flags; all are closed in the end."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]'")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("no Chromium is installed; on Debian: apt-get install chromium")
    sync_api.expect.set_options(timeout=20_000)  # a busy machine may take its time
    with sync_api.sync_playwright() as playwright:
        yield lambda flags: playwright.chromium.launch(executable_path=found, args=FLAGS + flags)


@pytest.fixture(scope="session")
def browser(start):
    with contextlib.closing(start(SOFTWARE_WEBGL)) as running:
        yield running


@pytest.fixture(scope="session")
def site(built):
    """The built book on a server of this machine."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=built)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def new_page(browser):
    """Open pages whose complaints are collected in `page.complaints`."""
    with contextlib.ExitStack() as contexts:

        def open_page(using=browser, **options):
            context = contexts.enter_context(
                contextlib.closing(
                    using.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
                )
            )
            page = context.new_page()
            page.complaints = complaints = []
            page.on(
                "console",
                lambda message: (
                    message.type == "error" and complaints.append(f"{page.url}: {message.text}")
                ),
            )
            # A browser asks a server for this by itself, on its first page.
            page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
            page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
            page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
            page.on("request", lambda request: check_home(request.url, complaints))
            page.on(
                "response",
                lambda response: (
                    response.status >= 400 and complaints.append(f"missing: {response.url}")
                ),
            )
            return page

        yield open_page


def check_home(address, complaints):
    if not address.startswith(("file:", "data:", "blob:", "http://127.0.0.1:")):
        complaints.append(f"foreign: {address}")
