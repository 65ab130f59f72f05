"""The agent on a board, behind SSH: receives files, runs a command, sends, cleans up.

The text of these modules is sent over standard input, so they need no file on the board: Python
3.8, the standard library, Linux. One request (a line of JSON) comes in, replies (lines of JSON that
begin with `replies.MARK`) go out; whatever a login script prints beside them is ignored.
"""

from __future__ import annotations
