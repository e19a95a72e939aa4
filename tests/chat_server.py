"""A server in this process that speaks OpenAI's protocol, and knows one answer."""
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from synood.core.scales import get_scale

KEY = 'sk-open-sesame'


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_): pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        with self.server.guard:
            self.server.asked.append(body['messages'][0]['content'][1]['text'])
            self.server.times.append(time.monotonic())
            number = len(self.server.asked)
        if self.headers['Authorization'] != f'Bearer {KEY}': status, told = 401, dict(error='who are you?')
        elif number > self.server.room: status, told = 402, dict(error=dict(message=f'{KEY} has no credit left'))
        else: status, told = 200, dict(choices=[dict(message=dict(content='moon, cactus'), finish_reason='stop')])
        content = json.dumps(told).encode()
        self.send_response(status)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(port=0, room=1000):
    "A server that answers so many questions."
    with ThreadingHTTPServer(('localhost', port), Handler) as server:
        server.asked, server.times, server.room, server.guard = [], [], room, threading.Lock()
        threading.Thread(target=server.serve_forever, args=(.02,), daemon=True).start()
        try: yield server
        finally: server.shutdown()


def on(server):
    "A scale with contexts of 40 pictures from a server."
    address = f'openai:http://localhost:{server.server_port}/v1#toy'
    return get_scale('smoke').replace(m=40, context_model=(address,))
