"""How far the download of a model is, asked of the pod that does it (`penstock fetch --report-port`)."""

from __future__ import annotations

import http.client

import msgspec

from penstock_operator import names
from penstock_operator.observed.seen import DownloadSeen

PATH = "/progress"
SECONDS = 2.0  # for the answer
LONGEST = 4096  # bytes of it
SEEN = msgspec.json.Decoder(DownloadSeen)  # made before there are threads, see `parse.py`


def ask_progress(address: str) -> DownloadSeen | None:
    """What the pod says; None if it does not say anything yet."""
    connection = http.client.HTTPConnection(address, names.HTTP_PORT, timeout=SECONDS)
    try:
        connection.request("GET", PATH)
        answer = connection.getresponse()
        body = answer.read(LONGEST)
        return SEEN.decode(body) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, msgspec.DecodeError):
        return None
    finally:
        connection.close()
