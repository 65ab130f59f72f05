"""Takes a bundle to a board over SSH, measures it there and brings the report back."""
