"""Setting files of the source's systems, upgraded to ours: pure, nothing is read or written.

Every key of such a file is moved, dropped with a note, or refused with a reason; a key that is not
known is an error that names the nearest one.
"""

from strokect.legacy.keys import Note, is_legacy
from strokect.legacy.upgrade import LegacyOptions, Upgraded, upgrade

__all__ = ["LegacyOptions", "Note", "Upgraded", "is_legacy", "upgrade"]
