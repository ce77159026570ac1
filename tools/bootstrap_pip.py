"""Put pip into the virtual environment that runs this, from PyPI: for a Python without ensurepip (as Debian's is)."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

PAGE = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
WHEEL = re.compile(r'<a href="([^"#]*/(pip-([\d.]+)-py3-none-any\.whl))#sha256=([0-9a-f]{64})"(?![^>]*data-yanked)')


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": "text/html"}), timeout=60) as answer:
        data: bytes = answer.read()
        return data


def main() -> None:
    wheels = WHEEL.findall(fetch(PAGE).decode())
    href, name, _, digest = max(wheels, key=lambda wheel: [int(part) for part in wheel[2].split(".")])
    data = fetch(urljoin(PAGE, href))
    if hashlib.sha256(data).hexdigest() != digest:
        raise OSError(f"{name} is not what the index promised")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, name)
        path.write_bytes(data)
        subprocess.run([sys.executable, path / "pip", "install", "--quiet", "--no-index", path], check=True)


try:
    main()
except (OSError, ValueError) as error:
    sys.exit(f"dev: error: cannot get pip from {PAGE}: {error} (Debian: apt install python3-venv)")
