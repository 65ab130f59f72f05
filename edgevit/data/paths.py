"""Looks at a path from outside before it is opened, so that no pipe or device is waited for.

Needs the standard library only: it goes to boards with the bundle's reader.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """The kind of thing that is at a path.

    Args:
        kind: "file", "folder", "special" (a device, pipe or socket), "nothing", or "closed" where
            the system refuses to look.
        why: The same in a sentence, in the system's own words where it refuses.
    """

    kind: str
    why: str


def look_at(path: str | os.PathLike[str]) -> Found:
    """Return what is at a path; links are followed, nothing is opened and nothing raised."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return Found("nothing", "There is nothing of this name.")
    except OSError as error:  # a name that is too long, a closed folder, links in a circle
        return Found("closed", f"{error.strerror or error}.")
    except ValueError:
        return Found("closed", "No name has a zero byte.")
    if stat.S_ISDIR(mode):
        return Found("folder", "It is a folder.")
    if stat.S_ISREG(mode):
        return Found("file", "It is a file.")
    return Found("special", "It is a device, a pipe or a socket.")
