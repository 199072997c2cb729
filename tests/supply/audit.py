"""Known vulnerabilities of the installed packages, by pip-audit; one line if the advisories cannot be reached.

Exit code 1: a package has a known vulnerability; 2: pip-audit itself failed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

SECONDS = 120
UNREACHED = re.compile(
    r"connect|timed out|timeout|unreachable|max retries|resolve|resolution|proxy|ssl|http ?error|service ?error",
    re.I,
)


def main() -> int:
    """Runs pip-audit and prints what it found."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run([*command, "--timeout", "10"], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return out_of_reach()
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip().splitlines() or [f"no word, exit code {done.returncode}"]
        if UNREACHED.search(said[-1]):
            return out_of_reach()
        print(f"pip-audit failed, nothing was audited: {said[-1]}")
        return 2
    audited = [p for p in packages if "skip_reason" not in p]
    bad = [f"{p['name']} {p['version']}: {v['id']}" for p in audited for v in p["vulns"]]
    if not audited:
        return out_of_reach()
    print(f"pip-audit: {len(audited)} of {len(packages)} packages audited, {len(bad)} known vulnerabilities")
    print(*bad, sep="\n", end="\n" if bad else "")
    return int(bool(bad))


def out_of_reach() -> int:
    print("pip-audit: the advisories cannot be reached from here; nothing was audited")
    return 0


if __name__ == "__main__":
    sys.exit(main())
