"""Runs a caretaker over small processes of our own: `python -m support.scripted_members STEADY|GIVES-UP PORT PORT`.

A steady member answers HTTP, ignores SIGTERM if its port is the second one, and has a child that prints its process id.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from penstock.commands.caretaker import Caretaker
from penstock.commands.members import Member

HERE = Path(__file__)
CHILD = "import time; print('child runs', flush=True); time.sleep(600)"
SERVER = f"""
import http.server, os, signal, subprocess, sys
from penstock.lifetime import die_with_parent
port, is_stubborn = int(sys.argv[1]), sys.argv[2] == "stubborn"
if is_stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
hook = [sys.executable, "-m", "penstock.lifetime", str(os.getpid())]
subprocess.Popen([*hook, sys.executable, "-c", {CHILD!r}, "a-child"], start_new_session=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def main(kind: str, ports: list[str]) -> None:
    members = [
        Member(
            name=f"pod-{index}",
            command=(sys.executable, "-c", SERVER, port, "stubborn" if index else "polite"),
            ready_url=f"http://127.0.0.1:{port}/",
            role="decode",
        )
        for index, port in enumerate(ports)
    ]
    if kind == "gives-up":
        command = (sys.executable, "-c", "import sys; print('no such flag'); sys.exit(2)")
        members.append(Member(name="wrong", command=command, ready_url="http://127.0.0.1:9/", role="decode"))

    def say(name: str, text: str) -> None:
        print(f"{name}: {text}", flush=True)

    def announce(pids: dict[str, int]) -> None:
        say("demo", f"ready {' '.join(map(str, pids.values()))}")

    asyncio.run(Caretaker(members, say).run(announce))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
