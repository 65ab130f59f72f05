"""Statistics, efficiency figures and tables: what a person looks at."""
