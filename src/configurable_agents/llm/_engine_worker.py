"""The process that runs a local model; started as a script by `_engine`, and importing nothing of this package.

A process of its own, because native code can neither be interrupted nor trusted to leave a Python process cleanly: a
thread inside it crashes the interpreter at exit, and a broken model file aborts the whole process.

Lines of JSON come in on stdin (`{"id", "request"}`, `{"cancel": id}`) and go out on what stdout was
(`{"ready"}` or `{"fatal"}` first, then `{"id", "answer"}`). When stdin ends, so does the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program; it ends us by closing stdin
    settings = json.loads(sys.argv[1])
    send = _take_stdout()
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    cancelled: set[int] = set()
    threading.Thread(target=_read, args=(requests, cancelled), daemon=True).start()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        server = _load(settings)
    except Exception as error:  # noqa: BLE001 - whatever it is, the program shall say it
        send({"fatal": f"{type(error).__name__}: {error}"})
        os._exit(1)
    send({"ready": True})
    while True:
        message = requests.get()
        number = message["id"]
        answer = _answer(server, message["request"], number, cancelled)
        if number not in cancelled:
            send({"id": number, "answer": answer})


def _take_stdout() -> Callable[[dict[str, Any]], None]:
    # Native code prints to file descriptor 1 whatever Python thinks of it: it gets stderr, and we keep the pipe.
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with lock:
            while data:
                data = data[pipe.write(data) :]

    return send


def _read(requests: queue.SimpleQueue[dict[str, Any]], cancelled: set[int]) -> None:
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "cancel" in message:
            cancelled.add(message["cancel"])
        else:
            requests.put(message)
    os._exit(0)  # the program is gone; leaving in order would wait for the native call


def _end_with(parent: int) -> None:
    # A pipe that a forked child of the program holds open does not end: look at the parent too.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def _load(settings: dict[str, Any]) -> Any:
    path, wanted = settings["path"], settings["sha256"]
    if wanted is not None and _sha256(path) != wanted:
        raise ValueError(f"{path} is not the file it should be (its SHA-256 differs): install the weights again")
    sys.path.append(settings["engine_folder"])
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = settings["n_ctx"]
    params.n_predict = settings["n_ctx"]  # each request has a lower bound of its own
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["n_threads"]
    params.n_gpu_layers = settings["n_gpu_layers"]
    params.n_parallel = 1  # one call at a time: what a call answers does not depend on what else runs
    params.n_batch = params.n_ubatch = 128  # a call that is given up stops after a batch
    params.cache_ram_mib = 0
    params.fit_params = False  # a context that shrinks with the free memory would not be the one asked for
    params.verbosity = -1
    # The engine opens a port of its own on 127.0.0.1, which we do not use: nobody else shall.
    params.api_keys = [secrets.token_hex(32)]
    params.n_threads_http = 1
    params.ui = params.endpoint_slots = False
    return xllamacpp.Server(params)


def _sha256(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _answer(server: Any, request: dict[str, Any], number: int, cancelled: set[int]) -> dict[str, Any]:
    """Run one request in pieces, so that it can be stopped between them."""
    pieces: list[str] = []
    said: dict[str, Any] = {}

    def take(chunk: dict[str, Any]) -> bool:
        for choice in chunk.get("choices") or ():
            pieces.append(choice.get("delta", {}).get("content") or "")
            said["finish_reason"] = choice.get("finish_reason") or said.get("finish_reason")
        said.update({key: chunk[key] for key in ("usage", "error", "id") if chunk.get(key)})
        return number in cancelled

    if number in cancelled:
        return {}
    streamed = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "cache_prompt": False,
    }
    try:
        server.handle_chat_completions({**request, **streamed}, take)
    except Exception as error:  # noqa: BLE001 - a schema that it cannot enforce, for one
        return {"error": {"code": 400, "message": str(error)}}
    return {**said, "text": "".join(pieces)}


if __name__ == "__main__":
    main()
