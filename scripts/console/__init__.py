"""Terminal output and command-line options that several commands share."""
