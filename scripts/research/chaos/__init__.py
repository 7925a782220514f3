"""Break a running stack at random while people label, and check that nothing is lost."""
