"""The command ``seqloom doctor``: is everything there, how fast is it, and what mends the rest?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from seqloom.commands.checkup import BROKEN, OK, OPTIONAL, Finding, checkup
from seqloom.commands.command import Command
from seqloom.commands.following import tell_next, typed
from seqloom.commands.shell import say
from seqloom.support.wording import plural


@dataclass(kw_only=True)
class Doctor(Command):
    """Looks whether everything is there, and says what mends the rest.

    The installation and its extras, the devices and their speed, threads, the Hub, the disk, fonts: a line each, and
    where something is to be mended, the command that mends it, or gets what is optional. The exit status is 0 unless
    something is broken that seqloom needs.
    """

    name = "doctor"
    needs_models = False
    examples = """
        seqloom doctor
        seqloom doctor --json > doctor.json
    """

    json: bool = False
    """One object of JSON instead of lines."""

    def run(self) -> int | None:
        found: list[Finding] = []
        for finding in checkup():
            found.append(finding)
            if not self.json:
                say(in_a_line(finding))
        broken = any(finding.status == BROKEN for finding in found)
        if self.json:
            say(as_json(found))
        else:
            mends = sum(finding.status not in (OK, OPTIONAL) for finding in found)
            say(f"\n{'seqloom cannot work so' if broken else 'seqloom works'}; {plural(mends, 'line')} to mend")
            tell_next(None if broken else typed("demo"))
        return 1 if broken else None


def in_a_line(finding: Finding) -> str:
    """What was found, and below it what mends it, or gets it."""
    line = f"{finding.status:<8} {finding.name}: {finding.says}"
    way = "to have it" if finding.status == OPTIONAL else "mend"
    return line if finding.mend is None else f"{line}\n         {way}: {finding.mend}"


def as_json(found: Sequence[Finding]) -> str:
    """All that was found."""
    is_ok = all(finding.status != BROKEN for finding in found)
    return json.dumps(
        {"ok": is_ok, "findings": [dataclasses.asdict(one) for one in found]}, ensure_ascii=False, indent=2
    )
