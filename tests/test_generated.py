"""Generated files are what the code generates now; `make generate` writes them anew."""

from __future__ import annotations

from pathlib import Path

from penstock.settings_page import build_page

ROOT = Path(__file__).parent.parent


def test_the_settings_page_is_up_to_date():
    assert (ROOT / "docs/settings.md").read_text() == build_page()
