"""A server that answers one request at a time with transformers' `generate()`.

`python generate_server.py MODEL PORT DTYPE`, with the Python of an environment that has transformers. Imports nothing
of this project, so that it runs there. Answers always have the full length.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer


class Server(HTTPServer):
    """Single-threaded, so requests wait for each other."""

    request_queue_size = 64

    def __init__(self, path: str, port: int, dtype: str) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
        super().__init__(("127.0.0.1", port), Handler)


class Handler(BaseHTTPRequestHandler):
    """Streams answers of /v1/chat/completions."""

    server: Server

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        tokenizer, tokens = self.server.tokenizer, body["max_tokens"]
        inputs = tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        made: list[Any] = []

        def generate() -> None:
            settings = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}
            try:
                made.append(self.server.model.generate(**inputs, **settings, streamer=streamer))
            finally:
                streamer.end()

        worker = Thread(target=generate)
        worker.start()
        for text in streamer:
            self._send({"choices": [{"index": 0, "delta": {"content": text}}]})
        worker.join()
        read = inputs["input_ids"].shape[1]
        usage = {"prompt_tokens": read, "completion_tokens": made[0].shape[1] - read}
        self._send({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def log_message(self, *args: Any) -> None:
        """Logs nothing."""


if __name__ == "__main__":
    Server(sys.argv[1], int(sys.argv[2]), sys.argv[3]).serve_forever()
