"""What several commands show on a terminal, or read from their arguments."""
