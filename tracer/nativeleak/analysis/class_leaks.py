"""Classes that leak, and what a runtime takes because of them: compiled code, profiles, links.

All these are bounded by the code that is loaded. Where classes are defined without end, so are they, and links belong
to the function whose call made them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from nativeleak.analysis.finding import Findings
from nativeleak.analysis.growth import Verdict
from nativeleak.analysis.part_rates import OF_CLASSES
from nativeleak.analysis.rows import Table, objects
from nativeleak.model import Owner
from nativeleak.runtimes.frames import BOUNDS, LINKING_PURPOSES

_LEAST_OF_LINKS: Final = 0.05
_MIN_BLOCKS: Final = 6
_OPEN: Final = (Verdict.GROWING, Verdict.UNDECIDED)
CODE: Final = "bounded by the code that is loaded"
FOLLOWS: Final = "for the classes that leak"


def bound_of(purpose: str) -> str | None:
    """What bounds memory of a runtime; None where nothing is known to.

    Args:
        purpose: What the runtime uses it for.
    """
    bound = BOUNDS.get(purpose)
    return CODE if bound == "code" else f"bounded by {bound}" if bound else None


def leaks_classes(found: Findings) -> bool:
    """Whether the metadata of classes is a suspect."""
    return any(each.what == OF_CLASSES for each in found.suspects)


def may_leak_classes(found: Findings) -> bool:
    """Whether the program defines classes at a pace that does not settle, of which the links may be a consequence."""
    rows = (*found.suspects, *found.others)
    classes = [each for each in rows if each.what == OF_CLASSES and each.kind != "jvm"]
    rising = sum(each.growth.slope_bytes_per_s for each in classes if each.growth.verdict in _OPEN)
    links = sum(each.growth.slope_bytes_per_s for each in rows if each.name in LINKING_PURPOSES)
    enough = sum(each.outstanding_count for each in classes) >= _MIN_BLOCKS
    return enough and rising > _LEAST_OF_LINKS * max(0.0, links)


def with_links(table: Table) -> Table:
    """The table with the links of code counted to the functions of the program whose calls made them.

    Args:
        table: As ``table.site_table``, with columns owner and purpose.
    """
    is_link = np.isin(table["purpose"].astype(str), list(LINKING_PURPOSES))
    owners, purposes = table["owner"].tolist(), table["purpose"].tolist()
    for row in np.flatnonzero(is_link).tolist():
        owners[row], purposes[row] = Owner.PROGRAM.value, ""
    return table.assign(owner=objects(owners), purpose=objects(purposes))


def following(found: Findings) -> Findings:
    """The findings where classes leak: what is bounded by code follows them."""
    others = tuple(replace(each, bounded_by=FOLLOWS) if each.bounded_by == CODE else each for each in found.others)
    return replace(found, others=others)
