"""Web addresses: read whole or not at all, from the host that the user named."""

import base64
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from http_server import running

from bcos_cli.data import remote
from bcos_cli.data.index import load_index
from bcos_cli.data.remote import open_http
from bcos_core import BcosError


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.logins.append(self.headers.get("Authorization"))
        answer = self.server.answer(self.path)
        if answer is None:
            return  # hang up
        status, headers, body = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def answering(answer):
    """A server whose answers are (status, headers, body)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.answer, server.asked, server.logins = answer, [], []
    with running(server):
        yield server


def read(address):
    with open_http(address) as stream:
        return stream.read()


def leading_to(target):
    return lambda path: (302, {"Location": target}, b"") if path == "/a" else (200, {"Content-Length": "2"}, b"ok")


def test_a_server_may_lead_to_its_own_addresses():
    with answering(leading_to("/b")) as server:
        assert read(f"{server.url}/a") == b"ok"
        assert server.asked == ["/a", "/b"]


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "http://localhost:1/x"]
)
def test_a_server_cannot_lead_elsewhere(target):
    with answering(leading_to(target)) as server:
        with pytest.raises(
            OSError, match=r"^it leads to .*, another scheme or host; give that address if you trust it$"
        ):
            read(f"{server.url}/a")
        assert server.asked == ["/a"]


def test_another_host_is_not_asked():
    with answering(lambda _: (200, {}, b"secret")) as other, answering(leading_to(f"{other.url}/index.json")) as server:
        server.answer = lambda _: (302, {"Location": f"{other.url}/index.json"}, b"")
        with pytest.raises(BcosError, match=r"it leads to http://127.0.0.1:\d+, another scheme or host"):
            load_index(f"{server.url}/a")
        assert other.asked == []


def test_a_circle_of_redirections_ends():
    with answering(lambda _: (302, {"Location": "/a"}, b"")) as server, pytest.raises(OSError, match="302"):
        read(f"{server.url}/a")


def test_characters_are_not_patterns():
    with answering(lambda _: (200, {"Content-Length": "0"}, b"")) as server:
        read(f"{server.url}/a[1-3]{{x,y}}.tar")
        assert len(server.asked) == 1


def test_what_breaks_off_is_an_error():
    with answering(lambda _: (200, {"Content-Length": "100"}, b"x" * 40)) as server, open_http(server.url) as stream:
        assert stream.read(40) == b"x" * 40
        with pytest.raises(OSError, match="the connection broke off 60 bytes before the end"):
            stream.read(1)


def test_a_server_that_is_busy_is_asked_again(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0)
    left = [503, 429, 500]
    with answering(lambda _: (left.pop() if left else 200, {"Content-Length": "2"}, b"ok")) as server:
        assert read(server.url) == b"ok"
        assert len(server.asked) == 4
    with answering(lambda _: (503, {}, b"")) as server:
        with pytest.raises(OSError, match="503 Service Unavailable"):
            read(server.url)
        assert len(server.asked) == remote.ATTEMPTS
    with answering(lambda _: (404, {}, b"")) as server:
        with pytest.raises(OSError, match="404 Not Found"):
            read(server.url)
        assert len(server.asked) == 1


def test_a_server_that_hangs_up_is_asked_again(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0)
    left = [None, None]
    with answering(lambda _: left.pop() if left else (200, {"Content-Length": "2"}, b"ok")) as server:
        assert read(server.url) == b"ok"
        assert len(server.asked) == 3
    with answering(lambda _: None) as server:
        with pytest.raises(OSError, match="Remote end closed connection without response"):
            read(server.url)
        assert len(server.asked) == remote.ATTEMPTS


def test_what_a_server_says_is_a_short_line():
    with answering(lambda _: (302, {"Location": "http://\x1bx" + "h" * 5000}, b"")) as server:
        with pytest.raises(OSError, match="it leads to") as error:
            read(server.url)
        assert len(str(error.value)) < 300
        assert str(error.value).isprintable()


def test_a_name_and_a_password_are_sent_to_their_host_alone():
    with answering(leading_to("/b")) as server:
        assert read(server.url.replace("http://", "http://me:p%40ss@") + "/a") == b"ok"
        assert server.logins == ["Basic " + base64.b64encode(b"me:p@ss").decode()] * 2


@pytest.mark.parametrize("address", ["http://", "http://[", "http://h:x/", "http://h/a b", "http://h/\n", "http://h/ä"])
def test_what_is_no_address_is_one_error(address):
    with pytest.raises(OSError, match=r"."):
        read(address)


def test_no_one_there_is_one_error():
    with pytest.raises(OSError, match="refused"):
        read("http://127.0.0.1:1/a")
