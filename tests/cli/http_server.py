"""A web server of the test's own, which counts what it is asked for and breaks off where it is told to."""

import threading
from collections import Counter
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        name = Path(self.path).name
        self.server.asked[name] += 1
        if name not in self.server.broken:
            super().do_GET()
            return
        whole = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        self.wfile.write(whole[: len(whole) // 2])
        self.close_connection = True


@contextmanager
def running(server):
    """The server, at its ``url``, until the block ends."""
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving(folder):
    """The server of a folder: ``url``, ``asked`` (requests by file name), ``broken`` (names that end in the middle)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    server.asked, server.broken = Counter(), set()
    with running(server):
        yield server
