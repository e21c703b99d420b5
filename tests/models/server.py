"""A web server of the tests' own, which can send part of a file only, or something else."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Files:
    """What is served, and how.

    Attributes:
        content: bytes by path.
        break_after: bytes after which each connection is cut, once for every entry.
        ranges: whether parts are served.
        requests: (path, Range header) of each request.
    """

    def __init__(self, **content):
        self.content = {f"/{name}": data for name, data in content.items()}
        self.break_after = []
        self.ranges = True
        self.requests = []


def _handler(files):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            files.requests.append((self.path, wanted))
            data = files.content.get(self.path)
            if data is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and files.ranges else 0
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = start + files.break_after.pop(0) if files.break_after else len(data)
            self.wfile.write(data[start:end])

        def log_message(self, *_):
            pass

    return Handler


@contextmanager
def served(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving(**content):
    files = Files(**content)
    with served(_handler(files)) as url:
        files.url = url
        yield files
