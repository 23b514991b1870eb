"""A recording as it was at one of its snapshots.

Caveat: birth slices and the ages of allocations are of the last snapshot only, and are not known of others. Sites that
were dropped before have no totals, and callers that unmapped are not known.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice

from nativeleak.model import CERTAIN, SiteTotals, Uncertainty
from nativeleak.recording.reader import Recording
from nativeleak.recording.schema import Samples
from nativeleak.recording.sites import columns_of, numbers_of


class RecordingAt(Recording):
    """A view of a recording up to one of its snapshots; the recording itself stays open and is closed by its owner.

    Args:
        recording: The whole of it.
        number: Of the snapshot.
    """

    def __init__(self, recording: Recording, number: int) -> None:
        self.__dict__.update(recording.__dict__)
        self._whole = recording
        self.snapshots = recording.snapshots[: number + 1]
        end_s = self.elapsed_s
        self.windows = tuple(
            window._replace(to_s=min(window.to_s, end_s)) for window in recording.windows if window.from_s < end_s
        )
        self.events = tuple(event for event in recording.events if event.elapsed_s <= end_s)
        memory = recording.memory
        readings = tuple(reading for reading in memory.readings if reading.elapsed_s <= end_s)
        self.__dict__.update(
            memory=replace(memory, readings=readings), retired=(), unmapped=None, sites=self._sites_then(number)
        )
        if number < len(recording.snapshots) - 1:
            self.__dict__.update(looks=(), census=())  # of the blocks at the end
        self.__dict__["site_columns"] = columns_of(self.sites)
        self.__dict__.pop("birth_slices", None)

    def site_numbers(self) -> array[int]:
        """The totals at the moment, as ``Recording.site_numbers``."""
        return numbers_of(self.site_columns)

    def uncertainties(self) -> Mapping[int, Uncertainty]:
        """None: it is recorded for the end only."""
        return self.site_columns.uncertainty

    def samples(self) -> Iterator[Samples]:
        """For each snapshot up to the moment the sites whose totals had changed."""
        return islice(self._whole.samples(), len(self.snapshots))

    def _sites_then(self, number: int) -> tuple[SiteTotals, ...]:
        """Totals of all sites at the moment; those that came later have empty totals."""
        whole = self._whole.sites
        if number == len(self._whole.snapshots) - 1:
            return whole
        now: dict[int, SiteTotals] = {}
        for samples in islice(self._whole.samples(), number + 1):
            for site_id, allocated, n_allocated, outstanding, n_outstanding, resident in zip(*samples, strict=True):
                site = whole[site_id]
                now[site_id] = SiteTotals(
                    site.key,
                    allocated,
                    n_allocated,
                    allocated - outstanding,
                    n_allocated - n_outstanding,
                    None if resident < 0 else resident,
                    owner=site.owner,
                    functions=site.functions,
                    uncertainty=CERTAIN,
                )
        return tuple(
            now.get(i) or SiteTotals(site.key, owner=site.owner, functions=site.functions)
            for i, site in enumerate(whole)
        )
