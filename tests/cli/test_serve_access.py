"""Whom the page of ``bcos serve`` answers, and how much it takes."""

import asyncio
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bcos_cli.serve.address import Address
from bcos_cli.serve.uploads import Limits, make_room
from bcos_core import BcosError

MEGABYTES = 0.5


@pytest.mark.parametrize(
    ("host", "asked", "answered"),
    [
        ("127.0.0.1", "127.0.0.1:7860", True),
        ("127.0.0.1", "localhost:7860", True),
        ("127.0.0.1", "LocalHost.:7860", True),
        ("127.0.0.1", "[::1]:7860", True),
        ("127.0.0.1", "[0:0:0:0:0:0:0:1]:7860", True),
        ("127.0.0.1", "localhost", False),
        ("127.0.0.1", "localhost:80", False),
        ("127.0.0.1", "evil.example:7860", False),
        ("127.0.0.1", "localhost.evil.example:7860", False),
        ("127.0.0.1", "evil.example@localhost:7860", False),
        ("127.0.0.1", "localhost:7860,evil.example", False),
        ("127.0.0.1", "192.0.2.7:7860", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", ":7860", False),
        ("127.0.0.1", "[::1:7860", False),
        ("127.0.0.2", "127.0.0.2:7860", True),
        ("::1", "[::1]:7860", True),
        ("localhost", "localhost:7860", True),
        ("0.0.0.0", "192.0.2.7:7860", True),
        ("0.0.0.0", "[2001:db8::1]:7860", True),
        ("0.0.0.0", f"{socket.gethostname()}:7860", True),
        ("::", "192.0.2.7:7860", True),
        ("0.0.0.0", "evil.example:7860", False),
        ("0.0.0.0", "192.0.2.7:80", False),
    ],
)
def test_only_own_names_and_numbers_with_the_port_are_answered(host, asked, answered):
    assert Address(host, 7860).answers_to(asked) is answered
    assert Address(host, 7860).is_origin(f"http://{asked}") is answered
    assert not Address(host, 7860).is_origin(f"https://{asked}")


def test_port_80_need_not_be_named():
    assert Address("127.0.0.1", 80).answers_to("localhost")
    assert not Address("127.0.0.1", 80).is_origin("null")


async def keep_body(scope, receive, send):
    """An application that keeps every body as a file, as Gradio does uploads."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if body:
        (scope["folder"] / f"{time.monotonic_ns()}.png").write_bytes(body)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})


@pytest.fixture
def page(tmp_path):
    """What Gradio is told to put before its own application, the address of the page, and the folder of uploads."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    from bcos_cli.serve.server import launch_options

    address = Address(port=7860)
    limits = Limits(megabytes=MEGABYTES, total_megabytes=4 * MEGABYTES)
    app = keep_body
    for middleware in reversed(launch_options(address, limits, tmp_path)["app_kwargs"]["middleware"]):
        app = middleware.cls(app, **middleware.kwargs)
    return app, address, tmp_path


def ask(page, method="GET", path="/", parts=(b"",), host="127.0.0.1:7860", **headers):
    """(Status, text) of a request whose body comes in these parts; None ends it without a word more."""
    app, _, folder = page
    waiting = [{"type": "http.request", "body": p, "more_body": k < len(parts) - 1} for k, p in enumerate(parts)]
    sent = []

    async def receive():
        if not waiting or waiting[0]["body"] is None:
            await asyncio.sleep(3600)
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    given = {"host": host, **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items() if value is not None]
    scope = {"type": "http", "method": method, "path": path, "headers": raw, "folder": folder}

    async def answer():
        await asyncio.wait_for(app(scope, receive, send), 30)
        return sent[0]["status"], b"".join(m.get("body", b"") for m in sent).decode(), dict(sent[0]["headers"])

    return answer()


def run(coroutine):
    """Run it in a thread: browser tests leave a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def asked(*arguments, **options):
    return run(ask(*arguments, **options))[:2]


def upload(page, size=10, **headers):
    """The answer to an upload of so many bytes."""
    return asked(page, "POST", "/gradio_api/upload", (bytes(size),), **headers)


def stored(page):
    return sorted(page[2].iterdir())


def test_the_page_is_served_to_those_who_name_it(page):
    for host in ("127.0.0.1:7860", "localhost:7860", "LOCALHOST.:7860", "[::1]:7860"):
        assert asked(page, host=host) == (200, "fine")


def test_a_name_that_points_here_is_refused(page):
    for host in ("evil.example", "evil.example:7860", "127.0.0.1", "localhost:1"):
        for path in ("/", "/config", "/gradio_api/info"):
            assert asked(page, path=path, host=host) == (403, f"this page is at http://127.0.0.1:7860/, not at {host}")
    assert asked(page, host=None) == (403, "this page is at http://127.0.0.1:7860/, not at an address without a name")
    assert upload(page, host="evil.example")[0] == 403
    assert stored(page) == []


def test_refusals_have_the_headers_of_the_page_too(page):
    _, _, headers = run(ask(page, host="evil.example"))
    assert headers[b"x-content-type-options"] == b"nosniff"


def test_pages_elsewhere_cannot_upload_and_programs_can(page):
    own = "http://localhost:7860"
    for origin in ("http://evil.example", "null", "https" + own[4:], "http://localhost:1", own + ".evil.example"):
        assert upload(page, origin=origin) == (403, "only the page itself may send anything here"), origin
    for site in ("cross-site", "same-site"):
        assert upload(page, sec_fetch_site=site)[0] == 403
    assert stored(page) == []
    assert upload(page)[0] == 200
    assert upload(page, origin=own, sec_fetch_site="same-origin")[0] == 200
    assert len(stored(page)) == 2


def test_links_may_lead_to_the_page(page):
    assert asked(page, sec_fetch_site="cross-site")[0] == 200


def test_what_is_not_needed_is_not_there(page):
    for path in ("/gradio_api/deep_link", "/gradio_api/deep_link/"):
        assert asked(page, path=path)[0] == 404


def test_the_oldest_uploads_go_where_new_ones_need_room(page):
    for _ in range(12):
        assert upload(page, int(MEGABYTES * 2**20))[0] == 200
        assert sum(file.stat().st_size for file in stored(page)) <= 4 * MEGABYTES * 2**20
    before = stored(page)
    assert len(before) > 1
    assert upload(page, int(MEGABYTES * 2**20))[0] == 200
    assert before[-1] in stored(page)
    assert before[0] not in stored(page)


def test_more_than_a_file_at_a_time_is_refused(page):
    too_much = int(MEGABYTES * 2**20) + 2**16 + 1
    for path in ("/gradio_api/upload", "/gradio_api/queue/join"):
        assert asked(page, "POST", path, content_length=str(too_much))[0] == 413
        assert asked(page, "POST", path, content_length="9" * 30)[0] == 413
        parts = [bytes(2**16)] * (too_much // 2**16 + 1)  # a length that is not announced, or wrong
        assert asked(page, "POST", path, parts, content_length="5") == (413, "at most 0.6 MB are accepted at a time")
    assert stored(page) == []


def test_slow_requests_end_and_only_a_few_are_taken_at_a_time(page, monkeypatch):
    from bcos_cli.serve import access

    monkeypatch.setattr(access, "_IDLE", 0.2)

    async def all_at_once():
        slow = [ask(page, "POST", "/gradio_api/upload", (b"x", None)) for _ in range(6)]
        statuses = [status for status, _, _ in await asyncio.gather(*slow)]
        return statuses, (await ask(page, "POST", "/gradio_api/upload", (b"x", b"y")))[0]

    statuses, afterwards = run(all_at_once())
    parallel = Limits(megabytes=MEGABYTES, total_megabytes=4 * MEGABYTES).parallel
    assert statuses.count(408) == parallel
    assert statuses.count(503) == 6 - parallel
    assert afterwards == 200


def test_room_is_made_by_deleting_the_oldest(tmp_path):
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.png").write_bytes(bytes(10))
        os.utime(tmp_path / str(number) / "a.png", (number, number))
    make_room(tmp_path, 50)
    assert len(list(tmp_path.iterdir())) == 5
    make_room(tmp_path, 29)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
    make_room(tmp_path, 100, files=1)
    assert [path.name for path in tmp_path.iterdir()] == ["4"]
    make_room(tmp_path / "missing", 0)


def test_space_for_less_than_one_upload_is_a_mistake():
    with pytest.raises(
        BcosError, match=r"need room for one of 20 MB .*, got 19 MB; give a larger --max-total-megabytes"
    ):
        Limits(total_megabytes=19)
    assert Limits().total_bytes == 25 * Limits().request_bytes
    for name in ("megabytes", "megapixels", "total_megabytes"):
        for limit in (float("nan"), float("inf")):
            with pytest.raises(BcosError, match=f"--max-{name.replace('_', '-')} must be a number, got {limit}"):
                Limits(**{name: limit})
    assert [Limits(megabytes=1, total_megabytes=t).parallel for t in (1.1, 5, 100)] == [1, 2, 4]
