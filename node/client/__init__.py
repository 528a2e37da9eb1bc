"""Those who ask: a client of several validators, none of them trusted."""
