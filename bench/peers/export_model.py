"""Write a model as a Hugging Face folder in bf16, for engines that read nothing else:

    python bench/peers/export_model.py FOLDER [MODEL]

MODEL is anything that `penstock serve` takes; the default is the embedded one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from penstock.bench.peer_models import write_bf16
from penstock.config import EMBEDDED_MODEL
from penstock.loader.sources import resolve

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    write_bf16(resolve(sys.argv[2] if len(sys.argv) > 2 else EMBEDDED_MODEL).folder, folder)
