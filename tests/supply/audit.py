"""Known vulnerabilities of the installed packages, by pip-audit; one line where the advisories are out of reach.

Exit code 1: a package has a known vulnerability.
"""

from __future__ import annotations

import json
import subprocess
import sys

SECONDS = 120


def main() -> int:
    """Ask pip-audit, tell what it found."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run([*command, "--timeout", "10"], capture_output=True, text=True, timeout=SECONDS)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("pip-audit: the advisories cannot be reached from here; nothing was audited")
        return 0
    audited = [p for p in packages if "skip_reason" not in p]
    bad = [f"{p['name']} {p['version']}: {v['id']}" for p in audited for v in p["vulns"]]
    if not audited:
        print("pip-audit: the advisories cannot be reached from here; nothing was audited")
    else:
        print(f"pip-audit: {len(audited)} of {len(packages)} packages audited, {len(bad)} known vulnerabilities")
    print(*bad, sep="\n", end="\n" if bad else "")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
