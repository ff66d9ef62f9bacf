"""A supervisor whose children only do what files in the model's folder tell them; run as a program.

`python -m support.scripted_children FOLDER NUM_APIS` is the supervisor. Orders, in FOLDER:
`engine.fails` or `api.fails`: report this text as a failure and leave with code 1; `engine.hangs`: never become ready;
`api.deaf`: ignore SIGTERM. Every child appends a line to `lives`, and each front-end the messages it gets to `heard`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from penstock.config import EngineConfig, ServerConfig
from penstock.engine import supervisor
from penstock.engine.child import ChildArguments, begin
from penstock.engine.client import EngineClient
from penstock.engine.launch import ApiStarted, ChildFailed, EngineStarted, Launch
from penstock.logs import configure

GRACE = 1.0
LATE = 1.0


def engine(words: list[str]) -> int:
    arguments = ChildArguments.parse(words)
    launch, reports = begin("scripted:engine-core", arguments)
    orders = launch.folder_path
    write(orders, f"engine {arguments.number} {os.getpid()}")
    if (orders / "engine.fails").exists():
        reports.send(ChildFailed(message=(orders / "engine.fails").read_text(), exit_code=7))
        return 7
    while (orders / "engine.hangs").exists():
        time.sleep(0.01)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reports.send(
        EngineStarted(
            num_blocks=1, block_size=1, max_model_len=1, weights_bytes=1, kv_bytes=1, load_seconds=arguments.number
        )
    )
    while True:
        signal.pause()


def api(words: list[str]) -> int:
    arguments = ChildArguments.parse(words)
    launch, reports = begin(f"scripted:api-{arguments.slot}", arguments)
    orders = launch.folder_path
    write(orders, f"api-{arguments.slot} {arguments.number} {os.getpid()}")
    if (orders / "api.fails").exists():
        reports.send(ChildFailed(message=(orders / "api.fails").read_text(), exit_code=8))
        return 8

    async def serve() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        client = EngineClient(launch, arguments.number)
        client.start(loop, lambda message: write(orders, f"{arguments.number} {message}", "heard"))
        loop.add_signal_handler(signal.SIGTERM, (lambda: None) if (orders / "api.deaf").exists() else done.set)
        reports.send(ApiStarted())
        await done.wait()
        client.close()

    asyncio.run(serve())
    return 0


def write(orders: Path, line: str, name: str = "lives") -> None:
    with (orders / name).open("a") as file:
        file.write(line + "\n")


def main(words: list[str]) -> int:
    folder, num_apis = words
    listener = socket.create_server(("127.0.0.1", 0))
    config = EngineConfig(server=ServerConfig(api_servers=int(num_apis), shutdown_grace=GRACE))
    run_dir = tempfile.mkdtemp(prefix="penstock-", dir=folder)
    configure("serve", "info")
    supervisor.LATE_SECONDS = LATE
    return supervisor.Supervisor(
        Launch(config=config, folder=folder, max_model_len=1, run_dir=run_dir),
        listener,
        api_module="support.scripted_api",
        engine_module="support.scripted_engine",
        announce=lambda report: print(f"ready after life {report.load_seconds:.0f}", flush=True),
    ).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
