"""JSON pointers (RFC 6901) from what msgspec says: "Expected `int`, got `str` - at `$.sizes[1]`"."""

import re

_STEP = re.compile(r"\.([^.\[\]`]+)|\[([^]]*)\]")
_FIELD = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`", re.DOTALL)


def locate(message: str) -> tuple[str, str]:
    """The pointer to what is wrong, and what is wrong with it. A field that is missing is pointed at, too."""
    problem, _, path = message.partition(" - at `$")
    steps = [name or index for name, index in _STEP.findall(path)]
    if field := _FIELD.fullmatch(problem):
        steps.append(field[1])
    return "".join(f"/{escape(step)}" for step in steps), problem[:1].lower() + problem[1:]


def escape(step: str) -> str:
    """One reference token: `~` and `/` have a form of their own."""
    return step.replace("~", "~0").replace("/", "~1")
