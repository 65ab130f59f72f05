"""From any torch module to one canonical ATen graph with named sites and roles."""
