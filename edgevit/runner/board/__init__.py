"""The programs that run on a board: the measurement of a shipped bundle, and the board's facts."""
