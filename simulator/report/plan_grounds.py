"""What a plan's answer rests on, in sentences: options simulated again, what is proved, what would change it."""

from __future__ import annotations

from math import inf

from simulator.answer import HIGHER_IS_BETTER, Answer, Sensitivity, Shift
from simulator.report import numbers
from simulator.report import plan_words as words
from simulator.report.kinds import KIND_NAMES
from simulator.report.tables import Cell, Table, table

_KINDS = {str(kind): name for kind, name in KIND_NAMES.items()}


def checked(answer: Answer) -> str:
    """Which options were simulated again in full, and what that changed; empty where none was."""
    checks = answer.checks
    if not checks:
        return ""
    if any(check.how == "requests" for check in checks):
        return f"{_options(len(checks))} simulated request by request; others are not ranked."
    played = [check for check in checks if check.how == "events"]
    refused = [check for check in checks if check.how == "refused"]
    if not played and not refused:
        return "No transfers of the first option share a link, so its time needs no event engine."
    parts = []
    if played:
        most = numbers.short_share(max(check.longer for check in played))
        parts.append(f"{_options(len(played))} played with events; shared links add up to {most}")
    if refused:
        parts.append(f"{_options(len(refused))} too large to be played unasked")
    end = "" if answer.settled else "; the first choice is not among those, and may take as much longer"
    return f"{numbers.listing(parts)}{end}."


def _options(count: int) -> str:
    return "One option was" if count == 1 else f"{count:,} options were"


def proved(answer: Answer) -> str:
    """What is known of the points left out; empty where every point was timed."""
    proof, best = answer.proof, answer.best
    if proof is None:
        return ""
    lead = f"{proof.left:,} of {proof.combinations:,} combinations were left out"
    if not proof.left:
        return "Every combination was looked at."
    if proof.bound is None:
        return f"{lead}; no bound of what they could reach is known."
    if proof.bound == inf:
        return f"{lead}; their bounds show that none of them keeps the limits."
    key = answer.objectives[0]
    reach = words.figure(key, proof.bound)
    name = numbers.inside(words.FIGURES[key].label)
    if best is None:
        return f"{lead}; none of them has a {name} better than {reach}."
    value = best.figures[key].value
    if (proof.bound <= value) == (key in HIGHER_IS_BETTER):
        return f"{lead}; none of them can beat the first: {name} {reach} at best."
    gap = numbers.short_share(abs(1 - proof.bound / value))
    return f"{lead}; none of them has a {name} better than {reach}, {gap} from the first."


def sensitive(answer: Answer) -> str:
    """Which numbers would change the machine that is chosen."""
    rows = answer.sensitivity
    if not rows:
        return ""
    moving = [row for row in rows if row.matters == "machine"]
    if not moving:
        return "The same machine comes first with each hardware number 10 % off and each curve off by its error."
    return f"Another machine could come first if {numbers.listing(_moved(row) for row in moving[:3])}."


def _moved(row: Sensitivity) -> str:
    ends = [(row.lower, "lower", "faster"), (row.higher, "higher", "slower")]
    found = [end for end in ends if end[0] is None or end[0].moved]
    shift, direction, speed = found[0]
    to = "nothing keeps the limits" if shift is None else words.machine(shift.option)
    share = numbers.short_share(row.change)
    change = f"{share} {speed}" if row.kind == "model" else f"{share} {direction}"
    return f"{subject(row)} were {change} ({to})"


def subject(row: Sensitivity) -> str:
    """What a row of the sensitivity is about, inside a sentence."""
    return f"all that counts as {numbers.inside(_KINDS[row.label])}" if row.kind == "model" else row.label


def sensitivity_table(answer: Answer) -> Table:
    """A row for each number: the first choice with it lower and higher."""
    rows: list[list[str | Cell]] = []
    for row in answer.sensitivity:
        name = numbers.sentence(subject(row))
        if row.kind == "model":
            name = f"{_KINDS[row.label]}: time"
        change = f"±{numbers.short_share(row.change)}"
        rows.append([name, change, _choice(answer, row.lower), _choice(answer, row.higher)])
    heads = "Number | >Off by | First choice if lower | First choice if higher"
    return table("what would change the answer", heads, rows, min_width=760)


def _choice(answer: Answer, shift: Shift | None) -> str:
    """What comes first then, and its objective."""
    if shift is None:
        return "nothing keeps the limits"
    change = "another setting"
    if shift.same:
        change = "the same"
    elif shift.moved:
        change = words.machine(shift.option)
    return f"{change}, {words.figure(answer.objectives[0], shift.figure)}"
