"""Runs llama.cpp's own HTTP server from the package xllamacpp, with the options of `llama-server` that tests use."""

import argparse
import signal

import xllamacpp


def main() -> None:
    """Serves until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mmproj", default="", help="the file of the part that reads pictures")
    parser.add_argument("--parallel", type=int, default=4, help="answers at once")
    parser.add_argument("--ctx-size", type=int, default=0, help="tokens of all slots; 0: the model's window for each")
    parser.add_argument("--threads", type=int, default=1, help="more than there are free cores slow it down a lot")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--chat-template", default="", help="instead of the model's")
    given = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = given.model, {given.alias}
    params.mmproj.path = given.mmproj
    params.chat_template = given.chat_template
    params.use_jinja = True
    params.port, params.n_parallel, params.n_ctx = given.port, given.parallel, given.ctx_size
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    params.n_threads_http = 4 * given.parallel + 8  # each open connection holds one, also an idle one
    params.kv_unified = False  # a slot's window is its own
    params.endpoint_slots = params.endpoint_metrics = True
    params.api_keys = [given.api_key] if given.api_key else []
    server = xllamacpp.Server(params)
    print(f"It listens on {server.listening_address}.", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
