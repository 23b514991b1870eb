"""A recording whose native frames have source lines, and the functions that the compiler inlined into them.

Scope: the recording itself is not changed. Addresses, offsets and the names of functions stay as they were recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Final

from nativeleak.model import Frame, FrameKind
from nativeleak.recording.reader import Recording
from nativeleak.recording.schema import Samples, pack_ids, unpack_ids
from nativeleak.symbols.lines.files import Places
from nativeleak.symbols.lines.finder import Found, Place, Wanted, find_lines, kept_folder

_BUILD_ID: Final = re.compile(r"[0-9a-f]{8,128}")


class RecordingWithLines(Recording):
    """A view of a recording; the recording stays open and is closed by its owner.

    Args:
        recording: The whole of it, or a moment of it.
        folders: Where the user says that binaries or debug files are.
        kept: Folder of tables by build id; None: that of the user.

    Attributes:
        modules: What was found of each module, in the order of their names.

    Raises:
        RecordingError: The recording is damaged.
    """

    def __init__(self, recording: Recording, folders: Iterable[Path] = (), kept: Path | None = None) -> None:
        self.__dict__.update(recording.__dict__)
        self._whole = recording
        frames = recording.frames
        targets = recording.targets
        places = Places([target.exe for target in targets], [target.pid for target in targets], folders)
        asked: dict[tuple[str, str], dict[int, None]] = {}
        for frame in frames.values():
            if _has_lines(frame):
                asked.setdefault((frame.module or "", frame.build_id), {})[_address(frame)] = None
        wanted = [
            Wanted(module, build_id, places.files(module, build_id), sorted(addresses))
            for (module, build_id), addresses in sorted(asked.items())
        ]
        self.modules: tuple[Found, ...] = tuple(find_lines(wanted, kept or kept_folder())) if wanted else ()
        known = {(each.module, each.build_id): found.places for each, found in zip(wanted, self.modules, strict=True)}
        self._shown: dict[int, tuple[int, ...]] = {}
        self.__dict__["frames"] = self._with_lines(frames, known)

    def samples(self) -> Iterator[Samples]:
        """As those of the recording."""
        return self._whole.samples()

    def _packed_frames(self, blobs: list[bytes]) -> list[bytes]:
        return list(map(self._with_inlined, blobs)) if self._shown else blobs

    def _with_inlined(self, blob: bytes) -> bytes:
        ids = unpack_ids(blob)
        if self._shown.keys().isdisjoint(ids):
            return blob
        return pack_ids(chain.from_iterable(self._shown.get(number, (number,)) for number in ids))

    def _with_lines(
        self, frames: Mapping[int, Frame], known: Mapping[tuple[str, str], Mapping[int, Sequence[Place]]]
    ) -> dict[int, Frame]:
        """All frames; those that are inlined get numbers after the recorded ones."""
        shown = dict(frames)
        number = max(frames, default=0)
        for frame_id, frame in frames.items():
            if not _has_lines(frame):
                continue
            places = known.get((frame.module or "", frame.build_id), {}).get(_address(frame))
            if not places:
                continue
            *inlined, own = places
            shown[frame_id] = replace(frame, file=own.file or None, line=own.line or None)
            added = []
            for place in inlined:
                number += 1
                added.append(number)
                shown[number] = replace(
                    frame,
                    function=place.function,
                    file=place.file or None,
                    line=place.line or None,
                    offset=0,
                    is_inlined=True,
                )
            if added:
                self._shown[frame_id] = (*added, frame_id)
        return shown


def _has_lines(frame: Frame) -> bool:
    # A recording is untrusted, and its build ids become names of files and parts of addresses.
    is_known = bool(frame.module) and _BUILD_ID.fullmatch(frame.build_id) is not None
    return is_known and frame.kind is FrameKind.NATIVE and not frame.file


def _address(frame: Frame) -> int:
    """Where a frame's line is looked up: in the call before a return address; at a function's first byte itself."""
    return frame.module_offset - 1 if frame.offset and frame.module_offset else frame.module_offset
