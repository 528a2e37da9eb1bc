"""Who reads over HTTP: how readers show who they are, how much they may ask, and what is noted."""
