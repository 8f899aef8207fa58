"""Ask a public service for known vulnerabilities of every library of the production lock.

Ends with 1 when it knows one. A service that cannot be asked is no fault of this code, so it fails nothing, but it is
said: what was not audited stands in the last line. Arguments are handed on to pip-audit.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements" / "run.lock"
LONGEST_S = 120


def main(arguments: list[str], lock: Path = LOCK) -> int:
    """The exit code, after a line that tells it."""
    names = re.findall(r"^([\w.\-]+)==(?!.*win32)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--requirement", str(lock)]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        code, told = 0, not_done(len(names), f"no answer within {LONGEST_S} s")
    else:
        try:
            code, told = verdict(json.loads(done.stdout), len(names))
        except ValueError:
            code, told = 0, not_done(len(names), (done.stderr.splitlines() or ["it said nothing"])[-1])
    print(told)
    return code


def not_done(wanted: int, why: str) -> str:
    """That nothing is known of so many libraries."""
    return f"AUDIT: NOT DONE, {wanted} libraries unaudited: the vulnerability service gave no answer ({why})"


def verdict(report: dict, wanted: int) -> tuple[int, str]:
    """Exit code and text for pip-audit's report on so many libraries."""
    asked = [each for each in report["dependencies"] if "skip_reason" not in each]
    found = [
        f"AUDIT: {each['name']} {each['version']}: {one['id']} ({', '.join(one['aliases']) or 'no other name'}), "
        f"mended in {', '.join(one['fix_versions']) or 'no version yet'}"
        for each in asked
        for one in each["vulns"]
    ]
    if found:
        return 1, "\n".join([*found, "AUDIT: raise the lower bound in pyproject.toml, then `make lock`"])
    if not asked:
        return 0, f"AUDIT: NOT DONE, the vulnerability service knows none of the {wanted} libraries"
    left = wanted - len(asked)
    return 0, f"AUDIT: {len(asked)} libraries without a known vulnerability" + (f", {left} NOT AUDITED" if left else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
