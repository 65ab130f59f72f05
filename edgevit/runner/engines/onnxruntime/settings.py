"""The closed lists of providers and settings that a bundle may ask ONNX Runtime for.

They hold what EdgeViT's own targets write. ONNX Runtime has settings that write files, load
libraries or take the place of its allocator; a bundle is data and has no say in those.
"""

from __future__ import annotations

CPU = "CPUExecutionProvider"
EXACT_SUMS = {"session.x64quantprecision": "1"}
"""What makes sums of codes exact on x86-64 processors without VNNI instructions."""
SESSION_CONFIG = {key: (value,) for key, value in EXACT_SUMS.items()}
"""Session configuration entries -> values a bundle may give them."""
SETTINGS = {"provider": (CPU,), "session_config": SESSION_CONFIG, "optimize": (True, False)}
ASKS = {"provider": CPU, "session_config": {}, "name": "onnxruntime", "optimize": True}
"""The manifest's ``engine`` of a bundle that asks for nothing particular."""
