"""The pool: where its images come from, their decoded pixels, and their splits."""
