"""The numbers that float16 has, for what rounds to them and what judges them (imports nothing)."""

HALF_MAX = 65504.0
"""The largest one."""
SMALLEST_NORMAL = 2.0**-14
"""Below it float16 loses digits, and a scale of few digits is no step to count in."""
