"""How much of each call site's address space is in memory."""

from __future__ import annotations

from nativeleak.ledger.address_space import AddressSpace
from nativeleak.ledger.map_sites import SiteId
from nativeleak.process.residency import ResidencyReader


def resident_by_site(space: AddressSpace, residency: ResidencyReader | None) -> dict[SiteId, int] | None:
    """Resident bytes of the outstanding memory of each site; None where they cannot be read."""
    if residency is None:
        return None
    resident: dict[SiteId, int] = {}
    ranges = list(space.outstanding_ranges())
    sizes = residency.resident_bytes([(start, end) for start, end, _ in ranges])
    for (_, _, site_id), n_bytes in zip(ranges, sizes, strict=True):
        resident[site_id] = resident.get(site_id, 0) + n_bytes
    return resident
